//! What follows when something ends: outcomes of runs, groups that are done, parents that wake, reducers.

use muster_shared::{
    CORE_REV,
    ids::{InstanceId, RunId},
    queue::Ready,
    reduce::Place,
    store::{GroupRow, StoreError},
    time::Timestamp,
};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{SqliteStore, apply::Counters, sql::db};
use crate::rows::{GroupOf, Reader, ready};

/// How a run ends.
pub(super) struct NewOutcome<'o> {
    pub(super) run: RunId,
    pub(super) status: &'static str,
    pub(super) result: Option<Uuid>,
    pub(super) error: Option<&'o str>,
    pub(super) closed: bool,
}

/// Inserted once: whoever comes second changes nothing (I5). Answers whether it was the first.
pub(super) async fn insert_outcome(conn: &mut SqliteConnection, outcome: &NewOutcome<'_>, now: Timestamp) -> Result<bool, StoreError> {
    let inserted = sqlx::query(
        "-- insert_outcome
         INSERT INTO run_outcomes (run_id, status, result_instance, error, closed, finished_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO NOTHING",
    )
    .bind(outcome.run.0)
    .bind(outcome.status)
    .bind(outcome.result)
    .bind(outcome.error)
    .bind(outcome.closed)
    .bind(now.micros())
    .execute(conn)
    .await
    .map_err(db)?;
    Ok(inserted.rows_affected() == 1)
}

/// The group has its answer, or knows that there is none: the run is completed, or the parent wakes.
pub(super) async fn group_done(
    conn: &mut SqliteConnection,
    group: &GroupRow,
    counters: &mut Counters,
    now: Timestamp,
) -> Result<(), StoreError> {
    let first = sqlx::query("-- group_done\nUPDATE groups SET done = 1 WHERE id = ?1 AND done = 0")
        .bind(group.id.0)
        .execute(&mut *conn)
        .await
        .map_err(db)?;
    if first.rows_affected() == 0 {
        return Ok(());
    }
    if let Some(parent) = group.parent {
        return wake_parent(conn, parent, counters, now).await;
    }
    let result = match group.tree.answer() {
        None => None,
        Some(place) => completed_at(conn, group, place).await?,
    };
    let outcome = NewOutcome { run: group.run, status: "completed", result, error: None, closed: true };
    insert_outcome(conn, &outcome, now).await?;
    Ok(())
}

async fn completed_at(conn: &mut SqliteConnection, group: &GroupRow, place: Place) -> Result<Option<Uuid>, StoreError> {
    sqlx::query_scalar(
        "-- completed_at
         SELECT id FROM agent_instances
         WHERE run_id = ?1 AND group_id = ?2 AND level = ?3 AND ordinal = ?4 AND generation = 1 AND status = 'completed'",
    )
    .bind(group.run.0)
    .bind(group.id.0)
    .bind(place.level)
    .bind(place.index)
    .fetch_optional(conn)
    .await
    .map_err(db)
}

/// The wake is counted whatever the parent does; if it waits for its children it is due (rule 7).
async fn wake_parent(conn: &mut SqliteConnection, parent: InstanceId, counters: &mut Counters, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("-- count_wake\nUPDATE agent_instances SET wake_seq = wake_seq + 1, updated_at = ?2 WHERE id = ?1")
        .bind(parent.0)
        .bind(now.micros())
        .execute(&mut *conn)
        .await
        .map_err(db)?;
    let woken = sqlx::query(
        "-- wake_parent
         UPDATE agent_instances SET status = 'queued', waiting_for = NULL, run_after = NULL
         WHERE id = ?1 AND status = 'waiting' AND waiting_for = 'children'
         RETURNING id, run_id",
    )
    .bind(parent.0)
    .fetch_optional(conn)
    .await
    .map_err(db)?;
    if let Some(row) = woken {
        counters.of(RunId(Reader::new("agent_instances", &row).uuid("run_id")?)).waiting -= 1;
    }
    Ok(())
}

impl SqliteStore {
    /// The reducer at a full node. `grant` is what it takes over from the child that filled the node, so that
    /// what is in flight does not grow.
    pub(super) async fn insert_reducer(
        &self,
        conn: &mut SqliteConnection,
        group: &GroupOf,
        place: Place,
        grant: Option<Timestamp>,
    ) -> Result<Ready, StoreError> {
        let (id, now, row) = (InstanceId::new(&*self.clock, &*self.random), self.now(), &group.row);
        let Some((template, policy, task)) = &group.reducer else {
            return Err(StoreError::Corrupt(format!("groups.reducer_policy_hash of the row with id {}: none, but it reduces", row.id)));
        };
        let inserted = sqlx::query(
            "-- insert_reducer
             INSERT INTO agent_instances (id, run_id, group_id, parent_id, team_id, project_id, level, ordinal, template_id,
                                          template_version, template_name, policy_hash, core_rev, depth, priority, task,
                                          status, state, granted_at, created_at, updated_at)
             SELECT ?1, r.id, ?3, ?4, r.team_id, r.project_id, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
                    coalesce((SELECT depth FROM agent_instances WHERE run_id = ?2 AND group_id = ?3 AND level = 0 AND ordinal = 0), 0),
                    r.priority, ?12, 'queued', 'init', ?13, ?14, ?14
             FROM runs r WHERE r.id = ?2
             RETURNING id, priority, level, (SELECT traceparent FROM runs WHERE id = run_id) AS traceparent",
        )
        .bind(id.0)
        .bind(row.run.0)
        .bind(row.id.0)
        .bind(row.parent.map(|parent| parent.0))
        .bind(place.level)
        .bind(place.index)
        .bind(template.id.0)
        .bind(template.version)
        .bind(&template.name)
        .bind(&policy.0[..])
        .bind(CORE_REV)
        .bind(task)
        .bind(grant.map(Timestamp::micros))
        .bind(now.micros())
        .fetch_one(&mut *conn)
        .await
        .map_err(db)?;
        sqlx::query(
            "-- note_reducer
             UPDATE reductions SET reducer_instance = ?4 WHERE group_id = ?1 AND level = ?2 AND ordinal = ?3 AND generation = 1",
        )
        .bind(row.id.0)
        .bind(place.level)
        .bind(place.index)
        .bind(id.0)
        .execute(conn)
        .await
        .map_err(db)?;
        ready(&inserted)
    }
}
