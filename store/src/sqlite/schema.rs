//! Which schema this binary knows, and whether the database has it.

use std::{cmp::Ordering, sync::LazyLock};

use muster_shared::store::StoreError;
use sqlx::{
    SqlSafeStr as _, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{Location, lock::FileLock, options, pool, sql::db};

/// Every migration, oldest first. Append only.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let spine = include_str!("../../../migrations/sqlite/0001_spine.sql").into_sql_str();
    Migrator::with_migrations(vec![Migration::new(1, "spine".into(), MigrationType::Simple, spine, false)])
});

/// Creates the database file if needed and brings its schema to what this binary knows. Repeating it does nothing.
/// The file must not be in use.
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    let Location::File(path) = Location::parse(url)? else {
        return Ok(());
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let unavailable = |error| StoreError::Unavailable(format!("the data directory {}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(unavailable)?;
    }
    let _lock = FileLock::take(&path)?;
    let pool = pool(options(&path).create_if_missing(true), 1).await?;
    let applied = apply(&pool).await;
    pool.close().await;
    applied
}

/// Applies what is missing.
pub(super) async fn apply(pool: &SqlitePool) -> Result<(), StoreError> {
    MIGRATIONS.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => newer(version),
        MigrateError::VersionMismatch(version) => {
            StoreError::Schema(format!("migration {version} of the database is not the one that this binary knows"))
        }
        MigrateError::Execute(error) => db(error),
        other => StoreError::Schema(other.to_string()),
    })
}

/// `Schema` unless the newest applied migration is the newest known one.
pub(super) async fn check(pool: &SqlitePool) -> Result<(), StoreError> {
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    let tables: i64 = sqlx::query_scalar("-- has_migrations\nSELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(pool)
        .await
        .map_err(db)?;
    let applied: i64 = if tables == 0 {
        0
    } else {
        sqlx::query_scalar("-- newest_migration\nSELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(pool)
            .await
            .map_err(db)?
    };
    match applied.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Less => {
            Err(StoreError::Schema(format!("the database has schema version {applied}, this binary needs {known}: run `muster migrate`")))
        }
        Ordering::Greater => Err(newer(applied)),
    }
}

fn newer(version: i64) -> StoreError {
    StoreError::Schema(format!("the database has schema version {version}: this binary is older than the database"))
}
