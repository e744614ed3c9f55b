//! The dispatcher: one in the fleet, elected by a lease in the store.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    ids::Incarnation,
    queue::{ReadyQueue, Ready},
    store::{Store, StoreError},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ControlSettings;

const ROLE: &str = "dispatcher";

/// Grants what is due and makes it known, for as long as it holds the lease.
pub(crate) struct Dispatcher {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn ReadyQueue>,
    pub(crate) holder: Incarnation,
    pub(crate) settings: ControlSettings,
}

impl Dispatcher {
    /// Runs until shutdown. Every failure is waited out: the store is the truth, and it is asked again.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut idle = self.settings.busy_poll;
        let mut elected = None;
        while !shutdown.is_cancelled() {
            let granted = match self.round(&mut elected).await {
                Ok(granted) => granted,
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
                self.wait(idle, &shutdown).await;
            }
        }
    }

    /// One round, if this process is the dispatcher. Answers how many instances it granted.
    async fn round(&self, elected: &mut Option<Instant>) -> Result<i64, StoreError> {
        // The lease is renewed well before it ends, and believed in until then: two dispatchers would be
        // harmless (grants are counted under the run's lock), only wasteful.
        if elected.is_none_or(|at| at.elapsed() > self.settings.dispatcher_ttl / 3) {
            let asked = Instant::now();
            *elected = self.store.elect(ROLE, self.holder, self.settings.dispatcher_ttl).await?.then_some(asked);
        }
        if elected.is_none() {
            return Ok(0);
        }
        let ready = self.store.grant(self.settings.window).await?;
        metrics::counter!("muster_grants_total").increment(ready.len() as u64);
        push(&*self.queue, &ready).await;
        Ok(i64::try_from(ready.len()).unwrap_or(i64::MAX))
    }

    async fn wait(&self, at_most: Duration, shutdown: &CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            nudged = self.queue.nudged(at_most) => if nudged.is_err() {
                // Without the queue there are no nudges: poll.
                let _ = tokio::time::timeout(at_most, shutdown.cancelled()).await;
            },
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
