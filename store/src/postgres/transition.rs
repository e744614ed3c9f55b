//! Writes that change ownership or status: wait, release, complete, fail. One transaction for all of them, with
//! their consequences: arrivals, reducers, parents, outcomes, counters.

use std::collections::{BTreeMap, BTreeSet};

use muster_shared::{
    error::{AgentError, ErrorClass},
    event::WaitFor,
    fsm::Status,
    ids::InstanceId,
    queue::Ready,
    store::{Committed, Then, Write, WriteError},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    PostgresStore,
    counters::{Deltas, count},
    errors::Failure,
    events::{EventColumns, already_stored},
    finish::{Finished, finish},
};
use crate::rows::{self, Reader};

/// A locked row of `agent_instances`, with the facts about its run that were true under the lock.
pub(super) struct Locked {
    epoch: i64,
    status: Status,
    worker: Option<Uuid>,
    last_seq: i64,
    wake_seq: i64,
    cancel_requested: bool,
    run_cancelled: bool,
    run_ended: bool,
    /// For a reducer: leaves below it that had failed before it fired.
    failed_before: i64,
    priority: i32,
    traceparent: Option<String>,
}

impl Locked {
    /// Nothing may be added to its run any more.
    pub(super) const fn run_is_over(&self) -> bool {
        self.run_cancelled || self.run_ended
    }

    fn fences(&self, write: &Write) -> bool {
        let follows = match write.entries.first() {
            Some(entry) => self.last_seq + 1 == entry.seq,
            None => true,
        };
        self.epoch == write.lease.epoch && matches!(self.status, Status::Running) && follows
    }
}

/// Commits. At most one write for each instance. A crash leaves all accepted ones with their consequences, or none.
pub(super) async fn transition(store: &PostgresStore, writes: &[&Write]) -> Result<Vec<Result<Committed, WriteError>>, Failure> {
    let shard = store.shards.take();
    let mut tx = store.pool.begin().await?;
    lock_runs(&mut tx, writes.iter().filter(|write| write.then.is_terminal()).map(|write| write.lease.run.0).collect()).await?;
    let locked = lock_instances(&mut tx, to_lock(writes)).await?;
    let mut answers: Vec<Result<Committed, WriteError>> = writes.iter().map(|_| Err(WriteError::LeaseLost)).collect();
    let mut moves = Moves::default();
    let mut deltas = Deltas::new();
    let mut finished = Vec::new();
    for (cause, write) in writes.iter().enumerate() {
        let id = write.lease.instance;
        let Some(row) = locked.get(&id).filter(|row| row.fences(write) && row.worker == Some(write.lease.worker.0)) else { continue };
        let status = status_after(row, write);
        let delta = deltas.entry(write.lease.run).or_default();
        delta.enter(status);
        delta.steps += write.steps_added;
        delta.usage += write.usage_added;
        moves.push(write, status);
        let mut committed = Committed { cancel: row.cancel_requested || row.run_cancelled, ready: Vec::new() };
        match &write.then {
            Then::Release => committed.ready.push(ready_again(row, write)),
            Then::Complete { .. } => finished.extend(ended(cause, row, write, None)),
            Then::Fail { error } => finished.extend(ended(cause, row, write, Some(error))),
            Then::Continue | Then::Wait { .. } => {}
        }
        answers[cause] = Ok(committed);
    }
    if moves.ids.is_empty() {
        tx.rollback().await?;
    } else {
        moves.store(&mut tx, writes.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(write, _)| *write)).await?;
        for (cause, ready) in finish(store, &mut tx, &finished, &mut deltas).await? {
            if let Some(Ok(committed)) = answers.get_mut(cause) {
                committed.ready.push(ready);
            }
        }
        count(&mut tx, &shard, &deltas).await?;
        tx.commit().await?;
    }
    recognise(store, writes, &mut answers).await?;
    Ok(answers)
}

/// Writes that lost their lease and are in the log all the same were stored before: they succeeded.
async fn recognise(store: &PostgresStore, writes: &[&Write], answers: &mut [Result<Committed, WriteError>]) -> Result<(), Failure> {
    let lost: Vec<usize> = answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(which, _)| which).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let asked: Vec<&Write> = lost.iter().map(|which| writes[*which]).collect();
    let mut connection = store.pool.acquire().await?;
    for stored in already_stored(&mut connection, &asked).await? {
        answers[lost[stored.which]] = Ok(Committed { cancel: stored.cancel, ready: Vec::new() });
    }
    Ok(())
}

fn ended<'w>(cause: usize, row: &Locked, write: &'w Write, failure: Option<&'w AgentError>) -> Option<Finished<'w>> {
    // In a run that is cancelled, or has its outcome, nothing follows from an end.
    (!row.run_is_over()).then_some(Finished {
        cause,
        instance: write.lease.instance,
        group: &write.group,
        place: write.place,
        failure,
        failed_before: row.failed_before,
        granted: true,
    })
}

