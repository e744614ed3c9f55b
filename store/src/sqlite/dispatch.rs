//! Dispatch and recovery: the elected role, grants, timers, dead workers. All level-triggered.

use std::{collections::VecDeque, time::Duration};

use muster_shared::{
    ids::{Incarnation, RunId},
    queue::Ready,
    store::{GrantWindow, StoreError},
    time::Timestamp,
};
use sqlx::SqliteConnection;

use super::{SqliteStore, sql::db};
use crate::rows::{self, Reader};

/// A worker counts for the window while its heartbeat is younger than this.
pub(super) const FRESH: Duration = Duration::from_secs(30);

/// The moment `age` ago.
pub(super) fn before(now: Timestamp, age: Duration) -> i64 {
    now.micros().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
}

/// A run that may be granted more.
struct Candidate {
    run: RunId,
    priority: i32,
    /// What `max_parallel` leaves.
    room: i64,
}

impl SqliteStore {
    pub(super) async fn elect_holder(&self, role: &str, holder: Incarnation, ttl: Duration) -> Result<bool, StoreError> {
        let now = self.now();
        let elected = sqlx::query(
            "-- elect
             INSERT INTO role_leases (role, holder, expires_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (role) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
             WHERE role_leases.expires_at <= ?4 OR role_leases.holder = excluded.holder",
        )
        .bind(role)
        .bind(holder.0)
        .bind(now.plus(ttl).micros())
        .bind(now.micros())
        .execute(&self.writer)
        .await
        .map_err(db)?;
        Ok(elected.rows_affected() == 1)
    }

    pub(super) async fn grant_round(&self, window: GrantWindow) -> Result<Vec<Ready>, StoreError> {
        let mut tx = self.begin().await?;
        let now = self.now();
        let mut free = free_window(&mut tx, window, now).await?;
        let mut granted = Vec::new();
        if free == 0 {
            return Ok(granted);
        }
        let mut candidates = candidates(&mut tx, now).await?;
        // By priority; within one, equal shares first, then what is left over to whoever can take it.
        while let (Some(first), true) = (candidates.front(), free > 0) {
            let priority = first.priority;
            let end = candidates.iter().position(|candidate| candidate.priority != priority).unwrap_or(candidates.len());
            let class: Vec<Candidate> = candidates.drain(..end).collect();
            for (run, count) in shares(&class, free, window.per_run) {
                let made = grant_run(&mut tx, run, count, now).await?;
                free -= i64::try_from(made.len()).unwrap_or(i64::MAX);
                granted.extend(made);
            }
        }
        tx.commit().await.map_err(db)?;
        Ok(granted)
    }

    pub(super) async fn stamp_stale(&self, age: Duration, limit: i64) -> Result<Vec<Ready>, StoreError> {
        let now = self.now();
        let found = sqlx::query(
            "-- stale_grants
             UPDATE agent_instances SET granted_at = ?2
             WHERE id IN (SELECT i.id FROM agent_instances i JOIN runs r ON r.id = i.run_id
                          WHERE i.granted_at IS NOT NULL AND i.status = 'queued' AND i.granted_at <= ?1
                            AND i.cancel_requested = 0 AND r.cancel_requested = 0 AND r.paused = 0
                          ORDER BY i.granted_at, i.id LIMIT ?3)
             RETURNING id, priority, level, (SELECT traceparent FROM runs WHERE runs.id = run_id) AS traceparent",
        )
        .bind(before(now, age))
        .bind(now.micros())
        .bind(limit)
        .fetch_all(&self.writer)
        .await
        .map_err(db)?;
        found.iter().map(rows::ready).collect()
    }

    pub(super) async fn bury_silent(&self, ttl: Duration) -> Result<Vec<Incarnation>, StoreError> {
        let dead: Vec<uuid::Uuid> =
            sqlx::query_scalar("-- bury\nUPDATE workers SET alive = 0 WHERE alive = 1 AND heartbeat_at <= ?1 RETURNING incarnation")
                .bind(before(self.now(), ttl))
                .fetch_all(&self.writer)
                .await
                .map_err(db)?;
        Ok(dead.into_iter().map(Incarnation).collect())
    }

    pub(super) async fn sweep_dead(&self, limit: i64) -> Result<u64, StoreError> {
        let swept = sqlx::query(
            "-- sweep
             UPDATE agent_instances SET status = 'queued', worker_incarnation = NULL, granted_at = NULL, epoch = epoch + 1,
                 deaths = CASE WHEN deaths_at_seq = last_seq THEN deaths + 1 ELSE 1 END, deaths_at_seq = last_seq, updated_at = ?1
             WHERE id IN (SELECT i.id FROM agent_instances i
                          WHERE i.status = 'running'
                            AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.incarnation = i.worker_incarnation AND w.alive = 1)
                          LIMIT ?2)",
        )
        .bind(self.now().micros())
        .bind(limit)
        .execute(&self.writer)
        .await
        .map_err(db)?;
        Ok(swept.rows_affected())
    }

