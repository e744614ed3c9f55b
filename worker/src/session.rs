//! One incarnation of a worker after the other: register, beat, take in, drain.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    ids::Incarnation,
    queue::{Handler, Intake, Ready},
    store::WorkerRow,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    Parts, WorkerSettings,
    briefing::Library,
    claimer::Claimer,
    drive::{Driver, Left},
    held::{Held, Signals},
    lease::{LeaseClock, boot_clock},
    pulse,
};

/// The part of the grace period in which calls in progress may end; the rest is for giving back and leaving.
const CALLS_MAY_TAKE: f64 = 0.85;
/// Between attempts to register, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Calls that were in progress when the grace period ended: they are made again elsewhere.
    pub abandoned: usize,
}

/// A worker process, through all its incarnations.
pub struct Worker {
    parts: Parts,
    settings: WorkerSettings,
}

/// How a session ended.
enum Ended {
    Drained(Drained),
    /// The process was declared dead: it goes on under a new incarnation.
    Dead,
}

impl Worker {
    /// A worker of these parts.
    pub fn new(parts: Parts, settings: WorkerSettings) -> Self {
        Self { parts, settings }
    }

    /// Works until `shutdown`, then drains within the grace period: what is between steps is given back at
    /// once, calls in progress may end and be journaled, the rest is counted as abandoned.
    pub async fn run(&self, intake: Arc<dyn Intake>, shutdown: CancellationToken) -> Drained {
        loop {
            let session = match self.register(&shutdown).await {
                Some(session) => session,
                None => return Drained::default(),
            };
            let worker = session.worker;
            match session.run(&*intake, &shutdown).await {
                Ended::Drained(drained) => return drained,
                Ended::Dead => tracing::warn!(%worker, "this process was declared dead; it starts again under a new incarnation"),
            }
        }
    }

    /// Makes a new incarnation known, however long the store is away.
    async fn register(&self, shutdown: &CancellationToken) -> Option<Session> {
        let mut pause = FIRST_PAUSE;
        loop {
            // A new one for each attempt: one whose outcome is unknown may have been stored, and grows old.
            let worker = Incarnation::new(&*self.parts.clock, &*self.parts.random);
            let row = WorkerRow {
                incarnation: worker,
                name: self.settings.name.clone(),
                slots: i32::try_from(self.settings.concurrency).unwrap_or(i32::MAX),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let sent = boot_clock();
            let registered = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                registered = self.parts.store.register(&row) => registered,
            };
            match registered {
                Ok(()) => return Some(Session::new(self, worker, sent)),
                Err(error) => tracing::warn!(%error, "the worker cannot register yet; it tries again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
            }
        }
    }
}

/// One incarnation.
struct Session {
    worker: Incarnation,
    settings: WorkerSettings,
    shared: Arc<Shared>,
}

/// What the handlers of one incarnation share.
pub(crate) struct Shared {
    pub(crate) driver: Driver,
    pub(crate) held: Held,
    claimer: Claimer,
    drain: CancellationToken,
    /// Stop at once: the grace period is over, or this incarnation is dead.
    pub(crate) abandon: CancellationToken,
    /// Something can be dispatched now that could not before.
    pub(crate) freed: Notify,
}

impl Session {
    fn new(of: &Worker, worker: Incarnation, sent: Duration) -> Self {
        let parts = of.parts.clone();
        let shared = Shared {
            claimer: Claimer::start(parts.store.clone(), worker),
            driver: Driver { library: Library::new(parts.gate.clone()), lease: LeaseClock::new(of.settings.lease_ttl, sent), parts },
            held: Held::default(),
            drain: CancellationToken::new(),
            abandon: CancellationToken::new(),
            freed: Notify::new(),
        };
        Self { worker, settings: of.settings.clone(), shared: Arc::new(shared) }
    }

