//! The schema's version: brought up to date by `migrate`, checked by everything else.

use std::{borrow::Cow, time::Duration};

use muster_shared::store::StoreError;
use sqlx::{
    Connection as _, PgPool, SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    postgres::PgConnection,
};

use super::{errors::Failure, options::PostgresOptions};

/// Version, name and text of every migration, oldest first. Append only.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "spine", include_str!("../../../migrations/postgres/0001_spine.sql"))];

/// The version that this binary knows.
const NEWEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

fn migrator() -> Migrator {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| Migration::new(*version, Cow::Borrowed(*name), MigrationType::Simple, (*sql).into_sql_str(), false));
    Migrator::with_migrations(migrations.collect())
}

/// Brings the schema of the database at `url` to the version of this binary. An advisory lock lets several
/// processes try at once; a crash leaves a migration applied or not.
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    // A migration may take as long as it needs, but does not wait for ever in front of everybody else.
    let options = PostgresOptions { statement_timeout: Duration::ZERO, ..PostgresOptions::default() }.connect_options(url)?;
    let mut connection = PgConnection::connect_with(&options).await.map_err(Failure::from)?;
    if let Some(found) = applied(&mut connection).await?
        && found > NEWEST
    {
        return Err(newer(found));
    }
    migrator().run_direct(None, &mut connection, false).await.map_err(explain)?;
    connection.close().await.map_err(Failure::from)?;
    Ok(())
}

/// The same, over a connection of its own: when there is none to be had, the answer says why.
pub(super) async fn check_at(options: &PostgresOptions, url: &str) -> Result<(), StoreError> {
    let patience = options.acquire_timeout;
    let connect = options.connect_options(url)?;
    let mut connection = tokio::time::timeout(patience, PgConnection::connect_with(&connect))
        .await
        .map_err(|_| StoreError::Unavailable(format!("no answer within {} s", patience.as_secs())))?
        .map_err(Failure::from)?;
    must_be_known(applied(&mut connection).await?)?;
    connection.close().await.map_err(Failure::from)?;
    Ok(())
}

/// `Schema` unless the database has exactly the version that this binary knows.
pub(super) async fn check(pool: &PgPool) -> Result<(), StoreError> {
    let mut connection = pool.acquire().await.map_err(Failure::from)?;
    must_be_known(applied(&mut connection).await?)
}

fn must_be_known(applied: Option<i64>) -> Result<(), StoreError> {
    match applied {
        Some(NEWEST) => Ok(()),
        Some(found) if found > NEWEST => Err(newer(found)),
        Some(found) => {
            Err(StoreError::Schema(format!("the database has schema version {found}, this binary needs {NEWEST}: run `muster migrate`")))
        }
        None => Err(StoreError::Schema("the database has no schema yet: run `muster migrate`".to_owned())),
    }
}

fn newer(found: i64) -> StoreError {
    StoreError::Schema(format!("the database has schema version {found}: this binary is older than the database (it knows {NEWEST})"))
}

/// The newest version that was applied, if any was.
async fn applied(connection: &mut PgConnection) -> Result<Option<i64>, StoreError> {
    let exists: bool = sqlx::query_scalar("-- has_migrations\nSELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(Failure::from)?;
    if !exists {
        return Ok(None);
    }
    let newest = sqlx::query_scalar("-- newest_migration\nSELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await
        .map_err(Failure::from)?;
    Ok(newest)
}

fn explain(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match Failure::from(error) {
            Failure::Unavailable(why) | Failure::Contention(why) => StoreError::Unavailable(why),
            Failure::Refused(why) => StoreError::Schema(why),
            Failure::Store(error) => error,
        },
        MigrateError::VersionMissing(version) => newer(version),
        other => StoreError::Schema(other.to_string()),
    }
}