    pub(super) async fn wake_timers(&self, limit: i64) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let now = self.now();
        let woken: Vec<uuid::Uuid> = sqlx::query_scalar(
            "-- wake_due
             UPDATE agent_instances SET status = 'queued', waiting_for = NULL, run_after = NULL, wake_seq = wake_seq + 1,
                 updated_at = ?1
             WHERE id IN (SELECT id FROM agent_instances WHERE status = 'waiting' AND run_after IS NOT NULL AND run_after <= ?1
                          ORDER BY run_after LIMIT ?2)
             RETURNING run_id",
        )
        .bind(now.micros())
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(db)?;
        let mut counters = super::apply::Counters::default();
        woken.iter().for_each(|run| counters.of(RunId(*run)).waiting -= 1);
        counters.write(&mut tx).await?;
        tx.commit().await.map_err(db)?;
        Ok(u64::try_from(woken.len()).unwrap_or(0))
    }
}

/// How many instances may be granted now: a multiple of the fleet's slots, less what is in flight.
async fn free_window(conn: &mut SqliteConnection, window: GrantWindow, now: Timestamp) -> Result<i64, StoreError> {
    let row = sqlx::query(
        "-- window
         SELECT (SELECT coalesce(sum(slots), 0) FROM workers WHERE alive = 1 AND heartbeat_at > ?1) AS slots,
                (SELECT count(*) FROM agent_instances WHERE granted_at IS NOT NULL) AS in_flight",
    )
    .bind(before(now, FRESH))
    .fetch_one(conn)
    .await
    .map_err(db)?;
    let at = Reader::new("workers", &row);
    let wanted = at.i64("slots")?.saturating_mul(i64::from(window.slots_percent)) / 100;
    Ok((wanted - at.i64("in_flight")?).clamp(0, window.round.max(0)))
}

/// Runs with something due, by priority, then those with least in flight. The recursion hops from run to run in
/// the index, so that its cost is the number of runs, not of instances.
async fn candidates(conn: &mut SqliteConnection, now: Timestamp) -> Result<VecDeque<Candidate>, StoreError> {
    let found = sqlx::query(
        "-- grant_candidates
         WITH RECURSIVE due (run_id) AS (
             SELECT * FROM (SELECT run_id FROM agent_instances WHERE status = 'queued' AND granted_at IS NULL ORDER BY run_id LIMIT 1)
             UNION ALL
             SELECT (SELECT i.run_id FROM agent_instances i
                     WHERE i.status = 'queued' AND i.granted_at IS NULL AND i.run_id > due.run_id ORDER BY i.run_id LIMIT 1)
             FROM due WHERE due.run_id IS NOT NULL
         ), busy AS (
             SELECT r.id, r.priority, r.max_parallel,
                    (SELECT count(*) FROM agent_instances g WHERE g.run_id = r.id AND g.granted_at IS NOT NULL) AS in_flight
             FROM due JOIN runs r ON r.id = due.run_id
             WHERE r.paused = 0 AND r.cancel_requested = 0
               AND NOT EXISTS (SELECT 1 FROM run_outcomes o WHERE o.run_id = r.id)
               AND EXISTS (SELECT 1 FROM agent_instances i
                           WHERE i.run_id = r.id AND i.status = 'queued' AND i.granted_at IS NULL AND i.paused = 0
                             AND i.cancel_requested = 0 AND (i.run_after IS NULL OR i.run_after <= ?1))
         )
         SELECT id, priority, max_parallel - in_flight AS room FROM busy WHERE in_flight < max_parallel
         ORDER BY priority DESC, in_flight, id LIMIT 64",
    )
    .bind(now.micros())
    .fetch_all(conn)
    .await
    .map_err(db)?;
    let read = |row| {
        let at = Reader::new("runs", row);
        Ok(Candidate { run: RunId(at.uuid("id")?), priority: at.i32("priority")?, room: at.i64("room")? })
    };
    found.iter().map(read).collect()
}

