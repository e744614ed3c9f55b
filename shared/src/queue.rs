//! The ready list: a hint of what may be runnable. Losing, repeating or reordering messages is harmless.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::ids::InstanceId;

/// "This instance may be runnable", never more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The instance.
    pub id: InstanceId,
    /// Position among the lists: 0 (last) to 9 (first).
    #[serde(default)]
    pub priority: u8,
    /// Reducers go before leaves of the same priority.
    #[serde(default)]
    pub reducer: bool,
    /// W3C trace context of the spawn, so that one trace spans API, queue and worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// The queue could not be reached. Nothing is lost: the grant is pushed again when it is old.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ready list cannot be reached: {0}")]
pub struct QueueError(pub String);

/// Where dispatch makes instances known, and where it learns that there is something to dispatch.
#[async_trait]
pub trait ReadyQueue: Send + Sync {
    /// Appends to the lists of their priority. A crash leaves any part of them pushed.
    async fn push(&self, ready: &[Ready]) -> Result<(), QueueError>;

    /// How many messages wait.
    async fn depth(&self) -> Result<u64, QueueError>;

    /// Plants the canary if it is gone, and tells whether it was: then the queue lost its data, and every
    /// grant that nobody claimed is pushed again.
    async fn lost_data(&self) -> Result<bool, QueueError>;

    /// Wakes the dispatcher, in whichever process it is.
    async fn nudge(&self) -> Result<(), QueueError>;

    /// Waits until somebody nudges, at most `timeout`.
    async fn nudged(&self, timeout: Duration) -> Result<(), QueueError>;
}

/// What a worker does with a message: claims the instance and drives it as far as it goes.
pub type Handler = Arc<dyn Fn(Ready) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The consuming side of the ready list: an apalis worker over it.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Hands out messages, never more at once than `slots`, until `stop` is done; then waits for the handlers.
    /// What was popped and not begun is given back. A crash loses what was popped: those grants grow old and
    /// are pushed again.
    async fn run(&self, name: &str, slots: usize, handler: Handler, stop: Pin<Box<dyn Future<Output = ()> + Send>>);
}
