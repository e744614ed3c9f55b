//! The [`Journal`]: each method is one transaction (a commit, one for each round of its batch) in a file of its own.

use async_trait::async_trait;
use muster_shared::{
    ids::{InstanceId, RunId},
    store::{Cascade, Committed, Journal, SpawnBatch, Spawned, StoreError, Write, WriteError},
};

use super::SqliteStore;

#[async_trait]
impl Journal for SqliteStore {
    async fn spawn(&self, batch: SpawnBatch) -> Result<Spawned, StoreError> {
        self.spawn_run(batch).await
    }

    async fn commit(&self, batch: Vec<Write>) -> Vec<Result<Committed, WriteError>> {
        self.commit_batch(batch).await
    }

    async fn cancel_run(&self, run: RunId, why: &str) -> Result<(), StoreError> {
        self.flag_run(run, why).await
    }

    async fn cancel_instance(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
        self.cancel_one(instance, why).await
    }

    async fn cascade(&self, limit: i64) -> Result<Cascade, StoreError> {
        self.cascade_runs(limit).await
    }
}
