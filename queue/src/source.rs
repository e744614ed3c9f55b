//! What a worker needs from a ready list.

use async_trait::async_trait;
use muster_shared::queue::{QueueError, Ready};

/// The taking end of a ready list. One owner takes from it; a list may have many sources.
///
/// A message is gone from the list when it is popped. A crash loses what was popped and not handled, which
/// is harmless: a grant that nobody claims is pushed again when it is old.
#[async_trait]
pub trait Source: Send + 'static {
    /// Takes up to `max` messages: the highest priority first, and reducers before leaves within it. Waits
    /// about a second at most, and is empty when nothing came. May be fewer than what waits.
    ///
    /// After an error the source is usable: the next call tries again, with a new connection if it needs one.
    async fn pop(&mut self, max: usize) -> Result<Vec<Ready>, QueueError>;

    /// Puts popped messages back to the front of their lists, in the order given.
    async fn give_back(&mut self, ready: Vec<Ready>) -> Result<(), QueueError>;

    /// Whether a [`pop`](Self::pop) that is dropped while it waits takes nothing with it. Then a worker that
    /// stops does not wait for its end.
    fn pop_can_be_dropped(&self) -> bool {
        false
    }
}
