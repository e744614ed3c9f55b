//! The shared commit: the writes of many instances in one transaction, each under its own fence.

use std::collections::{HashMap, HashSet};

use muster_shared::{
    error::ErrorClass,
    event::WaitFor,
    fsm::Status,
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId},
    queue::Ready,
    reduce::Place,
    store::{Committed, StoreError, Then, Write, WriteError},
    time::Timestamp,
};
use sqlx::SqliteConnection;

use super::{
    SqliteStore,
    apply::{self, Advance, Counters, HandOver, Logged},
    arrive::Arrival,
    sql::{db, id_list, json_list},
};
use crate::rows::{self, Reader};

type Answer = Result<Committed, WriteError>;

impl SqliteStore {
    /// See [`muster_shared::store::Journal::commit`].
    pub(super) async fn commit_batch(&self, batch: Vec<Write>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> =
            batch.iter().map(|write| rows::refused_write(write).map(|why| Err(WriteError::Refused(why)))).collect();
        let mut rest: Vec<usize> = (0..batch.len()).filter(|n| answers[*n].is_none()).collect();
        // Two writes to one instance follow each other in rounds of their own.
        while !rest.is_empty() {
            let mut seen = HashSet::new();
            let (round, later) = rest.into_iter().partition(|n| seen.insert(batch[*n].lease.instance));
            self.commit_round(&batch, round, &mut answers).await;
            rest = later;
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(WriteError::LeaseLost))).collect()
    }

    /// One round. What the database refuses is bisected until the culprit is alone (rule 3).
    async fn commit_round(&self, batch: &[Write], round: Vec<usize>, answers: &mut [Option<Answer>]) {
        let mut portions = vec![round];
        while let Some(mut portion) = portions.pop() {
            let writes: Vec<&Write> = portion.iter().map(|n| &batch[*n]).collect();
            match self.try_commit(&writes).await {
                Ok(results) => portion.iter().zip(results).for_each(|(n, result)| answers[*n] = Some(result)),
                Err(StoreError::Unavailable(why) | StoreError::Schema(why)) => {
                    portion.iter().for_each(|n| answers[*n] = Some(Err(WriteError::Unavailable(why.clone()))));
                }
                Err(refused) if portion.len() == 1 => answers[portion[0]] = Some(Err(WriteError::Refused(refused.to_string()))),
                Err(_) => {
                    let second = portion.split_off(portion.len() / 2);
                    portions.extend([second, portion]);
                }
            }
        }
    }

    /// One transaction. `Err` when nothing of it is stored.
    async fn try_commit(&self, writes: &[&Write]) -> Result<Vec<Answer>, StoreError> {
        let mut tx = self.begin().await?;
        let now = self.now();
        let fence = read_fence(&mut tx, writes).await?;
        let known = already_stored(&mut tx, writes, &fence).await?;
        let (mut answers, mut accepted) = (Vec::with_capacity(writes.len()), Vec::new());
        for (n, write) in writes.iter().enumerate() {
            let row = fence.get(&write.lease.instance);
            let cancel = row.is_some_and(|row| row.cancel);
            match row.filter(|row| row.admits(write)) {
                Some(row) => {
                    accepted.push((n, *write, row));
                    answers.push(Ok(Committed { cancel, ready: Vec::new() }));
                }
                None if known.contains(&n) => answers.push(Ok(Committed { cancel, ready: Vec::new() })),
                None => answers.push(Err(WriteError::LeaseLost)),
            }
        }
        if accepted.is_empty() {
            return Ok(answers);
        }
        for (n, ready) in self.apply_writes(&mut tx, &accepted, now).await? {
            if let Ok(committed) = &mut answers[n] {
                committed.ready.push(ready);
            }
        }
        tx.commit().await.map_err(db)?;
        Ok(answers)
    }

    /// Everything that the accepted writes say and cause. Answers what became runnable and granted, by write.
    async fn apply_writes(
        &self,
        conn: &mut SqliteConnection,
        accepted: &[(usize, &Write, &Fence)],
        now: Timestamp,
    ) -> Result<Vec<(usize, Ready)>, StoreError> {
        let (mut advances, mut hand_overs, mut arrivals) = (Vec::new(), Vec::new(), Vec::new());
        let (mut counters, mut ready) = (Counters::default(), Vec::new());
        for &(n, write, row) in accepted {
            let delta = counters.of(write.lease.run);
            delta.steps += write.steps_added;
            delta.usage += write.usage_added;
            let tail = write.entries.last().map_or((row.last_seq, row.last_hash), |entry| (entry.seq, entry.hash));
            let Some(change) = hand_over(write, row, tail, now) else {
                let (instance, state, step) = (write.lease.instance, write.state, write.step);
                advances.push(Advance { instance, state, step, usage: write.usage_added, tail });
                continue;
            };
            match change.status {
                Status::Waiting => delta.waiting += 1,
                Status::Queued if change.granted_at.is_some() && !row.cancel => ready.push((n, row.ready(write.lease.instance))),
                Status::Queued | Status::Running | Status::Paused => {}
                Status::Completed | Status::Failed | Status::Timeout | Status::Cancelled => delta.ended(change.status),
            }
            if write.then.is_terminal() && !row.run_over {
                let error = match &write.then {
                    Then::Fail { error } => Some(error),
                    Then::Complete { .. } | Then::Continue | Then::Wait { .. } | Then::Release => None,
                };
                let group = self.group_of(conn, row.group).await?.row.clone();
                arrivals.push(Arrival { cause: n, instance: write.lease.instance, group, place: row.place, error });
            }
            hand_overs.push(change);
        }
        let entries: Vec<Logged<'_>> = accepted
            .iter()
            .flat_map(|(_, write, _)| {
                write.entries.iter().map(|entry| Logged { run: write.lease.run, instance: write.lease.instance, entry })
            })
            .collect();
        apply::insert_events(conn, &entries).await?;
        apply::advance(conn, &advances, now).await?;
        apply::hand_over(conn, &hand_overs, now).await?;
        if !arrivals.is_empty() {
            ready.extend(self.arrive(conn, arrivals, Some(now), &mut counters, now).await?);
        }
        counters.write(conn).await?;
        Ok(ready)
    }
}

