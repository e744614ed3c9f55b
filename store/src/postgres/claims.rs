//! [`Claims`] over Postgres, and the taking and giving back of leases. Workers are in `workers`, dispatch in `grant`.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use muster_shared::{
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId},
    queue::Ready,
    store::{Claimed, Claims, Entry, GrantWindow, Heartbeat, Lease, StoreError, WorkerRow},
};
use sqlx::Row as _;
use uuid::Uuid;

use super::{
    PostgresStore,
    errors::{Failure, retrying},
    grant, workers,
};
use crate::rows;

#[async_trait]
impl Claims for PostgresStore {
    async fn register(&self, worker: &WorkerRow) -> Result<(), StoreError> {
        Ok(workers::register(self, worker).await?)
    }

    async fn heartbeat(&self, worker: Incarnation) -> Result<Heartbeat, StoreError> {
        Ok(workers::heartbeat(self, worker).await?)
    }

    async fn retire(&self, worker: Incarnation) -> Result<(), StoreError> {
        Ok(workers::retire(self, worker).await?)
    }

    async fn claim(&self, worker: Incarnation, core_rev: i32, ids: &[InstanceId]) -> Result<Vec<Claimed>, StoreError> {
        Ok(retrying(|| claim(self, worker, core_rev, ids)).await?)
    }

    async fn logs(&self, of: &[&Claimed]) -> Result<Vec<Vec<Entry>>, StoreError> {
        Ok(logs(self, of).await?)
    }

    async fn owned(&self, worker: Incarnation) -> Result<Vec<Lease>, StoreError> {
        let found = sqlx::query(OWNED).bind(worker.0).fetch_all(&self.pool).await.map_err(Failure::from)?;
        found.iter().map(rows::lease).collect()
    }

    async fn give_back(&self, leases: &[Lease]) -> Result<u64, StoreError> {
        Ok(retrying(|| give_back(self, leases)).await?)
    }

    async fn elect(&self, role: &str, holder: Incarnation, ttl: Duration) -> Result<bool, StoreError> {
        Ok(workers::elect(self, role, holder, ttl).await?)
    }

    async fn grant(&self, window: GrantWindow) -> Result<Vec<Ready>, StoreError> {
        Ok(retrying(|| grant::grant(self, window)).await?)
    }

    async fn stale_grants(&self, age: Duration, limit: i64) -> Result<Vec<Ready>, StoreError> {
        Ok(retrying(|| grant::stale_grants(self, age, limit)).await?)
    }

    async fn bury(&self, ttl: Duration) -> Result<Vec<Incarnation>, StoreError> {
        Ok(workers::bury(self, ttl).await?)
    }

    async fn sweep(&self, limit: i64) -> Result<u64, StoreError> {
        Ok(retrying(|| workers::sweep(self, limit)).await?)
    }

    async fn wake_due(&self, limit: i64) -> Result<u64, StoreError> {
        Ok(retrying(|| grant::wake_due(self, limit)).await?)
    }

    async fn make_room(&self) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await.map_err(Failure::from)?;
        sqlx::query(GIVE_WAY).execute(&mut *tx).await.map_err(Failure::from)?;
        sqlx::query(ONE_MAKES_ROOM).execute(&mut *tx).await.map_err(Failure::from)?;
        sqlx::query(MAKE_ROOM).execute(&mut *tx).await.map_err(Failure::from)?;
        tx.commit().await.map_err(Failure::from)?;
        Ok(())
    }
}

/// Microseconds of a span, for the database.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

async fn claim(store: &PostgresStore, worker: Incarnation, core_rev: i32, ids: &[InstanceId]) -> Result<Vec<Claimed>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // Rows are locked in the order in which they are given: by id.
    let mut ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let found = sqlx::query(CLAIM_INSTANCES).bind(ids).bind(worker.0).bind(core_rev).fetch_all(&store.pool).await?;
    let mut of = Vec::with_capacity(found.len());
    for row in &found {
        of.push(row.try_get::<Uuid, _>("group_id")?);
    }
    let groups = store.groups_of(of.iter().copied().map(GroupId)).await?;
    let mut claimed = Vec::with_capacity(found.len());
    for (row, group) in found.iter().zip(of) {
        let missing = || StoreError::Corrupt(format!("agent_instances.group_id: there is no group {group}"));
        claimed.push(rows::claimed(row, groups.get(&group).ok_or_else(missing)?.row.clone())?);
    }
    Ok(claimed)
}

// What is locked is being claimed or ended by somebody else: skipped. A worker that was declared dead gets nothing.
const CLAIM_INSTANCES: &str = "-- claim_instances
WITH picked AS (
  SELECT i.id, r.traceparent
  FROM unnest($1::uuid[]) AS c (id)
  CROSS JOIN LATERAL (
    SELECT a.id, a.run_id, a.status, a.granted_at, a.cancel_requested, a.paused, a.core_rev
    FROM agent_instances a WHERE a.id = c.id LIMIT 1 FOR UPDATE SKIP LOCKED
  ) AS i
  CROSS JOIN LATERAL (SELECT n.cancel_requested, n.paused, n.traceparent FROM runs n WHERE n.id = i.run_id LIMIT 1) AS r
  WHERE i.status = 'queued' AND i.granted_at IS NOT NULL AND NOT i.cancel_requested AND NOT i.paused AND i.core_rev <= $3
    AND NOT r.cancel_requested AND NOT r.paused
    AND NOT EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = i.run_id)
    AND EXISTS (SELECT FROM workers w WHERE w.incarnation = $2 AND w.alive)
)
UPDATE agent_instances i
SET status = 'running', worker_incarnation = $2, epoch = i.epoch + 1, started_at = coalesce(i.started_at, now()), updated_at = now()
FROM picked p WHERE i.id = p.id
RETURNING i.id, i.run_id, i.group_id, i.epoch, i.worker_incarnation, i.level, i.ordinal, i.name, i.role, i.task, i.policy_hash, i.context_hash,
  i.last_seq, i.last_hash, i.wake_seq, (extract(epoch FROM now() - i.started_at) * 1000000)::bigint AS elapsed_micros, p.traceparent";

