//! Admits a run: one transaction for its row, its group, its instances, their policies and contexts.

use muster_shared::{
    CORE_REV,
    ids::{InstanceId, RunId},
    queue::Ready,
    store::{NewInstance, SpawnBatch, Spawned, StoreError},
};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{
    PostgresStore,
    counters::{Delta, Deltas, count},
    errors::{Failure, is_unique_violation, retrying},
};
use crate::rows;

/// Instances inserted by one statement.
const ROWS: usize = 2000;

/// Spawns, or answers what the idempotency key finds.
pub(super) async fn spawn(store: &PostgresStore, batch: &SpawnBatch) -> Result<Spawned, StoreError> {
    if let Some(why) = rows::refused_spawn(batch) {
        return Err(StoreError::Refused(why));
    }
    Ok(retrying(|| try_spawn(store, batch)).await?)
}

async fn try_spawn(store: &PostgresStore, batch: &SpawnBatch) -> Result<Spawned, Failure> {
    let shard = store.shards.take();
    let mut tx = store.pool.begin().await?;
    if !take_key(&mut tx, batch).await? {
        tx.rollback().await?;
        return replay(store, batch).await;
    }
    insert_run(&mut tx, batch).await?;
    let grants = batch.grant_at_once();
    for (chunk, instances) in batch.instances.chunks(ROWS).enumerate() {
        // A small spawn fits into the first chunk.
        let granted = if chunk == 0 { grants } else { 0 };
        insert_instances(&mut tx, batch, instances, granted).await?;
    }
    if batch.instances.is_empty() {
        sqlx::query(COMPLETE_EMPTY_RUN).bind(batch.run.id.0).execute(&mut *tx).await?;
    }
    let total = i64::try_from(batch.instances.len()).unwrap_or(i64::MAX);
    count(&mut tx, &shard, &Deltas::from([(batch.run.id, Delta { total, ..Delta::default() })])).await?;
    // Last: another spawn with the same contents waits from here until the commit.
    insert_blobs(&mut tx, batch).await?;
    tx.commit().await?;
    let ready = batch.instances.iter().take(grants).map(|instance| Ready {
        id: instance.id,
        priority: u8::try_from(batch.run.priority).unwrap_or(0),
        reducer: false,
        traceparent: batch.run.traceparent.clone(),
    });
    Ok(Spawned { run: batch.run.id, instance: only_leaf(batch), instances: total, replayed: false, ready: ready.collect() })
}

fn only_leaf(batch: &SpawnBatch) -> Option<InstanceId> {
    match batch.instances.as_slice() {
        [only] => Some(only.id),
        _ => None,
    }
}

/// False when the key is taken: then a racing spawn has committed, for whose end the insert has waited.
async fn take_key(tx: &mut PgConnection, batch: &SpawnBatch) -> Result<bool, Failure> {
    let Some((key, hash)) = &batch.idempotency else { return Ok(true) };
    let taken = sqlx::query(TAKE_KEY).bind(batch.run.team.0).bind(key).bind(hash.0.as_slice()).bind(batch.run.id.0).execute(tx).await?;
    Ok(taken.rows_affected() == 1)
}

const TAKE_KEY: &str = "-- take_idempotency_key
INSERT INTO idempotency_keys (team_id, key, request_hash, run_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (team_id, key) DO NOTHING";

/// What the key found: the same request, or another one.
async fn replay(store: &PostgresStore, batch: &SpawnBatch) -> Result<Spawned, Failure> {
    let Some((key, hash)) = &batch.idempotency else {
        return Err(Failure::Unavailable("there is no key to replay".to_owned()));
    };
    let found = sqlx::query(READ_KEY).bind(batch.run.team.0).bind(key).fetch_optional(&store.pool).await?;
    // Gone again: keys are dropped when they are old. The next attempt takes it.
    let Some(row) = found else { return Err(Failure::Contention("the idempotency key was dropped meanwhile".to_owned())) };
    if row.try_get::<Vec<u8>, _>("request_hash")? != hash.0 {
        return Err(StoreError::KeyReused(key.clone()).into());
    }
    Ok(Spawned {
        run: RunId(row.try_get("run_id")?),
        instance: row.try_get::<Option<Uuid>, _>("root_instance")?.map(InstanceId),
        instances: row.try_get("total")?,
        replayed: true,
        ready: Vec::new(),
    })
}

const READ_KEY: &str = "-- read_idempotency_key
SELECT k.request_hash, k.run_id, r.root_instance, g.total
FROM idempotency_keys k JOIN runs r ON r.id = k.run_id JOIN groups g ON g.id = r.root_group
WHERE k.team_id = $1 AND k.key = $2";

async fn insert_blobs(tx: &mut PgConnection, batch: &SpawnBatch) -> Result<(), Failure> {
    if batch.blobs.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT_BLOBS)
        .bind(batch.blobs.keys().map(|hash| hash.0.as_slice()).collect::<Vec<&[u8]>>())
        .bind(batch.blobs.values().map(Vec::as_slice).collect::<Vec<&[u8]>>())
        .execute(tx)
        .await?;
    Ok(())
}

