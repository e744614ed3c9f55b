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
use sqlx::AssertSqlSafe;

use super::{
    SqliteStore,
    dispatch::{FRESH, before},
    schema,
    sql::{db, json_list},
};
use crate::rows::{self, InstanceCursor, Reader};

/// Runs with their outcomes and counters; `page` is what is selected from `runs`.
macro_rules! run_views {
    ($name:literal, $page:literal) => {
        concat!(
            "-- ",
            $name,
            "\nWITH page AS (",
            $page,
            ")
             SELECT p.id, p.root_group, p.template_name, p.template_version, g.total AS tasks, c.total, c.waiting, c.completed,
                    c.failed, c.timeout, c.cancelled, c.steps, c.input_tokens, c.output_tokens, c.cost_micros, p.priority,
                    p.max_parallel, p.created_at, p.deadline_at, p.cancel_requested, o.status AS outcome, o.closed,
                    o.finished_at, o.result_instance, o.error,
                    (SELECT count(*) FROM agent_instances i
                     WHERE i.run_id = p.id AND i.granted_at IS NOT NULL AND i.status = 'running') AS running
             FROM page p
             JOIN groups g ON g.id = p.root_group
             JOIN run_counters c ON c.run_id = p.id AND c.shard = 0
             LEFT JOIN run_outcomes o ON o.run_id = p.id
             ORDER BY p.id DESC"
        )
    };
}

const INSTANCE: &str = "SELECT id, run_id, group_id, template_name, template_version, level, ordinal, name, role, task, status, state,
    waiting_for, run_after, step, epoch, input_tokens, output_tokens, cost_micros, output, error, policy_hash, created_at, updated_at
    FROM agent_instances";

#[async_trait]
impl Reads for SqliteStore {
    async fn check(&self) -> Result<(), StoreError> {
        schema::check(&self.readers).await
    }

