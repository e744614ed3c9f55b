//! A process of the fleet, as far as a test can have it within its own: a runtime that can be torn down.

use std::{sync::Arc, time::Duration};

use muster_control::{Control, ControlSettings};
use muster_shared::{
    engine::Engine,
    gate::Gate,
    ids::Incarnation,
    queue::Intake,
    store::GrantWindow,
    time::{SystemClock, SystemRandom},
};
use muster_store::{GroupCommit, GroupCommitOptions};
use muster_worker::{Drained, Parts, Worker, WorkerSettings};
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Fleet, limited};

pub(crate) const LEASE_TTL: Duration = Duration::from_secs(3);

/// Settings for tests: nothing is waited for long.
pub(crate) fn settings() -> WorkerSettings {
    WorkerSettings {
        name: "worker".to_owned(),
        concurrency: 8,
        lease_ttl: LEASE_TTL,
        heartbeat: Duration::from_millis(60),
        grace: Duration::from_secs(20),
    }
}

/// Control loops that look often.
pub(crate) fn control_settings() -> ControlSettings {
    ControlSettings {
        lease_ttl: LEASE_TTL,
        tick: Duration::from_millis(25),
        dispatcher_ttl: Duration::from_millis(600),
        busy_poll: Duration::from_millis(2),
        empty_pause: Duration::from_millis(2),
        idle_poll: Duration::from_millis(100),
        window: GrantWindow { slots_percent: 150, round: 2000, per_run: 2000 },
        stale_grant: Duration::from_millis(400),
        batch: 20,
    }
}

/// One process. Dropping it crashes it.
pub(crate) struct Process {
    runtime: Option<Runtime>,
    shutdown: CancellationToken,
    worker: Option<JoinHandle<Drained>>,
    control: JoinHandle<()>,
}

impl Process {
    /// A worker with control loops beside it.
    pub(crate) fn worker(fleet: &Fleet, settings: WorkerSettings) -> Self {
        Self::start(fleet, Some(settings), control_settings())
    }

    /// Control loops alone, as in an API process.
    pub(crate) fn control(fleet: &Fleet) -> Self {
        Self::start(fleet, None, control_settings())
    }

    pub(crate) fn start(fleet: &Fleet, settings: Option<WorkerSettings>, control: ControlSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads are to be had");
        let shutdown = CancellationToken::new();
        let (store, queue) = (fleet.store.clone(), fleet.queue.clone());
        let holder = Incarnation::new(&SystemClock, &SystemRandom);
        let control = Control::new(store.clone(), Arc::new(queue.clone()), holder, control);
        let control = runtime.spawn(control.run(shutdown.clone()));
        let worker = settings.map(|settings| {
            let _entered = runtime.enter();
            let parts = Parts {
                store: store.clone(),
                journal: Arc::new(GroupCommit::new(store, GroupCommitOptions::default())),
                queue: Arc::new(queue),
                engine: fleet.engine.clone() as Arc<dyn Engine>,
                gate: Gate::new(fleet.tools.clone()),
                clock: fleet.clock.clone(),
                random: Arc::new(SystemRandom),
                set_parent: |_, _| {},
            };
            runtime.spawn(run(Worker::new(parts, settings), fleet.intake.clone(), shutdown.clone()))
        });
        Self { runtime: Some(runtime), shutdown, worker, control }
    }

    /// SIGKILL: every task is gone at its next await. Returns when all of them are.
    pub(crate) async fn crash(mut self) {
        let runtime = self.runtime.take().expect("it runs until now");
        limited(tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(20)))).await.expect("no panic");
    }

    /// SIGTERM, and it has not left yet.
    pub(crate) fn terminate(&self) {
        self.shutdown.cancel();
    }

    /// SIGTERM; returns when it has left.
    pub(crate) async fn drain(mut self) -> Drained {
        self.terminate();
        let drained = match self.worker.take() {
            Some(worker) => limited(worker).await.expect("no panic"),
            None => Drained::default(),
        };
        limited(&mut self.control).await.expect("no panic");
        drained
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn run(worker: Worker, intake: Arc<dyn Intake>, shutdown: CancellationToken) -> Drained {
    worker.run(intake, shutdown).await
}