/// What the row of an instance says, and its run's flags.
struct Fence {
    epoch: i64,
    worker: Option<Incarnation>,
    running: bool,
    last_seq: i64,
    last_hash: Hash32,
    wake_seq: i64,
    group: GroupId,
    place: Place,
    /// The instance, or its run, is to be cancelled.
    cancel: bool,
    /// The run is cancelled or has its outcome: nothing arrives any more.
    run_over: bool,
    priority: u8,
    traceparent: Option<String>,
}

impl Fence {
    /// Whether the writer owns the instance and has seen its whole log.
    fn admits(&self, write: &Write) -> bool {
        let follows = write.entries.first().is_none_or(|first| first.seq == self.last_seq + 1);
        self.running && self.epoch == write.lease.epoch && self.worker == Some(write.lease.worker) && follows
    }

    fn ready(&self, id: InstanceId) -> Ready {
        Ready { id, priority: self.priority, reducer: self.place.level > 0, traceparent: self.traceparent.clone() }
    }
}

async fn read_fence(conn: &mut SqliteConnection, writes: &[&Write]) -> Result<HashMap<InstanceId, Fence>, StoreError> {
    let found = sqlx::query(
        "-- fence
         SELECT i.id, i.epoch, i.worker_incarnation, i.status, i.last_seq, i.last_hash, i.wake_seq, i.group_id, i.level, i.ordinal,
                i.cancel_requested OR r.cancel_requested AS cancel, r.priority, r.traceparent,
                r.cancel_requested OR EXISTS (SELECT 1 FROM run_outcomes o WHERE o.run_id = i.run_id) AS run_over
         FROM json_each(?1) AS given
         CROSS JOIN agent_instances i ON i.id = unhex(given.value)
         CROSS JOIN runs r ON r.id = i.run_id",
    )
    .bind(id_list(writes.iter().map(|write| write.lease.instance.0)))
    .fetch_all(conn)
    .await
    .map_err(db)?;
    let mut fence = HashMap::with_capacity(found.len());
    for row in &found {
        let at = Reader::new("agent_instances", row);
        let read = Fence {
            epoch: at.i64("epoch")?,
            worker: at.uuid_opt("worker_incarnation")?.map(Incarnation),
            running: at.status("status")? == Status::Running,
            last_seq: at.i64("last_seq")?,
            last_hash: at.hash("last_hash")?,
            wake_seq: at.i64("wake_seq")?,
            group: GroupId(at.uuid("group_id")?),
            place: rows::place(row)?,
            cancel: at.bool("cancel")?,
            run_over: at.bool("run_over")?,
            priority: u8::try_from(at.i32("priority")?).unwrap_or(0),
            traceparent: at.text_opt("traceparent")?,
        };
        fence.insert(InstanceId(at.uuid("id")?), read);
    }
    Ok(fence)
}

