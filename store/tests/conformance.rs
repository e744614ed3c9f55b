//! The conformance suite on both databases. Postgres needs a server: `make test` starts one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use muster_shared::{
    store::Store,
    time::{SystemClock, SystemRandom},
};
use muster_store::{conformance::Database, sqlite::SqliteStore, testing::TestDatabase};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use uuid::Uuid;

muster_store::conformance!(sqlite, crate::sqlite_database);
muster_store::conformance!(postgres, crate::postgres_database);

/// A file in a directory of its own.
struct SqliteDatabase {
    store: Arc<dyn Store>,
    back: SqlitePool,
    _directory: TempDir,
}

async fn sqlite_database() -> SqliteDatabase {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("muster.db");
    let url = format!("sqlite://{}", file.display());
    muster_store::migrate(&url).await.expect("migrated");
    let store = SqliteStore::connect_with(&url, Arc::new(SystemClock), Arc::new(SystemRandom)).await.expect("opened");
    let back = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&file)).await.expect("opened behind the store's back");
    SqliteDatabase { store: Arc::new(store), back, _directory: directory }
}

#[async_trait]
impl Database for SqliteDatabase {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    async fn execute(&self, sql: &str) -> u64 {
        sqlx::query(AssertSqlSafe(sql)).execute(&self.back).await.expect(sql).rows_affected()
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.back).await.expect(sql)
    }

    fn literal(&self, id: Uuid) -> String {
        format!("x'{}'", id.simple())
    }

    fn earlier(&self, column: &str, by: Duration) -> String {
        format!("{column} - {}", by.as_micros())
    }
}

/// A database of the test server.
struct PostgresDatabase {
    back: PgPool,
    database: TestDatabase,
}

async fn postgres_database() -> PostgresDatabase {
    let database = TestDatabase::create().await;
    let back = PgPool::connect(&database.url).await.expect("opened behind the store's back");
    PostgresDatabase { back, database }
}

#[async_trait]
impl Database for PostgresDatabase {
    fn store(&self) -> Arc<dyn Store> {
        self.database.store()
    }

    async fn execute(&self, sql: &str) -> u64 {
        sqlx::query(AssertSqlSafe(sql)).execute(&self.back).await.expect(sql).rows_affected()
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.back).await.expect(sql)
    }

    fn literal(&self, id: Uuid) -> String {
        format!("'{id}'::uuid")
    }

    fn earlier(&self, column: &str, by: Duration) -> String {
        format!("{column} - {} * interval '1 microsecond'", by.as_micros())
    }
}
