//! Ends what nobody holds in runs that are over: cancelled, failed, past their deadline. Level-triggered: every
//! pass looks at what is there, so that a crash, or another process doing the same, changes nothing.
//!
//! A pass over a run is one transaction that excludes other passes and grants, not the workers' commits; closing the
//! run is another, which excludes everybody.

use muster_shared::{
    error::{AgentError, ErrorClass},
    event::{Entry, Event},
    fsm::{State, Status},
    ids::{InstanceId, RunId},
    store::{Cascade, StoreError},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    PostgresStore,
    cancel::cancel_left_over,
    counters::{Deltas, count},
    errors::{Failure, retrying},
    events::EventColumns,
};
use crate::rows::{self, Reader};

/// Runs read at once.
const RUNS: i64 = 64;

/// How instances are ended from outside.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// Somebody cancelled them, or their run failed without them.
    Cancelled(AgentError),
    /// The deadline of their run passed.
    TimedOut(AgentError),
}

impl Ending {
    pub(super) fn cancelled(why: &str) -> Self {
        Self::Cancelled(AgentError::new(ErrorClass::Cancelled, "cancelled", why))
    }

    pub(super) const fn error(&self) -> &AgentError {
        match self {
            Self::Cancelled(error) | Self::TimedOut(error) => error,
        }
    }

    const fn status(&self) -> Status {
        match self {
            Self::Cancelled(_) => Status::Cancelled,
            Self::TimedOut(_) => Status::Timeout,
        }
    }

    const fn state(&self) -> State {
        match self {
            Self::Cancelled(_) => State::Failed,
            Self::TimedOut(_) => State::Timeout,
        }
    }

    fn event(&self) -> Event {
        match self {
            Self::Cancelled(error) => Event::Cancelled(error.clone()),
            Self::TimedOut(error) => Event::TimedOut(error.clone()),
        }
    }
}

/// A locked instance that is queued or waiting.
pub(super) struct Unheld {
    pub(super) id: InstanceId,
    pub(super) run: RunId,
    pub(super) epoch: i64,
    pub(super) last_seq: i64,
    pub(super) last_hash: muster_shared::hash::Hash32,
    pub(super) waiting: bool,
}

/// Appends the last event to the logs of locked instances that nobody holds, and ends them.
pub(super) async fn end_unheld(
    store: &PostgresStore,
    tx: &mut PgConnection,
    unheld: &[Unheld],
    how: &Ending,
    deltas: &mut Deltas,
) -> Result<(), Failure> {
    if unheld.is_empty() {
        return Ok(());
    }
    let (event, at) = (how.event(), store.now());
    let entries: Vec<Entry> =
        unheld.iter().map(|one| Entry::following(one.id, (one.last_seq, one.last_hash), one.epoch + 1, &event, at)).collect();
    let mut columns = EventColumns::default();
    for (one, entry) in unheld.iter().zip(&entries) {
        columns.push(one.run, one.id, entry);
        let delta = deltas.entry(one.run).or_default();
        delta.enter(how.status());
        delta.waiting -= i64::from(one.waiting);
    }
    columns
        .bind(sqlx::query(END_UNHELD))
        .bind(how.status().as_str())
        .bind(how.state().as_str())
        .bind(rows::error_json(how.error()))
        .execute(tx)
        .await?;
    Ok(())
}

const END_UNHELD: &str = "-- end_unheld
WITH e AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bytea[])
    AS e (run_id, instance_id, seq, epoch, type, payload, at, hash) LIMIT cardinality($1)
), logged AS (
  INSERT INTO agent_events (run_id, instance_id, seq, epoch, type, payload, at, hash)
  SELECT e.run_id, e.instance_id, e.seq, e.epoch, e.type, e.payload::json, timestamptz 'epoch' + e.at * interval '1 microsecond', e.hash FROM e
)
UPDATE agent_instances i
SET status = $9, state = $10, error = $11::json, epoch = e.epoch, last_seq = e.seq, last_hash = e.hash,
    waiting_for = NULL, run_after = NULL, granted_at = NULL, updated_at = now()
FROM e WHERE i.id = e.instance_id";

