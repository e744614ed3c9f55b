//! [`Journal`] over Postgres.

use async_trait::async_trait;
use muster_shared::{
    ids::{InstanceId, RunId},
    store::{Cascade, Committed, Journal, SpawnBatch, Spawned, StoreError, Write, WriteError},
};

use super::{PostgresStore, cancel, cascade, commit, spawn};

#[async_trait]
impl Journal for PostgresStore {
    async fn spawn(&self, batch: SpawnBatch) -> Result<Spawned, StoreError> {
        spawn::spawn(self, &batch).await
    }

    async fn commit(&self, batch: Vec<Write>) -> Vec<Result<Committed, WriteError>> {
        commit::commit(self, &batch).await
    }

    async fn cancel_run(&self, run: RunId, why: &str) -> Result<(), StoreError> {
        cancel::cancel_run(self, run, why).await
    }

    async fn cancel_instance(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
        cancel::cancel_instance(self, instance, why).await
    }

    async fn cascade(&self, limit: i64) -> Result<Cascade, StoreError> {
        cascade::cascade(self, limit).await
    }
}
