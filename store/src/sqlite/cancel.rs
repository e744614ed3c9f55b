//! Cancelling: flags under the run's lock, and the cascade that ends what nobody holds. Level-triggered.

use muster_shared::{
    engine::Usage,
    error::{AgentError, ErrorClass},
    event::{Entry, Event},
    fsm::{State, Status},
    hash::Hash32,
    ids::{GroupId, InstanceId, RunId},
    reduce::Place,
    store::{Cascade, StoreError},
    time::Timestamp,
};
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteStore,
    apply::{self, Counters, HandOver, Logged},
    arrive::Arrival,
    ends::{self, NewOutcome},
    sql::{db, id_list},
};
use crate::rows::{self, Reader};

/// An instance that nobody holds.
struct Unheld {
    instance: InstanceId,
    run: RunId,
    group: GroupId,
    place: Place,
    epoch: i64,
    tail: (i64, Hash32),
    waits: bool,
}

/// Columns: id, run_id, group_id, level, ordinal, epoch, last_seq, last_hash, status.
fn unheld(row: &SqliteRow) -> Result<Unheld, StoreError> {
    let at = Reader::new("agent_instances", row);
    Ok(Unheld {
        instance: InstanceId(at.uuid("id")?),
        run: RunId(at.uuid("run_id")?),
        group: GroupId(at.uuid("group_id")?),
        place: rows::place(row)?,
        epoch: at.i64("epoch")?,
        tail: (at.i64("last_seq")?, at.hash("last_hash")?),
        waits: at.status("status")? == Status::Waiting,
    })
}

/// Why a run's instances are being ended.
struct Reason {
    error: AgentError,
    /// Whether a cancel, not an outcome, is the reason: the outcome follows when nothing is left.
    cancel: bool,
}

