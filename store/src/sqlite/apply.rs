//! Writing accepted changes: log entries, instance rows, counters. Several rows per statement; no decisions.

use std::collections::BTreeMap;

use muster_shared::{
    engine::Usage,
    event::Entry,
    fsm::{State, Status},
    hash::Hash32,
    ids::{InstanceId, RunId},
    store::StoreError,
    time::Timestamp,
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::sql::{db, portions, with_values};

/// An entry for the log of one instance.
#[derive(Clone, Copy)]
pub(super) struct Logged<'w> {
    pub(super) run: RunId,
    pub(super) instance: InstanceId,
    pub(super) entry: &'w Entry,
}

/// Progress of an instance that stays with its owner.
pub(super) struct Advance {
    pub(super) instance: InstanceId,
    pub(super) state: State,
    pub(super) step: i32,
    pub(super) usage: Usage,
    pub(super) tail: (i64, Hash32),
}

/// An instance that leaves its owner (or, with none, is ended by somebody else): the epoch rises.
pub(super) struct HandOver<'w> {
    pub(super) instance: InstanceId,
    pub(super) status: Status,
    pub(super) state: State,
    /// Unchanged when absent.
    pub(super) step: Option<i32>,
    pub(super) usage: Usage,
    pub(super) tail: (i64, Hash32),
    pub(super) waiting_for: Option<&'static str>,
    pub(super) run_after: Option<Timestamp>,
    pub(super) granted_at: Option<Timestamp>,
    pub(super) output: Option<&'w str>,
    pub(super) error: Option<String>,
}

/// What a transaction adds to the counters of its runs.
#[derive(Default)]
pub(super) struct Counters(BTreeMap<RunId, Delta>);

/// What is added to one run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) total: i64,
    pub(super) waiting: i64,
    pub(super) completed: i64,
    pub(super) failed: i64,
    pub(super) timeout: i64,
    pub(super) cancelled: i64,
    pub(super) steps: i64,
    pub(super) usage: Usage,
}

impl Delta {
    /// Counts one instance that ended.
    pub(super) const fn ended(&mut self, status: Status) {
        match status {
            Status::Completed => self.completed += 1,
            Status::Failed => self.failed += 1,
            Status::Timeout => self.timeout += 1,
            Status::Cancelled => self.cancelled += 1,
            Status::Queued | Status::Running | Status::Waiting | Status::Paused => {}
        }
    }
}

impl Counters {
    /// The delta of one run.
    pub(super) fn of(&mut self, run: RunId) -> &mut Delta {
        self.0.entry(run).or_default()
    }

    /// Adds everything, run by run.
    pub(super) async fn write(self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        for (run, delta) in self.0 {
            sqlx::query(
                "-- add_counters
                 UPDATE run_counters SET total = total + ?2, waiting = waiting + ?3, completed = completed + ?4,
                     failed = failed + ?5, timeout = timeout + ?6, cancelled = cancelled + ?7, steps = steps + ?8,
                     input_tokens = input_tokens + ?9, output_tokens = output_tokens + ?10, cost_micros = cost_micros + ?11
                 WHERE run_id = ?1 AND shard = 0",
            )
            .bind(run.0)
            .bind(delta.total)
            .bind(delta.waiting)
            .bind(delta.completed)
            .bind(delta.failed)
            .bind(delta.timeout)
            .bind(delta.cancelled)
            .bind(delta.steps)
            .bind(delta.usage.input_tokens)
            .bind(delta.usage.output_tokens)
            .bind(delta.usage.cost_micros)
            .execute(&mut *conn)
            .await
            .map_err(db)?;
        }
        Ok(())
    }
}

