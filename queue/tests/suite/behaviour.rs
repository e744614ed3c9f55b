//! One suite for both ready lists: what dispatch and workers rely on.

use std::time::Duration;

use crate::support::{
    fixture::{Fixture, over_both_lists},
    leaf, leaves, limited, pop_all, reducer,
};
use muster_queue::Source;
use muster_shared::queue::Ready;

over_both_lists!(
    higher_priorities_come_first,
    reducers_come_before_leaves_of_their_priority,
    leaves_keep_their_order,
    a_message_comes_out_as_it_went_in,
    a_pop_takes_no_more_than_it_was_asked_for,
    what_is_given_back_stands_in_front_in_its_order,
    a_pop_waits_for_a_push,
    a_pop_of_an_empty_list_ends_by_itself,
    two_sources_share_a_list_and_nothing_comes_twice,
    ten_thousand_messages_go_in_and_come_out_in_order,
    a_nudge_wakes_who_waits,
    a_nudge_is_heard_later_and_once,
    waiting_for_a_nudge_ends_by_itself,
    a_wait_for_a_nudge_may_be_dropped,
    a_new_list_says_once_that_it_began_empty,
);

async fn a_new_list_says_once_that_it_began_empty(queue: impl Fixture) {
    assert!(queue.lost_data().await.expect("asked"), "what was granted before this list began is not in it");
    assert!(!queue.lost_data().await.expect("asked"));
}

async fn higher_priorities_come_first(queue: impl Fixture) {
    let (low, high, middle, beyond) = (leaf(0), leaf(9), leaf(4), leaf(200));
    queue.push(&[low.clone(), high.clone(), middle.clone(), beyond.clone()]).await.expect("pushed");
    assert_eq!(queue.depth().await.expect("counted"), 4);
    let got = pop_all(&mut queue.source(), 10, 4).await;
    assert_eq!(got, [high, beyond, middle, low]);
    assert_eq!(queue.depth().await.expect("counted"), 0);
}

async fn reducers_come_before_leaves_of_their_priority(queue: impl Fixture) {
    let (first, second, urgent) = (leaf(5), leaf(5), leaf(6));
    let (one, two, later) = (reducer(5), reducer(5), reducer(5));
    queue.push(&[first.clone(), one.clone(), second.clone(), two.clone(), urgent.clone()]).await.expect("pushed");
    queue.push(std::slice::from_ref(&later)).await.expect("pushed");
    let got = pop_all(&mut queue.source(), 10, 6).await;
    assert_eq!(got, [urgent, later, one, two, first, second]);
}

async fn leaves_keep_their_order(queue: impl Fixture) {
    let (early, late) = (leaves(3), leaves(3));
    queue.push(&early).await.expect("pushed");
    queue.push(&late).await.expect("pushed");
    assert_eq!(pop_all(&mut queue.source(), 4, 6).await, [early, late].concat());
}

async fn a_message_comes_out_as_it_went_in(queue: impl Fixture) {
    let traced = Ready { traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()), ..reducer(7) };
    queue.push(std::slice::from_ref(&traced)).await.expect("pushed");
    assert_eq!(pop_all(&mut queue.source(), 1, 1).await, [traced]);
}

async fn a_pop_takes_no_more_than_it_was_asked_for(queue: impl Fixture) {
    queue.push(&leaves(5)).await.expect("pushed");
    let mut source = queue.source();
    assert_eq!(source.pop(0).await.expect("popped"), []);
    assert_eq!(source.pop(2).await.expect("popped").len(), 2);
    assert_eq!(source.pop(2).await.expect("popped").len(), 2);
    assert_eq!(source.pop(2).await.expect("popped").len(), 1);
}

