//! What the cases stand on: plans of runs, held instances and the writes that they make.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use muster_shared::{
    CORE_REV,
    engine::{Finish, Usage},
    error::{AgentError, ErrorClass},
    event::{Completed, Entry, Event, ModelTurn, WaitFor},
    fsm::State,
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, ProjectId, RunId, TeamId, TemplateId},
    policy::TemplateRef,
    queue::Ready,
    reduce::{Place, Tree},
    store::{
        Claimed, Committed, GrantWindow, NewGroup, NewInstance, NewRun, Page, SpawnBatch, Spawned, Store, Then, WorkerRow, Write,
        WriteError,
    },
    time::{Clock as _, SystemClock, SystemRandom, Timestamp},
    wire::{InstanceView, RunView},
};

use super::Database;

/// The team of all cases.
pub(super) const TEAM: TeamId = TeamId::DEFAULT;

/// A window that holds nobody back.
pub(super) const WIDE: GrantWindow = GrantWindow { slots_percent: 1_000_000, round: 100_000, per_run: 100_000 };

/// An hour: longer than any case takes.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// What to spawn.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) total: i64,
    pub(super) chunk: i64,
    pub(super) reduces: bool,
    pub(super) tolerated: i64,
    pub(super) max_parallel: i32,
    pub(super) priority: i16,
    pub(super) key: Option<(&'static str, &'static str)>,
    pub(super) deadline_ms: Option<i64>,
}

impl Plan {
    /// So many tasks, collected.
    pub(super) const fn tasks(total: i64) -> Self {
        Self { total, chunk: 64, reduces: false, tolerated: 0, max_parallel: 1000, priority: 5, key: None, deadline_ms: None }
    }

    /// So many tasks, reduced so many at a time.
    pub(super) const fn reduced(total: i64, chunk: i64) -> Self {
        Self { chunk, reduces: true, ..Self::tasks(total) }
    }

    /// The batch, with new ids.
    pub(super) fn batch(&self) -> SpawnBatch {
        let policy = Hash32::of(b"policy");
        let template = |name: &str| TemplateRef { id: TemplateId(uuid::Uuid::from_u128(5)), name: name.to_owned(), version: 1 };
        let reducer = self.reduces.then(|| (template("synthesizer"), Hash32::of(b"reducer policy"), "fold".to_owned()));
        let instance = |ordinal| NewInstance {
            id: InstanceId::new(&SystemClock, &SystemRandom),
            ordinal,
            name: (ordinal % 2 == 0).then(|| format!("doc-{ordinal}")),
            role: None,
            task: format!("task number {ordinal}"),
            policy,
            context: None,
        };
        SpawnBatch {
            idempotency: self.key.map(|(key, request)| (key.to_owned(), Hash32::of(request.as_bytes()))),
            run: NewRun {
                id: RunId::new(&SystemClock, &SystemRandom),
                team: TEAM,
                project: ProjectId::DEFAULT,
                spec: r#"{"tasks": "many"}"#.to_owned(),
                template: template("worker"),
                max_parallel: self.max_parallel,
                priority: self.priority,
                deadline_ms: self.deadline_ms,
                traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            },
            group: NewGroup {
                id: GroupId::new(&SystemClock, &SystemRandom),
                tree: Tree { total: self.total, chunk: self.chunk, reduces: self.reduces },
                tolerated: self.tolerated,
                context: Some(Hash32::of(b"context")),
                reducer,
            },
            instances: (0..self.total).map(instance).collect(),
            blobs: [&b"policy"[..], b"reducer policy", b"context"].map(|bytes| (Hash32::of(bytes), bytes.to_vec())).into(),
        }
    }
}

/// A store under test, and shorthands.
pub(super) struct Bed {
    pub(super) store: Arc<dyn Store>,
}

impl Bed {
    pub(super) fn new(database: &impl Database) -> Self {
        Self { store: database.store() }
    }

    pub(super) async fn spawn(&self, plan: &Plan) -> Spawned {
        self.store.spawn(plan.batch()).await.expect("the spawn is stored")
    }

    /// A registered worker with so many slots.
    pub(super) async fn worker(&self, slots: i32) -> Incarnation {
        let incarnation = Incarnation::new(&SystemClock, &SystemRandom);
        let row = WorkerRow { incarnation, name: "test".to_owned(), slots, version: "0".to_owned() };
        self.store.register(&row).await.expect("the worker is registered");
        incarnation
    }

    /// Claims and reads the logs. Whoever was not granted is left out.
    pub(super) async fn claim(&self, worker: Incarnation, ids: &[InstanceId]) -> Vec<Held> {
        let claimed = self.store.claim(worker, CORE_REV, ids).await.expect("the claim is answered");
        let logs = self.store.logs(&claimed.iter().collect::<Vec<_>>()).await.expect("the logs match");
        let steps = |log: &Vec<_>| log.iter().filter(|event: &&Entry| event.kind.is_step()).count();
        claimed.into_iter().zip(&logs).map(|(claimed, log)| Held::new(claimed, steps(log))).collect()
    }

    /// A run whose every instance is held by a new worker, by ordinal.
    pub(super) async fn held(&self, plan: &Plan) -> (Spawned, Incarnation, Vec<Held>) {
        let worker = self.worker(1000).await;
        let spawned = self.spawn(plan).await;
        let mut held = self.claim(worker, &ids(&spawned.ready)).await;
        held.sort_by_key(|held| held.claimed.place);
        assert_eq!(i64::try_from(held.len()), Ok(plan.total), "everything is granted at once and claimed");
        (spawned, worker, held)
    }

    /// One write that must be accepted.
    pub(super) async fn commit(&self, write: Write) -> Committed {
        self.commit_all(vec![write]).await.remove(0).expect("the write is accepted")
    }