fn ready_again(row: &Locked, write: &Write) -> Ready {
    Ready {
        id: write.lease.instance,
        priority: u8::try_from(row.priority).unwrap_or(0),
        reducer: write.place.level > 0,
        traceparent: row.traceparent.clone(),
    }
}

fn status_after(row: &Locked, write: &Write) -> Status {
    match &write.then {
        Then::Continue => Status::Running,
        Then::Release => Status::Queued,
        // Rule 7: it was woken since it looked, so it is due at once.
        Then::Wait { wake_seq, .. } if row.wake_seq != *wake_seq => Status::Queued,
        Then::Wait { .. } => Status::Waiting,
        Then::Complete { .. } => Status::Completed,
        Then::Fail { error } => failed_status(error.class),
    }
}

/// The status of an instance that failed with an error of this class.
const fn failed_status(class: ErrorClass) -> Status {
    match class {
        ErrorClass::Timeout => Status::Timeout,
        ErrorClass::Cancelled => Status::Cancelled,
        ErrorClass::Model
        | ErrorClass::Tool
        | ErrorClass::Validation
        | ErrorClass::Permission
        | ErrorClass::Budget
        | ErrorClass::Internal => Status::Failed,
    }
}

/// The instances of the batch, and the parents of groups that it may end.
fn to_lock(writes: &[&Write]) -> Vec<Uuid> {
    let mut ids = BTreeSet::new();
    for write in writes {
        ids.insert(write.lease.instance.0);
        let output = matches!(write.then, Then::Complete { .. });
        if write.then.is_terminal() && write.group.tree.may_end_group(write.place, output) {
            ids.extend(write.group.parent.map(|parent| parent.0));
        }
    }
    ids.into_iter().collect()
}

/// Keeps cancel out until the end of the transaction. Runs that are over are not locked: nothing will be added to
/// them, and whoever closes them must not wait behind a stream of others.
pub(super) async fn lock_runs(connection: &mut PgConnection, mut runs: Vec<Uuid>) -> Result<(), Failure> {
    if runs.is_empty() {
        return Ok(());
    }
    runs.sort_unstable();
    runs.dedup();
    sqlx::query(LOCK_RUNS).bind(runs).execute(connection).await?;
    Ok(())
}

const LOCK_RUNS: &str = "-- lock_runs
SELECT 1 FROM runs r
WHERE r.id = ANY($1) AND NOT r.cancel_requested AND NOT EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = r.id)
ORDER BY r.id
FOR KEY SHARE OF r";

/// Locks instances in the order given, by id, and reads them; after the runs, so that what is read about those is true until the end.
pub(super) async fn lock_instances(connection: &mut PgConnection, ids: Vec<Uuid>) -> Result<BTreeMap<InstanceId, Locked>, Failure> {
    let found = sqlx::query(LOCK_INSTANCES).bind(ids).fetch_all(connection).await?;
    let mut locked = BTreeMap::new();
    for row in &found {
        let at = Reader::new("agent_instances", row);
        let facts = Locked {
            epoch: at.i64("epoch")?,
            status: at.status("status")?,
            worker: at.uuid_opt("worker_incarnation")?,
            last_seq: at.i64("last_seq")?,
            wake_seq: at.i64("wake_seq")?,
            cancel_requested: at.bool("cancel_requested")?,
            run_cancelled: at.bool("run_cancelled")?,
            run_ended: at.bool("run_ended")?,
            failed_before: at.i64_opt("failed_before")?.unwrap_or(0),
            priority: at.i32("priority")?,
            traceparent: at.text_opt("traceparent")?,
        };
        locked.insert(InstanceId(at.uuid("id")?), facts);
    }
    Ok(locked)
}

const LOCK_INSTANCES: &str = "-- lock_instances
SELECT i.id, i.epoch, i.status, i.worker_incarnation, i.last_seq, i.wake_seq, i.cancel_requested, i.priority,
       r.cancel_requested AS run_cancelled, r.traceparent,
       coalesce((SELECT true FROM run_outcomes o WHERE o.run_id = i.run_id), false) AS run_ended,
       CASE WHEN i.level > 0 THEN (SELECT n.failed_leaves FROM reductions n WHERE n.group_id = i.group_id AND n.level = i.level
                                   AND n.ordinal = i.ordinal AND n.generation = i.generation) END AS failed_before
FROM unnest($1::uuid[]) AS w (id)
CROSS JOIN LATERAL (SELECT * FROM agent_instances a WHERE a.id = w.id LIMIT 1 FOR UPDATE) AS i
CROSS JOIN LATERAL (SELECT n.cancel_requested, n.traceparent FROM runs n WHERE n.id = i.run_id LIMIT 1) AS r";

