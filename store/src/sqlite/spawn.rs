//! Spawning: a run with its group, its leaves and their contents, in one transaction.

use muster_shared::{
    CORE_REV,
    hash::Hash32,
    ids::{InstanceId, RunId},
    queue::Ready,
    store::{NewInstance, SpawnBatch, Spawned, StoreError},
    time::Timestamp,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    SqliteStore,
    ends::{self, NewOutcome},
    sql::{db, portions, with_values},
};
use crate::rows::{self, Reader};

impl SqliteStore {
    /// See [`muster_shared::store::Journal::spawn`].
    pub(super) async fn spawn_run(&self, batch: SpawnBatch) -> Result<Spawned, StoreError> {
        if let Some(why) = rows::refused_spawn(&batch) {
            return Err(StoreError::Refused(why));
        }
        let mut tx = self.begin().await?;
        let now = self.now();
        if let Some((key, hash)) = &batch.idempotency
            && let Some(earlier) = take_key(&mut tx, &batch, key, *hash, now).await?
        {
            return Ok(earlier);
        }
        insert_blobs(&mut tx, &batch, now).await?;
        insert_run(&mut tx, &batch, now).await?;
        insert_group(&mut tx, &batch, now).await?;
        let granted = batch.grant_at_once();
        insert_instances(&mut tx, &batch, granted, now).await?;
        insert_counters(&mut tx, &batch).await?;
        if batch.instances.is_empty() {
            let outcome = NewOutcome { run: batch.run.id, status: "completed", result: None, error: None, closed: true };
            ends::insert_outcome(&mut tx, &outcome, now).await?;
        }
        tx.commit().await.map_err(db)?;
        Ok(Spawned {
            run: batch.run.id,
            instance: only(&batch.instances),
            instances: batch.group.tree.total,
            replayed: false,
            ready: batch.instances.iter().take(granted).map(|instance| ready(&batch, instance)).collect(),
        })
    }
}

/// The instance, when there is exactly one.
fn only(instances: &[NewInstance]) -> Option<InstanceId> {
    match instances {
        [one] => Some(one.id),
        _ => None,
    }
}

fn ready(batch: &SpawnBatch, instance: &NewInstance) -> Ready {
    let priority = u8::try_from(batch.run.priority).unwrap_or(0);
    Ready { id: instance.id, priority, reducer: false, traceparent: batch.run.traceparent.clone() }
}