    async fn run(self, intake: &dyn Intake, shutdown: &CancellationToken) -> Ended {
        tracing::info!(worker = %self.worker, slots = self.settings.concurrency, "working");
        let _background = pulse::start(self.worker, &self.shared, self.settings.heartbeat);
        let stop = CancellationToken::new();
        let shared = self.shared.clone();
        let handler: Handler = Arc::new(move |ready| Box::pin(handle(shared.clone(), ready)));
        let taking_in = intake.run(&self.settings.name, self.settings.concurrency, handler, Box::pin(stop.clone().cancelled_owned()));
        tokio::pin!(taking_in);
        tokio::select! {
            () = &mut taking_in => self.after_failed_intake(shutdown).await,
            () = self.shared.abandon.cancelled() => {
                stop.cancel();
                // What hangs in a store that does not answer must not keep the process from leaving.
                tokio::select! {
                    () = taking_in => {}
                    () = shutdown.cancelled() => {}
                }
            }
            () = shutdown.cancelled() => {
                self.shared.drain.cancel();
                stop.cancel();
                let abandoned = self.drain(taking_in).await;
                return Ended::Drained(Drained { abandoned });
            }
        }
        // Nothing is held any more; if the intake failed, the old incarnation must not stay alive.
        self.retire().await;
        Ended::Dead
    }

    /// Handlers have tasks of their own and outlive the intake: they must not go on under an incarnation that
    /// retires. The pause is for an intake that would fail again at once.
    async fn after_failed_intake(&self, shutdown: &CancellationToken) {
        tracing::error!("the intake ended by itself; the worker starts again");
        self.shared.abandon.cancel();
        let idle_and_paused = async {
            self.shared.held.idle().await;
            tokio::time::sleep(FIRST_PAUSE).await;
        };
        tokio::select! {
            () = idle_and_paused => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn drain(&self, taking_in: impl Future<Output = ()>) -> usize {
        tracing::info!(held = self.shared.held.len(), "draining");
        tokio::pin!(taking_in);
        let grace = self.settings.grace.mul_f64(CALLS_MAY_TAKE);
        if tokio::time::timeout(grace, &mut taking_in).await.is_err() {
            tracing::warn!("the grace period is over: calls in progress are abandoned, and made again elsewhere");
            self.shared.abandon.cancel();
            let _ = tokio::time::timeout(self.settings.grace.mul_f64(0.05), taking_in).await;
        }
        self.retire().await;
        let abandoned = self.shared.held.given_up();
        tracing::info!(abandoned, "drained");
        abandoned
    }

    /// The store returns at once what this incarnation still holds.
    async fn retire(&self) {
        let bound = self.settings.grace.mul_f64(0.05).max(Duration::from_millis(500));
        match tokio::time::timeout(bound, self.shared.driver.parts.store.retire(self.worker)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not sign off; the lease TTL does it"),
            Err(_) => tracing::warn!("could not sign off in time; the lease TTL does it"),
        }
    }
}

/// One message: claim what it names and drive it as far as it goes.
async fn handle(shared: Arc<Shared>, ready: Ready) {
    let claiming = shared.held.claiming(ready.id);
    let Some(owned) = shared.claimer.claim(ready.id).await else {
        metrics::counter!("muster_claims_dropped_total").increment(1);
        return;
    };
    let lease = owned.claimed.lease;
    let signals = Signals { cancel: CancellationToken::new(), drain: shared.drain.clone(), abandon: shared.abandon.clone() };
    let held = shared.held.hold(lease, signals.cancel.clone());
    drop(claiming);
    let span = tracing::info_span!("instance", instance = %lease.instance, run = %lease.run, epoch = lease.epoch);
    if let Some(traceparent) = ready.traceparent.as_deref().or(owned.claimed.traceparent.as_deref()) {
        (shared.driver.parts.set_parent)(&span, traceparent);
    }
    let left = shared.driver.drive(owned, &signals).instrument(span).await;
    match left {
        Left::Ended | Left::Waits | Left::Released => {
            drop(held);
            shared.freed.notify_one();
        }
        Left::Abandoned => held.abandon(),
        Left::Lost => drop(held),
    }
    metrics::counter!("muster_drives_total", "left" => left.as_str()).increment(1);
}