async fn what_is_given_back_stands_in_front_in_its_order(queue: impl Fixture) {
    let all = vec![leaf(9), leaf(5), leaf(5), leaf(5), leaf(1)];
    queue.push(&all).await.expect("pushed");
    let mut source = queue.source();
    let taken = pop_all(&mut source, 1, 3).await;
    assert_eq!(taken, all[..3]);
    source.give_back(taken).await.expect("given back");
    source.give_back(Vec::new()).await.expect("nothing to give back");
    assert_eq!(pop_all(&mut source, 10, 5).await, all);
}

async fn a_pop_waits_for_a_push(queue: impl Fixture) {
    let mut source = queue.source();
    let waiting = tokio::spawn(async move { pop_all(&mut source, 3, 1).await });
    let late = leaf(3);
    queue.push(std::slice::from_ref(&late)).await.expect("pushed");
    assert_eq!(limited(waiting).await.expect("no panic"), [late]);
}

async fn a_pop_of_an_empty_list_ends_by_itself(queue: impl Fixture) {
    assert_eq!(queue.source().pop(3).await.expect("popped"), []);
}

async fn two_sources_share_a_list_and_nothing_comes_twice(queue: impl Fixture) {
    async fn drain(mut source: impl Source) -> Vec<Ready> {
        let mut got = Vec::new();
        loop {
            let some = source.pop(3).await.expect("popped");
            if some.is_empty() {
                return got;
            }
            got.extend(some);
        }
    }

    let all = leaves(200);
    queue.push(&all).await.expect("pushed");
    let (one, two) = tokio::join!(tokio::spawn(drain(queue.source())), tokio::spawn(drain(queue.source())));
    let mut ids: Vec<_> = one.expect("no panic").into_iter().chain(two.expect("no panic")).map(|ready| ready.id).collect();
    let mut wanted: Vec<_> = all.into_iter().map(|ready| ready.id).collect();
    ids.sort();
    wanted.sort();
    assert_eq!(ids, wanted);
}

async fn ten_thousand_messages_go_in_and_come_out_in_order(queue: impl Fixture) {
    let all = leaves(10_000);
    queue.push(&all).await.expect("pushed");
    assert_eq!(queue.depth().await.expect("counted"), 10_000);
    assert!(pop_all(&mut queue.source(), 1_024, 10_000).await == all, "all of them, in order");
}

async fn a_nudge_wakes_who_waits(queue: impl Fixture) {
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.nudged(Duration::from_secs(3_600)).await }
    });
    queue.nudge().await.expect("nudged");
    limited(waiting).await.expect("no panic").expect("heard");
}

async fn a_nudge_is_heard_later_and_once(queue: impl Fixture) {
    for _ in 0..20 {
        queue.nudge().await.expect("nudged");
    }
    limited(queue.nudged(Duration::from_secs(3_600))).await.expect("heard");
    // All of them were heard at once: nothing is left to hear.
    let again = queue.nudged(Duration::from_secs(3_600));
    tokio::time::timeout(Duration::from_millis(300), again).await.expect_err("nobody nudges");
}

async fn waiting_for_a_nudge_ends_by_itself(queue: impl Fixture) {
    queue.nudged(Duration::ZERO).await.expect("ended");
    queue.nudged(Duration::from_millis(1_200)).await.expect("ended");
}

async fn a_wait_for_a_nudge_may_be_dropped(queue: impl Fixture) {
    for _ in 0..5 {
        let wait = queue.nudged(Duration::from_secs(3_600));
        tokio::time::timeout(Duration::from_millis(20), wait).await.expect_err("nobody nudges");
    }
    // The dropped waits are gone from the server when it has closed their connections; one that is not yet
    // may take a nudge with it, as a dispatcher that dies may. So: nudge until it is heard.
    let heard = queue.nudged(Duration::from_secs(3_600));
    tokio::pin!(heard);
    loop {
        queue.nudge().await.expect("nudged");
        if let Ok(outcome) = tokio::time::timeout(Duration::from_millis(20), &mut heard).await {
            return outcome.expect("heard");
        }
    }
}
