//! Log entries as columns: many rows go to Postgres as one array for each column.

use muster_shared::{
    event::Entry,
    ids::{InstanceId, RunId},
};
use sqlx::{
    Postgres,
    postgres::{PgArguments, PgConnection},
    query::Query,
};
use uuid::Uuid;

use super::errors::Failure;
use muster_shared::store::Write;

/// A statement with its arguments so far.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Entries of any number of logs, column by column.
#[derive(Default)]
pub(super) struct EventColumns<'w> {
    runs: Vec<Uuid>,
    instances: Vec<Uuid>,
    seqs: Vec<i64>,
    epochs: Vec<i64>,
    kinds: Vec<&'static str>,
    payloads: Vec<&'w str>,
    ats: Vec<i64>,
    hashes: Vec<&'w [u8]>,
}

impl<'w> EventColumns<'w> {
    pub(super) fn push(&mut self, run: RunId, instance: InstanceId, entry: &'w Entry) {
        self.runs.push(run.0);
        self.instances.push(instance.0);
        self.seqs.push(entry.seq);
        self.epochs.push(entry.epoch);
        self.kinds.push(entry.kind.as_str());
        self.payloads.push(&entry.payload);
        self.ats.push(entry.at.micros());
        self.hashes.push(&entry.hash.0);
    }

    pub(super) fn of<'a: 'w>(writes: impl IntoIterator<Item = &'a Write>) -> Self {
        let mut columns = Self::default();
        for write in writes {
            for entry in &write.entries {
                columns.push(write.lease.run, write.lease.instance, entry);
            }
        }
        columns
    }

    /// Binds run_id, instance_id, seq, epoch, type, payload, at (microseconds), hash.
    pub(super) fn bind<'q>(&self, statement: Statement<'q>) -> Statement<'q> {
        statement
            .bind(&self.runs)
            .bind(&self.instances)
            .bind(&self.seqs)
            .bind(&self.epochs)
            .bind(&self.kinds)
            .bind(&self.payloads)
            .bind(&self.ats)
            .bind(&self.hashes)
    }
}

/// What a write that lost its lease finds when it was stored before.
pub(super) struct Stored {
    /// Index among the writes asked about.
    pub(super) which: usize,
    /// Somebody asked for the instance, or its run, to be cancelled.
    pub(super) cancel: bool,
}

/// Which of these writes are in the logs already: a commit whose outcome was unknown did succeed.
pub(super) async fn already_stored(connection: &mut PgConnection, writes: &[&Write]) -> Result<Vec<Stored>, Failure> {
    let last: Vec<(usize, &Write, &Entry)> =
        writes.iter().enumerate().filter_map(|(which, write)| write.entries.last().map(|entry| (which, *write, entry))).collect();
    if last.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, bool)> = sqlx::query_as(ALREADY_STORED)
        .bind(last.iter().map(|(which, ..)| i64::try_from(*which).unwrap_or(i64::MAX)).collect::<Vec<i64>>())
        .bind(last.iter().map(|(_, write, _)| write.lease.run.0).collect::<Vec<Uuid>>())
        .bind(last.iter().map(|(_, write, _)| write.lease.instance.0).collect::<Vec<Uuid>>())
        .bind(last.iter().map(|(.., entry)| entry.seq).collect::<Vec<i64>>())
        .bind(last.iter().map(|(.., entry)| entry.epoch).collect::<Vec<i64>>())
        .bind(last.iter().map(|(.., entry)| entry.hash.0.as_slice()).collect::<Vec<&[u8]>>())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().filter_map(|(which, cancel)| Some(Stored { which: usize::try_from(which).ok()?, cancel })).collect())
}

// The hash covers everything of the entry and all before it, so that one comparison is enough.
const ALREADY_STORED: &str = "-- already_stored
SELECT w.which, i.cancel_requested OR r.cancel_requested
FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bytea[]) AS w (which, run_id, instance_id, seq, epoch, hash)
CROSS JOIN LATERAL (
  SELECT l.epoch, l.hash FROM agent_events l WHERE l.run_id = w.run_id AND l.instance_id = w.instance_id AND l.seq = w.seq LIMIT 1
) AS e
CROSS JOIN LATERAL (SELECT a.cancel_requested FROM agent_instances a WHERE a.id = w.instance_id LIMIT 1) AS i
CROSS JOIN LATERAL (SELECT n.cancel_requested FROM runs n WHERE n.id = w.run_id LIMIT 1) AS r
WHERE e.epoch = w.epoch AND e.hash = w.hash";
