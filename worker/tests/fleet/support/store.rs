//! The real store, watched: it says when something has changed, and fails when a test wants it to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use muster_shared::{
    catalog::{TemplateSelector, TemplateVersion},
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, RunId, TeamId, TemplateId},
    queue::Ready,
    reduce::Place,
    store::{
        Cascade, Catalog, Claimed, Claims, Committed, Entry, GrantWindow, GroupRow, Heartbeat, Journal, Lease, Output, Page, Reads,
        SpawnBatch, Spawned, Store, StoreError, WorkerRow, Write, WriteError,
    },
    template::Template,
    time::Timestamp,
    tool::KeyValue,
    wire,
};
use serde_json::Value;
use tokio::sync::watch;

/// An operation that a test may let fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Commit,
    Claim,
    Logs,
    Owned,
    GiveBack,
    Register,
    Heartbeat,
    Blobs,
    Cascade,
    Other,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// It does not reach the database.
    Unreached,
    /// It is done, and nobody learns of it.
    AnswerLost,
    /// It is done, and its answer comes when the test lets it.
    AnswerLate,
}

type Plan = Box<dyn FnMut(Op) -> Fault + Send>;

/// A store in front of another.
pub(crate) struct Watched {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
    changes: watch::Sender<u64>,
    let_go: watch::Sender<bool>,
    unreadable: Mutex<Option<InstanceId>>,
    registered: Mutex<Vec<Incarnation>>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Self {
        let plan: Plan = Box::new(|_| Fault::None);
        Self {
            inner,
            plan: Mutex::new(plan),
            changes: watch::Sender::new(0),
            let_go: watch::Sender::new(false),
            unreadable: Mutex::default(),
            registered: Mutex::default(),
        }
    }

    /// From now on, `plan` decides about every call.
    pub(crate) fn faults(&self, plan: impl FnMut(Op) -> Fault + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// The next `count` calls of `op` end like this.
    pub(crate) fn fail_next(&self, op: Op, count: usize, fault: Fault) {
        let mut left = count;
        self.faults(move |called| {
            if called != op || left == 0 {
                return Fault::None;
            }
            left -= 1;
            fault
        });
    }

    /// The log of this instance is damaged from now on.
    pub(crate) fn damage(&self, instance: InstanceId) {
        *self.unreadable.lock().unwrap() = Some(instance);
    }

    /// Late answers come now.
    pub(crate) fn let_go(&self) {
        self.let_go.send_replace(true);
    }

    /// Counts every operation that has reached the database.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The workers that have made themselves known, in order.
    pub(crate) fn registered(&self) -> Vec<Incarnation> {
        self.registered.lock().unwrap().clone()
    }

    fn fault(&self, op: Op) -> Fault {
        (self.plan.lock().unwrap())(op)
    }

    async fn through<T>(&self, op: Op, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let fault = self.fault(op);
        if fault == Fault::Unreached {
            return Err(StoreError::Unavailable("cut off by the test".to_owned()));
        }
        let answer = call.await;
        self.changes.send_modify(|count| *count += 1);
        match fault {
            Fault::AnswerLost => Err(StoreError::Unavailable("answer lost by the test".to_owned())),
            Fault::AnswerLate => {
                self.let_go.subscribe().wait_for(|go| *go).await.expect("the sender lives");
                answer
            }
            Fault::None | Fault::Unreached => answer,
        }
    }
}

#[async_trait]
impl Journal for Watched {
    async fn spawn(&self, batch: SpawnBatch) -> Result<Spawned, StoreError> {
        self.through(Op::Other, self.inner.spawn(batch)).await
    }

    async fn commit(&self, batch: Vec<Write>) -> Vec<Result<Committed, WriteError>> {
        let count = batch.len();
        let answers = self.through(Op::Commit, async { Ok(self.inner.commit(batch).await) }).await;
        answers.unwrap_or_else(|error| (0..count).map(|_| Err(WriteError::Unavailable(error.to_string()))).collect())
    }

    async fn cancel_run(&self, run: RunId, why: &str) -> Result<(), StoreError> {
        self.through(Op::Other, self.inner.cancel_run(run, why)).await
    }

    async fn cancel_instance(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
        self.through(Op::Other, self.inner.cancel_instance(instance, why)).await
    }

    async fn cascade(&self, limit: i64) -> Result<Cascade, StoreError> {
        self.through(Op::Cascade, self.inner.cascade(limit)).await
    }
}

#[async_trait]
impl Claims for Watched {
    async fn register(&self, worker: &WorkerRow) -> Result<(), StoreError> {
        let answer = self.through(Op::Register, self.inner.register(worker)).await;
        if answer.is_ok() {
            self.registered.lock().unwrap().push(worker.incarnation);
            self.changes.send_modify(|count| *count += 1);
        }
        answer
    }

    async fn heartbeat(&self, worker: Incarnation) -> Result<Heartbeat, StoreError> {
        self.through(Op::Heartbeat, self.inner.heartbeat(worker)).await
    }

    async fn retire(&self, worker: Incarnation) -> Result<(), StoreError> {
        self.through(Op::Other, self.inner.retire(worker)).await
    }

