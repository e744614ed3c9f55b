//! What follows from the end of instances: arrivals, reducers, groups, parents, outcomes. Runs inside the
//! transaction that ended them, under the locks of their runs and of themselves.

use std::{collections::BTreeMap, sync::Arc};

use muster_shared::{
    CORE_REV,
    error::AgentError,
    ids::{GroupId, InstanceId},
    queue::Ready,
    reduce::{Arrivals, Place},
    store::GroupRow,
};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{PostgresStore, counters::Deltas, errors::Failure};
use crate::{
    arrivals::{Ended, GroupUpdate, NodeUpdate, Reducer, Walk},
    rows,
};

/// An instance that ended in this transaction.
pub(super) struct Finished<'w> {
    /// Index of the write, for the answers.
    pub(super) cause: usize,
    pub(super) instance: InstanceId,
    pub(super) group: &'w Arc<GroupRow>,
    pub(super) place: Place,
    /// Why it brought no output, if it did not.
    pub(super) failure: Option<&'w AgentError>,
    /// For a reducer: leaves below it that had failed before it fired.
    pub(super) failed_before: i64,
    /// Whether it held a grant that what follows may take over.
    pub(super) granted: bool,
}

/// Carries the ends through the trees and answers what became runnable, with its cause.
pub(super) async fn finish(
    store: &PostgresStore,
    tx: &mut PgConnection,
    finished: &[Finished<'_>],
    deltas: &mut Deltas,
) -> Result<Vec<(usize, Ready)>, Failure> {
    if finished.is_empty() {
        return Ok(Vec::new());
    }
    let by_cause: BTreeMap<usize, &Finished<'_>> = finished.iter().map(|one| (one.cause, one)).collect();
    let mut walk = Walk::new(finished.iter().map(|one| Ended {
        cause: one.cause,
        group: Arc::clone(one.group),
        place: one.place,
        output: one.failure.is_none(),
        failed_before: one.failed_before,
    }));
    loop {
        let level = walk.next_level();
        if level.is_empty() {
            break;
        }
        let counts = arrive(tx, &level).await?;
        for update in &level {
            let missing = || Failure::Unavailable("a reduction node did not answer its count".to_owned());
            walk.counted(update, *counts.get(&(update.group.id, update.node.index)).ok_or_else(missing)?);
        }
    }
    let groups: Vec<&GroupUpdate> = walk.groups.values().collect();
    let mut ready = Vec::new();
    if !groups.is_empty() {
        let too_many = update_groups(tx, &groups).await?;
        fail_runs(tx, &groups, &too_many, &by_cause).await?;
        complete_runs(tx, &groups).await?;
        ready.extend(wake_parents(tx, &groups, &by_cause, deltas).await?);
    }
    ready.extend(insert_reducers(store, tx, &walk.reducers, &by_cause, deltas).await?);
    Ok(ready)
}

/// Adds to the nodes of one level, in lock order; answers how they stand.
async fn arrive(tx: &mut PgConnection, level: &[NodeUpdate]) -> Result<BTreeMap<(GroupId, i64), Arrivals>, Failure> {
    let column = |of: fn(&NodeUpdate) -> i64| -> Vec<i64> { level.iter().map(of).collect() };
    let rows = sqlx::query(ARRIVE_AT_NODES)
        .bind(level.iter().map(|update| update.group.id.0).collect::<Vec<Uuid>>())
        .bind(level.iter().map(|update| update.node.level).collect::<Vec<i32>>())
        .bind(column(|update| update.node.index))
        .bind(column(|update| update.group.tree.expected(update.node)))
        .bind(column(|update| update.add.arrived))
        .bind(column(|update| update.add.empty))
        .bind(column(|update| update.add.failed_leaves))
        .fetch_all(tx)
        .await?;
    let mut counts = BTreeMap::new();
    for row in &rows {
        let now = Arrivals { arrived: row.try_get(2)?, empty: row.try_get(3)?, failed_leaves: row.try_get(4)? };
        counts.insert((GroupId(row.try_get(0)?), row.try_get(1)?), now);
    }
    Ok(counts)
}

const ARRIVE_AT_NODES: &str = "-- arrive_at_nodes
INSERT INTO reductions AS n (group_id, level, ordinal, generation, expected, arrived, empty, failed_leaves)
SELECT a.group_id, a.level, a.ordinal, 1, a.expected, a.arrived, a.empty, a.failed_leaves
FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
  AS a (group_id, level, ordinal, expected, arrived, empty, failed_leaves)
ORDER BY a.level, a.group_id, a.ordinal
ON CONFLICT (group_id, level, ordinal, generation) DO UPDATE
SET arrived = n.arrived + excluded.arrived, empty = n.empty + excluded.empty, failed_leaves = n.failed_leaves + excluded.failed_leaves
RETURNING n.group_id, n.ordinal, n.arrived, n.empty, n.failed_leaves";

/// Counts failed leaves and marks groups done; answers the groups with more failures than they tolerate.
async fn update_groups(tx: &mut PgConnection, groups: &[&GroupUpdate]) -> Result<Vec<GroupId>, Failure> {
    let over: Vec<Uuid> = sqlx::query_scalar(UPDATE_GROUPS)
        .bind(groups.iter().map(|update| update.group.id.0).collect::<Vec<Uuid>>())
        .bind(groups.iter().map(|update| update.newly_failed).collect::<Vec<i64>>())
        .bind(groups.iter().map(|update| update.done_by.is_some()).collect::<Vec<bool>>())
        .fetch_all(tx)
        .await?;
    Ok(over.into_iter().map(GroupId).collect())
}

const UPDATE_GROUPS: &str = "-- update_groups
WITH held AS (
  SELECT g.id, d.newly_failed, d.done
  FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS d (id, newly_failed, done)
  CROSS JOIN LATERAL (SELECT l.id FROM groups l WHERE l.id = d.id LIMIT 1 FOR NO KEY UPDATE) AS g
  LIMIT cardinality($1)
), counted AS (
  UPDATE groups g SET failed_leaves = g.failed_leaves + h.newly_failed, done = g.done OR h.done
  FROM held h WHERE g.id = h.id
  RETURNING g.id, g.failed_leaves > g.tolerated AS over
)
SELECT id FROM counted WHERE over";

/// Runs whose failures exceed what is tolerated end as failed, with the error of the last straw.
async fn fail_runs(
    tx: &mut PgConnection,
    groups: &[&GroupUpdate],
    too_many: &[GroupId],
    by_cause: &BTreeMap<usize, &Finished<'_>>,
) -> Result<(), Failure> {
    let mut failed: BTreeMap<Uuid, String> = BTreeMap::new();
    for update in groups.iter().filter(|update| too_many.contains(&update.group.id)) {
        let Some(straw) = update.failed_by.and_then(|cause| by_cause.get(&cause)) else { continue };
        let Some(error) = straw.failure else { continue };
        failed.entry(update.group.run.0).or_insert_with(|| rows::run_error(error, straw.instance));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (runs, errors): (Vec<Uuid>, Vec<String>) = failed.into_iter().unzip();
    sqlx::query(FAIL_RUNS).bind(runs).bind(errors).execute(tx).await?;
    Ok(())
}

const FAIL_RUNS: &str = "-- fail_runs
INSERT INTO run_outcomes (run_id, status, error, closed)
SELECT f.run_id, 'failed', f.error::json, false FROM unnest($1::uuid[], $2::text[]) AS f (run_id, error)
ORDER BY f.run_id
ON CONFLICT (run_id) DO NOTHING";

/// Runs whose root group is done are completed, unless they have failed.
async fn complete_runs(tx: &mut PgConnection, groups: &[&GroupUpdate]) -> Result<(), Failure> {
    let roots: Vec<&GroupRow> = groups
        .iter()
        .filter(|update| update.done_by.is_some() && update.group.parent.is_none())
        .map(|update| update.group.as_ref())
        .collect();
    if roots.is_empty() {
        return Ok(());
    }
    sqlx::query(COMPLETE_RUNS)
        .bind(roots.iter().map(|group| group.run.0).collect::<Vec<Uuid>>())
        .bind(roots.iter().map(|group| group.id.0).collect::<Vec<Uuid>>())
        .bind(roots.iter().map(|group| group.tree.answer().map(|place| place.level)).collect::<Vec<Option<i32>>>())
        .bind(roots.iter().map(|group| group.tree.answer().map(|place| place.index)).collect::<Vec<Option<i64>>>())
        .execute(tx)
        .await?;
    Ok(())
}

const COMPLETE_RUNS: &str = "-- complete_runs
INSERT INTO run_outcomes (run_id, status, result_instance, closed)
SELECT d.run_id, 'completed',
       (SELECT i.id FROM agent_instances i WHERE i.run_id = d.run_id AND i.group_id = d.group_id AND i.level = d.level
        AND i.ordinal = d.ordinal AND i.generation = 1 AND i.status = 'completed'), true
FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[]) AS d (run_id, group_id, level, ordinal)
ORDER BY d.run_id
ON CONFLICT (run_id) DO NOTHING";

/// Parents of groups that are done: woken, and due again if that is what they wait for (rule 7).
async fn wake_parents(
    tx: &mut PgConnection,
    groups: &[&GroupUpdate],
    by_cause: &BTreeMap<usize, &Finished<'_>>,
    deltas: &mut Deltas,
) -> Result<Vec<(usize, Ready)>, Failure> {
    let mut causes: BTreeMap<Uuid, (usize, &GroupUpdate)> = BTreeMap::new();
    for update in groups {
        if let (Some(cause), Some(parent)) = (update.done_by, update.group.parent) {
            causes.insert(parent.0, (cause, update));
        }
    }
    if causes.is_empty() {
        return Ok(Vec::new());
    }
    let granted = |cause: &usize| by_cause.get(cause).is_some_and(|one| one.granted);
    let rows = sqlx::query(WAKE_PARENTS)
        .bind(causes.keys().copied().collect::<Vec<Uuid>>())
        .bind(causes.values().map(|(cause, _)| granted(cause)).collect::<Vec<bool>>())
        .fetch_all(tx)
        .await?;
    let mut ready = Vec::new();
    for row in &rows {
        let message = rows::ready(row)?;
        let Some((cause, update)) = causes.get(&message.id.0) else { continue };
        if row.try_get("waited")? {
            deltas.entry(update.group.run).or_default().waiting -= 1;
            if row.try_get("granted")? {
                ready.push((*cause, message));
            }
        }
    }
    Ok(ready)
}

// The rows are locked, so that `before` stays true. The grant of the child that ended goes to its parent, so that
// no more are in flight than before.
const WAKE_PARENTS: &str = "-- wake_parents
WITH before AS (
  SELECT p.id, p.granted, i.waiting_for IS NOT DISTINCT FROM 'children' AS waited
  FROM unnest($1::uuid[], $2::boolean[]) AS p (id, granted)
  CROSS JOIN LATERAL (SELECT a.waiting_for FROM agent_instances a WHERE a.id = p.id LIMIT 1) AS i
  LIMIT cardinality($1)
), woken AS (
  UPDATE agent_instances i
  SET wake_seq = i.wake_seq + 1, updated_at = now(),
      status = CASE WHEN b.waited THEN 'queued' ELSE i.status END,
      waiting_for = CASE WHEN b.waited THEN NULL ELSE i.waiting_for END,
      granted_at = CASE WHEN NOT b.waited THEN i.granted_at WHEN b.granted THEN now() END
  FROM before b WHERE i.id = b.id
  RETURNING i.id, i.run_id, i.level, i.priority, b.waited, i.granted_at IS NOT NULL AS granted
)
SELECT w.id, w.level, w.priority, w.waited, w.granted, r.traceparent FROM woken w JOIN runs r ON r.id = w.run_id";

/// Spawns the reducers of full nodes, with the grants of the children that filled them, unless their run has
/// ended meanwhile.
async fn insert_reducers(
    store: &PostgresStore,
    tx: &mut PgConnection,
    reducers: &[Reducer],
    by_cause: &BTreeMap<usize, &Finished<'_>>,
    deltas: &mut Deltas,
) -> Result<Vec<(usize, Ready)>, Failure> {
    if reducers.is_empty() {
        return Ok(Vec::new());
    }
    let made: BTreeMap<Uuid, &Reducer> = reducers.iter().map(|reducer| (store.new_instance().0, reducer)).collect();
    let granted = |reducer: &Reducer| by_cause.get(&reducer.cause).is_some_and(|one| one.granted);
    let rows = sqlx::query(INSERT_REDUCERS)
        .bind(made.keys().copied().collect::<Vec<Uuid>>())
        .bind(made.values().map(|reducer| reducer.group.id.0).collect::<Vec<Uuid>>())
        .bind(made.values().map(|reducer| reducer.place.level).collect::<Vec<i32>>())
        .bind(made.values().map(|reducer| reducer.place.index).collect::<Vec<i64>>())
        .bind(made.values().map(|reducer| granted(reducer)).collect::<Vec<bool>>())
        .bind(CORE_REV)
        .fetch_all(tx)
        .await?;
    let mut ready = Vec::new();
    for row in &rows {
        let message = rows::ready(row)?;
        let Some(reducer) = made.get(&message.id.0) else { continue };
        deltas.entry(reducer.group.run).or_default().total += 1;
        if row.try_get("granted")? {
            ready.push((reducer.cause, message));
        }
    }
    Ok(ready)
}

const INSERT_REDUCERS: &str = "-- insert_reducers
WITH made AS (
  INSERT INTO agent_instances (id, run_id, group_id, parent_id, team_id, project_id, level, ordinal, template_id, template_version,
    template_name, policy_hash, core_rev, depth, priority, task, status, state, granted_at)
  SELECT f.id, g.run_id, g.id, g.parent_id, g.team_id, g.project_id, f.level, f.ordinal, g.reducer_template_id, g.reducer_template_version,
    g.reducer_template_name, g.reducer_policy_hash, $6, coalesce((SELECT p.depth + 1 FROM agent_instances p WHERE p.id = g.parent_id), 0),
    r.priority, g.reducer_task, 'queued', 'init', CASE WHEN f.granted AND NOT r.paused THEN now() END
  FROM (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::boolean[]) AS n (id, group_id, level, ordinal, granted)
        LIMIT cardinality($1)) AS f
  JOIN groups g ON g.id = f.group_id JOIN runs r ON r.id = g.run_id
  WHERE NOT r.cancel_requested AND NOT EXISTS (SELECT FROM run_outcomes o WHERE o.run_id = g.run_id)
  RETURNING id, run_id, group_id, level, ordinal, priority, granted_at
), noted AS (
  UPDATE reductions n SET reducer_instance = m.id FROM made m
  WHERE n.group_id = m.group_id AND n.level = m.level AND n.ordinal = m.ordinal AND n.generation = 1
)
SELECT m.id, m.level, m.priority, r.traceparent, m.granted_at IS NOT NULL AS granted FROM made m JOIN runs r ON r.id = m.run_id";
