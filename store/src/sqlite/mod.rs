//! The store over one SQLite file: embedded mode, crash-safe like the other.
//!
//! One process owns the file (see `lock`); within it, every write is one `BEGIN IMMEDIATE` transaction on the
//! one writing connection, so that what a transaction reads stays true until it commits: rows need no locks, and
//! the rules that Postgres keeps with lock order hold by themselves. Readers have connections of their own (WAL)
//! and see what is committed. "Now" is the injected clock (rule 18). A commit is durable when it is answered
//! (`synchronous = FULL`). This module never spawns tasks and keeps no state but a cache of immutable groups.

mod apply;
mod arrive;
mod cancel;
mod catalog;
mod claims;
mod commit;
mod dispatch;
mod ends;
mod journal;
mod kv;
mod lock;
mod reads;
mod schema;
mod spawn;
mod sql;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use muster_shared::{
    ids::GroupId,
    store::StoreError,
    time::{Clock, Random, Timestamp},
};
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::rows::{self, GroupOf};
use lock::FileLock;
use sql::db;

pub use schema::migrate;

/// Readers at once: polling, listings, results.
const READERS: u32 = 4;
/// How long a statement waits for a connection before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Groups kept in memory; they are small, and immutable but for what is not kept.
const CACHED_GROUPS: usize = 4096;

/// All four stores, and `kv`, over one SQLite file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    groups: Mutex<HashMap<GroupId, Arc<GroupOf>>>,
    /// Held, never read: dropped after the pools.
    _lock: Option<FileLock>,
}

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    /// Gone when the store is dropped. For tests.
    Memory,
    /// A file.
    File(std::path::PathBuf),
}

impl Location {
    /// From `sqlite:///absolute/path`, `sqlite:relative/path` or `sqlite::memory:`.
    fn parse(url: &str) -> Result<Self, StoreError> {
        let rest = url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match rest {
            Some(":memory:") => Ok(Self::Memory),
            Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(_) | None => {
                Err(StoreError::Refused(format!("`{url}` names no SQLite file: expected `sqlite:///path/to/file` or `sqlite:file`")))
            }
        }
    }
}

impl SqliteStore {
    /// Opens the database for this process alone. Its schema must be the one that this binary knows (a database
    /// in memory gets it here). Whoever held the file before is dead, so all workers that it knew are marked
    /// dead: the next sweep returns their instances.
    pub async fn connect_with(url: &str, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self, StoreError> {
        let store = match Location::parse(url)? {
            Location::Memory => {
                let writer = pool(SqliteConnectOptions::new().in_memory(true), 1).await?;
                schema::apply(&writer).await?;
                Self { readers: writer.clone(), writer, clock, random, groups: Mutex::default(), _lock: None }
            }
            Location::File(path) => {
                if !path.exists() {
                    return Err(StoreError::Schema(format!("there is no database at {}: run `muster migrate`", path.display())));
                }
                let lock = FileLock::take(&path)?;
                let writer = pool(options(&path), 1).await?;
                let readers = pool(options(&path).read_only(true), READERS).await?;
                Self { writer, readers, clock, random, groups: Mutex::default(), _lock: Some(lock) }
            }
        };
        schema::check(&store.readers).await?;
        sqlx::query("-- bury_all\nUPDATE workers SET alive = 0 WHERE alive = 1").execute(&store.writer).await.map_err(db)?;
        // Whoever held a role is dead too: nobody shall wait until its lease runs out.
        sqlx::query("-- vacate_roles\nDELETE FROM role_leases").execute(&store.writer).await.map_err(db)?;
        Ok(store)
    }

    /// Waits until everything is written and closes the file. Dropping the store does the same, without waiting.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The one transaction that writes. Dropped without a commit, it leaves nothing.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(db)
    }

    /// A group with its reducer, from memory or through `conn`.
    async fn group_of(&self, conn: &mut SqliteConnection, id: GroupId) -> Result<Arc<GroupOf>, StoreError> {
        if let Some(known) = self.groups.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(known));
        }
        let row = sqlx::query(
            "-- group
             SELECT id, run_id, parent_id, total, chunk, reduces, tolerated, context_hash, reducer_template_id,
                    reducer_template_version, reducer_template_name, reducer_policy_hash, reducer_task
             FROM groups WHERE id = ?1",
        )
        .bind(id.0)
        .fetch_optional(conn)
        .await
        .map_err(db)?
        .ok_or_else(|| StoreError::NotFound(id.to_string()))?;
        let group = Arc::new(rows::group_with_reducer(&row)?);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= CACHED_GROUPS {
            groups.clear();
        }
        groups.insert(id, Arc::clone(&group));
        Ok(group)
    }
}

/// How every connection to a file is set up.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .pragma("cache_size", "-32768")
        .pragma("wal_autocheckpoint", "4000")
}

async fn pool(options: SqliteConnectOptions, connections: u32) -> Result<SqlitePool, StoreError> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(db)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_or_memory_and_anything_else_is_refused() {
        assert_eq!(Location::parse("sqlite:///var/muster.db"), Ok(Location::File("/var/muster.db".into())));
        assert_eq!(Location::parse("sqlite:muster.db"), Ok(Location::File("muster.db".into())));
        assert_eq!(Location::parse("sqlite::memory:"), Ok(Location::Memory));
        for bad in ["sqlite:", "sqlite://", "postgres://x", ""] {
            assert!(matches!(Location::parse(bad), Err(StoreError::Refused(_))), "{bad}");
        }
    }
}