impl SqliteStore {
    /// See [`muster_shared::store::Journal::cancel_run`].
    pub(super) async fn flag_run(&self, run: RunId, why: &str) -> Result<(), StoreError> {
        if let Some(why) = rows::refused_text("the reason", why) {
            return Err(StoreError::Refused(why));
        }
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "-- run_to_cancel
             SELECT id, EXISTS (SELECT 1 FROM run_outcomes WHERE run_id = id) AS ended FROM runs WHERE id = ?1",
        )
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await
        .map_err(db)?
        .ok_or_else(|| StoreError::NotFound(run.to_string()))?;
        if Reader::new("runs", &row).bool("ended")? {
            return Err(StoreError::Conflict(format!("{run} has ended")));
        }
        sqlx::query("-- cancel_run\nUPDATE runs SET cancel_requested = 1, cancel_reason = coalesce(cancel_reason, ?2) WHERE id = ?1")
            .bind(run.0)
            .bind(why)
            .execute(&mut *tx)
            .await
            .map_err(db)?;
        tx.commit().await.map_err(db)
    }

    /// See [`muster_shared::store::Journal::cancel_instance`].
    pub(super) async fn cancel_one(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
        if let Some(why) = rows::refused_text("the reason", why) {
            return Err(StoreError::Refused(why));
        }
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "-- cancel_instance
             UPDATE agent_instances SET cancel_requested = 1 WHERE id = ?1
             RETURNING id, run_id, group_id, level, ordinal, epoch, last_seq, last_hash, status",
        )
        .bind(instance.0)
        .fetch_optional(&mut *tx)
        .await
        .map_err(db)?
        .ok_or_else(|| StoreError::NotFound(instance.to_string()))?;
        let status = Reader::new("agent_instances", &row).status("status")?;
        let cascade = match status {
            Status::Completed | Status::Failed | Status::Timeout | Status::Cancelled => {
                return Err(StoreError::Conflict(format!("{instance} has ended: {}", status.as_str())));
            }
            Status::Running => Cascade { ended: 0, left: 1 },
            Status::Queued | Status::Waiting | Status::Paused => {
                let error = AgentError::new(ErrorClass::Cancelled, "cancelled", why);
                self.end_unheld(&mut tx, &[unheld(&row)?], &error).await?;
                Cascade { ended: 1, left: 0 }
            }
        };
        tx.commit().await.map_err(db)?;
        Ok(cascade)
    }

    /// See [`muster_shared::store::Journal::cascade`].
    pub(super) async fn cascade_runs(&self, limit: i64) -> Result<Cascade, StoreError> {
        let mut all = Cascade { ended: self.end_flagged(limit).await?, left: 0 };
        let runs: Vec<uuid::Uuid> = sqlx::query_scalar(
            "-- runs_to_cascade
             SELECT r.id FROM runs r WHERE r.cancel_requested = 1 AND NOT EXISTS (SELECT 1 FROM run_outcomes o WHERE o.run_id = r.id)
             UNION
             SELECT run_id FROM run_outcomes WHERE closed = 0
             UNION
             SELECT r.id FROM runs r
             WHERE r.deadline_at IS NOT NULL AND r.deadline_at <= ?1
               AND NOT EXISTS (SELECT 1 FROM run_outcomes o WHERE o.run_id = r.id)
             ORDER BY 1",
        )
        .bind(self.now().micros())
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        for run in runs {
            let budget = limit.saturating_sub(i64::try_from(all.ended).unwrap_or(i64::MAX)).max(0);
            let one = self.cascade_run(RunId(run), budget).await?;
            all.ended += one.ended;
            all.left += one.left;
        }
        Ok(all)
    }

    /// One run, in one transaction.
    async fn cascade_run(&self, run: RunId, budget: i64) -> Result<Cascade, StoreError> {
        let mut tx = self.begin().await?;
        let now = self.now();
        let Some(reason) = reason(&mut tx, run, now).await? else { return Ok(Cascade::default()) };
        let ended = unheld_of_run(&mut tx, run, budget).await?;
        self.end_unheld(&mut tx, &ended, &reason.error).await?;
        sqlx::query(
            "-- flag_held
             UPDATE agent_instances SET cancel_requested = 1
             WHERE run_id = ?1 AND granted_at IS NOT NULL AND status = 'running' AND cancel_requested = 0",
        )
        .bind(run.0)
        .execute(&mut *tx)
        .await
        .map_err(db)?;
        let left: i64 = sqlx::query_scalar(
            "-- live_in_run
             SELECT sum(total - completed - failed - timeout - cancelled) FROM run_counters WHERE run_id = ?1",
        )
        .bind(run.0)
        .fetch_one(&mut *tx)
        .await
        .map_err(db)?;
        if left == 0 {
            close(&mut tx, run, &reason, now).await?;
        }
        tx.commit().await.map_err(db)?;
        Ok(Cascade { ended: u64::try_from(ended.len()).unwrap_or(0), left: u64::try_from(left).unwrap_or(0) })
    }

    /// In live runs, ends instances whose own flag is set and whose owner died or let go before it saw it.
    async fn end_flagged(&self, limit: i64) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let found = sqlx::query(
            "-- flagged_unheld
             SELECT id, run_id, group_id, level, ordinal, epoch, last_seq, last_hash, status
             FROM agent_instances i
             WHERE cancel_requested = 1 AND status IN ('queued', 'waiting')
               AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = i.run_id AND r.cancel_requested = 1)
               AND NOT EXISTS (SELECT 1 FROM run_outcomes o WHERE o.run_id = i.run_id)
             ORDER BY id LIMIT ?1",
        )
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(db)?;
        if found.is_empty() {
            return Ok(0);
        }
        let error = AgentError::new(ErrorClass::Cancelled, "cancelled", "the instance was cancelled");
        self.end_unheld(&mut tx, &found.iter().map(unheld).collect::<Result<Vec<_>, _>>()?, &error).await?;
        tx.commit().await.map_err(db)?;
        Ok(u64::try_from(found.len()).unwrap_or(0))
    }

    /// Ends instances that nobody holds, with all that follows. A reducer that fires gets no grant: nobody would
    /// push it, and the child that it follows may have had none.
    async fn end_unheld(&self, conn: &mut SqliteConnection, ended: &[Unheld], error: &AgentError) -> Result<(), StoreError> {
        let now = self.now();
        let (event, status, state) = if error.class == ErrorClass::Timeout {
            (Event::TimedOut(error.clone()), Status::Timeout, State::Timeout)
        } else {
            (Event::Cancelled(error.clone()), Status::Cancelled, State::Failed)
        };
        let entries: Vec<Entry> = ended.iter().map(|one| Entry::following(one.instance, one.tail, one.epoch + 1, &event, now)).collect();
        let logged: Vec<Logged<'_>> =
            ended.iter().zip(&entries).map(|(one, entry)| Logged { run: one.run, instance: one.instance, entry }).collect();
        let changes: Vec<HandOver<'_>> = ended
            .iter()
            .zip(&entries)
            .map(|(one, entry)| HandOver {
                instance: one.instance,
                status,
                state,
                step: None,
                usage: Usage::default(),
                tail: (entry.seq, entry.hash),
                waiting_for: None,
                run_after: None,
                granted_at: None,
                output: None,
                error: Some(rows::error_json(error)),
            })
            .collect();
        let mut counters = Counters::default();
        for one in ended {
            let delta = counters.of(one.run);
            delta.ended(status);
            delta.waiting -= i64::from(one.waits);
        }
        apply::insert_events(conn, &logged).await?;
        apply::hand_over(conn, &changes, now).await?;
        let arrivals = self.arrivals_in_live_runs(conn, ended, error).await?;
        if !arrivals.is_empty() {
            self.arrive(conn, arrivals, None, &mut counters, now).await?;
        }
        counters.write(conn).await
    }

    async fn arrivals_in_live_runs<'w>(
        &self,
        conn: &mut SqliteConnection,
        ended: &[Unheld],
        error: &'w AgentError,
    ) -> Result<Vec<Arrival<'w>>, StoreError> {
        let runs = id_list(ended.iter().map(|one| one.run.0).collect::<std::collections::BTreeSet<_>>());
        let live: Vec<uuid::Uuid> = sqlx::query_scalar(
            "-- live_runs
             SELECT id FROM runs
             WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND cancel_requested = 0
               AND NOT EXISTS (SELECT 1 FROM run_outcomes WHERE run_id = id)",
        )
        .bind(runs)
        .fetch_all(&mut *conn)
        .await
        .map_err(db)?;
        let mut arrivals = Vec::new();
        for (cause, one) in ended.iter().enumerate().filter(|(_, one)| live.contains(&one.run.0)) {
            let group = self.group_of(conn, one.group).await?.row.clone();
            arrivals.push(Arrival { cause, instance: one.instance, group, place: one.place, error: Some(error) });
        }
        Ok(arrivals)
    }
}

