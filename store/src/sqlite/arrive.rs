//! Terminal instances arrive in their trees: failures are counted against what is tolerated, full nodes fire,
//! groups end. The walk itself is pure and shared with Postgres; here its levels are applied.

use std::collections::BTreeSet;

use muster_shared::{
    error::AgentError,
    ids::{InstanceId, RunId},
    queue::Ready,
    reduce::{Arrivals, Place},
    store::{GroupRow, StoreError},
    time::Timestamp,
};
use sqlx::SqliteConnection;

use super::{
    SqliteStore,
    apply::Counters,
    ends::{self, NewOutcome},
    sql::db,
};
use crate::{
    arrivals::{Ended, GroupUpdate, NodeUpdate, Walk},
    rows::{self, Reader},
};

/// An instance of a live run that ended in this transaction.
pub(super) struct Arrival<'w> {
    /// Index that comes back with what follows from it.
    pub(super) cause: usize,
    pub(super) instance: InstanceId,
    pub(super) group: std::sync::Arc<GroupRow>,
    pub(super) place: Place,
    /// Why it brought no output.
    pub(super) error: Option<&'w AgentError>,
}

impl SqliteStore {
    /// Applies the arrivals. Reducers take over `grant`; those that got one are answered with their cause.
    pub(super) async fn arrive(
        &self,
        conn: &mut SqliteConnection,
        mut arrivals: Vec<Arrival<'_>>,
        grant: Option<Timestamp>,
        counters: &mut Counters,
        now: Timestamp,
    ) -> Result<Vec<(usize, Ready)>, StoreError> {
        // Failures first: a run that fails here gets no further reducers.
        let mut walk = begin_walk(conn, &arrivals).await?;
        let failed = count_failures(conn, &arrivals, &walk, now).await?;
        if !failed.is_empty() {
            arrivals.retain(|arrival| !failed.contains(&arrival.group.run));
            walk = begin_walk(conn, &arrivals).await?;
        }
        loop {
            let level = walk.next_level();
            if level.is_empty() {
                break;
            }
            for update in level {
                let counted = count_node(conn, &update).await?;
                walk.counted(&update, counted);
            }
        }
        let mut ready = Vec::new();
        for reducer in &walk.reducers {
            let group = self.group_of(conn, reducer.group.id).await?;
            let inserted = self.insert_reducer(conn, &group, reducer.place, grant).await?;
            counters.of(group.row.run).total += 1;
            if grant.is_some() {
                ready.push((reducer.cause, inserted));
            }
        }
        for update in walk.groups.values().filter(|update| update.done_by.is_some()) {
            ends::group_done(conn, &update.group, counters, now).await?;
        }
        Ok(ready)
    }
}

async fn begin_walk(conn: &mut SqliteConnection, arrivals: &[Arrival<'_>]) -> Result<Walk, StoreError> {
    let mut ended = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        ended.push(Ended {
            cause: arrival.cause,
            group: arrival.group.clone(),
            place: arrival.place,
            output: arrival.error.is_none(),
            failed_before: failed_before(conn, &arrival.group, arrival.place).await?,
        });
    }
    Ok(Walk::new(ended))
}

/// The leaves below a reducer that failed before it was spawned.
async fn failed_before(conn: &mut SqliteConnection, group: &GroupRow, place: Place) -> Result<i64, StoreError> {
    if place.level == 0 {
        return Ok(0);
    }
    let counted: Option<i64> = sqlx::query_scalar(
        "-- failed_before
         SELECT failed_leaves FROM reductions WHERE group_id = ?1 AND level = ?2 AND ordinal = ?3 AND generation = 1",
    )
    .bind(group.id.0)
    .bind(place.level)
    .bind(place.index)
    .fetch_optional(conn)
    .await
    .map_err(db)?;
    Ok(counted.unwrap_or(0))
}

/// Counts the leaves that failed now; a run in which more failed than is tolerated fails with the last straw.
async fn count_failures(
    conn: &mut SqliteConnection,
    arrivals: &[Arrival<'_>],
    walk: &Walk,
    now: Timestamp,
) -> Result<BTreeSet<RunId>, StoreError> {
    let mut failed = BTreeSet::new();
    for GroupUpdate { group, newly_failed, failed_by, .. } in walk.groups.values() {
        let Some(cause) = failed_by else { continue };
        let all: i64 = sqlx::query_scalar(
            "-- count_failed_leaves\nUPDATE groups SET failed_leaves = failed_leaves + ?2 WHERE id = ?1 RETURNING failed_leaves",
        )
        .bind(group.id.0)
        .bind(newly_failed)
        .fetch_one(&mut *conn)
        .await
        .map_err(db)?;
        if all <= group.tolerated {
            continue;
        }
        let straw = arrivals.iter().find(|arrival| arrival.cause == *cause);
        let error = straw.and_then(|arrival| arrival.error.map(|error| rows::run_error(error, arrival.instance)));
        let outcome = NewOutcome { run: group.run, status: "failed", result: None, error: error.as_deref(), closed: false };
        ends::insert_outcome(conn, &outcome, now).await?;
        failed.insert(group.run);
    }
    Ok(failed)
}

/// Adds to a node, which its first arrival makes, and answers what it counts now.
async fn count_node(conn: &mut SqliteConnection, update: &NodeUpdate) -> Result<Arrivals, StoreError> {
    let row = sqlx::query(
        "-- count_arrivals
         INSERT INTO reductions (group_id, level, ordinal, generation, expected, arrived, empty, failed_leaves)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7)
         ON CONFLICT (group_id, level, ordinal, generation) DO UPDATE SET arrived = arrived + excluded.arrived,
             empty = empty + excluded.empty, failed_leaves = failed_leaves + excluded.failed_leaves
         RETURNING group_id, level, ordinal, arrived, empty, failed_leaves",
    )
    .bind(update.group.id.0)
    .bind(update.node.level)
    .bind(update.node.index)
    .bind(update.group.tree.expected(update.node))
    .bind(update.add.arrived)
    .bind(update.add.empty)
    .bind(update.add.failed_leaves)
    .fetch_one(conn)
    .await
    .map_err(db)?;
    let at = Reader::new("reductions", &row);
    Ok(Arrivals { arrived: at.i64("arrived")?, empty: at.i64("empty")?, failed_leaves: at.i64("failed_leaves")? })
}
