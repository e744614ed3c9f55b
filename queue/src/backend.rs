//! The apalis backend: hands out what a fetcher has popped.
//!
//! apalis does not poll its backend while it waits for the last handlers of a worker that stops. So a task
//! of its own, the fetcher, owns the source: it pops ahead of the handlers as far as slots are free, and at
//! a stop it gives back at once what no handler has begun.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, task_id::RandomId},
    worker::context::WorkerContext,
};
use muster_shared::queue::Ready;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    fetch::{Buffer, Fetcher},
    hold::HoldLayer,
    slots::Slots,
    source::Source,
};

/// An apalis backend over a [`Source`]. Its tasks carry [`Ready`]; a handler may also ask for the
/// [`Permit`](crate::Permit) of its slot.
///
/// Popped messages and running handlers together never exceed the slots. No error of the source reaches the
/// worker: it is logged once per outage, and tried again. Dropping the backend gives back what is buffered,
/// as closing it does, but nobody waits for it.
pub struct ReadyBackend<S> {
    slots: Slots,
    buffer: Arc<Buffer>,
    fetching: Fetching<S>,
}

/// The fetcher of a worker ended by itself, as it does only when its source panics. The worker ends with
/// this error and not in silence: nothing would ever come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fetcher of the ready list ended by itself: its source has panicked")]
pub struct FetcherEnded;

enum Fetching<S> {
    /// The worker has not polled yet.
    NotYet(Box<S>),
    /// Dropping the sender stops the fetcher, too.
    Running { stop: watch::Sender<bool>, task: JoinHandle<()> },
    /// The worker has closed it.
    Closed,
}

/// The source is in a box, and nothing else is ever pinned.
impl<S> Unpin for ReadyBackend<S> {}

impl<S> fmt::Debug for ReadyBackend<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyBackend").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl<S: Source> ReadyBackend<S> {
    /// A backend that pops from `source` as far as `slots` are free. It begins when the worker runs, which
    /// must be on a tokio runtime.
    pub fn new(source: S, slots: Slots) -> Self {
        Self { slots, buffer: Arc::default(), fetching: Fetching::NotYet(Box::new(source)) }
    }

    fn start(&mut self, worker: &WorkerContext) {
        self.fetching = match std::mem::replace(&mut self.fetching, Fetching::Closed) {
            Fetching::NotYet(source) => {
                let (stop, stopped) = watch::channel(false);
                let fetcher = Fetcher {
                    source: *source,
                    slots: self.slots.clone(),
                    buffer: Arc::clone(&self.buffer),
                    stopped,
                    worker: worker.clone(),
                };
                Fetching::Running { stop, task: tokio::spawn(fetcher.run()) }
            }
            begun @ (Fetching::Running { .. } | Fetching::Closed) => begun,
        };
    }
}

impl<S: Source> Backend for ReadyBackend<S> {
    type Task = Task<Ready>;
    type Error = FetcherEnded;

    fn poll_ready(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), FetcherEnded>> {
        self.start(worker);
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Option<Result<Self::Task, FetcherEnded>>> {
        self.start(worker);
        let next = ready!(self.buffer.poll_take(cx));
        if next.is_none() && !worker.is_shutting_down() {
            return Poll::Ready(Some(Err(FetcherEnded)));
        }
        Poll::Ready(next.map(|(job, permit)| {
            let mut task = Task::new(job);
            task.inject_data(permit);
            Ok(task)
        }))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), FetcherEnded>> {
        if let Fetching::Running { stop, task } = &mut self.fetching {
            stop.send_replace(true);
            if let Err(error) = ready!(Pin::new(task).poll(cx)) {
                tracing::error!(%error, "the fetcher of the ready list has failed");
            }
        }
        self.fetching = Fetching::Closed;
        Poll::Ready(Ok(()))
    }
}

impl<S: Source> BackendConfig for ReadyBackend<S> {
    type Args = Ready;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = HoldLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> HoldLayer {
        HoldLayer
    }
}
