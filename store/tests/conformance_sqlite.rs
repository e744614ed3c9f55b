//! What only SQLite promises: one process owns the file, whoever held it before is dead, and what was answered is
//! there after a crash.

use std::{path::Path, sync::Arc};

use muster_shared::{
    ids::{Incarnation, TeamId},
    store::{Catalog as _, Claims as _, Heartbeat, Reads as _, StoreError, WorkerRow},
    time::{SystemClock, SystemRandom},
    tool::KeyValue as _,
};
use muster_store::sqlite::{SqliteStore, migrate};
use tempfile::TempDir;
use uuid::Uuid;

fn url(directory: &Path) -> String {
    format!("sqlite://{}", directory.join("data/muster.db").display())
}

async fn open(url: &str) -> Result<SqliteStore, StoreError> {
    SqliteStore::connect_with(url, Arc::new(SystemClock), Arc::new(SystemRandom)).await
}

#[tokio::test]
async fn a_second_process_is_told_which_lock_stands_in_its_way() {
    let directory = TempDir::new().expect("a temporary directory");
    let url = url(directory.path());
    migrate(&url).await.expect("migrated");
    let first = open(&url).await.expect("opened");
    for refused in [open(&url).await.err(), migrate(&url).await.err()] {
        let Some(StoreError::Conflict(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("muster.db.lock") && why.contains(&std::process::id().to_string()), "{why}");
    }
    first.close().await;
    drop(first);
    open(&url).await.expect("the lock was let go");
}

#[tokio::test]
async fn whoever_held_the_file_before_is_dead() {
    let directory = TempDir::new().expect("a temporary directory");
    let url = url(directory.path());
    migrate(&url).await.expect("migrated");
    let incarnation = Incarnation(Uuid::from_u128(1));
    let worker = WorkerRow { incarnation, name: "before".to_owned(), slots: 1, version: "0".to_owned() };
    let before = open(&url).await.expect("opened");
    before.register(&worker).await.expect("registered");
    assert_eq!(before.heartbeat(incarnation).await, Ok(Heartbeat::Alive { cancel: Vec::new() }));
    drop(before);
    let after = open(&url).await.expect("opened again");
    assert_eq!(after.heartbeat(incarnation).await, Ok(Heartbeat::Dead));
}

#[tokio::test]
async fn a_database_that_is_not_there_or_not_migrated_is_refused_and_says_what_to_do() {
    let directory = TempDir::new().expect("a temporary directory");
    let url = url(directory.path());
    for made in [false, true] {
        if made {
            std::fs::create_dir_all(directory.path().join("data")).expect("made");
            std::fs::File::create(directory.path().join("data/muster.db")).expect("made");
        }
        let refused = open(&url).await.err();
        assert!(matches!(&refused, Some(StoreError::Schema(why)) if why.contains("muster migrate")), "{refused:?}");
    }
    migrate(&url).await.expect("migrated");
    migrate(&url).await.expect("repeating it does nothing");
    open(&url).await.expect("opened").check().await.expect("known");
}

#[tokio::test]
async fn a_database_in_memory_needs_no_migration_and_no_file() {
    let store = open("sqlite::memory:").await.expect("opened");
    store.check().await.expect("known");
    let instance = muster_shared::ids::InstanceId(Uuid::from_u128(1));
    store.kv_put(instance, "k", &serde_json::json!(1)).await.expect("set");
    assert_eq!(store.kv_get(instance, "k").await, Ok(Some(serde_json::json!(1))));
    assert!(store.templates(TeamId::DEFAULT).await.expect("listed").is_empty());
}
