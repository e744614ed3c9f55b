//! The fetcher: the task that owns a source, and the buffer between it and the backend.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::worker::context::WorkerContext;
use futures::task::AtomicWaker;
use muster_shared::queue::{QueueError, Ready};
use tokio::{sync::watch, time::timeout};

use crate::{
    slots::{Permit, Reservation, Slots},
    source::Source,
};

/// How many messages one pop takes at most: more would only delay the first of them.
const MAX_POP: usize = 1_000;

/// apalis has no signal for "this worker stops", so whoever waits looks this often. It matters only while
/// handlers run: when none does, the backend is closed at once.
const STOP_CHECK: Duration = Duration::from_millis(250);

/// Waits between attempts in an outage: doubled from the first to the last.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LAST_DELAY: Duration = Duration::from_secs(1);

/// Popped messages that no handler has begun, each in its slot.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    state: Mutex<State>,
    filled: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<(Ready, Permit)>,
    ended: bool,
}

impl Buffer {
    /// The next message; `None` when the fetcher has ended.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<(Ready, Permit)>> {
        // Registers before it looks: what is put in between is not missed.
        self.filled.register(cx.waker());
        let mut state = self.state();
        match state.jobs.pop_front() {
            Some(job) => Poll::Ready(Some(job)),
            None if state.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn put(&self, jobs: impl Iterator<Item = (Ready, Permit)>) {
        self.state().jobs.extend(jobs);
        self.filled.wake();
    }

    /// Ends it and takes what is left.
    fn end(&self) -> Vec<Ready> {
        let left = {
            let mut state = self.state();
            state.ended = true;
            std::mem::take(&mut state.jobs)
        };
        self.filled.wake();
        // The permits are dropped here, outside the lock.
        left.into_iter().map(|(job, _)| job).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the worker even when the fetcher panics.
struct EndBuffer(Arc<Buffer>);

impl Drop for EndBuffer {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Pops as far as slots are free, until its worker stops.
pub(crate) struct Fetcher<S> {
    pub(crate) source: S,
    pub(crate) slots: Slots,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) stopped: watch::Receiver<bool>,
    pub(crate) worker: WorkerContext,
}

impl<S: Source> Fetcher<S> {
    pub(crate) async fn run(mut self) {
        let end = EndBuffer(Arc::clone(&self.buffer));
        let mut outage = Outage::default();
        while !self.is_stopped() {
            let Some(reservation) = or_stop(self.slots.reserve(MAX_POP), &mut self.stopped, &self.worker).await else { break };
            match self.pop(reservation.left()).await {
                Some(Ok(jobs)) => {
                    outage.over();
                    self.deliver(jobs, reservation).await;
                }
                Some(Err(error)) => {
                    drop(reservation);
                    let delay = outage.failed(&error);
                    or_stop(tokio::time::sleep(delay), &mut self.stopped, &self.worker).await;
                }
                None => break,
            }
        }
        let left = end.0.end();
        self.give_back(left).await;
    }

    /// `None` when the worker stopped meanwhile and nothing was taken.
    async fn pop(&mut self, max: usize) -> Option<Result<Vec<Ready>, QueueError>> {
        if self.source.pop_can_be_dropped() {
            or_stop(self.source.pop(max), &mut self.stopped, &self.worker).await
        } else {
            Some(self.source.pop(max).await)
        }
    }

    async fn deliver(&mut self, mut jobs: Vec<Ready>, mut reservation: Reservation) {
        let surplus = jobs.split_off(jobs.len().min(reservation.left()));
        self.buffer.put(jobs.into_iter().map_while(|job| reservation.fill().map(|permit| (job, permit))));
        // A source that keeps its contract gives no more than was asked for.
        self.give_back(surplus).await;
    }

    async fn give_back(&mut self, jobs: Vec<Ready>) {
        let count = jobs.len();
        if count == 0 {
            return;
        }
        match self.source.give_back(jobs).await {
            Ok(()) => tracing::debug!(count, "gave back to the ready list what was not begun"),
            Err(error) => {
                tracing::warn!(count, %error, "could not give back what was not begun; it is granted again when its grant is old")
            }
        }
    }

    /// The sender goes away with the backend, and that means the same as a stop.
    fn is_stopped(&self) -> bool {
        *self.stopped.borrow() || self.stopped.has_changed().is_err() || self.worker.is_shutting_down()
    }
}

/// The outcome of `work`, or `None` when the worker stops before.
async fn or_stop<T>(work: impl Future<Output = T>, stopped: &mut watch::Receiver<bool>, worker: &WorkerContext) -> Option<T> {
    tokio::select! {
        biased;
        () = stop(stopped, worker) => None,
        done = work => Some(done),
    }
}

async fn stop(stopped: &mut watch::Receiver<bool>, worker: &WorkerContext) {
    while !worker.is_shutting_down() {
        if timeout(STOP_CHECK, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
            return;
        }
    }
}

/// Logs once when an outage begins and once when it is over, and spaces the attempts in between.
#[derive(Debug, Default)]
struct Outage {
    attempts: u32,
}

impl Outage {
    /// Counts a failure, and tells how long to wait before the next attempt.
    fn failed(&mut self, error: &QueueError) -> Duration {
        if self.attempts == 0 {
            tracing::warn!(%error, "cannot take from the ready list; trying again until it answers");
        } else {
            tracing::debug!(%error, attempts = self.attempts, "still cannot take from the ready list");
        }
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(self.attempts)).min(LAST_DELAY);
        self.attempts = self.attempts.saturating_add(1);
        delay
    }

    fn over(&mut self) {
        let attempts = std::mem::take(&mut self.attempts);
        if attempts > 0 {
            tracing::info!(attempts, "taking from the ready list again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_in_an_outage_grow_to_a_bound_and_begin_anew_after_it() {
        let mut outage = Outage::default();
        let error = QueueError("down".to_owned());
        let waits: Vec<Duration> = (0..100).map(|_| outage.failed(&error)).collect();
        assert_eq!(waits[0], FIRST_DELAY);
        assert!(waits.is_sorted());
        assert_eq!(waits[99], LAST_DELAY);
        outage.over();
        assert_eq!(outage.failed(&error), FIRST_DELAY);
    }
}
