//! Dispatch: who may run next. A grant is durable and counted under its run's lock, so that `max_parallel` holds
//! with any number of dispatchers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_shared::{ids::RunId, queue::Ready, store::GrantWindow};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{
    PostgresStore,
    claims::micros,
    counters::{Deltas, count},
    errors::Failure,
};
use crate::rows;

/// Runs looked at in one round.
const CANDIDATES: i64 = 64;

/// A run that has something due, under its lock.
struct Candidate {
    run: Uuid,
    priority: i32,
    /// Instances that may be granted before `max_parallel` is reached.
    room: i64,
}

pub(super) async fn grant(store: &PostgresStore, window: GrantWindow) -> Result<Vec<Ready>, Failure> {
    let mut tx = store.pool.begin().await?;
    let free: i64 = sqlx::query_scalar(FREE_WINDOW).bind(i64::from(window.slots_percent)).fetch_one(&mut *tx).await?;
    let mut free = free.clamp(0, window.round.max(0));
    if free == 0 {
        tx.rollback().await?;
        return Ok(Vec::new());
    }
    let locked: Vec<Uuid> = sqlx::query_scalar(LOCK_CANDIDATES).bind(CANDIDATES).fetch_all(&mut *tx).await?;
    let runs = recheck(&mut tx, &locked).await?;
    let mut ready = Vec::new();
    let priorities: BTreeSet<i32> = runs.iter().map(|run| run.priority).collect();
    for priority in priorities.into_iter().rev() {
        let class: Vec<&Candidate> = runs.iter().filter(|run| run.priority == priority).collect();
        let granted = grant_class(&mut tx, &class, free, window.per_run).await?;
        free -= i64::try_from(granted.len()).unwrap_or(i64::MAX);
        ready.extend(granted);
        if free <= 0 {
            break;
        }
    }
    tx.commit().await?;
    Ok(ready)
}

/// Slots of workers that are known to be alive, times the window, less what is in flight.
const FREE_WINDOW: &str = "-- free_window
SELECT (SELECT coalesce(sum(w.slots), 0)::bigint FROM workers w WHERE w.alive AND w.heartbeat_at > now() - interval '30 seconds') * $1 / 100
     - (SELECT count(*) FROM agent_instances i WHERE i.granted_at IS NOT NULL)";

// The runs that have something due are found by skipping through the partial index from run to run: ended runs, of
// which there may be millions, are never looked at. Grants exclude each other (`FOR NO KEY UPDATE`), not those who
// end instances; a run that another dispatcher or a cancel holds is left to them.
const LOCK_CANDIDATES: &str = "-- lock_grant_candidates
WITH RECURSIVE due (run_id) AS (
  (SELECT i.run_id FROM agent_instances i WHERE i.status = 'queued' AND i.granted_at IS NULL ORDER BY i.run_id LIMIT 1)
  UNION ALL
  SELECT (SELECT i.run_id FROM agent_instances i WHERE i.status = 'queued' AND i.granted_at IS NULL AND i.run_id > d.run_id ORDER BY i.run_id LIMIT 1)
  FROM due d WHERE d.run_id IS NOT NULL
), wanting AS (
  SELECT r.id
  FROM due d
  CROSS JOIN LATERAL (SELECT n.id, n.paused, n.cancel_requested, n.max_parallel, n.priority FROM runs n WHERE n.id = d.run_id LIMIT 1) AS r
  CROSS JOIN LATERAL (SELECT count(*) AS n FROM agent_instances f WHERE f.run_id = r.id AND f.granted_at IS NOT NULL) AS flying
  CROSS JOIN LATERAL (
    SELECT 1 FROM agent_instances i WHERE i.run_id = r.id AND i.status = 'queued' AND i.granted_at IS NULL
    AND (i.run_after IS NULL OR i.run_after <= now()) LIMIT 1
  ) AS something
  WHERE NOT r.paused AND NOT r.cancel_requested AND flying.n < r.max_parallel
    AND NOT EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = r.id)
  ORDER BY r.priority DESC, flying.n, r.id
  LIMIT $1
)
SELECT r.id FROM runs r WHERE r.id = ANY(ARRAY(SELECT w.id FROM wanting w)) ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED";

/// Counts again what is in flight, in a snapshot that is younger than the locks.
async fn recheck(tx: &mut PgConnection, locked: &[Uuid]) -> Result<Vec<Candidate>, Failure> {
    if locked.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query(RECHECK_CANDIDATES).bind(locked).fetch_all(tx).await?;
    let candidate = |row: &sqlx::postgres::PgRow| -> Result<Candidate, sqlx::Error> {
        Ok(Candidate { run: row.try_get("id")?, priority: row.try_get("priority")?, room: row.try_get("room")? })
    };
    Ok(found.iter().map(candidate).collect::<Result<_, _>>()?)
}

const RECHECK_CANDIDATES: &str = "-- recheck_grant_candidates
SELECT r.id, r.priority::integer AS priority, r.max_parallel - flying.n AS room
FROM runs r CROSS JOIN LATERAL (SELECT count(*) AS n FROM agent_instances f WHERE f.run_id = r.id AND f.granted_at IS NOT NULL) AS flying
WHERE r.id = ANY($1) AND NOT r.paused AND NOT r.cancel_requested AND flying.n < r.max_parallel
  AND NOT EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = r.id)
