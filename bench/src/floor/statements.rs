//! The five statements, prepared once per connection, over the binary protocol. FROZEN (see `schema.sql`).

use anyhow::Context as _;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection, postgres::PgConnectOptions, query::Query, types::Uuid};

use super::tree::Instance;
use crate::workload::Workload;

const SCHEMA: &str = include_str!("schema.sql");

/// What a batch does. All rows of a batch are of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Insert,
    Grant,
    Claim,
    Step,
    Finish,
}

impl Kind {
    /// In the order in which an instance goes through them.
    pub(super) const ALL: [Self; 5] = [Self::Insert, Self::Grant, Self::Claim, Self::Step, Self::Finish];
}

const INSERT: &str = "
-- floor_insert
INSERT INTO floor_instances (id, run_id, status)
SELECT id, $1, 'queued' FROM unnest($2::uuid[]) AS t (id)";

const GRANT: &str = "
-- floor_grant
UPDATE floor_instances AS i SET granted_at = now()
FROM unnest($2::uuid[]) AS t (id)
WHERE i.id = t.id AND i.run_id = $1 AND i.status = 'queued'";

const CLAIM: &str = "
-- floor_claim
UPDATE floor_instances AS i SET status = 'running', epoch = i.epoch + 1, worker = $1, updated_at = now()
FROM unnest($2::uuid[]) AS t (id)
WHERE i.id = t.id AND i.status = 'queued' AND i.granted_at IS NOT NULL";

const STEP: &str = "
-- floor_step
WITH step AS (
    SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::text[]) AS t (id, seq, payload)
), logged AS (
    INSERT INTO floor_log (run_id, instance_id, seq, payload) SELECT $1, id, seq, payload::json FROM step
)
UPDATE floor_instances AS i SET last_seq = step.seq, updated_at = now()
FROM step WHERE i.id = step.id AND i.epoch = 1 AND i.status = 'running'";

const FINISH: &str = "
-- floor_finish
UPDATE floor_instances AS i SET status = 'completed', worker = NULL, output = t.output::json, updated_at = now()
FROM unnest($2::uuid[], $3::text[]) AS t (id, output)
WHERE i.id = t.id AND i.run_id = $1 AND i.epoch = 1 AND i.status = 'running'";

/// 200 bytes of JSON.
fn payload() -> String {
    format!(r#"{{"text":"{}"}}"#, "x".repeat(200 - r#"{"text":""}"#.len()))
}

/// A connection whose plans go by the primary key: the tables have no statistics yet, and a hash join would
/// read all of them for every batch.
pub(super) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options: PgConnectOptions = url.parse().context("the URL of the floor's database")?;
    let plans = [("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("enable_seqscan", "off")];
    Ok(options.options(plans).connect().await?)
}

pub(super) async fn create_schema(connection: &mut PgConnection) -> anyhow::Result<()> {
    connection.execute(SCHEMA).await.context("the floor's schema")?;
    Ok(())
}

/// One transaction of one statement. It must change every row that it names.
pub(super) async fn commit(connection: &mut PgConnection, run: Uuid, kind: Kind, batch: &[Instance]) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = batch.iter().map(|instance| instance.id).collect();
    let done = query(kind, run, &ids, batch).execute(connection).await.with_context(|| format!("{kind:?} of {} rows", ids.len()))?;
    anyhow::ensure!(done.rows_affected() == ids.len() as u64, "{kind:?} changed {} of {} rows", done.rows_affected(), ids.len());
    Ok(())
}

/// A figure counts only if the work was done.
pub(super) async fn verify(connection: &mut PgConnection, run: Uuid, workload: Workload) -> anyhow::Result<()> {
    let done: (i64, i64) = sqlx::query_as(
        "
-- floor_verify
SELECT (SELECT count(*) FROM floor_log WHERE run_id = $1),
       (SELECT count(*) FROM floor_instances WHERE run_id = $1 AND status = 'completed' AND output IS NOT NULL)",
    )
    .bind(run)
    .fetch_one(connection)
    .await?;
    let wanted = (workload.steps().cast_signed(), (workload.n + workload.reducers()).cast_signed());
    anyhow::ensure!(done == wanted, "(steps, instances) are {done:?} and should be {wanted:?}");
    Ok(())
}

fn query<'q>(kind: Kind, run: Uuid, ids: &'q [Uuid], batch: &[Instance]) -> Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    let payloads = || vec![payload(); ids.len()];
    match kind {
        Kind::Insert => sqlx::query(INSERT).bind(run).bind(ids),
        Kind::Grant => sqlx::query(GRANT).bind(run).bind(ids),
        Kind::Claim => sqlx::query(CLAIM).bind(run).bind(ids),
        Kind::Step => {
            let seqs: Vec<i64> = batch.iter().map(|instance| instance.steps_made.cast_signed() + 1).collect();
            sqlx::query(STEP).bind(run).bind(ids).bind(seqs).bind(payloads())
        }
        Kind::Finish => sqlx::query(FINISH).bind(run).bind(ids).bind(payloads()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_has_200_bytes_of_json() {
        assert_eq!(payload().len(), 200);
        assert!(serde_json::from_str::<serde_json::Value>(&payload()).is_ok());
    }
}
