//! The hot path: entries of many instances that all go on. One statement, which is its own transaction.

use std::collections::BTreeMap;

use muster_shared::store::{Committed, Write, WriteError};
use sqlx::Row as _;
use uuid::Uuid;

use super::{
    PostgresStore,
    errors::Failure,
    events::{EventColumns, already_stored},
};

/// Appends. At most one write for each instance. A crash leaves all of them stored that are fenced, or none.
pub(super) async fn append(store: &PostgresStore, batch: &[&Write]) -> Result<Vec<Result<Committed, WriteError>>, Failure> {
    let mut connection = store.pool.acquire().await?;
    // Rows are locked in the order in which they are given: by id.
    let mut writes = batch.to_vec();
    writes.sort_unstable_by_key(|write| write.lease.instance);
    let fenced: BTreeMap<Uuid, bool> = {
        let shard = store.shards.take();
        let column = |of: fn(&Write) -> i64| -> Vec<i64> { writes.iter().map(|write| of(write)).collect() };
        let statement = sqlx::query(APPEND_EVENTS)
            .bind(writes.iter().map(|w| w.lease.instance.0).collect::<Vec<Uuid>>())
            .bind(column(|w| w.lease.epoch))
            .bind(writes.iter().map(|w| w.lease.worker.0).collect::<Vec<Uuid>>())
            .bind(column(|w| w.entries.first().map_or(0, |entry| entry.seq - 1)))
            .bind(column(|w| w.entries.last().map_or(0, |entry| entry.seq)))
            .bind(
                writes.iter().map(|w| w.entries.last().map_or([0; 32].as_slice(), |entry| entry.hash.0.as_slice())).collect::<Vec<&[u8]>>(),
            )
            .bind(writes.iter().map(|w| w.state.as_str()).collect::<Vec<&str>>())
            .bind(writes.iter().map(|w| w.step).collect::<Vec<i32>>())
            .bind(column(|w| w.steps_added))
            .bind(column(|w| w.usage_added.input_tokens))
            .bind(column(|w| w.usage_added.output_tokens))
            .bind(column(|w| w.usage_added.cost_micros))
            .bind(shard.number);
        let columns = EventColumns::of(writes.iter().copied());
        let rows = columns.bind(statement).fetch_all(&mut *connection).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, sqlx::Error>>()?
    };
    let mut answers: Vec<Result<Committed, WriteError>> = batch
        .iter()
        .map(|write| match fenced.get(&write.lease.instance.0) {
            Some(cancel) => Ok(Committed { cancel: *cancel, ready: Vec::new() }),
            None => Err(WriteError::LeaseLost),
        })
        .collect();
    let lost: Vec<usize> = answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(which, _)| which).collect();
    if !lost.is_empty() {
        let asked: Vec<&Write> = lost.iter().map(|which| batch[*which]).collect();
        for stored in already_stored(&mut connection, &asked).await? {
            answers[lost[stored.which]] = Ok(Committed { cancel: stored.cancel, ready: Vec::new() });
        }
    }
    Ok(answers)
}

// Rule 2: `fenced` locks, by id, and only what it returns is written; beside an uncommitted claim it waits and then
// sees the new epoch. `IS TRUE` keeps the planner from turning the membership test into a nested loop over CTEs:
// it becomes a look-up in a hash. The counters come last: their input is all of `fenced`.
const APPEND_EVENTS: &str = "-- append_events
WITH fenced AS (
  SELECT i.id, i.run_id, i.cancel_requested, w.last_seq, w.last_hash, w.state, w.step, w.steps, w.input_tokens, w.output_tokens, w.cost_micros
  FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bytea[], $7::text[], $8::integer[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
    AS w (id, epoch, worker, follows, last_seq, last_hash, state, step, steps, input_tokens, output_tokens, cost_micros)
  CROSS JOIN LATERAL (
    SELECT a.id, a.run_id, a.epoch, a.worker_incarnation, a.status, a.last_seq, a.cancel_requested
    FROM agent_instances a WHERE a.id = w.id LIMIT 1 FOR UPDATE
  ) AS i
  WHERE i.epoch = w.epoch AND i.worker_incarnation = w.worker AND i.status = 'running' AND i.last_seq = w.follows
), logged AS (
  INSERT INTO agent_events (run_id, instance_id, seq, epoch, type, payload, at, hash)
  SELECT e.run_id, e.instance_id, e.seq, e.epoch, e.type, e.payload::json, timestamptz 'epoch' + e.at * interval '1 microsecond', e.hash
  FROM unnest($14::uuid[], $15::uuid[], $16::bigint[], $17::bigint[], $18::text[], $19::text[], $20::bigint[], $21::bytea[])
    AS e (run_id, instance_id, seq, epoch, type, payload, at, hash)
  WHERE (e.instance_id IN (SELECT f.id FROM fenced f)) IS TRUE
), moved AS (
  UPDATE agent_instances i
  SET last_seq = f.last_seq, last_hash = f.last_hash, state = f.state, step = f.step, input_tokens = i.input_tokens + f.input_tokens,
      output_tokens = i.output_tokens + f.output_tokens, cost_micros = i.cost_micros + f.cost_micros, updated_at = now()
  FROM fenced f WHERE i.id = f.id
), counted AS (
  INSERT INTO run_counters AS c (run_id, shard, steps, input_tokens, output_tokens, cost_micros)
  SELECT f.run_id, $13, sum(f.steps), sum(f.input_tokens), sum(f.output_tokens), sum(f.cost_micros) FROM fenced f GROUP BY f.run_id ORDER BY f.run_id
  ON CONFLICT (run_id, shard) DO UPDATE SET
    steps = c.steps + excluded.steps, input_tokens = c.input_tokens + excluded.input_tokens,
    output_tokens = c.output_tokens + excluded.output_tokens, cost_micros = c.cost_micros + excluded.cost_micros
)
SELECT f.id, f.cancel_requested OR r.cancel_requested
FROM fenced f CROSS JOIN LATERAL (SELECT n.cancel_requested FROM runs n WHERE n.id = f.run_id LIMIT 1) AS r";
