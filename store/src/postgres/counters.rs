//! Counters of runs: deltas added up over shards, each of which one writer uses at a time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use muster_shared::{engine::Usage, fsm::Status, ids::RunId, time::Random};
use sqlx::PgConnection;
use uuid::Uuid;

use super::errors::Failure;

/// Shards that one process uses, so many transactions that count can be in flight without waiting for each other.
const PER_PROCESS: i16 = 16;
/// Processes choose among this many ranges of shards; two in one range are slower, not wrong.
const RANGES: u16 = 2000;

/// The shards of this process.
pub(crate) struct Shards {
    base: i16,
    free: Mutex<Vec<i16>>,
}

/// A shard in use; given back when it is dropped.
pub(crate) struct Shard<'s> {
    of: &'s Shards,
    pub(crate) number: i16,
}

impl Shards {
    pub(crate) fn new(random: &dyn Random) -> Self {
        let mut bytes = [0; 2];
        random.fill(&mut bytes);
        let range = i16::try_from(u16::from_le_bytes(bytes) % RANGES).expect("there are fewer ranges than i16 can count");
        let base = range * PER_PROCESS;
        // The last one is never handed out alone: it is for those that find no other free.
        Self { base, free: Mutex::new((base..base + PER_PROCESS - 1).rev().collect()) }
    }

    /// The lowest free shard, so that few rows are made when few write.
    pub(crate) fn take(&self) -> Shard<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Shard { of: self, number: free.unwrap_or(self.base + PER_PROCESS - 1) }
    }
}

impl Drop for Shard<'_> {
    fn drop(&mut self) {
        if self.number < self.of.base + PER_PROCESS - 1 {
            let mut free = self.of.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(self.number);
            free.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        }
    }
}

/// What a transaction adds to the counters of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) total: i64,
    pub(crate) waiting: i64,
    pub(crate) completed: i64,
    pub(crate) failed: i64,
    pub(crate) timeout: i64,
    pub(crate) cancelled: i64,
    pub(crate) steps: i64,
    pub(crate) usage: Usage,
}

impl Delta {
    /// One instance more has this status.
    pub(crate) fn enter(&mut self, status: Status) {
        match status {
            Status::Waiting => self.waiting += 1,
            Status::Completed => self.completed += 1,
            Status::Failed => self.failed += 1,
            Status::Timeout => self.timeout += 1,
            Status::Cancelled => self.cancelled += 1,
            // Running is counted from the index of what is in flight; queued is the rest.
            Status::Queued | Status::Running | Status::Paused => {}
        }
    }
}

/// What a transaction adds, by run: the order in which the rows are locked.
pub(crate) type Deltas = BTreeMap<RunId, Delta>;

/// Adds to the counters. The last statement of its transaction.
pub(crate) async fn count(connection: &mut PgConnection, shard: &Shard<'_>, deltas: &Deltas) -> Result<(), Failure> {
    let changed: Vec<(Uuid, Delta)> =
        deltas.iter().filter(|(_, delta)| **delta != Delta::default()).map(|(run, delta)| (run.0, *delta)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Delta) -> i64| -> Vec<i64> { changed.iter().map(|(_, delta)| of(delta)).collect() };
    sqlx::query(ADD_TO_COUNTERS)
        .bind(shard.number)
        .bind(changed.iter().map(|(run, _)| *run).collect::<Vec<Uuid>>())
        .bind(column(|d| d.total))
        .bind(column(|d| d.waiting))
        .bind(column(|d| d.completed))
        .bind(column(|d| d.failed))
        .bind(column(|d| d.timeout))
        .bind(column(|d| d.cancelled))
        .bind(column(|d| d.steps))
        .bind(column(|d| d.usage.input_tokens))
        .bind(column(|d| d.usage.output_tokens))
        .bind(column(|d| d.usage.cost_micros))
        .execute(connection)
        .await?;
    Ok(())
}

const ADD_TO_COUNTERS: &str = "-- add_to_counters
INSERT INTO run_counters AS c (run_id, shard, total, waiting, completed, failed, timeout, cancelled, steps, input_tokens, output_tokens, cost_micros)
SELECT d.run_id, $1, d.total, d.waiting, d.completed, d.failed, d.timeout, d.cancelled, d.steps, d.input_tokens, d.output_tokens, d.cost_micros
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
  AS d (run_id, total, waiting, completed, failed, timeout, cancelled, steps, input_tokens, output_tokens, cost_micros)
ORDER BY d.run_id
ON CONFLICT (run_id, shard) DO UPDATE SET
  total = c.total + excluded.total, waiting = c.waiting + excluded.waiting, completed = c.completed + excluded.completed,
  failed = c.failed + excluded.failed, timeout = c.timeout + excluded.timeout, cancelled = c.cancelled + excluded.cancelled,
  steps = c.steps + excluded.steps, input_tokens = c.input_tokens + excluded.input_tokens,
  output_tokens = c.output_tokens + excluded.output_tokens, cost_micros = c.cost_micros + excluded.cost_micros";

#[cfg(test)]
mod tests {
    use muster_shared::time::SeededRandom;

    use super::*;

    #[test]
    fn a_shard_is_used_by_one_at_a_time_and_the_lowest_free_one_is_taken() {
        let shards = Shards::new(&SeededRandom::new(1));
        let (first, second) = (shards.take(), shards.take());
        assert_ne!(first.number, second.number);
        let number = first.number;
        drop(first);
        assert_eq!(shards.take().number, number);
        let many: Vec<Shard<'_>> = (0..40).map(|_| shards.take()).collect();
        assert_eq!(many[39].number, shards.base + PER_PROCESS - 1);
    }
}
