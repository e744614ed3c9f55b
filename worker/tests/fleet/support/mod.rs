//! A fleet for one test: a store in a directory of its own, a queue, scripted models, and as many processes as
//! the test starts.

mod audit;
pub(crate) mod effects;
pub(crate) mod process;
pub(crate) mod store;

use std::{sync::Arc, time::Duration};

use muster_control::{SpawnMeta, Spawner};
use muster_engine::{Router, script::ScriptEngine};
use muster_queue::MemoryQueue;
use muster_shared::{
    engine::Engine,
    event::{Event, EventKind},
    fsm::Status,
    ids::{InstanceId, RunId, TeamId},
    queue::Intake,
    store::{Entry, Page, Reads as _, Spawned},
    time::{Clock, SystemClock, SystemRandom},
    wire::{InstanceView, RunResult, RunStatus, RunView},
};
use muster_store::sqlite::{SqliteStore, migrate};
use muster_tools::Registry;
use muster_worker::WorkerSettings;
use serde_json::{Value, json};

use effects::{Effects, Probe, WatchedEngine};
use process::{Process, settings};
use store::Watched;

/// A test that takes longer hangs.
const HANG: Duration = Duration::from_secs(60);
const TEAM: TeamId = TeamId::DEFAULT;

/// The outcome of `wait`, unless it hangs.
pub(crate) async fn limited<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, wait).await.expect("it hangs")
}

/// See the module.
pub(crate) struct Fleet {
    pub(crate) store: Arc<Watched>,
    pub(crate) queue: MemoryQueue,
    pub(crate) effects: Arc<Effects>,
    pub(crate) engine: Arc<WatchedEngine>,
    pub(crate) tools: Arc<Registry>,
    /// Where the workers take messages from.
    pub(crate) intake: Arc<dyn Intake>,
    /// What the workers' processes take for the time of day.
    pub(crate) clock: Arc<dyn Clock>,
    spawner: Spawner,
    _dir: tempfile::TempDir,
}

impl Fleet {
    /// A fleet whose models `main/…` answer by these rules; `spare/…` never fails.
    pub(crate) async fn new(rules: Value) -> Self {
        let dir = tempfile::tempdir().expect("a directory is to be had");
        let url = format!("sqlite://{}", dir.path().join("muster.db").display());
        migrate(&url).await.expect("the schema applies");
        let sqlite =
            SqliteStore::connect_with(&url, Arc::new(SystemClock), Arc::new(SystemRandom)).await.expect("a migrated database opens");
        let sqlite = Arc::new(sqlite);
        let store = Arc::new(Watched::new(sqlite.clone()));
        let effects = Effects::new(sqlite);
        let spare = ScriptEngine::from_rules(&json!([{ "answer": { "text": "the spare answers" } }])).expect("valid rules");
        let router = Router::builder()
            .provider("main", Arc::new(ScriptEngine::from_rules(&rules).expect("valid rules")))
            .provider("spare", Arc::new(spare))
            .default_model("main/model")
            .build()
            .expect("somebody serves the default model");
        let engine = Arc::new(WatchedEngine { inner: Arc::new(router), effects: effects.clone() });
        let mut tools = Registry::builtin(None, store.clone());
        tools.register(Arc::new(Probe::new(effects.clone()))).expect("the name is free");
        let tools = Arc::new(tools);
        let queue = MemoryQueue::new();
        let intake = Arc::new(queue.clone());
        let spawner = Spawner::new(
            store.clone(),
            Arc::new(queue.clone()),
            engine.clone() as Arc<dyn Engine>,
            tools.clone(),
            Arc::new(SystemClock),
            Arc::new(SystemRandom),
        );
        let fleet = Self { store, queue, effects, engine, tools, clock: Arc::new(SystemClock), intake, spawner, _dir: dir };
        fleet.template("reducer", json!({ "output": { "format": "json" } })).await;
        fleet
    }

    /// A template of this name and more.
    pub(crate) async fn template(&self, name: &str, more: Value) {
        let mut template = json!({ "name": name, "models": ["main/model"] });
        template.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        self.spawner.put_template(TEAM, template, true).await.expect("a valid template");
    }

    /// A worker process with control loops.
    pub(crate) fn process(&self) -> Process {
        Process::worker(self, settings())
    }

    /// The same with so many slots.
    pub(crate) fn process_of(&self, concurrency: usize) -> Process {
        Process::worker(self, WorkerSettings { concurrency, ..settings() })
    }

