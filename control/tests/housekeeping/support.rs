//! A store in a directory of its own, a queue, a spawner, and control loops on demand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use muster_control::{Control, ControlSettings, SpawnError, SpawnMeta, Spawner};
use muster_engine::Router;
use muster_queue::{MemoryQueue, Source as _};
use muster_shared::{
    CORE_REV,
    engine::Engine,
    ids::{Incarnation, InstanceId, TeamId},
    queue::{QueueError, Ready, ReadyQueue},
    store::{Claimed, GrantWindow, Spawned, Store, WorkerRow},
    time::{SystemClock, SystemRandom},
};
use muster_store::sqlite::{SqliteStore, migrate};
use muster_tools::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const TEAM: TeamId = TeamId::DEFAULT;
const HANG: Duration = Duration::from_secs(60);

/// The outcome of `wait`, unless it hangs.
pub(crate) async fn limited<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, wait).await.expect("it hangs")
}

pub(crate) fn settings() -> ControlSettings {
    ControlSettings {
        lease_ttl: Duration::from_millis(400),
        tick: Duration::from_millis(20),
        dispatcher_ttl: Duration::from_millis(300),
        busy_poll: Duration::from_millis(2),
        empty_pause: Duration::from_millis(2),
        idle_poll: Duration::from_millis(50),
        window: GrantWindow { slots_percent: 100, round: 100, per_run: 100 },
        stale_grant: Duration::from_secs(600),
        batch: 7,
    }
}

/// A queue that can lose its data like a Redis that was flushed, and that counts who listens for nudges.
#[derive(Clone, Default)]
pub(crate) struct LossyQueue {
    pub(crate) inner: MemoryQueue,
    pub(crate) lost: Arc<AtomicBool>,
    pub(crate) listens: Arc<AtomicUsize>,
}

#[async_trait]
impl ReadyQueue for LossyQueue {
    async fn push(&self, ready: &[Ready]) -> Result<(), QueueError> {
        self.inner.push(ready).await
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        self.inner.depth().await
    }

    async fn lost_data(&self) -> Result<bool, QueueError> {
        Ok(self.lost.swap(false, Ordering::SeqCst))
    }

    async fn nudge(&self) -> Result<(), QueueError> {
        self.inner.nudge().await
    }

    async fn nudged(&self, timeout: Duration) -> Result<(), QueueError> {
        self.listens.fetch_add(1, Ordering::SeqCst);
        self.inner.nudged(timeout).await
    }
}

/// See the module.
pub(crate) struct House {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: LossyQueue,
    pub(crate) spawner: Spawner,
    _dir: tempfile::TempDir,
}

/// Control loops that run.
pub(crate) struct Running {
    pub(crate) holder: Incarnation,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends them and waits for it.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        limited(self.task).await.expect("no panic");
    }
}

impl House {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory is to be had");
        let url = format!("sqlite://{}", dir.path().join("muster.db").display());
        migrate(&url).await.expect("the schema applies");
        let store = SqliteStore::connect_with(&url, Arc::new(SystemClock), Arc::new(SystemRandom)).await.expect("it opens");
        let store: Arc<dyn Store> = Arc::new(store);
        let kv: Arc<SqliteStore> =
            Arc::new(SqliteStore::connect_with("sqlite::memory:", Arc::new(SystemClock), Arc::new(SystemRandom)).await.expect("it opens"));
        let queue = LossyQueue::default();
        let spawner = Spawner::new(
            store.clone(),
            Arc::new(queue.clone()),
            Arc::new(Router::offline()) as Arc<dyn Engine>,
            Arc::new(Registry::builtin(None, kv)),
            Arc::new(SystemClock),
            Arc::new(SystemRandom),
        );
        let house = Self { store, queue, spawner, _dir: dir };
        for name in ["leaf", "reducer"] {
            house.template(json!({ "name": name, "models": ["offline/extract"] })).await.expect("a valid template");
        }
        house
    }

    pub(crate) async fn template(&self, template: Value) -> Result<(), SpawnError> {
        self.spawner.put_template(TEAM, template, true).await.map(|_| ())
    }

    pub(crate) fn control(&self, settings: ControlSettings) -> Running {
        let holder = Incarnation::new(&SystemClock, &SystemRandom);
        let shutdown = CancellationToken::new();
        let control = Control::new(self.store.clone(), Arc::new(self.queue.clone()), holder, settings);
        Running { holder, task: tokio::spawn(control.run(shutdown.clone())), shutdown }
    }

    pub(crate) async fn try_spawn(&self, request: Value) -> Result<Spawned, SpawnError> {
        let request = serde_json::from_value(request).expect("the form of a request");
        self.spawner.spawn(TEAM, &"leaf".parse().expect("a name"), request, SpawnMeta::default()).await
    }

    pub(crate) async fn spawn(&self, tasks: usize) -> Spawned {
        let tasks: Vec<String> = (0..tasks).map(|n| format!("task {n}")).collect();
        self.try_spawn(json!({ "tasks": tasks })).await.expect("it is admitted")
    }

    /// A worker that is known and does nothing by itself.
    pub(crate) async fn worker(&self, slots: i32) -> Incarnation {
        let incarnation = Incarnation::new(&SystemClock, &SystemRandom);
        let row = WorkerRow { incarnation, name: "by hand".to_owned(), slots, version: "0".to_owned() };
        self.store.register(&row).await.expect("the store is there");
        incarnation
    }

    /// The next messages: exactly so many.
    pub(crate) async fn messages(&self, count: usize) -> Vec<InstanceId> {
        let mut source = self.queue.inner.source();
        limited(async {
            let mut popped = Vec::new();
            while popped.len() < count {
                popped.extend(source.pop(count - popped.len()).await.expect("memory does not fail").into_iter().map(|ready| ready.id));
            }
            popped
        })
        .await
    }

    pub(crate) async fn claim(&self, worker: Incarnation, ids: &[InstanceId]) -> Vec<Claimed> {
        self.store.claim(worker, CORE_REV, ids).await.expect("the store is there")
    }
}
