//! Putting messages to the ends of lists, many in one round trip.

use std::cmp::Reverse;

use muster_shared::queue::{QueueError, Ready};
use redis::Pipeline;

use crate::{
    list_of,
    message::{self, Keys},
    redis_link::Link,
};

/// How many messages one round trip carries.
const BATCH: usize = 1_000;

/// Which end of a list messages are put to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Front,
    Back,
}

/// Puts messages to one end of the lists of their priorities, where they stand in the order given.
pub(crate) async fn put(link: &Link, keys: &Keys, ready: &[&Ready], end: End) -> Result<(), QueueError> {
    let mut ordered = ready.to_vec();
    let command = match end {
        End::Front => {
            // LPUSH puts one before the other.
            ordered.reverse();
            "LPUSH"
        }
        End::Back => "RPUSH",
    };
    // The highest priority is pushed first. The sort is stable: within a priority the order stays.
    ordered.sort_by_key(|ready| Reverse(list_of(ready.priority)));
    for batch in ordered.chunks(BATCH) {
        let mut pipeline = Pipeline::new();
        for same in batch.chunk_by(|a, b| list_of(a.priority) == list_of(b.priority)) {
            let payloads: Vec<Vec<u8>> = same.iter().map(|ready| message::encode(ready)).collect();
            pipeline.cmd(command).arg(keys.list(same[0].priority)).arg(payloads).ignore();
        }
        link.run::<()>(&pipeline).await?;
    }
    Ok(())
}
