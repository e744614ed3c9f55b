//! Polling: what is committed, in one statement each, so that every answer is one snapshot.

use std::collections::BTreeMap;

use async_trait::async_trait;
use muster_shared::{
    hash::Hash32,
    ids::{GroupId, InstanceId, RunId, TeamId},
    reduce::Place,
    store::{Entry, GroupRow, Output, Page, Reads, StoreError},
    time::Timestamp,
    wire,
};
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{PostgresStore, errors::Failure, schema};
use crate::rows::{self, InstanceCursor, Reader};

/// Runs with their outcomes and counters; `$page` is what is selected from `runs`.
macro_rules! run_views {
    ($name:literal, $page:literal) => {
        concat!(
            "-- ",
            $name,
            "\nWITH page AS (",
            $page,
            ")
SELECT p.id, p.root_group, p.template_name, p.template_version, g.total AS tasks, c.*, p.priority, p.max_parallel, p.cancel_requested,
  (extract(epoch FROM p.created_at) * 1000000)::bigint AS created_at, (extract(epoch FROM p.deadline_at) * 1000000)::bigint AS deadline_at,
  o.status AS outcome, o.closed, (extract(epoch FROM o.finished_at) * 1000000)::bigint AS finished_at, o.result_instance, o.error::text AS error,
  (SELECT count(*) FROM agent_instances i WHERE i.run_id = p.id AND i.granted_at IS NOT NULL AND i.status = 'running') AS running
FROM page p
JOIN groups g ON g.id = p.root_group
LEFT JOIN run_outcomes o ON o.run_id = p.id
CROSS JOIN LATERAL (
  SELECT coalesce(sum(s.total), 0)::bigint AS total, coalesce(sum(s.waiting), 0)::bigint AS waiting,
    coalesce(sum(s.completed), 0)::bigint AS completed, coalesce(sum(s.failed), 0)::bigint AS failed,
    coalesce(sum(s.timeout), 0)::bigint AS timeout, coalesce(sum(s.cancelled), 0)::bigint AS cancelled,
    coalesce(sum(s.steps), 0)::bigint AS steps, coalesce(sum(s.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(s.output_tokens), 0)::bigint AS output_tokens, coalesce(sum(s.cost_micros), 0)::bigint AS cost_micros
  FROM run_counters s WHERE s.run_id = p.id
) AS c
ORDER BY p.id DESC"
        )
    };
}

/// Instances as they are shown; the macro's argument is the rest of the statement.
macro_rules! instance_views {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- ",
            $name,
            "
SELECT id, run_id, group_id, template_name, template_version, level, ordinal, name, role, task, status, state, waiting_for,
  (extract(epoch FROM run_after) * 1000000)::bigint AS run_after, step, epoch, input_tokens, output_tokens, cost_micros,
  output::text AS output, error::text AS error, policy_hash, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at,
  (extract(epoch FROM updated_at) * 1000000)::bigint AS updated_at
FROM agent_instances ",
            $rest
        )
    };
}

#[async_trait]
impl Reads for PostgresStore {
    async fn check(&self) -> Result<(), StoreError> {
        schema::check(&self.pool).await
    }

    async fn run(&self, team: TeamId, run: RunId) -> Result<wire::RunView, StoreError> {
        const RUN: &str = run_views!("run", "SELECT * FROM runs WHERE team_id = $1 AND id = $2");
        let row = sqlx::query(RUN).bind(team.0).bind(run.0).fetch_optional(&self.pool).await.map_err(Failure::from)?;
        rows::run_view(&row.ok_or_else(|| StoreError::NotFound(run.to_string()))?)
    }