/// How the window is divided among runs of one priority: equal shares, then the rest in order.
fn shares(class: &[Candidate], free: i64, per_run: i64) -> Vec<(RunId, i64)> {
    let runs = i64::try_from(class.len()).unwrap_or(i64::MAX).max(1);
    let (equal, mut left) = ((free / runs).max(1), free);
    let mut shares: Vec<(RunId, i64, i64)> = Vec::with_capacity(class.len());
    for candidate in class {
        let most = candidate.room.min(per_run).max(0);
        let share = most.min(equal).min(left);
        left -= share;
        shares.push((candidate.run, share, most));
    }
    for (_, share, most) in &mut shares {
        let more = (*most - *share).min(left);
        *share += more;
        left -= more;
    }
    shares.into_iter().map(|(run, share, _)| (run, share)).filter(|(_, share)| *share > 0).collect()
}

/// Grants up to `count` due instances of one run: reducers before leaves.
async fn grant_run(conn: &mut SqliteConnection, run: RunId, count: i64, now: Timestamp) -> Result<Vec<Ready>, StoreError> {
    let found = sqlx::query(
        "-- grant
         UPDATE agent_instances SET granted_at = ?2
         WHERE id IN (SELECT id FROM agent_instances
                      WHERE run_id = ?1 AND status = 'queued' AND granted_at IS NULL AND paused = 0 AND cancel_requested = 0
                        AND (run_after IS NULL OR run_after <= ?2)
                      ORDER BY level DESC, ordinal LIMIT ?3)
         RETURNING id, priority, level, ordinal, (SELECT traceparent FROM runs WHERE runs.id = run_id) AS traceparent",
    )
    .bind(run.0)
    .bind(now.micros())
    .bind(count)
    .fetch_all(conn)
    .await
    .map_err(db)?;
    let mut granted = Vec::with_capacity(found.len());
    for row in &found {
        let at = Reader::new("agent_instances", row);
        granted.push((-at.i32("level")?, at.i64("ordinal")?, rows::ready(row)?));
    }
    granted.sort_by_key(|(level, ordinal, _)| (*level, *ordinal));
    Ok(granted.into_iter().map(|(.., ready)| ready).collect())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn class(rooms: &[i64]) -> Vec<Candidate> {
        (0_u128..).zip(rooms).map(|(n, room)| Candidate { run: RunId(Uuid::from_u128(n)), priority: 5, room: *room }).collect()
    }

    fn counts(rooms: &[i64], free: i64, per_run: i64) -> Vec<i64> {
        shares(&class(rooms), free, per_run).into_iter().map(|(_, share)| share).collect()
    }

    #[test]
    fn runs_of_one_priority_share_equally_and_what_one_cannot_take_goes_to_the_next() {
        assert_eq!(counts(&[100, 100], 10, 100), [5, 5]);
        assert_eq!(counts(&[3, 100], 10, 100), [3, 7]);
        assert_eq!(counts(&[100, 100], 10, 4), [4, 4]);
        assert_eq!(counts(&[100, 100, 100], 2, 100), [1, 1]);
        assert!(counts(&[100], 0, 100).is_empty());
    }
}
