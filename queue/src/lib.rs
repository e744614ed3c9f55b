//! The ready list: an apalis [`Backend`](apalis_core::backend::Backend) over Redis lists, and the same one
//! over lists in this process.
//!
//! A message says "this instance may be runnable", never more. It is popped, not leased: there is no
//! acknowledgement, heartbeat, retry or result here. The lease, the epoch and the sweeper in the store give
//! the guarantee, so losing, repeating or reordering messages is harmless.
//!
//! - [`RedisQueue`] and [`MemoryQueue`] implement [`ReadyQueue`](muster_shared::queue::ReadyQueue), the side
//!   of dispatch; [`RedisSource`] and [`MemorySource`] implement [`Source`], the side of workers.
//! - [`ReadyBackend`] turns any [`Source`] into an apalis backend that holds no more than its [`Slots`].
//!
//! # How to run a worker
//!
//! Concurrency needs no layer: a job occupies its slot from the moment it is popped until its handler is
//! done. apalis polls handlers in the task of the worker, so `parallelize` gives each a task of its own, and
//! a panic in one of them becomes an error event and not the end of the worker.
//!
//! ```
//! use apalis_core::{error::WorkerError, worker::{builder::WorkerBuilder, ext::parallelize::ParallelizeExt}};
//! use muster_queue::{MemoryQueue, ReadyBackend, Slots, Source};
//! use muster_shared::{ids::InstanceId, queue::{Ready, ReadyQueue}};
//! use tokio::task::JoinHandle;
//! # use muster_shared::time::{SystemClock, SystemRandom};
//!
//! /// Runs until `stop` is done; then handlers end, and what was popped but not begun is given back.
//! fn start<S: Source, H, F>(
//!     source: S,
//!     slots: Slots,
//!     handler: H,
//!     stop: impl Future<Output = ()> + Send + 'static,
//! ) -> JoinHandle<Result<(), WorkerError>>
//! where
//!     H: FnMut(Ready) -> F + Send + 'static,
//!     F: Future<Output = ()> + Send + 'static,
//! {
//!     let worker = WorkerBuilder::new("worker-1")
//!         .backend(ReadyBackend::new(source, slots))
//!         .parallelize(tokio::spawn)
//!         .build(handler);
//!     let stop = async move {
//!         stop.await;
//!         Ok::<(), std::io::Error>(())
//!     };
//!     // Not within an `async` block of one's own: with `parallelize` the compiler cannot prove that to be Send.
//!     tokio::spawn(worker.run_until(stop))
//! }
//!
//! # let runtime = tokio::runtime::Runtime::new().expect("a runtime");
//! # runtime.block_on(async {
//! let queue = MemoryQueue::new();
//! # let id = InstanceId::new(&SystemClock, &SystemRandom);
//! queue.push(&[Ready { id, priority: 5, reducer: false, traceparent: None }]).await.expect("memory does not fail");
//!
//! let (done, mut seen) = tokio::sync::mpsc::unbounded_channel();
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let handler = move |ready: Ready| {
//!     let done = done.clone();
//!     async move { done.send(ready.id).expect("somebody listens") }
//! };
//! let worker = start(queue.source(), Slots::new(8), handler, async move { drop(stopped.await) });
//! assert_eq!(seen.recv().await, Some(id));
//! drop(stop);
//! worker.await.expect("no panic").expect("no error");
//! # });
//! ```

mod backend;
mod fetch;
mod hold;
mod intake;
mod memory;
mod message;
mod redis_link;
mod redis_put;
mod redis_queue;
mod redis_source;
mod slots;
mod source;

pub use backend::{FetcherEnded, ReadyBackend};
pub use hold::{Hold, HoldLayer};
pub use memory::{MemoryQueue, MemorySource};
pub use redis_queue::RedisQueue;
pub use redis_source::RedisSource;
pub use slots::{Permit, Slots};
pub use source::Source;

/// How many lists there are, one for each priority.
const PRIORITIES: usize = 10;

/// The list of a priority. What is beyond the scale counts as its end.
fn list_of(priority: u8) -> usize {
    usize::from(priority).min(PRIORITIES - 1)
}
