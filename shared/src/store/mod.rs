//! The store: four small traits over one database. Postgres in production, SQLite embedded; one conformance
//! suite runs on both.
//!
//! `docs/protocol.md` says who may write what under which lock; the docs here say what a crash leaves behind.
//! Lock order everywhere: run, instances by id, reduction nodes, groups, budgets, counters.

mod rows;
mod spawned;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

use crate::{
    catalog::{TemplateSelector, TemplateVersion},
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, RunId, TeamId, TemplateId},
    queue::Ready,
    template::Template,
    time::Timestamp,
    wire,
};

pub use crate::event::Entry;
pub use rows::{Claimed, GroupRow, Lease, Then, Write};
pub use spawned::{NewGroup, NewInstance, NewRun, SpawnBatch, Spawned};

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or the outcome of a commit is unknown. Try again.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// It would contradict what is there.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key was used before, with another body.
    #[error("the idempotency key `{0}` was used before with another request")]
    KeyReused(String),
    /// The data cannot be stored; it would be refused every time.
    #[error("the data is refused: {0}")]
    Refused(String),
    /// The schema is not the one that this binary knows.
    #[error("{0}")]
    Schema(String),
    /// What is stored cannot be read: names table, column and row.
    #[error("the database holds something unreadable: {0}")]
    Corrupt(String),
}

/// Why a fenced write changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Somebody else owns the instance now, or nobody does. Stop.
    #[error("the lease is lost: another owner, or none, holds the instance")]
    LeaseLost,
    /// This write, and only it, cannot be stored. Fail the instance.
    #[error("the write is refused: {0}")]
    Refused(String),
    /// Not stored, or not known to be. The same write may be sent again: it is recognised by epoch and hash.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
}

/// What a fenced write learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Somebody asked for this instance, or its run, to be cancelled.
    pub cancel: bool,
    /// Instances that this write made runnable and granted (a reducer, a woken parent): push them.
    pub ready: Vec<Ready>,
}

/// What a cancellation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cascade {
    /// Instances that were ended now.
    pub ended: u64,
    /// Instances that a worker still holds, or that did not fit into this call.
    pub left: u64,
}

/// Creates and ends things. One transaction each.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Admits a run with its group, its instances and their contexts. All or nothing. After a crash the
    /// idempotency key tells: the same request again answers what was stored (`Spawned::replayed`).
    /// A small spawn (up to [`SpawnBatch::grant_at_once`]) is granted in the same transaction; push it.
    async fn spawn(&self, batch: SpawnBatch) -> Result<Spawned, StoreError>;

    /// Appends to the logs of many instances, each under its lease; the answers are in the order of the batch.
    /// One lost lease or refused write harms nobody else in the batch. After a crash in the middle either all
    /// accepted writes are stored or none; a write whose outcome is unknown is sent again and recognised.
    /// Each write is one transaction with all its consequences (see [`Then`]).
    async fn commit(&self, batch: Vec<Write>) -> Vec<Result<Committed, WriteError>>;

    /// Sets the cancel flag under the run's lock: from its commit on, no spawn and no reducer enters the run.
    /// `NotFound` when there is no such run; `Conflict` when it has ended. Repeating it is harmless.
    async fn cancel_run(&self, run: RunId, why: &str) -> Result<(), StoreError>;

    /// Sets the cancel flag of one instance and ends it at once when nobody holds it.
    async fn cancel_instance(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError>;

    /// Ends up to `limit` instances that nobody holds in runs that are cancelled, failed or past their
    /// deadline, flags the held ones, and closes runs with nothing left. Level-triggered: after a crash, or
    /// beside another process doing the same, it goes on. Answers what is left over all such runs.
    async fn cascade(&self, limit: i64) -> Result<Cascade, StoreError>;
}

/// A worker process as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// This life of the process.
    pub incarnation: Incarnation,
    /// For people: host and process.
    pub name: String,
    /// Instances that it can hold at once.
    pub slots: i32,
    /// Version of the binary.
    pub version: String,
}

/// What a heartbeat learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heartbeat {
    /// The process is known to be alive; these of its instances shall be cancelled.
    Alive {
        /// Held instances whose cancel flag, or whose run's, is set.
        cancel: Vec<InstanceId>,
    },
    /// The process was declared dead: its leases are gone. Start again under a new incarnation.
    Dead,
}

/// How far a dispatcher may go in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantWindow {
    /// Instances granted and running in the fleet at most, as a multiple of its free slots; in per cent.
    pub slots_percent: i32,
    /// Instances granted in one round at most.
    pub round: i64,
    /// Instances granted to one run in one round at most, so that runs share.
    pub per_run: i64,
}

/// Who owns what: workers, leases, grants. Every change of ownership raises the epoch.
#[async_trait]
pub trait Claims: Send + Sync {
    /// Makes a worker known. Its heartbeat counts from now, by the database's clock.
    async fn register(&self, worker: &WorkerRow) -> Result<(), StoreError>;

    /// One row per process. A crash leaves the last heartbeat to grow old.
    async fn heartbeat(&self, worker: Incarnation) -> Result<Heartbeat, StoreError>;

    /// The process ends in order and holds nothing more (what it still held is swept at once).
    async fn retire(&self, worker: Incarnation) -> Result<(), StoreError>;

    /// Takes what is granted, queued, not cancelled and known to this core; raises the epoch. The others are
    /// left out of the answer: acknowledge and drop them. After a crash, or when the answer was lost,
    /// [`Claims::owned`] shows what the store believes.
    async fn claim(&self, worker: Incarnation, core_rev: i32, ids: &[InstanceId]) -> Result<Vec<Claimed>, StoreError>;