const INSERT_BLOBS: &str = "-- insert_blobs
INSERT INTO blobs (hash, bytes)
SELECT b.hash, b.bytes FROM unnest($1::bytea[], $2::bytea[]) AS b (hash, bytes) ORDER BY b.hash
ON CONFLICT (hash) DO NOTHING";

async fn insert_run(tx: &mut PgConnection, batch: &SpawnBatch) -> Result<(), Failure> {
    let (run, group) = (&batch.run, &batch.group);
    let (reducer, policy, task) = match &group.reducer {
        Some((template, policy, task)) => (Some(template), Some(policy.0.as_slice()), Some(task)),
        None => (None, None, None),
    };
    let chunk = i32::try_from(group.tree.chunk).map_err(|_| Failure::Refused(format!("chunk_size {} is too large", group.tree.chunk)))?;
    let inserted = sqlx::query(INSERT_RUN)
        .bind(run.id.0)
        .bind(run.team.0)
        .bind(run.project.0)
        .bind(group.id.0)
        .bind(only_leaf(batch).map(|id| id.0))
        .bind(&run.spec)
        .bind(run.template.id.0)
        .bind(run.template.version)
        .bind(&run.template.name)
        .bind(run.max_parallel)
        .bind(run.priority)
        .bind(run.deadline_ms)
        .bind(&run.traceparent)
        .bind(group.tree.total)
        .bind(chunk)
        .bind(group.tree.reduces)
        .bind(group.tolerated)
        .bind(group.context.map(|hash| hash.0.to_vec()))
        .bind(reducer.map(|template| template.id.0))
        .bind(reducer.map(|template| template.version))
        .bind(reducer.map(|template| template.name.as_str()))
        .bind(policy)
        .bind(task)
        .execute(tx)
        .await;
    match inserted {
        Err(error) if is_unique_violation(&error) => Err(StoreError::Conflict(format!("{} exists already", run.id)).into()),
        other => other.map(drop).map_err(Failure::from),
    }
}

const INSERT_RUN: &str = "-- insert_run
WITH run AS (
  INSERT INTO runs (id, team_id, project_id, root_group, root_instance, spec_json, template_id, template_version, template_name,
                    max_parallel, priority, deadline_at, traceparent)
  VALUES ($1, $2, $3, $4, $5, $6::json, $7, $8, $9, $10, $11, now() + $12::bigint * interval '1 millisecond', $13)
)
INSERT INTO groups (id, run_id, team_id, project_id, total, chunk, reduces, tolerated, context_hash,
                    reducer_template_id, reducer_template_version, reducer_template_name, reducer_policy_hash, reducer_task, done)
VALUES ($4, $1, $2, $3, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $14 = 0)";

// Nothing to do is done at once, with an empty result.
const COMPLETE_EMPTY_RUN: &str = "-- complete_empty_run
INSERT INTO run_outcomes (run_id, status, closed) VALUES ($1, 'completed', true)";

async fn insert_instances(tx: &mut PgConnection, batch: &SpawnBatch, instances: &[NewInstance], granted: usize) -> Result<(), Failure> {
    let run = &batch.run;
    sqlx::query(INSERT_INSTANCES)
        .bind(run.id.0)
        .bind(batch.group.id.0)
        .bind(run.team.0)
        .bind(run.project.0)
        .bind(run.template.id.0)
        .bind(run.template.version)
        .bind(&run.template.name)
        .bind(CORE_REV)
        .bind(run.priority)
        .bind(instances.iter().map(|one| one.id.0).collect::<Vec<Uuid>>())
        .bind(instances.iter().map(|one| one.ordinal).collect::<Vec<i64>>())
        .bind(instances.iter().map(|one| one.name.as_deref()).collect::<Vec<Option<&str>>>())
        .bind(instances.iter().map(|one| one.role.as_deref()).collect::<Vec<Option<&str>>>())
        .bind(instances.iter().map(|one| one.task.as_str()).collect::<Vec<&str>>())
        .bind(instances.iter().map(|one| one.policy.0.as_slice()).collect::<Vec<&[u8]>>())
        .bind(instances.iter().map(|one| one.context.as_ref().map(|hash| hash.0.as_slice())).collect::<Vec<Option<&[u8]>>>())
        .bind((0..instances.len()).map(|index| index < granted).collect::<Vec<bool>>())
        .execute(tx)
        .await?;
    Ok(())
}

const INSERT_INSTANCES: &str = "-- insert_instances
INSERT INTO agent_instances (run_id, group_id, team_id, project_id, template_id, template_version, template_name, core_rev, priority,
  id, ordinal, name, role, task, policy_hash, context_hash, status, state, granted_at)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, n.id, n.ordinal, n.name, n.role, n.task, n.policy_hash, n.context_hash, 'queued', 'init',
  CASE WHEN n.granted THEN now() END
FROM unnest($10::uuid[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::bytea[], $17::boolean[])
  AS n (id, ordinal, name, role, task, policy_hash, context_hash, granted)";