/// Takes the key for this run, or answers what an earlier spawn made under it.
async fn take_key(
    conn: &mut SqliteConnection,
    batch: &SpawnBatch,
    key: &str,
    hash: Hash32,
    now: Timestamp,
) -> Result<Option<Spawned>, StoreError> {
    let taken = sqlx::query(
        "-- take_idempotency_key
         INSERT INTO idempotency_keys (team_id, key, request_hash, run_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )
    .bind(batch.run.team.0)
    .bind(key)
    .bind(&hash.0[..])
    .bind(batch.run.id.0)
    .bind(now.micros())
    .execute(&mut *conn)
    .await
    .map_err(db)?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let row = sqlx::query(
        "-- idempotency_key
         SELECT k.run_id, k.request_hash, r.root_instance, g.total
         FROM idempotency_keys k JOIN runs r ON r.id = k.run_id JOIN groups g ON g.id = r.root_group
         WHERE k.team_id = ?1 AND k.key = ?2",
    )
    .bind(batch.run.team.0)
    .bind(key)
    .fetch_one(conn)
    .await
    .map_err(db)?;
    let at = Reader::new("idempotency_keys", &row);
    if at.hash("request_hash")? != hash {
        return Err(StoreError::KeyReused(key.to_owned()));
    }
    Ok(Some(Spawned {
        run: RunId(at.uuid("run_id")?),
        instance: at.uuid_opt("root_instance")?.map(InstanceId),
        instances: at.i64("total")?,
        replayed: true,
        ready: Vec::new(),
    }))
}

async fn insert_blobs(conn: &mut SqliteConnection, batch: &SpawnBatch, now: Timestamp) -> Result<(), StoreError> {
    for (hash, bytes) in &batch.blobs {
        sqlx::query("-- insert_blob\nINSERT INTO blobs (hash, bytes, created_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")
            .bind(&hash.0[..])
            .bind(&bytes[..])
            .bind(now.micros())
            .execute(&mut *conn)
            .await
            .map_err(db)?;
    }
    Ok(())
}

async fn insert_run(conn: &mut SqliteConnection, batch: &SpawnBatch, now: Timestamp) -> Result<(), StoreError> {
    let run = &batch.run;
    let deadline = run.deadline_ms.map(|ms| now.micros().saturating_add(ms.saturating_mul(1000)));
    sqlx::query(
        "-- insert_run
         INSERT INTO runs (id, team_id, project_id, root_group, root_instance, spec_json, template_id, template_version,
                           template_name, max_parallel, priority, deadline_at, traceparent, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )
    .bind(run.id.0)
    .bind(run.team.0)
    .bind(run.project.0)
    .bind(batch.group.id.0)
    .bind(only(&batch.instances).map(|id| id.0))
    .bind(&run.spec)
    .bind(run.template.id.0)
    .bind(run.template.version)
    .bind(&run.template.name)
    .bind(run.max_parallel)
    .bind(run.priority)
    .bind(deadline)
    .bind(run.traceparent.as_deref())
    .bind(now.micros())
    .execute(conn)
    .await
    .map_err(db)?;
    Ok(())
}

async fn insert_group(conn: &mut SqliteConnection, batch: &SpawnBatch, now: Timestamp) -> Result<(), StoreError> {
    let (group, run) = (&batch.group, &batch.run);
    let (template, policy, task) = match &group.reducer {
        Some((template, policy, task)) => (Some(template), Some(&policy.0[..]), Some(task.as_str())),
        None => (None, None, None),
    };
    sqlx::query(
        "-- insert_group
         INSERT INTO groups (id, run_id, team_id, project_id, total, chunk, reduces, tolerated, context_hash,
                             reducer_template_id, reducer_template_version, reducer_template_name, reducer_policy_hash,
                             reducer_task, done, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )
    .bind(group.id.0)
    .bind(run.id.0)
    .bind(run.team.0)
    .bind(run.project.0)
    .bind(group.tree.total)
    .bind(group.tree.chunk)
    .bind(group.tree.reduces)
    .bind(group.tolerated)
    .bind(group.context.as_ref().map(|hash| &hash.0[..]))
    .bind(template.map(|template| template.id.0))
    .bind(template.map(|template| template.version))
    .bind(template.map(|template| template.name.as_str()))
    .bind(policy)
    .bind(task)
    .bind(batch.instances.is_empty())
    .bind(now.micros())
    .execute(conn)
    .await
    .map_err(db)?;
    Ok(())
}

async fn insert_instances(conn: &mut SqliteConnection, batch: &SpawnBatch, granted: usize, now: Timestamp) -> Result<(), StoreError> {
    const HEAD: &str = "-- insert_instances
        INSERT INTO agent_instances (id, run_id, group_id, team_id, project_id, level, ordinal, template_id, template_version,
                                     template_name, policy_hash, context_hash, core_rev, priority, name, role, task, status,
                                     state, granted_at, created_at, updated_at)
        SELECT w.column1, ?, ?, ?, ?, 0, w.column2, ?, ?, ?, w.column3, w.column4, ?, ?, w.column5, w.column6, w.column7,
               'queued', 'init', w.column8, ?, ?
        FROM (VALUES";
    let (run, mut made) = (&batch.run, 0);
    for portion in portions(&batch.instances) {
        let sql = with_values(HEAD, portion.len(), 8, ") AS w");
        let mut insert = sqlx::query(AssertSqlSafe(sql))
            .bind(run.id.0)
            .bind(batch.group.id.0)
            .bind(run.team.0)
            .bind(run.project.0)
            .bind(run.template.id.0)
            .bind(run.template.version)
            .bind(&run.template.name)
            .bind(CORE_REV)
            .bind(run.priority)
            .bind(now.micros())
            .bind(now.micros());
        for instance in portion {
            insert = insert
                .bind(instance.id.0)
                .bind(instance.ordinal)
                .bind(&instance.policy.0[..])
                .bind(instance.context.as_ref().map(|hash| &hash.0[..]))
                .bind(instance.name.as_deref())
                .bind(instance.role.as_deref())
                .bind(&instance.task)
                .bind((made < granted).then(|| now.micros()));
            made += 1;
        }
        insert.execute(&mut *conn).await.map_err(db)?;
    }
    Ok(())
}

async fn insert_counters(conn: &mut SqliteConnection, batch: &SpawnBatch) -> Result<(), StoreError> {
    sqlx::query("-- insert_counters\nINSERT INTO run_counters (run_id, shard, total) VALUES (?1, 0, ?2)")
        .bind(batch.run.id.0)
        .bind(batch.group.tree.total)
        .execute(conn)
        .await
        .map_err(db)?;
    Ok(())
}
