//! Who owns what: workers, claims, leases given back. Dispatch and recovery are in [`super::dispatch`].

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use muster_shared::{
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId},
    queue::Ready,
    store::{Claimed, Claims, Entry, GrantWindow, Heartbeat, Lease, StoreError, WorkerRow},
};

use super::{
    SqliteStore,
    sql::{db, id_list, json_list},
};
use crate::rows::{self, Reader};

#[async_trait]
impl Claims for SqliteStore {
    async fn register(&self, worker: &WorkerRow) -> Result<(), StoreError> {
        // Repeated after an answer that was lost, it changes nothing but the heartbeat.
        let alive: bool = sqlx::query_scalar(
            "-- register_worker
             INSERT INTO workers (incarnation, name, slots, version, alive, heartbeat_at, registered_at)
             VALUES (?1, ?2, ?3, ?4, 1, ?5, ?5)
             ON CONFLICT (incarnation) DO UPDATE SET heartbeat_at = CASE WHEN alive = 1 THEN excluded.heartbeat_at ELSE heartbeat_at END
             RETURNING alive",
        )
        .bind(worker.incarnation.0)
        .bind(&worker.name)
        .bind(worker.slots)
        .bind(&worker.version)
        .bind(self.now().micros())
        .fetch_one(&self.writer)
        .await
        .map_err(db)?;
        // Death is one-way (rule 4): it starts again under a new incarnation.
        if alive { Ok(()) } else { Err(StoreError::Conflict(format!("worker {} was declared dead", worker.incarnation))) }
    }

    async fn heartbeat(&self, worker: Incarnation) -> Result<Heartbeat, StoreError> {
        let beat = sqlx::query("-- heartbeat\nUPDATE workers SET heartbeat_at = ?2 WHERE incarnation = ?1 AND alive = 1")
            .bind(worker.0)
            .bind(self.now().micros())
            .execute(&self.writer)
            .await
            .map_err(db)?;
        if beat.rows_affected() == 0 {
            return Ok(Heartbeat::Dead);
        }
        let cancel: Vec<uuid::Uuid> = sqlx::query_scalar(
            "-- held_to_cancel
             SELECT i.id FROM agent_instances i JOIN runs r ON r.id = i.run_id
             WHERE i.worker_incarnation = ?1 AND i.status = 'running' AND (i.cancel_requested = 1 OR r.cancel_requested = 1)
             ORDER BY i.id",
        )
        .bind(worker.0)
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        Ok(Heartbeat::Alive { cancel: cancel.into_iter().map(InstanceId).collect() })
    }

    async fn retire(&self, worker: Incarnation) -> Result<(), StoreError> {
        sqlx::query("-- retire_worker\nUPDATE workers SET alive = 0 WHERE incarnation = ?1")
            .bind(worker.0)
            .execute(&self.writer)
            .await
            .map_err(db)?;
        Ok(())
    }

    async fn claim(&self, worker: Incarnation, core_rev: i32, ids: &[InstanceId]) -> Result<Vec<Claimed>, StoreError> {
        self.claim_granted(worker, core_rev, ids).await
    }

    async fn logs(&self, of: &[&Claimed]) -> Result<Vec<Vec<Entry>>, StoreError> {
        self.read_logs(of).await
    }

    async fn owned(&self, worker: Incarnation) -> Result<Vec<Lease>, StoreError> {
        let found = sqlx::query(
            "-- owned
             SELECT id, run_id, epoch, worker_incarnation FROM agent_instances
             WHERE worker_incarnation = ?1 AND status = 'running' ORDER BY id",
        )
        .bind(worker.0)
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        found.iter().map(rows::lease).collect()
    }

    async fn give_back(&self, leases: &[Lease]) -> Result<u64, StoreError> {
        self.requeue(leases).await
    }

    async fn elect(&self, role: &str, holder: Incarnation, ttl: Duration) -> Result<bool, StoreError> {
        self.elect_holder(role, holder, ttl).await
    }

    async fn grant(&self, window: GrantWindow) -> Result<Vec<Ready>, StoreError> {
        self.grant_round(window).await
    }

    async fn stale_grants(&self, age: Duration, limit: i64) -> Result<Vec<Ready>, StoreError> {
        self.stamp_stale(age, limit).await
    }

    async fn bury(&self, ttl: Duration) -> Result<Vec<Incarnation>, StoreError> {
        self.bury_silent(ttl).await
    }

    async fn sweep(&self, limit: i64) -> Result<u64, StoreError> {
        self.sweep_dead(limit).await
    }

    async fn wake_due(&self, limit: i64) -> Result<u64, StoreError> {
        self.wake_timers(limit).await
    }
}