pub(super) async fn cascade(store: &PostgresStore, limit: i64) -> Result<Cascade, StoreError> {
    let mut sum = Cascade::default();
    let mut after = Some(Uuid::nil());
    // All of them: those that are still held, for however long, must not stand before the others.
    while let Some(last) = after {
        let runs: Vec<Uuid> = sqlx::query_scalar(RUNS_OVER).bind(RUNS).bind(last).fetch_all(&store.pool).await.map_err(Failure::from)?;
        for run in &runs {
            let room = limit.saturating_sub(i64::try_from(sum.ended).unwrap_or(i64::MAX)).max(0);
            let pass = retrying(|| end_some(store, RunId(*run), room)).await?;
            sum.ended += pass.ended;
            sum.left += pass.left;
            if pass.left == 0 {
                retrying(|| close(store, RunId(*run))).await?;
            }
        }
        after = runs.last().copied().filter(|_| i64::try_from(runs.len()) == Ok(RUNS));
    }
    let room = limit.saturating_sub(i64::try_from(sum.ended).unwrap_or(i64::MAX)).max(0);
    sum.ended += cancel_left_over(store, room).await?;
    Ok(sum)
}

// `runs.closed` takes a run off these indexes for good, also one that completed in time.
const RUNS_OVER: &str = "-- runs_over
SELECT r.id FROM runs r WHERE r.cancel_requested AND NOT r.closed AND r.id > $2
UNION
SELECT r.id FROM runs r WHERE r.deadline_at IS NOT NULL AND r.deadline_at <= now() AND NOT r.closed AND r.id > $2
UNION
SELECT o.run_id FROM run_outcomes o WHERE NOT o.closed AND o.run_id > $2
ORDER BY 1 LIMIT $1";

/// One pass over one run.
async fn end_some(store: &PostgresStore, run: RunId, room: i64) -> Result<Cascade, Failure> {
    let shard = store.shards.take();
    let mut tx = store.pool.begin().await?;
    let Some(how) = read_over(&mut tx, run).await? else {
        tx.commit().await?;
        return Ok(Cascade::default());
    };
    sqlx::query(FLAG_RUNNING).bind(run.0).execute(&mut *tx).await?;
    let unheld = lock_unheld(&mut tx, run, room).await?;
    let mut deltas = Deltas::new();
    end_unheld(store, &mut tx, &unheld, &how, &mut deltas).await?;
    let left: i64 = sqlx::query_scalar(COUNT_LIVE).bind(run.0).fetch_one(&mut *tx).await?;
    count(&mut tx, &shard, &deltas).await?;
    tx.commit().await?;
    Ok(Cascade { ended: u64::try_from(unheld.len()).unwrap_or(u64::MAX), left: u64::try_from(left).unwrap_or(0) })
}

/// Locks the run and decides how its instances end; a passed deadline becomes the outcome here. None when nothing is
/// to be ended.
async fn read_over(tx: &mut PgConnection, run: RunId) -> Result<Option<Ending>, Failure> {
    let locked = sqlx::query(LOCK_RUN_OVER).bind(run.0).fetch_optional(&mut *tx).await?;
    if locked.is_none() {
        return Ok(None);
    }
    let row = sqlx::query(READ_RUN_OVER).bind(run.0).fetch_one(&mut *tx).await?;
    let at = Reader::new("runs", &row);
    let late = AgentError::new(ErrorClass::Timeout, "deadline", "the deadline of the run passed");
    let how = match at.text_opt("outcome")?.as_deref() {
        Some("timeout") => Ending::TimedOut(late),
        Some(status) => Ending::Cancelled(AgentError::new(ErrorClass::Cancelled, "run_ended", format!("the run has ended: {status}"))),
        None if at.bool("cancel_requested")? => Ending::cancelled(&at.text("cancel_reason")?),
        None if at.bool("late")? => {
            sqlx::query(TIME_OUT_RUN).bind(run.0).bind(rows::error_json(&late)).execute(tx).await?;
            Ending::TimedOut(late)
        }
        None => return Ok(None),
    };
    Ok(Some(how))
}

const LOCK_RUN_OVER: &str = "-- lock_run_over
SELECT 1 FROM runs WHERE id = $1 AND NOT closed FOR NO KEY UPDATE";

const READ_RUN_OVER: &str = "-- read_run_over
SELECT r.id, r.cancel_requested, coalesce(r.cancel_reason, '') AS cancel_reason, coalesce(r.deadline_at <= now(), false) AS late, o.status AS outcome
FROM runs r LEFT JOIN run_outcomes o ON o.run_id = r.id WHERE r.id = $1";

const TIME_OUT_RUN: &str = "-- time_out_run
INSERT INTO run_outcomes (run_id, status, error, closed) VALUES ($1, 'timeout', $2::json, false)
ON CONFLICT (run_id) DO NOTHING";

