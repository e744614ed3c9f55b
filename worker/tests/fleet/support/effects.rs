//! Models and tools as tests see them: counted, held back when a test wants it, and caught when they repeat what
//! is journaled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use muster_shared::{
    engine::{Engine, ModelError, ModelReply, ModelRequest},
    gate::Permit,
    ids::{InstanceId, RunId, TeamId},
    store::Reads,
    tool::{Effect, Tool, ToolError, ToolSpec},
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Which calls wait: by instance and step (of a model) or key (of a tool).
type Which = Box<dyn Fn(&str, u32) -> bool + Send + Sync>;

/// What was done to the world outside the store.
pub(crate) struct Effects {
    store: Arc<dyn Reads>,
    seen: Mutex<Seen>,
    hold: Mutex<Option<Which>>,
    /// Calls that wait now, and releases so far.
    waiting: watch::Sender<usize>,
    released: watch::Sender<u64>,
    begun: watch::Sender<usize>,
}

#[derive(Default)]
struct Seen {
    calls: BTreeMap<String, usize>,
    repeated: Vec<String>,
    in_flight: HashMap<RunId, usize>,
    most_in_flight: HashMap<RunId, usize>,
    by_run: HashMap<RunId, usize>,
}

impl Effects {
    pub(crate) fn new(store: Arc<dyn Reads>) -> Arc<Self> {
        Arc::new(Self {
            store,
            seen: Mutex::default(),
            hold: Mutex::default(),
            waiting: watch::Sender::new(0),
            released: watch::Sender::new(0),
            begun: watch::Sender::new(0),
        })
    }

    /// From now on, calls of this task and step wait for a release.
    pub(crate) fn hold(&self, which: impl Fn(&str, u32) -> bool + Send + Sync + 'static) {
        *self.hold.lock().unwrap() = Some(Box::new(which));
    }

    /// Waits until exactly so many calls are held back.
    pub(crate) async fn held(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        super::limited(waiting.wait_for(|held| *held == count)).await.expect("the sender lives");
    }

    /// Waits until so many calls have begun since the start.
    pub(crate) async fn begun(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        super::limited(begun.wait_for(|calls| *calls >= count)).await.expect("the sender lives");
    }

    /// Lets all held calls go on; no further ones are held.
    pub(crate) fn release(&self) {
        *self.hold.lock().unwrap() = None;
        self.released.send_modify(|count| *count += 1);
    }

    /// Calls by idempotency key.
    pub(crate) fn calls(&self) -> BTreeMap<String, usize> {
        self.seen.lock().unwrap().calls.clone()
    }

    /// How often the call that makes the event at `seq` was made.
    pub(crate) fn calls_of(&self, instance: InstanceId, seq: i64) -> usize {
        self.calls().get(&format!("{instance}/{seq}")).copied().unwrap_or(0)
    }

    /// Model and tool calls of a run.
    pub(crate) fn calls_in(&self, run: RunId) -> usize {
        self.seen.lock().unwrap().by_run.get(&run).copied().unwrap_or(0)
    }

    /// The most calls of a run that were in flight at once.
    pub(crate) fn most_in_flight(&self, run: RunId) -> usize {
        self.seen.lock().unwrap().most_in_flight.get(&run).copied().unwrap_or(0)
    }

    /// Calls that began although their outcome was journaled (I4).
    pub(crate) fn repeated(&self) -> Vec<String> {
        self.seen.lock().unwrap().repeated.clone()
    }

    async fn begin(self: &Arc<Self>, run: RunId, instance: InstanceId, key: &str, task: &str, step: u32) -> InFlight {
        let seq: i64 = key.rsplit_once('/').and_then(|(_, seq)| seq.parse().ok()).expect("a key ends with the position in the log");
        let journaled = self.store.events(TeamId::DEFAULT, instance, seq - 1, 1).await.expect("the store can be read");
        {
            let mut seen = self.seen.lock().unwrap();
            *seen.calls.entry(key.to_owned()).or_default() += 1;
            *seen.by_run.entry(run).or_default() += 1;
            if !journaled.is_empty() {
                seen.repeated.push(key.to_owned());
            }
            let now = seen.in_flight.entry(run).or_default();
            *now += 1;
            let now = *now;
            let most = seen.most_in_flight.entry(run).or_default();
            *most = now.max(*most);
        }
        let flight = InFlight { effects: self.clone(), run };
        self.begun.send_modify(|calls| *calls += 1);
        // Subscribed before it is counted as held: a release after that is not missed.
        let mut released = self.released.subscribe();
        if self.hold.lock().unwrap().as_ref().is_some_and(|which| which(task, step)) {
            let _held = HeldBack::new(&self.waiting);
            released.changed().await.expect("the sender lives");
        }
        flight
    }
}

struct InFlight {
    effects: Arc<Effects>,
    run: RunId,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(count) = self.effects.seen.lock().unwrap().in_flight.get_mut(&self.run) {
            *count -= 1;
        }
    }
}

struct HeldBack<'a>(&'a watch::Sender<usize>);

impl<'a> HeldBack<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting)
    }
}

impl Drop for HeldBack<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// An engine in front of another.
pub(crate) struct WatchedEngine {
    pub(crate) inner: Arc<dyn Engine>,
    pub(crate) effects: Arc<Effects>,
}

#[async_trait]
impl Engine for WatchedEngine {
    async fn complete(&self, request: ModelRequest) -> Result<ModelReply, ModelError> {
        let caller = request.caller.clone();
        let _flight = self.effects.begin(caller.run, caller.instance, &request.idempotency_key, &caller.task, caller.step).await;
        assert!(!caller.task.contains("panic in the engine"), "as the task wants it");
        self.inner.complete(request).await
    }

    fn knows(&self, model: &str) -> bool {
        self.inner.knows(model)
    }

    fn models(&self) -> Vec<String> {
        self.inner.models()
    }
}

/// A tool that answers with the arguments and the lease of its permit. For holds, its task is `probe`.
pub(crate) struct Probe {
    spec: ToolSpec,
    effects: Arc<Effects>,
}

impl Probe {
    pub(crate) fn new(effects: Arc<Effects>) -> Self {
        let spec = ToolSpec {
            name: "probe".to_owned(),
            description: "Tells what it was asked.".to_owned(),
            input_schema: json!({ "type": "object" }),
            output_schema: json!({ "type": "object" }),
            timeout_ms: 60_000,
            effect: Effect::Idempotent,
        };
        Self { spec, effects }
    }
}

#[async_trait]
impl Tool for Probe {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, permit: Permit) -> Result<Value, ToolError> {
        let lease = permit.lease();
        let _flight = self.effects.begin(lease.run, lease.instance, permit.idempotency_key(), "probe", 0).await;
        Ok(json!({ "asked": permit.arguments(), "epoch": lease.epoch, "key": permit.idempotency_key() }))
    }
}