/// Appends to the logs. The key refuses a fork.
pub(super) async fn insert_events(conn: &mut SqliteConnection, entries: &[Logged<'_>]) -> Result<(), StoreError> {
    const HEAD: &str = "-- insert_events
        INSERT INTO agent_events (run_id, instance_id, seq, epoch, type, payload, at, hash) VALUES";
    for portion in portions(entries) {
        let mut insert = sqlx::query(AssertSqlSafe(with_values(HEAD, portion.len(), 8, "")));
        for Logged { run, instance, entry } in portion {
            insert = insert
                .bind(run.0)
                .bind(instance.0)
                .bind(entry.seq)
                .bind(entry.epoch)
                .bind(entry.kind.as_str())
                .bind(entry.payload.as_str())
                .bind(entry.at.micros())
                .bind(&entry.hash.0[..]);
        }
        insert.execute(&mut *conn).await.map_err(db)?;
    }
    Ok(())
}

/// The projections of instances that go on. Touches no index.
pub(super) async fn advance(conn: &mut SqliteConnection, changes: &[Advance], now: Timestamp) -> Result<(), StoreError> {
    const HEAD: &str = "-- advance
        UPDATE agent_instances SET state = w.column2, step = w.column3, input_tokens = input_tokens + w.column4,
            output_tokens = output_tokens + w.column5, cost_micros = cost_micros + w.column6, last_seq = w.column7,
            last_hash = w.column8, updated_at = ?
        FROM (VALUES";
    for portion in portions(changes) {
        let sql = with_values(HEAD, portion.len(), 8, ") AS w WHERE id = w.column1");
        let mut update = sqlx::query(AssertSqlSafe(sql)).bind(now.micros());
        for change in portion {
            update = update
                .bind(change.instance.0)
                .bind(change.state.as_str())
                .bind(change.step)
                .bind(change.usage.input_tokens)
                .bind(change.usage.output_tokens)
                .bind(change.usage.cost_micros)
                .bind(change.tail.0)
                .bind(change.tail.1.0.to_vec());
        }
        let changed = update.execute(&mut *conn).await.map_err(db)?.rows_affected();
        all_changed(portion.len(), changed)?;
    }
    Ok(())
}

/// The rows of instances that leave their owner.
pub(super) async fn hand_over(conn: &mut SqliteConnection, changes: &[HandOver<'_>], now: Timestamp) -> Result<(), StoreError> {
    const HEAD: &str = "-- hand_over
        UPDATE agent_instances SET epoch = epoch + 1, worker_incarnation = NULL, status = w.column2, state = w.column3,
            step = coalesce(w.column4, step), input_tokens = input_tokens + w.column5,
            output_tokens = output_tokens + w.column6, cost_micros = cost_micros + w.column7, last_seq = w.column8,
            last_hash = w.column9, waiting_for = w.column10, run_after = w.column11, granted_at = w.column12,
            output = w.column13, error = w.column14, updated_at = ?
        FROM (VALUES";
    for portion in portions(changes) {
        let sql = with_values(HEAD, portion.len(), 14, ") AS w WHERE id = w.column1");
        let mut update = sqlx::query(AssertSqlSafe(sql)).bind(now.micros());
        for change in portion {
            update = update
                .bind(change.instance.0)
                .bind(change.status.as_str())
                .bind(change.state.as_str())
                .bind(change.step)
                .bind(change.usage.input_tokens)
                .bind(change.usage.output_tokens)
                .bind(change.usage.cost_micros)
                .bind(change.tail.0)
                .bind(change.tail.1.0.to_vec())
                .bind(change.waiting_for)
                .bind(change.run_after.map(Timestamp::micros))
                .bind(change.granted_at.map(Timestamp::micros))
                .bind(change.output)
                .bind(change.error.as_deref());
        }
        let changed = update.execute(&mut *conn).await.map_err(db)?.rows_affected();
        all_changed(portion.len(), changed)?;
    }
    Ok(())
}

/// The fence was read in the same exclusive transaction: a row that is not there now is corruption, not a race.
fn all_changed(wanted: usize, changed: u64) -> Result<(), StoreError> {
    if u64::try_from(wanted) == Ok(changed) {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!("agent_instances: {wanted} rows were to change, {changed} did")))
}
