//! A fleet of one run, and a second connection that stops others at a lock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use muster_shared::{
    CORE_REV,
    engine::{Finish, Usage},
    error::{AgentError, ErrorClass},
    event::{Completed, Entry, Event, ModelTurn},
    fsm::State,
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, ProjectId, RunId, TeamId, TemplateId, uuid_v7},
    policy::TemplateRef,
    reduce::Tree,
    store::{Claimed, Claims as _, Journal as _, NewGroup, NewInstance, NewRun, Reads as _, SpawnBatch, Spawned, Then, WorkerRow, Write},
    time::{Clock as _, SystemClock, SystemRandom},
    wire::RunView,
};
use muster_store::{postgres::PostgresStore, testing::TestDatabase};
use sqlx::{AssertSqlSafe, Connection as _, postgres::PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

/// Nothing here takes this long; what does, hangs.
pub(crate) const HANG: Duration = Duration::from_secs(30);

pub(crate) fn new_id() -> Uuid {
    uuid_v7(&SystemClock, &SystemRandom)
}

/// A run of `tasks` leaves with a reducer for each `chunk` of them.
pub(crate) fn batch(tasks: i64, chunk: i64, max_parallel: i32) -> SpawnBatch {
    let template = TemplateRef { id: TemplateId(new_id()), name: "worker".to_owned(), version: 1 };
    let policy = Hash32::of(b"policy");
    let instance = |ordinal| NewInstance {
        id: InstanceId(new_id()),
        ordinal,
        name: None,
        role: None,
        task: format!("task {ordinal}"),
        policy,
        context: None,
    };
    SpawnBatch {
        idempotency: None,
        run: NewRun {
            id: RunId(new_id()),
            team: TeamId::DEFAULT,
            project: ProjectId::DEFAULT,
            spec: "{}".to_owned(),
            template: template.clone(),
            max_parallel,
            priority: 5,
            deadline_ms: None,
            traceparent: None,
        },
        group: NewGroup {
            id: GroupId(new_id()),
            tree: Tree { total: tasks, chunk, reduces: true },
            tolerated: 0,
            context: None,
            reducer: Some((template, policy, "reduce".to_owned())),
        },
        instances: (0..tasks).map(instance).collect(),
        blobs: BTreeMap::from([(policy, b"policy".to_vec())]),
    }
}

/// A database with one run in it, and a worker.
pub(crate) struct Fleet {
    pub(crate) database: TestDatabase,
    pub(crate) worker: Incarnation,
    pub(crate) spawned: Spawned,
    pub(crate) leaves: Vec<InstanceId>,
}

impl Fleet {
    pub(crate) async fn of(batch: SpawnBatch) -> Self {
        let database = TestDatabase::create().await;
        let leaves = batch.instances.iter().map(|one| one.id).collect();
        let spawned = database.store.spawn(batch).await.unwrap();
        let worker = register(&database.store, 100).await;
        Self { database, worker, spawned, leaves }
    }

    pub(crate) fn store(&self) -> &Arc<PostgresStore> {
        &self.database.store
    }

    /// Another process: its own pool and counters.
    pub(crate) async fn another(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::connect(&self.database.url).await.unwrap())
    }

    pub(crate) async fn claim(&self, ids: &[InstanceId]) -> Vec<Claimed> {
        self.store().claim(self.worker, CORE_REV, ids).await.unwrap()
    }

    /// Claims all leaves, in their order.
    pub(crate) async fn claim_leaves(&self) -> Vec<Claimed> {
        let mut claimed = self.claim(&self.leaves).await;
        assert_eq!(claimed.len(), self.leaves.len());
        claimed.sort_by_key(|one| one.place);
        claimed
    }

    pub(crate) async fn run(&self) -> RunView {
        self.store().run(TeamId::DEFAULT, self.spawned.run).await.unwrap()
    }

    /// A connection beside the store's.
    pub(crate) async fn beside(&self) -> Beside {
        let connect = || PgConnection::connect(&self.database.url);
        Beside { connection: connect().await.unwrap(), watcher: connect().await.unwrap() }
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.beside().await.number(sql).await
    }
}

pub(crate) async fn register(store: &PostgresStore, slots: i32) -> Incarnation {
    let incarnation = Incarnation(new_id());
    let row = WorkerRow { incarnation, name: "test".to_owned(), slots, version: "0".to_owned() };
    store.register(&row).await.unwrap();
    incarnation
}

/// A connection that stops others at what it locks.
pub(crate) struct Beside {
    connection: PgConnection,
    /// Outside of any transaction, in which the server would show the same activity again and again.
    watcher: PgConnection,
}

impl Beside {
    pub(crate) async fn run(&mut self, sql: &str) -> u64 {
        timeout(HANG, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection)).await.unwrap().unwrap().rows_affected()
    }

    async fn number(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await.unwrap()
    }

    /// Until a statement of this name waits for a lock.
    pub(crate) async fn until_blocked(&mut self, name: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '-- {name}%'"
        );
        let blocked = async {
            while sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.as_str())).fetch_one(&mut self.watcher).await.unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(HANG, blocked).await.unwrap_or_else(|_| panic!("`{name}` was never blocked"));
    }
}

fn write(of: &Claimed, events: &[Event], state: State, then: Then) -> Write {
    let mut tail = (of.last_seq, of.last_hash);
    let mut entries = Vec::new();
    for event in events {
        let entry = Entry::following(of.lease.instance, tail, of.lease.epoch, event, SystemClock.now());
        tail = (entry.seq, entry.hash);
        entries.push(entry);
    }
    Write {
        lease: of.lease,
        group: Arc::clone(&of.group),
        place: of.place,
        step: i32::try_from(tail.0).unwrap(),
        steps_added: i64::try_from(events.iter().filter(|event| event.kind().is_step()).count()).unwrap(),
        usage_added: Usage { input_tokens: 3, output_tokens: 2, cost_micros: 1 },
        entries,
        state,
        then,
    }
}

pub(crate) fn turn(text: &str) -> Event {
    Event::Model(ModelTurn {
        model: "test".to_owned(),
        text: text.to_owned(),
        tool_calls: Vec::new(),
        finish: Finish::Stop,
        usage: Usage::default(),
    })
}

/// One step more; `of` is moved on, so that the next write follows it.
pub(crate) fn step(of: &mut Claimed, text: &str) -> Write {
    let write = write(of, &[turn(text)], State::Executing, Then::Continue);
    let last = write.entries.last().unwrap();
    (of.last_seq, of.last_hash) = (last.seq, last.hash);
    write
}

/// The end, with an output.
pub(crate) fn complete(of: &Claimed) -> Write {
    let output = format!("\"output of {}\"", of.lease.instance);
    let events = [turn(&output), Event::Completed(Completed { output_of: of.last_seq + 1 })];
    write(of, &events, State::Completed, Then::Complete { output })
}

/// The end, without one.
pub(crate) fn fail(of: &Claimed) -> Write {
    let error = AgentError::new(ErrorClass::Model, "overloaded", "it failed");
    write(of, &[Event::Failed(error.clone())], State::Failed, Then::Fail { error })
}

/// Stops whoever is about to do this to such an instance, until the connection that ran it says
/// `SELECT pg_advisory_unlock(1)`.
pub(crate) fn stop_before(what: &str, instance: &str) -> String {
    format!(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
         CREATE TRIGGER stop BEFORE {what} ON agent_instances FOR EACH ROW WHEN ({instance}) EXECUTE FUNCTION stop();
         SELECT pg_advisory_lock(1)"
    )
}
