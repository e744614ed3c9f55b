//! The store traits of `muster-shared` over Postgres (production) and SQLite (embedded), and the journal that
//! commits the writes of many instances together.
//!
//! Owns the schema and every SQL statement. Who may write what under which lock stands in `docs/protocol.md`; this
//! crate keeps it. It never decides what an agent does next, and never touches the queue.

mod arrivals;
#[cfg(feature = "testing")]
pub mod conformance;
mod group_commit;
pub mod postgres;
mod rows;
pub mod sqlite;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

use muster_shared::{
    store::{Store, StoreError},
    time::{Clock, Random, SystemClock, SystemRandom},
};

pub use group_commit::{GroupCommit, GroupCommitOptions};

/// Opens the database that the address names: `postgres://…`, `sqlite:///path` or `sqlite:path`. `Schema` when its
/// schema is not the one that this binary knows.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    open_with(url, Arc::new(SystemClock), Arc::new(SystemRandom)).await
}

/// As [`open`], with the clock and the randomness from which reducers get their ids and cancelled logs their times.
pub async fn open_with(url: &str, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Arc<dyn Store>, StoreError> {
    match Scheme::of(url)? {
        Scheme::Postgres => {
            Ok(Arc::new(postgres::PostgresStore::connect_with(url, postgres::PostgresOptions::default(), clock, random).await?))
        }
        Scheme::Sqlite => Ok(Arc::new(sqlite::SqliteStore::connect_with(url, clock, random).await?)),
    }
}

/// Brings the schema of the database to the version of this binary. Safe to repeat and to run beside itself.
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    match Scheme::of(url)? {
        Scheme::Postgres => postgres::migrate(url).await,
        Scheme::Sqlite => sqlite::migrate(url).await,
    }
}

/// Which database an address names.
enum Scheme {
    Postgres,
    Sqlite,
}

impl Scheme {
    fn of(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Ok(Self::Postgres)
        } else if url.starts_with("sqlite:") {
            Ok(Self::Sqlite)
        } else {
            // The address may hold a password: only its scheme is repeated.
            let scheme: String = url.split(':').next().unwrap_or_default().chars().take(20).collect();
            Err(StoreError::Refused(format!("a database address begins with `postgres://` or `sqlite:`, not with `{scheme}`")))
        }
    }
}