    async fn runs(&self, team: TeamId, page: &Page) -> Result<wire::Listing<wire::RunView>, StoreError> {
        const RUNS: &str = run_views!("runs", "SELECT * FROM runs WHERE team_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
        let after = page.after.as_deref().map(rows::run_cursor).transpose()?.map_or(Uuid::max(), |run| run.0);
        let limit = page.limit.max(0);
        let found =
            sqlx::query(RUNS).bind(team.0).bind(after).bind(limit.saturating_add(1)).fetch_all(&self.pool).await.map_err(Failure::from)?;
        let runs = found.iter().map(rows::run_view).collect::<Result<Vec<_>, _>>()?;
        Ok(listing(runs, limit, |run| run.id.to_string()))
    }

    async fn instance(&self, team: TeamId, instance: InstanceId) -> Result<wire::InstanceView, StoreError> {
        const INSTANCE: &str = instance_views!("instance", "WHERE team_id = $1 AND id = $2");
        let row = sqlx::query(INSTANCE).bind(team.0).bind(instance.0).fetch_optional(&self.pool).await.map_err(Failure::from)?;
        rows::instance_view(&row.ok_or_else(|| StoreError::NotFound(instance.to_string()))?)
    }

    async fn instances(&self, team: TeamId, run: RunId, page: &Page) -> Result<wire::Listing<wire::InstanceView>, StoreError> {
        // The root group was made first, so its id is the smallest.
        const INSTANCES: &str = instance_views!(
            "instances",
            "WHERE run_id = $1 AND (group_id, level, ordinal) > ($2, $3, $4) ORDER BY group_id, level, ordinal LIMIT $5"
        );
        let after = page.after.as_deref().map(InstanceCursor::parse).transpose()?;
        let known = sqlx::query("-- run_exists\nSELECT 1 FROM runs WHERE id = $1 AND team_id = $2").bind(run.0).bind(team.0);
        if known.fetch_optional(&self.pool).await.map_err(Failure::from)?.is_none() {
            return Err(StoreError::NotFound(run.to_string()));
        }
        let after = after.unwrap_or(InstanceCursor { group: GroupId(Uuid::nil()), place: Place::leaf(-1) });
        let limit = page.limit.max(0);
        let found = sqlx::query(INSTANCES)
            .bind(run.0)
            .bind(after.group.0)
            .bind(after.place.level)
            .bind(after.place.index)
            .bind(limit.saturating_add(1))
            .fetch_all(&self.pool)
            .await
            .map_err(Failure::from)?;
        let item = |row: &PgRow| {
            let group = GroupId(Reader::new("agent_instances", row).uuid("group_id")?);
            Ok((rows::instance_view(row)?, InstanceCursor { group, place: rows::place(row)? }))
        };
        let items = found.iter().map(item).collect::<Result<Vec<_>, StoreError>>()?;
        let listed = listing(items, limit, |(_, cursor)| cursor.print());
        Ok(wire::Listing { items: listed.items.into_iter().map(|(view, _)| view).collect(), next: listed.next })
    }

    async fn events(&self, team: TeamId, instance: InstanceId, after: i64, limit: i64) -> Result<Vec<Entry>, StoreError> {
        let run: Option<Uuid> = sqlx::query_scalar("-- run_of\nSELECT run_id FROM agent_instances WHERE id = $1 AND team_id = $2")
            .bind(instance.0)
            .bind(team.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(Failure::from)?;
        let run = run.ok_or_else(|| StoreError::NotFound(instance.to_string()))?;
        let found = sqlx::query(EVENTS)
            .bind(run)
            .bind(instance.0)
            .bind(after)
            .bind(limit.max(0))
            .fetch_all(&self.pool)
            .await
            .map_err(Failure::from)?;
        found.iter().map(rows::stored_event).collect()
    }

    async fn group(&self, group: GroupId) -> Result<GroupRow, StoreError> {
        Ok(GroupRow::clone(&self.group_of(group).await?.row))
    }

    async fn outputs(&self, run: RunId, group: GroupId, places: &[Place]) -> Result<Vec<Output>, StoreError> {
        let found = sqlx::query(OUTPUTS)
            .bind(run.0)
            .bind(group.0)
            .bind(places.iter().map(|place| place.level).collect::<Vec<i32>>())
            .bind(places.iter().map(|place| place.index).collect::<Vec<i64>>())
            .fetch_all(&self.pool)
            .await
            .map_err(Failure::from)?;
        found.iter().map(rows::output).collect()
    }

    async fn blobs(&self, hashes: &[Hash32]) -> Result<BTreeMap<Hash32, Vec<u8>>, StoreError> {
        let found = sqlx::query("-- blobs\nSELECT hash, bytes FROM blobs WHERE hash = ANY($1)")
            .bind(hashes.iter().map(|hash| hash.0.as_slice()).collect::<Vec<&[u8]>>())
            .fetch_all(&self.pool)
            .await
            .map_err(Failure::from)?;
        let read = |row: &PgRow| {
            let at = Reader::new("blobs", row);
            Ok((at.hash("hash")?, at.bytes("bytes")?))
        };
        found.iter().map(read).collect()
    }

    async fn demand(&self) -> Result<wire::Demand, StoreError> {
        let row = sqlx::query(DEMAND).fetch_one(&self.pool).await.map_err(Failure::from)?;
        rows::demand(&row)
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        let micros: i64 = sqlx::query_scalar("-- now\nSELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            .fetch_one(&self.pool)
            .await
            .map_err(Failure::from)?;
        Ok(Timestamp::from_micros(micros))
    }
}

const EVENTS: &str = "-- events
SELECT run_id, instance_id, seq, epoch, type, payload::text AS payload, (extract(epoch FROM at) * 1000000)::bigint AS at, hash
FROM agent_events WHERE run_id = $1 AND instance_id = $2 AND seq > $3 ORDER BY seq LIMIT $4";

const OUTPUTS: &str = "-- outputs
SELECT i.id, i.run_id, i.level, i.ordinal, i.name, i.output::text AS output
FROM unnest($3::integer[], $4::bigint[]) WITH ORDINALITY AS p (level, ordinal, nr)
CROSS JOIN LATERAL (
  SELECT a.id, a.run_id, a.level, a.ordinal, a.name, a.output, a.status FROM agent_instances a
  WHERE a.run_id = $1 AND a.group_id = $2 AND a.level = p.level AND a.ordinal = p.ordinal AND a.generation = 1 LIMIT 1
) AS i
WHERE i.status = 'completed' AND i.output IS NOT NULL
ORDER BY p.nr";

const DEMAND: &str = "-- demand
SELECT (SELECT count(*) FROM agent_instances i
        WHERE i.status = 'queued' AND i.granted_at IS NULL AND (i.run_after IS NULL OR i.run_after <= now())) AS due,
       (SELECT count(*) FROM agent_instances i WHERE i.granted_at IS NOT NULL) AS in_flight,
       (SELECT count(*) FROM agent_instances i WHERE i.status = 'waiting') AS waiting,
       count(*) AS workers, coalesce(sum(w.slots), 0)::bigint AS slots
FROM workers w WHERE w.alive AND w.heartbeat_at > now() - interval '30 seconds'";

/// One item more than the page was asked for: its presence says that there is a next page.
fn listing<T>(mut items: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> wire::Listing<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    wire::Listing { items, next }
}
