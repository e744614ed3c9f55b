//! Cancelling a run, or one instance.

use muster_shared::{
    ids::{GroupId, InstanceId, RunId},
    reduce::Place,
    store::{Cascade, StoreError},
};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{
    PostgresStore,
    cascade::{Ending, Unheld, end_unheld},
    counters::{Deltas, count},
    errors::{Failure, retrying},
    finish::{Finished, finish},
    transition::lock_runs,
};
use crate::rows::{self, GroupOf, Reader};

/// Sets the flag, then waits as a barrier for everybody who did not see it. Who comes later sees it and adds
/// nothing; after a crash between the two the flag stands, and the caller, who has no answer, asks again.
pub(super) async fn cancel_run(store: &PostgresStore, run: RunId, why: &str) -> Result<(), StoreError> {
    if let Some(why) = rows::refused_text("the reason", why) {
        return Err(StoreError::Refused(why));
    }
    let flagged = sqlx::query(FLAG_RUN).bind(run.0).bind(why).execute(&store.pool).await.map_err(Failure::from)?;
    if flagged.rows_affected() == 0 {
        return match sqlx::query("-- run_exists\nSELECT 1 FROM runs WHERE id = $1").bind(run.0).fetch_optional(&store.pool).await {
            Ok(Some(_)) => Err(StoreError::Conflict(format!("{run} has ended"))),
            Ok(None) => Err(StoreError::NotFound(run.to_string())),
            Err(error) => Err(Failure::from(error).into()),
        };
    }
    sqlx::query("-- cancel_barrier\nSELECT 1 FROM runs WHERE id = $1 FOR UPDATE")
        .bind(run.0)
        .execute(&store.pool)
        .await
        .map_err(Failure::from)?;
    Ok(())
}

// The first reason stays. Flagging does not wait for those who end instances, only for grants.
const FLAG_RUN: &str = "-- flag_run
UPDATE runs r SET cancel_requested = true, cancel_reason = coalesce(r.cancel_reason, $2)
WHERE r.id = $1 AND NOT EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = r.id)";

/// Flags an instance, and ends it when nobody holds it, with everything that follows from a failed one.
pub(super) async fn cancel_instance(store: &PostgresStore, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
    if let Some(why) = rows::refused_text("the reason", why) {
        return Err(StoreError::Refused(why));
    }
    let row = sqlx::query("-- group_of_instance\nSELECT run_id, group_id FROM agent_instances WHERE id = $1")
        .bind(instance.0)
        .fetch_optional(&store.pool)
        .await
        .map_err(Failure::from)?;
    let Some(row) = row else { return Err(StoreError::NotFound(instance.to_string())) };
    let at = Reader::new("agent_instances", &row);
    let (run, group) = (RunId(at.uuid("run_id")?), GroupId(at.uuid("group_id")?));
    let group = store.group_of(group).await?;
    Ok(retrying(|| cancel_one(store, instance, run, &group, why)).await?)
}

/// Ends instances that were flagged while a worker held them and that nobody holds any more. Answers how many.
pub(super) async fn cancel_left_over(store: &PostgresStore, limit: i64) -> Result<u64, StoreError> {
    let left: Vec<Uuid> = sqlx::query_scalar(LEFT_OVER).bind(limit).fetch_all(&store.pool).await.map_err(Failure::from)?;
    let mut ended = 0;
    for id in left {
        match cancel_instance(store, InstanceId(id), "the instance was cancelled").await {
            Ok(done) => ended += done.ended,
            // Somebody else was faster.
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ended)
}

const LEFT_OVER: &str = "-- cancelled_left_over
SELECT id FROM agent_instances WHERE cancel_requested AND status IN ('queued', 'waiting') ORDER BY id LIMIT $1";

async fn cancel_one(store: &PostgresStore, instance: InstanceId, run: RunId, group: &GroupOf, why: &str) -> Result<Cascade, Failure> {
    let shard = store.shards.take();
    let mut tx = store.pool.begin().await?;
    lock_runs(&mut tx, vec![run.0]).await?;
    let mut lock: Vec<Uuid> = group.row.parent.iter().map(|parent| parent.0).chain([instance.0]).collect();
    lock.sort_unstable();
    let one = lock_one(&mut tx, instance, run, lock).await?;
    let done = match one.status.as_str() {
        "running" => {
            sqlx::query("-- flag_instance\nUPDATE agent_instances SET cancel_requested = true, updated_at = now() WHERE id = $1")
                .bind(instance.0)
                .execute(&mut *tx)
                .await?;
            Cascade { ended: 0, left: 1 }
        }
        "queued" | "waiting" => {
            let (how, mut deltas) = (Ending::cancelled(why), Deltas::new());
            end_unheld(store, &mut tx, &[one.unheld], &how, &mut deltas).await?;
            if !one.run_is_over {
                let finished = Finished {
                    cause: 0,
                    instance,
                    group: &group.row,
                    place: one.place,
                    failure: Some(how.error()),
                    failed_before: one.failed_before,
                    // It held no slot that a reducer could take over: dispatch grants that.
                    granted: false,
                };
                finish(store, &mut tx, &[finished], &mut deltas).await?;
            }
            count(&mut tx, &shard, &deltas).await?;
            Cascade { ended: 1, left: 0 }
        }
        _ => return Err(StoreError::Conflict(format!("{instance} has ended")).into()),
    };
    tx.commit().await?;
    Ok(done)
}

/// The locked instance.
struct One {
    status: String,
    unheld: Unheld,
    place: Place,
    failed_before: i64,
    run_is_over: bool,
}

async fn lock_one(tx: &mut PgConnection, instance: InstanceId, run: RunId, lock: Vec<Uuid>) -> Result<One, Failure> {
    let found = sqlx::query(LOCK_ONE).bind(lock).fetch_all(tx).await?;
    for row in &found {
        let at = Reader::new("agent_instances", row);
        if at.uuid("id")? != instance.0 {
            continue;
        }
        let status = at.text("status")?;
        let unheld = Unheld {
            id: instance,
            run,
            epoch: at.i64("epoch")?,
            last_seq: at.i64("last_seq")?,
            last_hash: at.hash("last_hash")?,
            waiting: status == "waiting",
        };
        return Ok(One {
            status,
            unheld,
            place: rows::place(row)?,
            failed_before: row.try_get::<Option<i64>, _>("failed_before")?.unwrap_or(0),
            run_is_over: at.bool("run_is_over")?,
        });
    }
    Err(StoreError::NotFound(instance.to_string()).into())
}

const LOCK_ONE: &str = "-- lock_one_instance
SELECT i.id, i.status, i.epoch, i.last_seq, i.last_hash, i.level, i.ordinal,
       r.cancel_requested OR coalesce((SELECT true FROM run_outcomes o WHERE o.run_id = i.run_id), false) AS run_is_over,
       CASE WHEN i.level > 0 THEN (SELECT n.failed_leaves FROM reductions n WHERE n.group_id = i.group_id AND n.level = i.level
                                   AND n.ordinal = i.ordinal AND n.generation = i.generation) END AS failed_before
FROM unnest($1::uuid[]) AS w (id)
CROSS JOIN LATERAL (SELECT * FROM agent_instances a WHERE a.id = w.id LIMIT 1 FOR UPDATE) AS i
CROSS JOIN LATERAL (SELECT n.cancel_requested FROM runs n WHERE n.id = i.run_id LIMIT 1) AS r";