/// The rows after their writes, column by column.
#[derive(Default)]
struct Moves<'w> {
    ids: Vec<Uuid>,
    statuses: Vec<&'static str>,
    states: Vec<&'static str>,
    steps: Vec<i32>,
    waiting_for: Vec<Option<&'static str>>,
    run_after: Vec<Option<i64>>,
    keep_grant: Vec<bool>,
    outputs: Vec<Option<&'w str>>,
    errors: Vec<Option<String>>,
    last_seqs: Vec<Option<i64>>,
    last_hashes: Vec<Option<&'w [u8]>>,
    usage: [Vec<i64>; 3],
}

impl<'w> Moves<'w> {
    fn push(&mut self, write: &'w Write, status: Status) {
        let waits = match &write.then {
            Then::Wait { what, .. } if status == Status::Waiting => Some(*what),
            Then::Continue | Then::Wait { .. } | Then::Complete { .. } | Then::Fail { .. } | Then::Release => None,
        };
        let (output, error) = match &write.then {
            Then::Complete { output } => (Some(output.as_str()), None),
            Then::Fail { error } => (None, Some(rows::error_json(error))),
            Then::Continue | Then::Wait { .. } | Then::Release => (None, None),
        };
        self.ids.push(write.lease.instance.0);
        self.statuses.push(status.as_str());
        self.states.push(write.state.as_str());
        self.steps.push(write.step);
        self.waiting_for.push(waits.map(WaitFor::as_str));
        self.run_after.push(waits.and_then(|what| match what {
            WaitFor::Children => None,
            WaitFor::Timer { until } => Some(until.micros()),
        }));
        self.keep_grant.push(matches!(write.then, Then::Release));
        self.outputs.push(output);
        self.errors.push(error);
        self.last_seqs.push(write.entries.last().map(|entry| entry.seq));
        self.last_hashes.push(write.entries.last().map(|entry| entry.hash.0.as_slice()));
        let used = [write.usage_added.input_tokens, write.usage_added.output_tokens, write.usage_added.cost_micros];
        for (column, value) in self.usage.iter_mut().zip(used) {
            column.push(value);
        }
    }

    /// Appends the entries and moves the rows, which are locked.
    async fn store(&self, connection: &mut PgConnection, writes: impl Iterator<Item = &'w Write>) -> Result<(), Failure> {
        let statement = EventColumns::of(writes).bind(sqlx::query(MOVE_INSTANCES));
        let [input, output, cost] = &self.usage;
        statement
            .bind(&self.ids)
            .bind(&self.statuses)
            .bind(&self.states)
            .bind(&self.steps)
            .bind(&self.waiting_for)
            .bind(&self.run_after)
            .bind(&self.keep_grant)
            .bind(&self.outputs)
            .bind(&self.errors)
            .bind(&self.last_seqs)
            .bind(&self.last_hashes)
            .bind(input)
            .bind(output)
            .bind(cost)
            .execute(connection)
            .await?;
        Ok(())
    }
}

// A grant that is kept counts from now, so that it is not taken for a stale one at once.
const MOVE_INSTANCES: &str = "-- move_instances
WITH logged AS (
  INSERT INTO agent_events (run_id, instance_id, seq, epoch, type, payload, at, hash)
  SELECT e.run_id, e.instance_id, e.seq, e.epoch, e.type, e.payload::json, timestamptz 'epoch' + e.at * interval '1 microsecond', e.hash
  FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bytea[])
    AS e (run_id, instance_id, seq, epoch, type, payload, at, hash)
)
UPDATE agent_instances i
SET status = w.status, state = w.state, step = w.step, waiting_for = w.waiting_for,
    run_after = timestamptz 'epoch' + w.run_after * interval '1 microsecond',
    epoch = i.epoch + 1, worker_incarnation = NULL, granted_at = CASE WHEN w.keep_grant THEN now() END,
    output = w.output::json, error = w.error::json,
    last_seq = coalesce(w.last_seq, i.last_seq), last_hash = coalesce(w.last_hash, i.last_hash),
    input_tokens = i.input_tokens + w.input_tokens, output_tokens = i.output_tokens + w.output_tokens,
    cost_micros = i.cost_micros + w.cost_micros, updated_at = now()
FROM (SELECT * FROM unnest($9::uuid[], $10::text[], $11::text[], $12::integer[], $13::text[], $14::bigint[], $15::boolean[], $16::text[], $17::text[],
            $18::bigint[], $19::bytea[], $20::bigint[], $21::bigint[], $22::bigint[])
  AS g (id, status, state, step, waiting_for, run_after, keep_grant, output, error, last_seq, last_hash, input_tokens, output_tokens, cost_micros)
  LIMIT cardinality($9)) AS w
WHERE i.id = w.id";
