//! Postgres: the truth in production.
//!
//! One statement for an append, one transaction for everything else; multi-row throughout. SQL stands beside its
//! function and carries its name in the first line. Lock order: run, instances by id, reduction nodes, groups,
//! counters.
//!
//! Plans are made once for each connection, perhaps while the tables are empty, and must hold for millions of rows.
//! So statements leave the planner no choice: given rows come from `unnest` (with `LIMIT cardinality`, which makes
//! it expect few) and look up others by primary key in a `LATERAL` with `LIMIT 1`, which is neither flattened nor
//! given conditions that would match a partial index. `EXISTS` stands only where it becomes a join: elsewhere it
//! could become a hash of the whole table.
//!
//! Of the run's row lock three strengths are used. What may add to a run (a terminal write, which may spawn a
//! reducer) takes `FOR KEY SHARE`; grants take `FOR NO KEY UPDATE`, which excludes other grants and not the former;
//! cancel sets its flag and then takes `FOR UPDATE` as a barrier: who comes later sees the flag and does not lock
//! the run at all, so that the barrier waits only for those who were there before, and cannot starve.

mod append;
mod cancel;
mod cascade;
mod catalog;
mod claims;
mod commit;
mod counters;
mod errors;
mod events;
mod finish;
mod grant;
mod journal;
mod options;
mod reads;
mod schema;
mod spawn;
mod transition;
mod workers;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use muster_shared::{
    ids::{GroupId, InstanceId},
    store::StoreError,
    time::{Clock, Random, SystemClock, SystemRandom, Timestamp},
};
use sqlx::PgPool;
use uuid::Uuid;

use crate::rows::{self, GroupOf};
use errors::Failure;

pub use options::PostgresOptions;
pub use schema::migrate;

/// The store over one Postgres database.
pub struct PostgresStore {
    pool: PgPool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    shards: counters::Shards,
    groups: Mutex<BTreeMap<Uuid, GroupOf>>,
}

/// Groups are immutable, so any number may be remembered; when there are this many, all are forgotten.
const GROUPS_REMEMBERED: usize = 4096;

impl PostgresStore {
    /// Connects with the machine's clock and randomness, and the default sizes.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(url, PostgresOptions::default(), Arc::new(SystemClock), Arc::new(SystemRandom)).await
    }

    /// Connects and checks the schema. `Unavailable` when the database is away: try again.
    pub async fn connect_with(
        url: &str,
        options: PostgresOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, StoreError> {
        let pool = options.pool(url)?;
        // A connection of its own first: a pool tries again until its patience ends, and then hides the cause.
        schema::check_at(&options, url).await?;
        let shards = counters::Shards::new(random.as_ref());
        Ok(Self { pool, clock, random, shards, groups: Mutex::default() })
    }

    /// Closes the connections, waiting for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn new_instance(&self) -> InstanceId {
        InstanceId::new(self.clock.as_ref(), self.random.as_ref())
    }

    fn remembered(&self) -> MutexGuard<'_, BTreeMap<Uuid, GroupOf>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups, from memory or from the database. Those that do not exist are left out.
    async fn groups_of(&self, ids: impl IntoIterator<Item = GroupId>) -> Result<BTreeMap<Uuid, GroupOf>, Failure> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        {
            let remembered = self.remembered();
            for GroupId(id) in ids {
                match remembered.get(&id) {
                    Some(group) => drop(found.insert(id, group.clone())),
                    None => missing.push(id),
                }
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        missing.sort_unstable();
        missing.dedup();
        let read = sqlx::query(READ_GROUPS).bind(missing).fetch_all(&self.pool).await?;
        let mut remembered = self.remembered();
        if remembered.len() >= GROUPS_REMEMBERED {
            remembered.clear();
        }
        for row in &read {
            let group = rows::group_with_reducer(row)?;
            remembered.insert(group.row.id.0, group.clone());
            found.insert(group.row.id.0, group);
        }
        Ok(found)
    }

    async fn group_of(&self, id: GroupId) -> Result<GroupOf, Failure> {
        let mut found = self.groups_of([id]).await?;
        found.remove(&id.0).ok_or_else(|| StoreError::NotFound(id.to_string()).into())
    }
}

const READ_GROUPS: &str = "-- read_groups
SELECT id, run_id, parent_id, total, chunk, reduces, tolerated, context_hash,
       reducer_template_id, reducer_template_version, reducer_template_name, reducer_policy_hash, reducer_task
FROM groups WHERE id = ANY($1)";