/// Why the instances of this run are to end, if they are. A deadline that passed becomes the outcome here.
async fn reason(conn: &mut SqliteConnection, run: RunId, now: Timestamp) -> Result<Option<Reason>, StoreError> {
    let row = sqlx::query(
        "-- why_cascade
         SELECT r.id, r.cancel_requested, r.cancel_reason, r.deadline_at, o.status AS outcome, o.closed
         FROM runs r LEFT JOIN run_outcomes o ON o.run_id = r.id WHERE r.id = ?1",
    )
    .bind(run.0)
    .fetch_one(&mut *conn)
    .await
    .map_err(db)?;
    let at = Reader::new("runs", &row);
    let deadline = || AgentError::new(ErrorClass::Timeout, "deadline", "the deadline of the run passed");
    if let Some(outcome) = at.text_opt("outcome")? {
        if at.bool("closed")? {
            return Ok(None);
        }
        let error = match outcome.as_str() {
            "timeout" => deadline(),
            status => AgentError::new(ErrorClass::Cancelled, "run_ended", format!("the run has ended: {status}")),
        };
        return Ok(Some(Reason { error, cancel: false }));
    }
    if at.bool("cancel_requested")? {
        let why = at.text_opt("cancel_reason")?.unwrap_or_else(|| "the run was cancelled".to_owned());
        return Ok(Some(Reason { error: AgentError::new(ErrorClass::Cancelled, "cancelled", why), cancel: true }));
    }
    if at.timestamp_opt("deadline_at")?.is_none_or(|deadline| deadline > now) {
        return Ok(None);
    }
    let error = rows::error_json(&deadline());
    let outcome = NewOutcome { run, status: "timeout", result: None, error: Some(&error), closed: false };
    ends::insert_outcome(conn, &outcome, now).await?;
    Ok(Some(Reason { error: deadline(), cancel: false }))
}

/// Up to `limit` queued and waiting instances of a run, each sort by its own index.
async fn unheld_of_run(conn: &mut SqliteConnection, run: RunId, limit: i64) -> Result<Vec<Unheld>, StoreError> {
    let found = sqlx::query(
        "-- unheld_of_run
         SELECT id, run_id, group_id, level, ordinal, epoch, last_seq, last_hash, status FROM (
             SELECT * FROM agent_instances WHERE run_id = ?1 AND status = 'queued' AND granted_at IS NULL
             UNION ALL
             SELECT * FROM agent_instances WHERE run_id = ?1 AND status = 'queued' AND granted_at IS NOT NULL
             UNION ALL
             SELECT * FROM agent_instances WHERE run_id = ?1 AND status = 'waiting'
         ) LIMIT ?2",
    )
    .bind(run.0)
    .bind(limit)
    .fetch_all(conn)
    .await
    .map_err(db)?;
    found.iter().map(unheld).collect()
}

/// Nothing is live any more.
async fn close(conn: &mut SqliteConnection, run: RunId, reason: &Reason, now: Timestamp) -> Result<(), StoreError> {
    if reason.cancel {
        let error = rows::error_json(&reason.error);
        let outcome = NewOutcome { run, status: "cancelled", result: None, error: Some(&error), closed: true };
        ends::insert_outcome(conn, &outcome, now).await?;
    }
    sqlx::query("-- close_run\nUPDATE run_outcomes SET closed = 1 WHERE run_id = ?1 AND closed = 0")
        .bind(run.0)
        .execute(conn)
        .await
        .map_err(db)?;
    Ok(())
}