    pub(crate) async fn spawn(&self, agent: &str, request: Value) -> Spawned {
        let request = serde_json::from_value(request).expect("a valid request");
        self.spawner.spawn(TEAM, &agent.parse().expect("a name"), request, SpawnMeta::default()).await.expect("it is admitted")
    }

    /// Spawns one instance.
    pub(crate) async fn one(&self, agent: &str, task: &str) -> (RunId, InstanceId) {
        let spawned = self.spawn(agent, json!({ "task": task })).await;
        (spawned.run, spawned.instance.expect("there is one"))
    }

    pub(crate) async fn cancel_run(&self, run: RunId) {
        self.spawner.cancel_run(run, "the test wants it").await.expect("it runs");
    }

    pub(crate) async fn cancel(&self, instance: InstanceId) {
        self.spawner.cancel_instance(instance, "the test wants it").await.expect("it runs");
    }

    /// Waits until `look` finds something, looking again whenever the store has changed.
    pub(crate) async fn until<T>(&self, look: impl AsyncFn() -> Option<T>) -> T {
        let mut changes = self.store.changes();
        limited(async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = look().await {
                    return found;
                }
                changes.changed().await.expect("the sender lives");
            }
        })
        .await
    }

    pub(crate) async fn run(&self, run: RunId) -> RunView {
        self.store.run(TEAM, run).await.expect("there is one")
    }

    pub(crate) async fn instance(&self, instance: InstanceId) -> InstanceView {
        self.store.instance(TEAM, instance).await.expect("there is one")
    }

    /// Waits until a run and everything in it has ended, and checks all that must hold then.
    pub(crate) async fn ended(&self, run: RunId) -> RunView {
        let view = self
            .until(async || {
                let view = self.run(run).await;
                let counts = view.instances;
                let ended = counts.completed + counts.failed + counts.timeout + counts.cancelled;
                (view.status.is_terminal() && ended == counts.total).then_some(view)
            })
            .await;
        audit::audit(self, &view).await;
        view
    }

    /// Waits until an instance stands so.
    pub(crate) async fn stands(&self, instance: InstanceId, status: Status) -> InstanceView {
        self.until(async || Some(self.instance(instance).await).filter(|view| view.status == status)).await
    }

    /// Waits for the end and gives the answer.
    pub(crate) async fn answer(&self, run: RunId) -> Value {
        assert_eq!(self.ended(run).await.status, RunStatus::Completed);
        self.result(run).await.output
    }

    pub(crate) async fn result(&self, run: RunId) -> RunResult {
        self.spawner.result(TEAM, run).await.expect("it can be read").expect("it has ended")
    }

    pub(crate) async fn instances(&self, run: RunId) -> Vec<InstanceView> {
        let page = Page { limit: 10_000, after: None };
        self.store.instances(TEAM, run, &page).await.expect("they can be read").items
    }

    pub(crate) async fn log(&self, instance: InstanceId) -> Vec<Event> {
        self.store_log(instance).await.iter().map(|stored| stored.event().expect("it can be decoded")).collect()
    }

    pub(crate) async fn store_log(&self, instance: InstanceId) -> Vec<Entry> {
        self.store.events(TEAM, instance, 0, 1000).await.expect("it can be read")
    }

    pub(crate) async fn kinds(&self, instance: InstanceId) -> Vec<EventKind> {
        self.log(instance).await.iter().map(Event::kind).collect()
    }

    /// Declares every worker dead, at once.
    pub(crate) async fn bury_all(&self) {
        use muster_shared::store::Claims as _;
        self.store.bury(Duration::ZERO).await.expect("the store is there");
    }
}

/// Leaves answer with their task, reducers with what they fold; both in JSON.
pub(crate) fn folding() -> Value {
    json!([
        { "match": { "agent": "reducer" }, "answer": { "json": { "folded": "{{inputs}}" } } },
        { "match": { "task": "fail" }, "answer": { "error": { "code": "invalid_request" } } },
        { "answer": { "json": { "did": "{{task}}" } } },
    ])
}

/// The tasks in an answer made by [`folding`], from left to right.
pub(crate) fn folded(answer: &Value) -> Vec<String> {
    if let Some(did) = answer["did"].as_str() {
        return vec![did.to_owned()];
    }
    answer["folded"].as_array().into_iter().flatten().flat_map(|input| folded(&input["output"])).collect()
}