const OWNED: &str = "-- owned_leases
SELECT id, run_id, epoch, worker_incarnation FROM agent_instances WHERE worker_incarnation = $1 AND status = 'running'";

/// Rule 1: a statement of its own, after the claim; what it reads must end where the claim says.
async fn logs(store: &PostgresStore, of: &[&Claimed]) -> Result<Vec<Vec<Entry>>, Failure> {
    let mut logs: Vec<Vec<Entry>> = of.iter().map(|_| Vec::new()).collect();
    if of.is_empty() {
        return Ok(logs);
    }
    let found = sqlx::query(READ_LOGS)
        .bind((0..).zip(of).map(|(which, _)| which).collect::<Vec<i64>>())
        .bind(of.iter().map(|claimed| claimed.lease.run.0).collect::<Vec<Uuid>>())
        .bind(of.iter().map(|claimed| claimed.lease.instance.0).collect::<Vec<Uuid>>())
        .fetch_all(&store.pool)
        .await?;
    for row in &found {
        let which = usize::try_from(row.try_get::<i64, _>("which")?).unwrap_or(usize::MAX);
        if let Some(log) = logs.get_mut(which) {
            log.push(rows::stored_event(row)?);
        }
    }
    for (claimed, log) in of.iter().zip(&logs) {
        let (seq, hash) = log.last().map_or((0, Hash32::ZERO), |event| (event.seq, event.hash));
        if (seq, hash) != (claimed.last_seq, claimed.last_hash) {
            let id = claimed.lease.instance;
            let told = format!("the log of {id} ends at {seq}, the claim was for {}: claim it again", claimed.last_seq);
            return Err(StoreError::Conflict(told).into());
        }
    }
    Ok(logs)
}

const READ_LOGS: &str = "-- read_logs
SELECT w.which, e.instance_id, e.seq, e.epoch, e.type, e.payload::text AS payload, (extract(epoch FROM e.at) * 1000000)::bigint AS at, e.hash
FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS w (which, run_id, instance_id)
CROSS JOIN LATERAL (
  SELECT l.instance_id, l.seq, l.epoch, l.type, l.payload, l.at, l.hash
  FROM agent_events l WHERE l.run_id = w.run_id AND l.instance_id = w.instance_id ORDER BY l.seq
) AS e
ORDER BY w.which, e.seq";

async fn give_back(store: &PostgresStore, leases: &[Lease]) -> Result<u64, Failure> {
    if leases.is_empty() {
        return Ok(0);
    }
    let leases: BTreeMap<Uuid, &Lease> = leases.iter().map(|lease| (lease.instance.0, lease)).collect();
    let done = sqlx::query(GIVE_BACK)
        .bind(leases.keys().copied().collect::<Vec<Uuid>>())
        .bind(leases.values().map(|lease| lease.epoch).collect::<Vec<i64>>())
        .bind(leases.values().map(|lease| lease.worker.0).collect::<Vec<Uuid>>())
        .execute(&store.pool)
        .await?;
    Ok(done.rows_affected())
}

const GIVE_BACK: &str = "-- give_back
WITH held AS (
  SELECT i.id
  FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS l (id, epoch, worker)
  CROSS JOIN LATERAL (
    SELECT a.id, a.epoch, a.worker_incarnation, a.status FROM agent_instances a WHERE a.id = l.id LIMIT 1 FOR UPDATE
  ) AS i
  WHERE i.epoch = l.epoch AND i.worker_incarnation = l.worker AND i.status = 'running'
)
UPDATE agent_instances i
SET status = 'queued', worker_incarnation = NULL, granted_at = NULL, epoch = i.epoch + 1, updated_at = now()
FROM held h WHERE i.id = h.id";

// A new partition needs the log for itself, and every append stands behind it while it waits for a long reader. There
// are months of time: it does not wait.
const GIVE_WAY: &str = "-- give_way
SELECT set_config('lock_timeout', '200', true)";

const ONE_MAKES_ROOM: &str = "-- one_makes_room
SELECT pg_advisory_xact_lock(hashtextextended('muster make_room', 0))";

// Months ahead of the runs that will fill them. A month of which the default partition has a row already can have none
// of its own: it stays there, and must not keep the others from theirs.
const MAKE_ROOM: &str = "-- make_room
SELECT muster_event_partition(m.first::date)
FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead) AS first FROM generate_series(0, 2) AS ahead) AS m
CROSS JOIN LATERAL (
  SELECT lpad(to_hex((extract(epoch FROM m.first AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0') AS low,
         lpad(to_hex((extract(epoch FROM (m.first + interval '1 month') AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0') AS high
) AS b
WHERE to_regclass('agent_events_' || to_char(m.first, 'YYYY_MM')) IS NULL
  AND NOT EXISTS (SELECT FROM agent_events_default d
                  WHERE d.run_id >= rpad(b.low, 32, '0')::uuid AND d.run_id < rpad(b.high, 32, '0')::uuid)";
