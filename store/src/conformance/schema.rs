//! A binary refuses a schema that it does not know.

use muster_shared::store::StoreError;

use super::Database;

/// Some newer binary migrated it.
pub async fn a_newer_database_is_refused(database: &impl Database) {
    let newer = "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
                 SELECT version + 9998, description, installed_on, success, checksum, execution_time
                 FROM _sqlx_migrations WHERE version = 1";
    assert_eq!(database.execute(newer).await, 1);
    let refused = database.store().check().await;
    assert!(matches!(&refused, Err(StoreError::Schema(why)) if why.contains("older than the database")), "{refused:?}");
}

/// Nobody migrated it.
pub async fn a_database_without_migrations_is_refused(database: &impl Database) {
    database.execute("DELETE FROM _sqlx_migrations").await;
    let refused = database.store().check().await;
    assert!(matches!(&refused, Err(StoreError::Schema(why)) if why.contains("muster migrate")), "{refused:?}");
}
