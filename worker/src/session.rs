//! One incarnation of a worker after the other: register, beat, take in, drain.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    ids::Incarnation,
    queue::{Handler, Intake, Ready},
    store::{Heartbeat, Lease, WorkerRow},
};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::{
    Parts, WorkerSettings,
    briefing::Library,
    claimer::Claimer,
    drive::{Driver, Left},
    held::{Held, Signals},
    lease::{LeaseClock, boot_clock},
};

/// The part of the grace period in which calls in progress may end; the rest is for giving back and leaving.
const CALLS_MAY_TAKE: f64 = 0.85;
/// Heartbeats from one reconciliation to the next.
const RECONCILE_EVERY: u32 = 4;
/// Between two nudges of the dispatcher.
const NUDGE_PAUSE: Duration = Duration::from_millis(10);

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
        let worker = Incarnation::new(&*self.parts.clock, &*self.parts.random);
        let row = WorkerRow {
            incarnation: worker,
            name: self.settings.name.clone(),
            slots: i32::try_from(self.settings.concurrency).unwrap_or(i32::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut pause = Duration::from_millis(200);
        loop {
            let sent = boot_clock();
            match self.parts.store.register(&row).await {
                Ok(()) => return Some(Session::new(self, worker, sent)),
                Err(error) => tracing::warn!(%error, "the worker cannot register yet; it tries again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(5)),
            }
        }
    }
}

/// One incarnation.
struct Session {
    worker: Incarnation,
    settings: WorkerSettings,
    shared: Arc<Shared>,
    dead: CancellationToken,
}

/// What the handlers of one incarnation share.
struct Shared {
    driver: Driver,
    held: Held,
    claimer: Claimer,
    drain: CancellationToken,
    abandon: CancellationToken,
    ended: Notify,
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
            ended: Notify::new(),
        };
        Self { worker, settings: of.settings.clone(), shared: Arc::new(shared), dead: CancellationToken::new() }
    }

    async fn run(self, intake: &dyn Intake, shutdown: &CancellationToken) -> Ended {
        tracing::info!(worker = %self.worker, slots = self.settings.concurrency, "working");
        let _beats = self.start_background();
        let stop = CancellationToken::new();
        let shared = self.shared.clone();
        let handler: Handler = Arc::new(move |ready| Box::pin(handle(shared.clone(), ready)));
        let taking_in = intake.run(&self.settings.name, self.settings.concurrency, handler, Box::pin(stop.clone().cancelled_owned()));
        tokio::pin!(taking_in);
        tokio::select! {
            () = &mut taking_in => tracing::error!("the intake ended by itself; the worker starts again"),
            () = self.dead.cancelled() => {
                self.shared.abandon.cancel();
                stop.cancel();
                taking_in.await;
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

    async fn drain(&self, taking_in: impl Future<Output = ()>) -> usize {
        tracing::info!(held = self.shared.held.len(), "draining");
        tokio::pin!(taking_in);
        let grace = self.settings.grace.mul_f64(CALLS_MAY_TAKE);
        let mut abandoned = 0;
        if tokio::time::timeout(grace, &mut taking_in).await.is_err() {
            abandoned = self.shared.held.len();
            tracing::warn!(abandoned, "the grace period is over: calls in progress are abandoned, and made again elsewhere");
            self.shared.abandon.cancel();
            let _ = tokio::time::timeout(self.settings.grace.mul_f64(0.05), taking_in).await;
        }
        self.retire().await;
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

    /// Heartbeats and nudges, until the guards are dropped.
    fn start_background(&self) -> [DropGuard; 2] {
        let (beats, nudges) = (CancellationToken::new(), CancellationToken::new());
        let pulse = Pulse { worker: self.worker, shared: self.shared.clone(), dead: self.dead.clone(), every: self.settings.heartbeat };
        tokio::spawn(beats.clone().run_until_cancelled_owned(pulse.run()));
        tokio::spawn(nudges.clone().run_until_cancelled_owned(nudge(self.shared.clone())));
        [beats.drop_guard(), nudges.drop_guard()]
    }
}

/// One message: claim what it names and drive it as far as it goes.
async fn handle(shared: Arc<Shared>, ready: Ready) {
    let Some((claimed, log)) = shared.claimer.claim(ready.id).await else {
        metrics::counter!("muster_claims_dropped_total").increment(1);
        return;
    };
    let signals = Signals { cancel: CancellationToken::new(), drain: shared.drain.clone(), abandon: shared.abandon.clone() };
    let _held = shared.held.hold(claimed.lease, signals.cancel.clone());
    let span = tracing::info_span!("instance", instance = %claimed.lease.instance, run = %claimed.lease.run, epoch = claimed.lease.epoch);
    if let Some(traceparent) = ready.traceparent.as_deref().or(claimed.traceparent.as_deref()) {
        (shared.driver.parts.set_parent)(&span, traceparent);
    }
    let left = shared.driver.drive(&claimed, &log, &signals).instrument(span).await;
    match left {
        Left::Ended | Left::Waits => shared.ended.notify_one(),
        Left::Released | Left::Lost | Left::Abandoned => {}
    }
    metrics::counter!("muster_drives_total", "left" => left.as_str()).increment(1);
}

/// Tells the dispatcher that slots have come free, not more often than it can use.
async fn nudge(shared: Arc<Shared>) {
    loop {
        shared.ended.notified().await;
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
    dead: CancellationToken,
    every: Duration,
}

impl Pulse {
    async fn run(self) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut suspects = Vec::new();
        for beat in 0_u32.. {
            ticks.tick().await;
            if !self.beat().await {
                return;
            }
            if beat % RECONCILE_EVERY == RECONCILE_EVERY - 1 {
                suspects = self.reconcile(suspects).await;
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
            Ok(Heartbeat::Dead) => {
                self.dead.cancel();
                false
            }
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed; no effect starts once the lease cannot be confirmed");
                true
            }
        }
    }

    /// Gives back what the store believes this process holds and it does not: claims whose answer was lost.
    /// Only what was missing twice in a row, so that a claim on its way is left alone.
    async fn reconcile(&self, suspects: Vec<Lease>) -> Vec<Lease> {
        let store = &self.shared.driver.parts.store;
        let Ok(owned) = store.owned(self.worker).await else { return suspects };
        let missing = self.shared.held.missing(owned);
        let (again, fresh): (Vec<Lease>, Vec<Lease>) = missing.into_iter().partition(|lease| suspects.contains(lease));
        if !again.is_empty() {
            tracing::warn!(count = again.len(), "giving back what the store believes is held here and is not");
            if let Err(error) = store.give_back(&again).await {
                tracing::warn!(%error, "could not give back; tried again at the next reconciliation");
                return again.into_iter().chain(fresh).collect();
            }
        }
        fresh
    }
}
