//! What an incarnation does in the background: heartbeats, reconciliation, nudges.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    ids::Incarnation,
    store::{Heartbeat, Lease},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{lease::boot_clock, session::Shared};

/// Heartbeats from one reconciliation to the next.
const RECONCILE_EVERY: u32 = 4;
/// Between two nudges of the dispatcher.
const NUDGE_PAUSE: Duration = Duration::from_millis(10);

/// Starts everything; it ends when the guard is dropped. Each has a task of its own: a slow reconciliation must
/// not delay a heartbeat.
pub(crate) fn start(worker: Incarnation, shared: &Arc<Shared>, every: Duration) -> DropGuard {
    let until = CancellationToken::new();
    let pulse = Pulse { worker, shared: shared.clone(), every };
    let reconciler = Reconciler { worker, shared: shared.clone() };
    tokio::spawn(until.clone().run_until_cancelled_owned(pulse.run()));
    tokio::spawn(until.clone().run_until_cancelled_owned(reconciler.run(every * RECONCILE_EVERY)));
    tokio::spawn(until.clone().run_until_cancelled_owned(nudge(shared.clone())));
    until.drop_guard()
}

/// Tells the dispatcher that slots have come free, not more often than it can use.
async fn nudge(shared: Arc<Shared>) {
    loop {
        shared.freed.notified().await;
        if let Err(error) = shared.driver.parts.queue.nudge().await {
            tracing::debug!(%error, "the dispatcher was not nudged; it polls");
        }
        tokio::time::sleep(NUDGE_PAUSE).await;
    }
}

/// The heartbeat of one incarnation.
struct Pulse {
    worker: Incarnation,
    shared: Arc<Shared>,
    every: Duration,
}

impl Pulse {
    async fn run(self) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.beat().await {
                // Whatever the session does: under a dead incarnation nothing goes on.
                self.shared.abandon.cancel();
                return;
            }
        }
    }

    /// One heartbeat. False when this incarnation is dead.
    async fn beat(&self) -> bool {
        let sent = boot_clock();
        match self.shared.driver.parts.store.heartbeat(self.worker).await {
            Ok(Heartbeat::Alive { cancel }) => {
                self.shared.driver.lease.renew(sent);
                self.shared.held.cancel(&cancel);
                metrics::gauge!("muster_held_instances").set(self.shared.held.len() as f64);
                true
            }
            Ok(Heartbeat::Dead) => false,
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed; no effect starts once the lease cannot be confirmed");
                true
            }
        }
    }
}

/// Gives back what the store believes this process holds and it does not: claims whose answer was lost.
struct Reconciler {
    worker: Incarnation,
    shared: Arc<Shared>,
}

impl Reconciler {
    async fn run(self, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut suspects = Vec::new();
        loop {
            ticks.tick().await;
            suspects = self.reconcile(suspects).await;
        }
    }

    /// Only what was missing twice in a row: between the store's answer and this look, things move.
    async fn reconcile(&self, suspects: Vec<Lease>) -> Vec<Lease> {
        let store = &self.shared.driver.parts.store;
        let Ok(owned) = store.owned(self.worker).await else { return suspects };
        let missing = self.shared.held.missing(owned);
        let (again, fresh): (Vec<Lease>, Vec<Lease>) = missing.into_iter().partition(|lease| suspects.contains(lease));
        if again.is_empty() {
            return fresh;
        }
        tracing::warn!(count = again.len(), "giving back what the store believes is held here and is not");
        match store.give_back(&again).await {
            Ok(_) => {
                self.shared.freed.notify_one();
                fresh
            }
            Err(error) => {
                tracing::warn!(%error, "could not give back; tried again at the next reconciliation");
                again.into_iter().chain(fresh).collect()
            }
        }
    }
}