ORDER BY r.priority DESC, flying.n, r.id";

/// Grants within one priority: first an equal share for every run, then what is left, in order.
async fn grant_class(tx: &mut PgConnection, runs: &[&Candidate], free: i64, per_run: i64) -> Result<Vec<Ready>, Failure> {
    let share = (free / i64::try_from(runs.len()).unwrap_or(i64::MAX).max(1)).max(1);
    let mut granted: BTreeMap<Uuid, i64> = BTreeMap::new();
    let mut ready = Vec::new();
    for at_most in [share, i64::MAX] {
        let mut left = free - i64::try_from(ready.len()).unwrap_or(i64::MAX);
        let mut wanted: (Vec<Uuid>, Vec<i64>) = Default::default();
        for run in runs {
            let has = granted.get(&run.run).copied().unwrap_or(0);
            let may = (run.room.min(per_run) - has).min(at_most).min(left);
            if may > 0 {
                left -= may;
                wanted.0.push(run.run);
                wanted.1.push(may);
            }
        }
        if wanted.0.is_empty() {
            break;
        }
        for (run, message) in grant_instances(tx, &wanted).await? {
            *granted.entry(run).or_default() += 1;
            ready.push(message);
        }
    }
    Ok(ready)
}

/// Grants up to so many instances of each run, reducers before leaves.
async fn grant_instances(tx: &mut PgConnection, wanted: &(Vec<Uuid>, Vec<i64>)) -> Result<Vec<(Uuid, Ready)>, Failure> {
    let found = sqlx::query(GRANT_INSTANCES).bind(&wanted.0).bind(&wanted.1).fetch_all(tx).await?;
    found.iter().map(|row| Ok((row.try_get("run_id")?, rows::ready(row)?))).collect()
}

const GRANT_INSTANCES: &str = "-- grant_instances
WITH picked AS (
  SELECT i.id, s.nr
  FROM (SELECT * FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY LIMIT cardinality($1)) AS s (run_id, n, nr)
  CROSS JOIN LATERAL (
    SELECT q.id FROM agent_instances q
    WHERE q.run_id = s.run_id AND q.status = 'queued' AND q.granted_at IS NULL AND NOT q.paused AND NOT q.cancel_requested
      AND (q.run_after IS NULL OR q.run_after <= now())
    ORDER BY q.level DESC, q.ordinal LIMIT s.n
    FOR UPDATE SKIP LOCKED
  ) AS i
), granted AS (
  UPDATE agent_instances i SET granted_at = now(), updated_at = now()
  FROM picked p WHERE i.id = p.id
  RETURNING i.id, i.run_id, i.level, i.ordinal, i.priority, p.nr
)
SELECT g.id, g.run_id, g.level, g.priority, r.traceparent FROM granted g JOIN runs r ON r.id = g.run_id
ORDER BY g.nr, g.level DESC, g.ordinal";

pub(super) async fn stale_grants(store: &PostgresStore, age: Duration, limit: i64) -> Result<Vec<Ready>, Failure> {
    let found = sqlx::query(STALE_GRANTS).bind(micros(age)).bind(limit).fetch_all(&store.pool).await?;
    Ok(found.iter().map(rows::ready).collect::<Result<_, _>>()?)
}

// The oldest first, so that none is forgotten. Out of the order of locks, but nothing is waited for.
const STALE_GRANTS: &str = "-- stale_grants
WITH stale AS (
  SELECT i.id, r.traceparent
  FROM agent_instances i JOIN runs r ON r.id = i.run_id
  WHERE i.status = 'queued' AND i.granted_at IS NOT NULL AND i.granted_at <= now() - $1 * interval '1 microsecond'
    AND NOT i.cancel_requested AND NOT r.cancel_requested AND NOT r.paused
  ORDER BY i.granted_at, i.id LIMIT $2
  FOR UPDATE OF i SKIP LOCKED
)
UPDATE agent_instances i SET granted_at = now()
FROM stale s WHERE i.id = s.id
RETURNING i.id, i.level, i.priority, s.traceparent";

pub(super) async fn wake_due(store: &PostgresStore, limit: i64) -> Result<u64, Failure> {
    let shard = store.shards.take();
    let mut tx = store.pool.begin().await?;
    let woken: Vec<Uuid> = sqlx::query_scalar(WAKE_DUE).bind(limit).fetch_all(&mut *tx).await?;
    let mut deltas = Deltas::new();
    for run in &woken {
        deltas.entry(RunId(*run)).or_default().waiting -= 1;
    }
    count(&mut tx, &shard, &deltas).await?;
    tx.commit().await?;
    Ok(u64::try_from(woken.len()).unwrap_or(u64::MAX))
}

// In the order of the index on the timers, so that those who wait for something else are not read. Out of the order of
// locks, but nothing is waited for.
const WAKE_DUE: &str = "-- wake_due
WITH due AS (
  SELECT i.id FROM agent_instances i
  WHERE i.status = 'waiting' AND i.run_after IS NOT NULL AND i.run_after <= now()
  ORDER BY i.run_after LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE agent_instances i SET status = 'queued', waiting_for = NULL, run_after = NULL, wake_seq = i.wake_seq + 1, updated_at = now()
FROM due d WHERE i.id = d.id
RETURNING i.run_id";
