//! Databases for tests: one for each test, made beside the server that `MUSTER_TEST_POSTGRES_URL` names, dropped at
//! its end.

use std::sync::Arc;

use muster_shared::{
    ids::uuid_v7,
    store::Store,
    time::{SystemClock, SystemRandom},
};
use sqlx::{AssertSqlSafe, Connection as _, postgres::PgConnection};

use crate::postgres::{PostgresStore, migrate};

/// The variable that names the server: its maintenance database, as a user who may create databases.
pub const SERVER: &str = "MUSTER_TEST_POSTGRES_URL";

/// A Postgres database of its own, with the schema. Dropped with the value.
pub struct TestDatabase {
    /// Its address.
    pub url: String,
    /// A store over it.
    pub store: Arc<PostgresStore>,
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes one. Panics when the environment names no server, or when it cannot be made: this is for tests.
    pub async fn create() -> Self {
        let server = std::env::var(SERVER)
            .unwrap_or_else(|_| panic!("{SERVER} names no Postgres server: run through `make test` or `scripts/with-servers`"));
        let name = format!("muster_test_{}", uuid_v7(&SystemClock, &SystemRandom).simple());
        execute(&server, format!("CREATE DATABASE {name}")).await.expect("the test server makes databases");
        let url = beside(&server, &name);
        migrate(&url).await.expect("the schema applies to an empty database");
        let store = PostgresStore::connect(&url).await.expect("a migrated database opens");
        Self { url, store: Arc::new(store), server, name }
    }

    /// The store as everything else knows it.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }
}

impl Drop for TestDatabase {
    /// From a thread with a runtime of its own: a drop cannot wait for the one it runs on.
    fn drop(&mut self) {
        let (server, drop) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
            runtime.block_on(execute(&server, drop)).map_err(|error| error.to_string())
        });
        if let Ok(Err(error)) = dropped.join() {
            tracing::warn!(error, database = self.name, "a test database was left behind");
        }
    }
}

/// The address of another database of the same server.
fn beside(server: &str, name: &str) -> String {
    let (address, parameters) = server.split_once('?').map_or((server, ""), |(address, parameters)| (address, parameters));
    let base = address.rsplit_once('/').map_or(address, |(base, _)| base);
    if parameters.is_empty() { format!("{base}/{name}") } else { format!("{base}/{name}?{parameters}") }
}

async fn execute(server: &str, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(server).await?;
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}
