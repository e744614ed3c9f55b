//! The dispatcher: one in the fleet, elected by a lease in the store.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    ids::Incarnation,
    queue::{Ready, ReadyQueue},
    store::{Store, StoreError},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ControlSettings;

const ROLE: &str = "dispatcher";
/// A process that ends does not wait longer for the store, neither in a round nor to resign.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// Grants what is due and makes it known, for as long as it holds the lease.
pub(crate) struct Dispatcher {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn ReadyQueue>,
    pub(crate) holder: Incarnation,
    pub(crate) settings: ControlSettings,
}

/// What a round came to.
enum Round {
    /// Another process dispatches.
    NotElected,
    /// So many instances were granted.
    Granted(i64),
}

impl Dispatcher {
    /// Runs until shutdown. Every failure is waited out: the store is the truth, and it is asked again.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut elected = None;
        // A round in progress may end: what it grants is pushed and need not grow old first.
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(LEAVES_WITHIN).await;
        };
        tokio::select! {
            () = self.dispatch(&mut elected, &shutdown) => {}
            () = overdue => {}
        }
        if elected.is_some() {
            self.resign().await;
        }
    }

    async fn dispatch(&self, elected: &mut Option<Instant>, shutdown: &CancellationToken) {
        let mut idle = self.settings.busy_poll;
        while !shutdown.is_cancelled() {
            let granted = match self.round(elected).await {
                Ok(Round::Granted(granted)) => granted,
                Ok(Round::NotElected) => {
                    // Without listening: a nudge wakes one process, and it is meant for the dispatcher.
                    shutdown.run_until_cancelled(tokio::time::sleep(self.settings.dispatcher_ttl / 3)).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the dispatcher cannot reach the store; it tries again");
                    0
                }
            };
            // While there is work the next round follows soon; without any, rounds become rare until somebody nudges.
            idle = if granted > 0 { self.settings.busy_poll } else { (idle * 2).min(self.settings.idle_poll) };
            if granted == 0 {
                // Workers nudge whenever something ends: a bound on rounds that find nothing.
                tokio::time::sleep(self.settings.empty_pause).await;
            }
            if granted < self.settings.window.round {
                shutdown.run_until_cancelled(self.wait(idle)).await;
            }
        }
    }

    /// One round, if this process is the dispatcher.
    async fn round(&self, elected: &mut Option<Instant>) -> Result<Round, StoreError> {
        // The lease is renewed well before it ends, and believed in until then: two dispatchers would be
        // harmless (grants are counted under the run's lock), only wasteful.
        if elected.is_none_or(|at| at.elapsed() > self.settings.dispatcher_ttl / 3) {
            let asked = Instant::now();
            *elected = self.store.elect(ROLE, self.holder, self.settings.dispatcher_ttl).await?.then_some(asked);
        }
        if elected.is_none() {
            return Ok(Round::NotElected);
        }
        let ready = self.store.grant(self.settings.window).await?;
        metrics::counter!("muster_grants_total").increment(ready.len() as u64);
        push(&*self.queue, &ready).await;
        Ok(Round::Granted(i64::try_from(ready.len()).unwrap_or(i64::MAX)))
    }

    async fn wait(&self, at_most: Duration) {
        if self.queue.nudged(at_most).await.is_err() {
            // Without the queue there are no nudges: poll.
            tokio::time::sleep(at_most).await;
        }
    }

    /// A lease that ends now: the next process need not wait for the TTL.
    async fn resign(&self) {
        let resigned = self.store.elect(ROLE, self.holder, Duration::ZERO);
        match tokio::time::timeout(LEAVES_WITHIN, resigned).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the dispatcher could not resign; its lease runs out"),
            Err(_) => tracing::debug!("the dispatcher could not resign in time; its lease runs out"),
        }
    }
}

/// Makes grants known. When the queue is away they are pushed again once they are old.
pub(crate) async fn push(queue: &dyn ReadyQueue, ready: &[Ready]) {
    if ready.is_empty() {
        return;
    }
    if let Err(error) = queue.push(ready).await {
        tracing::warn!(%error, count = ready.len(), "granted, but not pushed; old grants are pushed again");
    }
}
