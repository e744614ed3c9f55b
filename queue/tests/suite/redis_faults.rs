//! Redis may lose everything, go away, come back or fall silent at any time.

use std::time::Duration;

use crate::support::{
    leaf, leaves, limited, pop_all,
    proxy::Proxy,
    redis_server::{RedisServer, free_port, queue_at},
    until_ok,
};
use muster_queue::{RedisQueue, Source};
use muster_shared::queue::ReadyQueue;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_blocking_connection_is_replaced() {
    let server = RedisServer::start().await;
    let queue = server.queue();
    let mut source = queue.source();
    let popping = tokio::spawn(async move { (source.pop(1).await, source) });
    for id in server.blocked_in("blmpop").await {
        let _: i64 = server.say(&["CLIENT", "KILL", "ID", &id]).await;
    }
    let (first, mut source) = limited(popping).await.expect("no panic");
    // The pop may have ended by itself just before, and the next one finds the broken connection.
    drop(first);
    let one = leaf(5);
    queue.push(std::slice::from_ref(&one)).await.expect("pushed");
    let got = until_ok(async || source.pop(1).await).await;
    assert_eq!(got, [one]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_connection_of_operations_is_replaced_unseen() {
    let server = RedisServer::start().await;
    let queue = server.queue();
    queue.push(&leaves(1)).await.expect("pushed");
    let _: i64 = server.say(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    queue.push(&leaves(1)).await.expect("pushed over a new connection");
    assert_eq!(queue.depth().await.expect("counted"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_tells_once_that_everything_was_flushed() {
    let server = RedisServer::start().await;
    let queue = server.queue();
    assert!(queue.lost_data().await.expect("asked"), "a new Redis has no canary");
    assert!(!queue.lost_data().await.expect("asked"));
    queue.push(&leaves(3)).await.expect("pushed");
    let _: () = server.say(&["FLUSHALL"]).await;
    assert!(queue.lost_data().await.expect("asked"));
    assert!(!queue.lost_data().await.expect("asked"));
    assert_eq!(queue.depth().await.expect("counted"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_was_asked_for_in_vain_counts_as_gone() {
    let mut server = RedisServer::start().await;
    let queue = server.queue();
    assert!(queue.lost_data().await.expect("asked"));
    server.kill().await;
    queue.lost_data().await.expect_err("nobody answers");
    server.start_again().await;
    // Somebody else is quicker and plants it: the one that was in doubt must hear of it all the same.
    assert!(server.queue().lost_data().await.expect("asked"));
    assert!(queue.lost_data().await.expect("asked"));
    assert!(!queue.lost_data().await.expect("asked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_dropped_and_harms_nothing_else() {
    let server = RedisServer::start().await;
    let (queue, good) = (server.queue(), leaf(5));
    for bad in ["", "nonsense", "{\"id\":7}", "[]"] {
        let _: i64 = server.say(&["RPUSH", "{test}:ready:p5", bad]).await;
    }
    queue.push(std::slice::from_ref(&good)).await.expect("pushed");
    assert_eq!(pop_all(&mut queue.source(), 2, 1).await, [good]);
    assert_eq!(queue.depth().await.expect("counted"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_redis_is_survived_by_every_part() {
    let mut server = RedisServer::start().await;
    let queue = server.queue();
    let mut source = queue.source();
    queue.push(&leaves(2)).await.expect("pushed");
    pop_all(&mut source, 1, 1).await;
    queue.nudge().await.expect("nudged");
    queue.nudged(Duration::from_secs(60)).await.expect("heard");

    server.kill().await;
    limited(source.pop(1)).await.expect_err("nobody answers");
    queue.push(&leaves(1)).await.expect_err("nobody answers");
    queue.depth().await.expect_err("nobody answers");
    queue.nudge().await.expect_err("nobody answers");
    queue.nudged(Duration::from_secs(60)).await.expect_err("nobody answers");
    source.give_back(leaves(1)).await.expect_err("nobody answers");

    server.start_again().await;
    let again = leaf(5);
    queue.push(std::slice::from_ref(&again)).await.expect("pushed");
    assert_eq!(pop_all(&mut source, 1, 1).await, [again]);
    queue.nudge().await.expect("nudged");
    limited(queue.nudged(Duration::from_secs(60))).await.expect("heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_noticed_within_seconds() {
    let server = RedisServer::start().await;
    let proxy = Proxy::to(server.port()).await;
    let queue = queue_at(proxy.port());
    let mut source = queue.source();
    queue.push(&leaves(1)).await.expect("pushed");
    pop_all(&mut source, 1, 1).await;

    proxy.silence();
    let began = Instant::now();
    let unheard = leaves(1);
    let (pop, push) = tokio::join!(source.pop(1), queue.push(&unheard));
    pop.expect_err("the wire is silent");
    push.expect_err("the wire is silent");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    let one = leaf(5);
    queue.push(std::slice::from_ref(&one)).await.expect("a new connection works");
    assert_eq!(pop_all(&mut source, 1, 1).await, [one]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_down_at_the_start_is_an_error_of_operations_only() {
    let queue = queue_at(free_port());
    let error = timeout(Duration::from_secs(10), queue.push(&leaves(1))).await.expect("soon").expect_err("nobody answers");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    limited(queue.source().pop(1)).await.expect_err("nobody answers");
}

#[test]
fn a_malformed_url_or_prefix_is_refused_at_once() {
    assert!(RedisQueue::connect("postgres://localhost", "muster").is_err());
    assert!(RedisQueue::connect("redis://localhost", "a{b}").is_err());
    // Without a runtime, too: nothing is connected yet.
    assert!(RedisQueue::connect("redis://localhost", "muster").is_ok());
}