// Their holders learn of it with their next append or heartbeat. What is locked is flagged by the next pass.
const FLAG_RUNNING: &str = "-- flag_running
WITH held AS (
  SELECT i.id FROM agent_instances i
  WHERE i.run_id = $1 AND i.granted_at IS NOT NULL AND i.status = 'running' AND NOT i.cancel_requested
  ORDER BY i.id
  FOR UPDATE SKIP LOCKED
)
UPDATE agent_instances i SET cancel_requested = true, updated_at = now() FROM held h WHERE i.id = h.id";

async fn lock_unheld(tx: &mut PgConnection, run: RunId, room: i64) -> Result<Vec<Unheld>, Failure> {
    if room == 0 {
        return Ok(Vec::new());
    }
    let found = sqlx::query(LOCK_UNHELD).bind(run.0).bind(room).fetch_all(tx).await?;
    let unheld = |row| {
        let at = Reader::new("agent_instances", row);
        let waiting = at.status("status")? == Status::Waiting;
        Ok(Unheld {
            id: InstanceId(at.uuid("id")?),
            run,
            epoch: at.i64("epoch")?,
            last_seq: at.i64("last_seq")?,
            last_hash: at.hash("last_hash")?,
            waiting,
        })
    };
    found.iter().map(unheld).collect()
}

// One branch for each partial index, so that no pass reads the instances that have ended.
const LOCK_UNHELD: &str = "-- lock_unheld
WITH unheld AS (
  (SELECT i.id FROM agent_instances i WHERE i.run_id = $1 AND i.status = 'queued' AND i.granted_at IS NULL LIMIT $2)
  UNION ALL
  (SELECT i.id FROM agent_instances i WHERE i.run_id = $1 AND i.status = 'queued' AND i.granted_at IS NOT NULL LIMIT $2)
  UNION ALL
  (SELECT i.id FROM agent_instances i WHERE i.run_id = $1 AND i.status = 'waiting' LIMIT $2)
)
SELECT i.id, i.epoch, i.status, i.last_seq, i.last_hash
FROM agent_instances i
WHERE i.id = ANY(ARRAY(SELECT u.id FROM unheld u LIMIT $2)) AND i.status IN ('queued', 'waiting')
ORDER BY i.id
FOR UPDATE SKIP LOCKED";

const COUNT_LIVE: &str = "-- count_live
SELECT (SELECT count(*) FROM agent_instances i WHERE i.run_id = $1 AND i.status = 'queued' AND i.granted_at IS NULL)
     + (SELECT count(*) FROM agent_instances i WHERE i.run_id = $1 AND i.granted_at IS NOT NULL)
     + (SELECT count(*) FROM agent_instances i WHERE i.run_id = $1 AND i.status = 'waiting')";

/// Closes a run in which nothing is live. Under the full lock: no commit that could add to it is under way.
async fn close(store: &PostgresStore, run: RunId) -> Result<(), Failure> {
    let mut tx = store.pool.begin().await?;
    let row = sqlx::query("-- lock_run_to_close\nSELECT 1 FROM runs WHERE id = $1 AND NOT closed FOR UPDATE")
        .bind(run.0)
        .fetch_optional(&mut *tx)
        .await?;
    let live: i64 = sqlx::query_scalar(COUNT_LIVE).bind(run.0).fetch_one(&mut *tx).await?;
    if row.is_none() || live > 0 {
        tx.rollback().await?;
        return Ok(());
    }
    let reason: Option<String> =
        sqlx::query_scalar("-- cancel_reason\nSELECT coalesce(cancel_reason, '') FROM runs WHERE id = $1 AND cancel_requested")
            .bind(run.0)
            .fetch_optional(&mut *tx)
            .await?;
    match reason {
        Some(why) => {
            let error = rows::error_json(Ending::cancelled(&why).error());
            sqlx::query(CLOSE_CANCELLED).bind(run.0).bind(error).execute(&mut *tx).await?;
        }
        None => {
            sqlx::query("-- close_outcome\nUPDATE run_outcomes SET closed = true WHERE run_id = $1").bind(run.0).execute(&mut *tx).await?;
        }
    }
    sqlx::query(CLOSE_RUN).bind(run.0).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

// A run that ended otherwise before anybody saw the flag keeps its outcome.
const CLOSE_CANCELLED: &str = "-- close_cancelled
INSERT INTO run_outcomes (run_id, status, error, closed) VALUES ($1, 'cancelled', $2::json, true)
ON CONFLICT (run_id) DO UPDATE SET closed = true";

const CLOSE_RUN: &str = "-- close_run
UPDATE runs r SET closed = true WHERE r.id = $1 AND EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = r.id AND o.closed)";