    /// The logs of claimed instances, in the order asked. A statement of its own, after the claim (rule 1):
    /// `Conflict` when a tail does not match `last_seq` and `last_hash` of the claim.
    async fn logs(&self, of: &[&Claimed]) -> Result<Vec<Vec<Entry>>, StoreError>;

    /// The leases that the store believes this worker holds, for reconciliation.
    async fn owned(&self, worker: Incarnation) -> Result<Vec<Lease>, StoreError>;

    /// Gives back leases that the worker does not hold: queued again, epoch raised. Fenced: stale ones are
    /// skipped. Answers how many.
    async fn give_back(&self, leases: &[Lease]) -> Result<u64, StoreError>;

    /// Takes or renews the lease of a role (`dispatcher`) by the database's clock. False when another holds it.
    async fn elect(&self, role: &str, holder: Incarnation, ttl: Duration) -> Result<bool, StoreError>;

    /// Grants queued, due instances: by priority, reducers before leaves, fairly across runs, under each
    /// run's lock and `max_parallel`, within the window over the fleet's slots. A crash after it leaves
    /// grants that are pushed again when they are old.
    async fn grant(&self, window: GrantWindow) -> Result<Vec<Ready>, StoreError>;

    /// Grants older than `age` that nobody claimed, stamped anew so that the next call finds others.
    async fn stale_grants(&self, age: Duration, limit: i64) -> Result<Vec<Ready>, StoreError>;

    /// Declares workers dead whose heartbeat is older than `ttl`: a one-way compare-and-set. Only a judge with
    /// a full TTL of uninterrupted contact may call it (rule 5).
    async fn bury(&self, ttl: Duration) -> Result<Vec<Incarnation>, StoreError>;

    /// Returns up to `limit` instances of dead workers to the queue, counting the death at their seq.
    /// `SKIP LOCKED`, level-triggered, safe to repeat and to run beside itself. Answers how many.
    async fn sweep(&self, limit: i64) -> Result<u64, StoreError>;

    /// Makes up to `limit` waiting instances due whose timer has passed. Answers how many.
    async fn wake_due(&self, limit: i64) -> Result<u64, StoreError>;

    /// Makes room for the time ahead, such as the log's next partitions. Harmless to repeat; a crash leaves
    /// some of it made. A store that needs none has nothing to do.
    async fn make_room(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Template versions: immutable, hashed, activated explicitly.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Stores a new version, unless the newest one has the same hash, and activates it if asked. A crash
    /// leaves all of it or nothing; repeating it stores nothing twice. The id is used for a new name.
    async fn put_template(&self, team: TeamId, id: TemplateId, spec: &Template, activate: bool) -> Result<TemplateVersion, StoreError>;

    /// Makes a version the one that new instances use.
    async fn activate(&self, team: TeamId, id: TemplateId, version: i32) -> Result<TemplateVersion, StoreError>;

    /// The named version, or the active one. `NotFound` names what was asked for.
    async fn template(&self, team: TeamId, selector: &TemplateSelector) -> Result<TemplateVersion, StoreError>;

    /// The active version of every template (the newest where none is active), by name.
    async fn templates(&self, team: TeamId) -> Result<Vec<TemplateVersion>, StoreError>;
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Items at most.
    pub limit: i64,
    /// Continue after this item: the opaque cursor of the page before.
    pub after: Option<String>,
}

/// Polling. Read-only; sees what is committed.
#[async_trait]
pub trait Reads: Send + Sync {
    /// `Schema` when the database has not the schema that this binary knows; `Unavailable` when it is away.
    async fn check(&self) -> Result<(), StoreError>;

    /// The status of one run, with its counts.
    async fn run(&self, team: TeamId, run: RunId) -> Result<wire::RunView, StoreError>;

    /// Runs, newest first.
    async fn runs(&self, team: TeamId, page: &Page) -> Result<wire::Listing<wire::RunView>, StoreError>;

    /// One instance.
    async fn instance(&self, team: TeamId, instance: InstanceId) -> Result<wire::InstanceView, StoreError>;

    /// The instances of a run, leaves first, in order, then the levels of reducers.
    async fn instances(&self, team: TeamId, run: RunId, page: &Page) -> Result<wire::Listing<wire::InstanceView>, StoreError>;

    /// The log of an instance, in order, after `after` (0 for all), at most `limit`.
    async fn events(&self, team: TeamId, instance: InstanceId, after: i64, limit: i64) -> Result<Vec<Entry>, StoreError>;

    /// The group of a run's root, for results and reducers. Immutable once sealed.
    async fn group(&self, group: GroupId) -> Result<GroupRow, StoreError>;

    /// The completed outputs at these places of a group, as `(place, instance, name, output JSON)`; places
    /// without an output are left out.
    async fn outputs(&self, run: RunId, group: GroupId, places: &[crate::reduce::Place]) -> Result<Vec<Output>, StoreError>;

    /// Content by hash. Immutable: callers may cache it for ever.
    async fn blobs(&self, hashes: &[Hash32]) -> Result<BTreeMap<Hash32, Vec<u8>>, StoreError>;

    /// What an autoscaler needs.
    async fn demand(&self) -> Result<wire::Demand, StoreError>;

    /// The database's clock, for skew and ages.
    async fn now(&self) -> Result<Timestamp, StoreError>;
}

/// One completed output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where in the tree.
    pub place: crate::reduce::Place,
    /// Who made it.
    pub instance: InstanceId,
    /// Its name among its siblings.
    pub name: String,
    /// What it made, as JSON text.
    pub output: String,
}

/// Everything a process needs of one database.
pub trait Store: Journal + Claims + Catalog + Reads + crate::tool::KeyValue {}

impl<T: Journal + Claims + Catalog + Reads + crate::tool::KeyValue> Store for T {}
