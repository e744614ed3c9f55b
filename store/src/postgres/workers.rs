//! Worker processes: their heartbeats, their deaths, what they held, and the leases of roles.

use std::time::Duration;

use muster_shared::{
    ids::{Incarnation, InstanceId},
    store::{Heartbeat, StoreError, WorkerRow},
};
use sqlx::Row as _;
use uuid::Uuid;

use super::{PostgresStore, claims::micros, errors::Failure};

pub(super) async fn register(store: &PostgresStore, worker: &WorkerRow) -> Result<(), Failure> {
    let alive: Option<bool> = sqlx::query_scalar(REGISTER_WORKER)
        .bind(worker.incarnation.0)
        .bind(&worker.name)
        .bind(worker.slots)
        .bind(&worker.version)
        .fetch_optional(&store.pool)
        .await?;
    match alive {
        Some(true) => Ok(()),
        // Death is one-way (rule 4): it starts again under a new incarnation.
        Some(false) | None => Err(StoreError::Conflict(format!("worker {} was declared dead", worker.incarnation)).into()),
    }
}

// Repeated after an answer that was lost, it changes nothing but the heartbeat.
const REGISTER_WORKER: &str = "-- register_worker
INSERT INTO workers AS w (incarnation, name, slots, version) VALUES ($1, $2, $3, $4)
ON CONFLICT (incarnation) DO UPDATE SET heartbeat_at = CASE WHEN w.alive THEN now() ELSE w.heartbeat_at END
RETURNING alive";

pub(super) async fn heartbeat(store: &PostgresStore, worker: Incarnation) -> Result<Heartbeat, Failure> {
    let row = sqlx::query(HEARTBEAT).bind(worker.0).fetch_one(&store.pool).await?;
    if row.try_get::<i64, _>("alive")? == 0 {
        return Ok(Heartbeat::Dead);
    }
    let cancel: Vec<Uuid> = row.try_get("cancel")?;
    Ok(Heartbeat::Alive { cancel: cancel.into_iter().map(InstanceId).collect() })
}

// `clock_timestamp`, not `now`: the update may have waited for a judge.
const HEARTBEAT: &str = "-- heartbeat
WITH beat AS (
  UPDATE workers SET heartbeat_at = clock_timestamp() WHERE incarnation = $1 AND alive RETURNING 1
)
SELECT (SELECT count(*) FROM beat) AS alive,
  ARRAY(SELECT i.id FROM agent_instances i CROSS JOIN LATERAL (SELECT n.cancel_requested FROM runs n WHERE n.id = i.run_id LIMIT 1) AS r
        WHERE i.worker_incarnation = $1 AND i.status = 'running'
          AND (i.cancel_requested OR r.cancel_requested
               OR coalesce((SELECT NOT o.closed FROM run_outcomes o WHERE o.run_id = i.run_id), false))) AS cancel";

pub(super) async fn retire(store: &PostgresStore, worker: Incarnation) -> Result<(), Failure> {
    sqlx::query("-- retire_worker\nUPDATE workers SET alive = false WHERE incarnation = $1").bind(worker.0).execute(&store.pool).await?;
    Ok(())
}

/// A one-way compare-and-set; a heartbeat that commits first is seen, because the row is looked at again.
pub(super) async fn bury(store: &PostgresStore, ttl: Duration) -> Result<Vec<Incarnation>, Failure> {
    let dead: Vec<Uuid> = sqlx::query_scalar(BURY_WORKERS).bind(micros(ttl)).fetch_all(&store.pool).await?;
    Ok(dead.into_iter().map(Incarnation).collect())
}

const BURY_WORKERS: &str = "-- bury_workers
UPDATE workers SET alive = false
WHERE alive AND heartbeat_at < now() - $1 * interval '1 microsecond'
RETURNING incarnation";

pub(super) async fn sweep(store: &PostgresStore, limit: i64) -> Result<u64, Failure> {
    Ok(sqlx::query(SWEEP).bind(limit).execute(&store.pool).await?.rows_affected())
}

// What is locked is being written to by somebody: it is looked at again the next time. What is lost is seen first and
// locked then, under the epoch that was seen: were both one step, a row that has a new owner by the time it is locked
// would be joined again to the worker of the old one, find that this is not its owner's, and be taken for nobody's. A
// death is counted at the seq at which it happened, so that progress between two deaths starts the count anew (rule 15).
const SWEEP: &str = "-- sweep_dead_workers
WITH seen AS (
  SELECT i.id, i.epoch
  FROM agent_instances i LEFT JOIN workers w ON w.incarnation = i.worker_incarnation
  WHERE i.status = 'running' AND i.granted_at IS NOT NULL AND w.alive IS NOT TRUE
  ORDER BY i.id LIMIT $1
), lost AS (
  SELECT h.id
  FROM seen s
  CROSS JOIN LATERAL (SELECT a.id, a.epoch FROM agent_instances a WHERE a.id = s.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS h
  WHERE h.epoch = s.epoch
)
UPDATE agent_instances i
SET status = 'queued', worker_incarnation = NULL, granted_at = NULL, epoch = i.epoch + 1, updated_at = now(),
    deaths = CASE WHEN i.deaths_at_seq = i.last_seq THEN i.deaths + 1 ELSE 1 END, deaths_at_seq = i.last_seq
FROM lost l WHERE i.id = l.id";

pub(super) async fn elect(store: &PostgresStore, role: &str, holder: Incarnation, ttl: Duration) -> Result<bool, Failure> {
    let elected = sqlx::query(ELECT).bind(role).bind(holder.0).bind(micros(ttl)).execute(&store.pool).await?;
    Ok(elected.rows_affected() == 1)
}

const ELECT: &str = "-- elect
INSERT INTO role_leases AS l (role, holder, expires_at) VALUES ($1, $2, now() + $3 * interval '1 microsecond')
ON CONFLICT (role) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE l.expires_at < now() OR l.holder = excluded.holder";