/// The writes that the fence does not admit because they are stored already: same epoch and hash at their last
/// seq. Their consequences happened with them.
async fn already_stored(
    conn: &mut SqliteConnection,
    writes: &[&Write],
    fence: &HashMap<InstanceId, Fence>,
) -> Result<HashSet<usize>, StoreError> {
    let not_admitted = |write: &Write| fence.get(&write.lease.instance).is_none_or(|row| !row.admits(write));
    let asked = writes.iter().enumerate().filter(|(_, write)| not_admitted(write)).filter_map(|(n, write)| {
        let last = write.entries.last()?;
        let (run, instance) = (write.lease.run.0.simple(), write.lease.instance.0.simple());
        Some(format!("[{n},\"{run}\",\"{instance}\",{},{},\"{}\"]", last.seq, last.epoch, last.hash))
    });
    let asked: Vec<String> = asked.collect();
    if asked.is_empty() {
        return Ok(HashSet::new());
    }
    let known: Vec<i64> = sqlx::query_scalar(
        "-- already_stored
         SELECT given.value ->> 0
         FROM json_each(?1) AS given
         CROSS JOIN agent_events e ON e.run_id = unhex(given.value ->> 1) AND e.instance_id = unhex(given.value ->> 2)
              AND e.seq = given.value ->> 3
         WHERE e.epoch = given.value ->> 4 AND e.hash = unhex(given.value ->> 5)",
    )
    .bind(json_list(asked))
    .fetch_all(conn)
    .await
    .map_err(db)?;
    Ok(known.into_iter().filter_map(|n| usize::try_from(n).ok()).collect())
}

/// How the row changes when the instance leaves its owner; none when it goes on.
fn hand_over<'w>(write: &'w Write, row: &Fence, tail: (i64, Hash32), now: Timestamp) -> Option<HandOver<'w>> {
    let mut change = HandOver {
        instance: write.lease.instance,
        status: Status::Queued,
        state: write.state,
        step: Some(write.step),
        usage: write.usage_added,
        tail,
        waiting_for: None,
        run_after: None,
        granted_at: None,
        output: None,
        error: None,
    };
    match &write.then {
        Then::Continue => return None,
        Then::Release => change.granted_at = Some(now),
        // Woken since it looked: due at once (rule 7).
        Then::Wait { wake_seq, .. } if *wake_seq != row.wake_seq => {}
        Then::Wait { what, .. } => {
            change.status = Status::Waiting;
            change.waiting_for = Some(what.as_str());
            change.run_after = match what {
                WaitFor::Children => None,
                WaitFor::Timer { until } => Some(*until),
            };
        }
        Then::Complete { output } => {
            change.status = Status::Completed;
            change.output = Some(output);
        }
        Then::Fail { error } => {
            change.status = match error.class {
                ErrorClass::Timeout => Status::Timeout,
                ErrorClass::Cancelled => Status::Cancelled,
                ErrorClass::Model
                | ErrorClass::Tool
                | ErrorClass::Validation
                | ErrorClass::Permission
                | ErrorClass::Budget
                | ErrorClass::Internal => Status::Failed,
            };
            change.error = Some(rows::error_json(error));
        }
    }
    Some(change)
}