    async fn run(&self, team: TeamId, run: RunId) -> Result<wire::RunView, StoreError> {
        let row = sqlx::query(run_views!("run", "SELECT * FROM runs WHERE team_id = ?1 AND id = ?2"))
            .bind(team.0)
            .bind(run.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(db)?
            .ok_or_else(|| StoreError::NotFound(run.to_string()))?;
        rows::run_view(&row)
    }

    async fn runs(&self, team: TeamId, page: &Page) -> Result<wire::Listing<wire::RunView>, StoreError> {
        let after = page.after.as_deref().map(rows::run_cursor).transpose()?;
        let found =
            sqlx::query(run_views!("runs", "SELECT * FROM runs WHERE team_id = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3"))
                .bind(team.0)
                .bind(after.map(|run| run.0))
                .bind(page.limit.saturating_add(1))
                .fetch_all(&self.readers)
                .await
                .map_err(db)?;
        let runs = found.iter().map(rows::run_view).collect::<Result<Vec<_>, _>>()?;
        Ok(listing(runs, page.limit, |run| run.id.to_string()))
    }

    async fn instance(&self, team: TeamId, instance: InstanceId) -> Result<wire::InstanceView, StoreError> {
        let row = sqlx::query(AssertSqlSafe(format!("-- instance\n{INSTANCE} WHERE team_id = ?1 AND id = ?2")))
            .bind(team.0)
            .bind(instance.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(db)?
            .ok_or_else(|| StoreError::NotFound(instance.to_string()))?;
        rows::instance_view(&row)
    }

    async fn instances(&self, team: TeamId, run: RunId, page: &Page) -> Result<wire::Listing<wire::InstanceView>, StoreError> {
        let after = page.after.as_deref().map(InstanceCursor::parse).transpose()?;
        self.run_exists(team, run).await?;
        let start = InstanceCursor { group: GroupId(uuid::Uuid::nil()), place: Place::leaf(-1) };
        let after = after.unwrap_or(start);
        // The root group was made first, so its id is the smallest.
        let sql = format!(
            "-- instances\n{INSTANCE} WHERE run_id = ?1 AND (group_id, level, ordinal) > (?2, ?3, ?4) ORDER BY group_id, level, ordinal LIMIT ?5"
        );
        let found = sqlx::query(AssertSqlSafe(sql))
            .bind(run.0)
            .bind(after.group.0)
            .bind(after.place.level)
            .bind(after.place.index)
            .bind(page.limit.saturating_add(1))
            .fetch_all(&self.readers)
            .await
            .map_err(db)?;
        let mut items = Vec::with_capacity(found.len());
        for row in &found {
            let cursor = InstanceCursor { group: GroupId(Reader::new("agent_instances", row).uuid("group_id")?), place: rows::place(row)? };
            items.push((rows::instance_view(row)?, cursor));
        }
        let listed = listing(items, page.limit, |(_, cursor)| cursor.print());
        Ok(wire::Listing { items: listed.items.into_iter().map(|(view, _)| view).collect(), next: listed.next })
    }

    async fn events(&self, team: TeamId, instance: InstanceId, after: i64, limit: i64) -> Result<Vec<Entry>, StoreError> {
        let run: Option<uuid::Uuid> = sqlx::query_scalar("-- run_of\nSELECT run_id FROM agent_instances WHERE id = ?1 AND team_id = ?2")
            .bind(instance.0)
            .bind(team.0)
            .fetch_optional(&self.readers)
            .await
            .map_err(db)?;
        let run = run.ok_or_else(|| StoreError::NotFound(instance.to_string()))?;
        let found = sqlx::query(
            "-- events
             SELECT run_id, instance_id, seq, epoch, type, payload, at, hash FROM agent_events
             WHERE run_id = ?1 AND instance_id = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
        )
        .bind(run)
        .bind(instance.0)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        found.iter().map(rows::stored_event).collect()
    }

    async fn group(&self, group: GroupId) -> Result<GroupRow, StoreError> {
        let mut conn = self.readers.acquire().await.map_err(db)?;
        Ok(GroupRow::clone(&self.group_of(&mut conn, group).await?.row))
    }

    async fn outputs(&self, run: RunId, group: GroupId, places: &[Place]) -> Result<Vec<Output>, StoreError> {
        let found = sqlx::query(
            "-- outputs
             SELECT i.id, i.run_id, i.level, i.ordinal, i.name, i.output
             FROM json_each(?3) AS given
             CROSS JOIN agent_instances i ON i.run_id = ?1 AND i.group_id = ?2 AND i.level = given.value ->> 0
                  AND i.ordinal = given.value ->> 1 AND i.generation = 1
             WHERE i.status = 'completed' AND i.output IS NOT NULL
             ORDER BY given.key",
        )
        .bind(run.0)
        .bind(group.0)
        .bind(json_list(places.iter().map(|place| format!("[{},{}]", place.level, place.index))))
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        found.iter().map(rows::output).collect()
    }

    async fn blobs(&self, hashes: &[Hash32]) -> Result<BTreeMap<Hash32, Vec<u8>>, StoreError> {
        let found = sqlx::query("-- blobs\nSELECT hash, bytes FROM blobs WHERE hash IN (SELECT unhex(value) FROM json_each(?1))")
            .bind(json_list(hashes.iter().map(|hash| format!("\"{hash}\""))))
            .fetch_all(&self.readers)
            .await
            .map_err(db)?;
        let read = |row| {
            let at = Reader::new("blobs", row);
            Ok((at.hash("hash")?, at.bytes("bytes")?))
        };
        found.iter().map(read).collect()
    }

    async fn demand(&self) -> Result<wire::Demand, StoreError> {
        let now = self.now();
        let row = sqlx::query(
            "-- demand
             SELECT (SELECT count(*) FROM agent_instances
                     WHERE status = 'queued' AND granted_at IS NULL AND (run_after IS NULL OR run_after <= ?1)) AS due,
                    (SELECT count(*) FROM agent_instances WHERE granted_at IS NOT NULL) AS in_flight,
                    (SELECT count(*) FROM agent_instances WHERE status = 'waiting') AS waiting,
                    (SELECT count(*) FROM workers WHERE alive = 1 AND heartbeat_at > ?2) AS workers,
                    (SELECT coalesce(sum(slots), 0) FROM workers WHERE alive = 1 AND heartbeat_at > ?2) AS slots",
        )
        .bind(now.micros())
        .bind(before(now, FRESH))
        .fetch_one(&self.readers)
        .await
        .map_err(db)?;
        rows::demand(&row)
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(SqliteStore::now(self))
    }
}

impl SqliteStore {
    async fn run_exists(&self, team: TeamId, run: RunId) -> Result<(), StoreError> {
        let known: i64 = sqlx::query_scalar("-- run_exists\nSELECT count(*) FROM runs WHERE id = ?1 AND team_id = ?2")
            .bind(run.0)
            .bind(team.0)
            .fetch_one(&self.readers)
            .await
            .map_err(db)?;
        if known == 0 { Err(StoreError::NotFound(run.to_string())) } else { Ok(()) }
    }
}

/// One item more than the page was asked for: its presence says that there is a next page.
fn listing<T>(mut items: Vec<T>, limit: i64, cursor: impl Fn(&T) -> String) -> wire::Listing<T> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(cursor) } else { None };
    wire::Listing { items, next }
}