    pub(super) async fn commit_all(&self, batch: Vec<Write>) -> Vec<Result<Committed, WriteError>> {
        let asked = batch.len();
        let answers = self.store.commit(batch).await;
        assert_eq!(answers.len(), asked, "one answer for each write");
        answers
    }

    pub(super) async fn run(&self, run: RunId) -> RunView {
        self.store.run(TEAM, run).await.expect("the run is there")
    }

    pub(super) async fn instance(&self, instance: InstanceId) -> InstanceView {
        self.store.instance(TEAM, instance).await.expect("the instance is there")
    }

    /// All instances of a run, leaves first.
    pub(super) async fn instances(&self, run: RunId) -> Vec<InstanceView> {
        let page = Page { limit: 10_000, after: None };
        self.store.instances(TEAM, run, &page).await.expect("the instances are listed").items
    }

    pub(super) async fn in_flight(&self) -> i64 {
        self.store.demand().await.expect("demand is answered").in_flight
    }

    /// Cascades until nothing more ends.
    pub(super) async fn cascade_all(&self) {
        while self.store.cascade(1000).await.expect("the cascade is answered").ended > 0 {}
    }
}

/// The ids of what was made ready.
pub(super) fn ids(ready: &[Ready]) -> Vec<InstanceId> {
    ready.iter().map(|ready| ready.id).collect()
}

/// An instance that the case holds as a worker would.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) claimed: Claimed,
    tail: (i64, Hash32),
    step: i32,
}

impl Held {
    fn new(claimed: Claimed, steps: usize) -> Self {
        let tail = (claimed.last_seq, claimed.last_hash);
        Self { claimed, tail, step: i32::try_from(steps).expect("few steps") }
    }

    pub(super) const fn id(&self) -> InstanceId {
        self.claimed.lease.instance
    }

    pub(super) const fn place(&self) -> Place {
        self.claimed.place
    }

    /// A write of these events, as the worker would make it.
    pub(super) fn write(&self, events: &[Event], state: State, then: Then) -> Write {
        let (mut tail, mut usage, mut steps) = (self.tail, Usage::default(), 0);
        let mut entries = Vec::new();
        for event in events {
            let entry = Entry::following(self.id(), tail, self.claimed.lease.epoch, event, SystemClock.now());
            tail = (entry.seq, entry.hash);
            steps += i64::from(entry.kind.is_step());
            if let Event::Model(turn) = event {
                usage += turn.usage;
            }
            entries.push(entry);
        }
        Write {
            lease: self.claimed.lease,
            group: Arc::clone(&self.claimed.group),
            place: self.claimed.place,
            entries,
            state,
            step: self.step + i32::try_from(steps).expect("few steps"),
            steps_added: steps,
            usage_added: usage,
            then,
        }
    }

    /// One model turn; it goes on.
    pub(super) fn turn(&self, text: &str) -> Write {
        self.write(&[model(text)], State::Executing, Then::Continue)
    }

    /// After this write was accepted.
    pub(super) fn follow(&mut self, write: &Write) {
        if let Some(last) = write.entries.last() {
            self.tail = (last.seq, last.hash);
        }
        self.step = write.step;
    }

    /// A last turn and the end, with this output (JSON text).
    pub(super) fn complete(&self, output: &str) -> Write {
        let end = Event::Completed(Completed { output_of: self.tail.0 + 1 });
        self.write(&[model("done"), end], State::Completed, Then::Complete { output: output.to_owned() })
    }

    /// The end without output.
    pub(super) fn fail(&self, class: ErrorClass) -> Write {
        let error = AgentError::new(class, "broken", "it broke");
        let (event, state) = match class {
            ErrorClass::Timeout => (Event::TimedOut(error.clone()), State::Timeout),
            ErrorClass::Cancelled => (Event::Cancelled(error.clone()), State::Failed),
            ErrorClass::Model
            | ErrorClass::Tool
            | ErrorClass::Validation
            | ErrorClass::Permission
            | ErrorClass::Budget
            | ErrorClass::Internal => (Event::Failed(error.clone()), State::Failed),
        };
        self.write(&[event], state, Then::Fail { error })
    }

    /// It waits, having seen the wakes of its claim.
    pub(super) fn wait(&self, what: WaitFor) -> Write {
        let then = Then::Wait { what, wake_seq: self.claimed.wake_seq };
        self.write(&[Event::Waiting(what)], State::Executing, then)
    }

    /// It lets go between steps.
    pub(super) fn release(&self) -> Write {
        self.write(&[], State::Executing, Then::Release)
    }
}

/// A model turn that used 10 + 5 tokens.
pub(super) fn model(text: &str) -> Event {
    Event::Model(ModelTurn {
        model: "offline/script".to_owned(),
        text: text.to_owned(),
        tool_calls: Vec::new(),
        finish: Finish::Stop,
        usage: Usage { input_tokens: 10, output_tokens: 5, cost_micros: 1 },
    })
}

/// A moment long past.
pub(super) fn long_ago() -> Timestamp {
    Timestamp::from_micros(SystemClock.now().micros() - 3_600_000_000)
}

/// Shuffles by a seed: Fisher and Yates over splitmix64.
pub(super) fn shuffle<T>(items: &mut [T], seed: u64) {
    for n in (1..items.len()).rev() {
        let draw = muster_shared::time::mix64(seed.wrapping_mul(0x9E37_79B9).wrapping_add(n as u64));
        let modulus = n as u64 + 1;
        items.swap(n, usize::try_from(draw % modulus).expect("smaller than a usize"));
    }
}

/// Everything that a whole run made: places of its instances, and outputs by place.
pub(super) type Outputs = BTreeMap<Place, String>;