    async fn claim(&self, worker: Incarnation, core_rev: i32, ids: &[InstanceId]) -> Result<Vec<Claimed>, StoreError> {
        self.through(Op::Claim, self.inner.claim(worker, core_rev, ids)).await
    }

    async fn logs(&self, of: &[&Claimed]) -> Result<Vec<Vec<Entry>>, StoreError> {
        let damaged = *self.unreadable.lock().unwrap();
        if of.iter().any(|one| Some(one.lease.instance) == damaged) {
            return Err(StoreError::Corrupt("damaged by the test".to_owned()));
        }
        self.through(Op::Logs, self.inner.logs(of)).await
    }

    async fn owned(&self, worker: Incarnation) -> Result<Vec<Lease>, StoreError> {
        self.through(Op::Owned, self.inner.owned(worker)).await
    }

    async fn give_back(&self, leases: &[Lease]) -> Result<u64, StoreError> {
        self.through(Op::GiveBack, self.inner.give_back(leases)).await
    }

    async fn elect(&self, role: &str, holder: Incarnation, ttl: Duration) -> Result<bool, StoreError> {
        self.through(Op::Other, self.inner.elect(role, holder, ttl)).await
    }

    async fn grant(&self, window: GrantWindow) -> Result<Vec<Ready>, StoreError> {
        self.through(Op::Other, self.inner.grant(window)).await
    }

    async fn stale_grants(&self, age: Duration, limit: i64) -> Result<Vec<Ready>, StoreError> {
        self.through(Op::Other, self.inner.stale_grants(age, limit)).await
    }

    async fn bury(&self, ttl: Duration) -> Result<Vec<Incarnation>, StoreError> {
        self.through(Op::Other, self.inner.bury(ttl)).await
    }

    async fn sweep(&self, limit: i64) -> Result<u64, StoreError> {
        self.through(Op::Other, self.inner.sweep(limit)).await
    }

    async fn wake_due(&self, limit: i64) -> Result<u64, StoreError> {
        self.through(Op::Other, self.inner.wake_due(limit)).await
    }

    async fn make_room(&self) -> Result<(), StoreError> {
        self.through(Op::Other, self.inner.make_room()).await
    }
}

#[async_trait]
impl Catalog for Watched {
    async fn put_template(&self, team: TeamId, id: TemplateId, spec: &Template, activate: bool) -> Result<TemplateVersion, StoreError> {
        self.inner.put_template(team, id, spec, activate).await
    }

    async fn activate(&self, team: TeamId, id: TemplateId, version: i32) -> Result<TemplateVersion, StoreError> {
        self.inner.activate(team, id, version).await
    }

    async fn template(&self, team: TeamId, selector: &TemplateSelector) -> Result<TemplateVersion, StoreError> {
        self.inner.template(team, selector).await
    }

    async fn templates(&self, team: TeamId) -> Result<Vec<TemplateVersion>, StoreError> {
        self.inner.templates(team).await
    }
}

/// Not counted as changes; only what workers read can fail.
#[async_trait]
impl Reads for Watched {
    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }

    async fn run(&self, team: TeamId, run: RunId) -> Result<wire::RunView, StoreError> {
        self.inner.run(team, run).await
    }

    async fn runs(&self, team: TeamId, page: &Page) -> Result<wire::Listing<wire::RunView>, StoreError> {
        self.inner.runs(team, page).await
    }

    async fn instance(&self, team: TeamId, instance: InstanceId) -> Result<wire::InstanceView, StoreError> {
        self.inner.instance(team, instance).await
    }

    async fn instances(&self, team: TeamId, run: RunId, page: &Page) -> Result<wire::Listing<wire::InstanceView>, StoreError> {
        self.inner.instances(team, run, page).await
    }

    async fn events(&self, team: TeamId, instance: InstanceId, after: i64, limit: i64) -> Result<Vec<Entry>, StoreError> {
        self.inner.events(team, instance, after, limit).await
    }

    async fn group(&self, group: GroupId) -> Result<GroupRow, StoreError> {
        self.inner.group(group).await
    }

    async fn outputs(&self, run: RunId, group: GroupId, places: &[Place]) -> Result<Vec<Output>, StoreError> {
        self.through(Op::Blobs, self.inner.outputs(run, group, places)).await
    }

    async fn blobs(&self, hashes: &[Hash32]) -> Result<BTreeMap<Hash32, Vec<u8>>, StoreError> {
        self.through(Op::Blobs, self.inner.blobs(hashes)).await
    }

    async fn demand(&self) -> Result<wire::Demand, StoreError> {
        self.inner.demand().await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.through(Op::Other, self.inner.now()).await
    }
}

#[async_trait]
impl KeyValue for Watched {
    async fn kv_get(&self, instance: InstanceId, key: &str) -> Result<Option<Value>, StoreError> {
        self.inner.kv_get(instance, key).await
    }

    async fn kv_put(&self, instance: InstanceId, key: &str, value: &Value) -> Result<(), StoreError> {
        self.inner.kv_put(instance, key, value).await
    }

    async fn kv_keys(&self, instance: InstanceId) -> Result<Vec<String>, StoreError> {
        self.inner.kv_keys(instance).await
    }
}
