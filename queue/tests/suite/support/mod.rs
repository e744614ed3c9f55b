//! What the tests of this crate share: fixtures for both lists, a private Redis, and a way to cut a wire.

pub(crate) mod fixture;
pub(crate) mod proxy;
pub(crate) mod redis_server;

use std::time::Duration;

use muster_queue::Source;
use muster_shared::{
    ids::InstanceId,
    queue::Ready,
    time::{SystemClock, SystemRandom},
};

/// A hang limit: long enough for a busy machine, and an end for a test that would never end.
pub(crate) async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("does not hang")
}

pub(crate) fn new_id() -> InstanceId {
    InstanceId::new(&SystemClock, &SystemRandom)
}

pub(crate) fn leaf(priority: u8) -> Ready {
    Ready { id: new_id(), priority, reducer: false, traceparent: None }
}

pub(crate) fn reducer(priority: u8) -> Ready {
    Ready { reducer: true, ..leaf(priority) }
}

pub(crate) fn leaves(count: usize) -> Vec<Ready> {
    (0..count).map(|_| leaf(5)).collect()
}

/// Pops until `count` messages came, with pops of at most `max`.
pub(crate) async fn pop_all(source: &mut impl Source, max: usize, count: usize) -> Vec<Ready> {
    let mut got = Vec::new();
    while got.len() < count {
        let some = limited(source.pop(max)).await.expect("the list answers");
        assert!(some.len() <= max, "{} of at most {max}", some.len());
        got.extend(some);
    }
    assert_eq!(got.len(), count);
    got
}

/// Tries until it succeeds: during an outage that is about to end. Every attempt waits by itself.
pub(crate) async fn until_ok<T, E: std::fmt::Display>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    limited(async {
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}