impl SqliteStore {
    async fn claim_granted(&self, worker: Incarnation, core_rev: i32, ids: &[InstanceId]) -> Result<Vec<Claimed>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        let found = sqlx::query(
            "-- claim
             UPDATE agent_instances SET status = 'running', worker_incarnation = ?2, epoch = epoch + 1,
                 started_at = coalesce(started_at, ?4), updated_at = ?4
             WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND status = 'queued' AND granted_at IS NOT NULL
               AND core_rev <= ?3 AND cancel_requested = 0 AND paused = 0
               AND EXISTS (SELECT 1 FROM runs r WHERE r.id = run_id AND r.cancel_requested = 0 AND r.paused = 0)
               AND NOT EXISTS (SELECT 1 FROM run_outcomes o WHERE o.run_id = agent_instances.run_id)
               AND EXISTS (SELECT 1 FROM workers w WHERE w.incarnation = ?2 AND w.alive = 1)
             RETURNING id, run_id, epoch, worker_incarnation, group_id, level, ordinal, name, role, task, policy_hash,
                 context_hash, last_seq, last_hash, wake_seq, ?4 - started_at AS elapsed_micros,
                 (SELECT traceparent FROM runs WHERE runs.id = run_id) AS traceparent",
        )
        .bind(id_list(ids.iter().map(|id| id.0)))
        .bind(worker.0)
        .bind(core_rev)
        .bind(self.now().micros())
        .fetch_all(&mut *tx)
        .await
        .map_err(db)?;
        let mut claimed = HashMap::with_capacity(found.len());
        for row in &found {
            let group = GroupId(Reader::new("agent_instances", row).uuid("group_id")?);
            let group = self.group_of(&mut tx, group).await?.row.clone();
            let one = rows::claimed(row, group)?;
            claimed.insert(one.lease.instance, one);
        }
        tx.commit().await.map_err(db)?;
        // In the order asked: reducers were put first.
        Ok(ids.iter().filter_map(|id| claimed.remove(id)).collect())
    }

    async fn read_logs(&self, of: &[&Claimed]) -> Result<Vec<Vec<Entry>>, StoreError> {
        // A first claim has no log to miss anything of: its own answer says that there was none.
        let begun = of.iter().enumerate().filter(|(_, one)| one.last_seq > 0);
        let asked: Vec<String> =
            begun.map(|(place, one)| format!("[{place},\"{}\",\"{}\"]", one.lease.run.0.simple(), one.lease.instance.0.simple())).collect();
        let mut logs = vec![Vec::new(); of.len()];
        if asked.is_empty() {
            return Ok(logs);
        }
        let found = sqlx::query(
            "-- logs
             SELECT given.value ->> 0 AS place, e.run_id, e.instance_id, e.seq, e.epoch, e.type, e.payload, e.at, e.hash
             FROM json_each(?1) AS given
             CROSS JOIN agent_events e ON e.run_id = unhex(given.value ->> 1) AND e.instance_id = unhex(given.value ->> 2)
             ORDER BY given.key, e.seq",
        )
        .bind(json_list(asked))
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        for row in &found {
            let place = usize::try_from(Reader::new("agent_events", row).i64("place")?).unwrap_or(usize::MAX);
            if let Some(log) = logs.get_mut(place) {
                log.push(rows::stored_event(row)?);
            }
        }
        for (one, log) in of.iter().zip(&logs) {
            let tail = log.last().map_or((0, Hash32::ZERO), |event: &Entry| (event.seq, event.hash));
            if tail != (one.last_seq, one.last_hash) {
                return Err(StoreError::Conflict(format!(
                    "the log of {} ends at {}, but it was claimed at {}",
                    one.lease.instance, tail.0, one.last_seq
                )));
            }
        }
        Ok(logs)
    }

    async fn requeue(&self, leases: &[Lease]) -> Result<u64, StoreError> {
        if leases.is_empty() {
            return Ok(0);
        }
        let given =
            leases.iter().map(|lease| format!("[\"{}\",{},\"{}\"]", lease.instance.0.simple(), lease.epoch, lease.worker.0.simple()));
        let returned = sqlx::query(
            "-- give_back
             UPDATE agent_instances SET status = 'queued', worker_incarnation = NULL, granted_at = NULL, epoch = epoch + 1,
                 updated_at = ?2
             FROM json_each(?1) AS given
             WHERE agent_instances.id = unhex(given.value ->> 0) AND epoch = given.value ->> 1
               AND worker_incarnation = unhex(given.value ->> 2) AND status = 'running'",
        )
        .bind(json_list(given))
        .bind(self.now().micros())
        .execute(&self.writer)
        .await
        .map_err(db)?;
        Ok(returned.rows_affected())
    }
}
