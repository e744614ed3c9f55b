//! Waiting and waking, in both orders (rule 7); timers; release.

use muster_shared::{event::WaitFor, fsm::Status, store::WriteError, time::Timestamp, wire::RunStatus};

use super::{
    Database,
    bed::{Bed, Held, LONG, Plan, ids, long_ago},
    check_invariants,
};

/// An instance that waits is a row: no slot, no grant, no owner.
pub async fn a_wait_gives_the_lease_and_the_grant_back(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, mut held) = bed.held(&Plan::tasks(1)).await;
    let wait = held[0].wait(WaitFor::Children);
    bed.commit(wait.clone()).await;
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.waiting_for, view.epoch), (Status::Waiting, Some(WaitFor::Children), 2));
    assert_eq!(bed.run(spawned.run).await.instances.waiting, 1);
    let demand = bed.store.demand().await.expect("answered");
    assert_eq!((demand.due, demand.in_flight, demand.waiting), (0, 0, 1));
    held[0].follow(&wait);
    assert_eq!(bed.commit_all(vec![held[0].turn("too late")]).await, [Err(WriteError::LeaseLost)]);
    assert!(bed.claim(worker, &[held[0].id()]).await.is_empty());
    check_invariants(&bed.store, spawned.run).await;
}

/// A wake that the waiter has not seen.
pub async fn a_wake_before_the_wait_leaves_the_instance_due(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(1)).await;
    let id = database.literal(held[0].id().0);
    assert_eq!(database.execute(&format!("UPDATE agent_instances SET wake_seq = wake_seq + 1 WHERE id = {id}")).await, 1);
    bed.commit(held[0].wait(WaitFor::Children)).await;
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.waiting_for, view.epoch), (Status::Queued, None, 2));
    let granted = bed.store.grant(super::bed::WIDE).await.expect("granted");
    assert_eq!(ids(&granted), [held[0].id()]);
    check_invariants(&bed.store, spawned.run).await;
}

/// A parent in one run, and a group of one child that was moved below it: no trait spawns children yet.
async fn family(database: &impl Database, bed: &Bed) -> (Held, Held) {
    let parent_run = bed.spawn(&Plan::tasks(1)).await;
    let batch = Plan::tasks(1).batch();
    let child_run = bed.store.spawn(batch.clone()).await.expect("spawned");
    let parent = parent_run.instance.expect("there is one");
    let (run, other) = (database.literal(parent_run.run.0), database.literal(child_run.run.0));
    let (parent_id, group) = (database.literal(parent.0), database.literal(batch.group.id.0));
    for sql in [
        format!("UPDATE groups SET run_id = {run}, parent_id = {parent_id} WHERE id = {group}"),
        format!("UPDATE agent_instances SET run_id = {run}, parent_id = {parent_id} WHERE run_id = {other}"),
        format!(
            "UPDATE run_counters SET total = total + 1
             WHERE run_id = {run} AND shard = (SELECT min(shard) FROM run_counters WHERE run_id = {run})"
        ),
    ] {
        assert_eq!(database.execute(&sql).await, 1, "{sql}");
    }
    let worker = bed.worker(10).await;
    let held = bed.claim(worker, &[parent, batch.instances[0].id]).await;
    let find = |id| held.iter().find(|held| held.id() == id).cloned().expect("claimed");
    (find(parent), find(batch.instances[0].id))
}

/// The usual order.
pub async fn children_that_finish_after_the_wait_wake_their_parent(database: &impl Database) {
    let bed = Bed::new(database);
    let (parent, child) = family(database, &bed).await;
    bed.commit(parent.wait(WaitFor::Children)).await;
    bed.commit(child.complete("1")).await;
    let view = bed.instance(parent.id()).await;
    assert_eq!((view.status, view.waiting_for), (Status::Queued, None));
    let run = bed.run(parent.claimed.lease.run).await;
    assert_eq!((run.status, run.instances.waiting), (RunStatus::Running, 0), "a child group does not end the run");
    let worker = bed.worker(10).await;
    bed.store.grant(super::bed::WIDE).await.expect("granted");
    let again = bed.claim(worker, &[parent.id()]).await;
    assert_eq!((again[0].claimed.wake_seq, again[0].claimed.lease.epoch), (1, 3));
    check_invariants(&bed.store, parent.claimed.lease.run).await;
}

/// The other order: the wake is counted before the wait is committed.
pub async fn children_that_finish_before_the_wait_leave_the_parent_due(database: &impl Database) {
    let bed = Bed::new(database);
    let (parent, child) = family(database, &bed).await;
    bed.commit(child.complete("1")).await;
    assert_eq!(bed.instance(parent.id()).await.status, Status::Running);
    bed.commit(parent.wait(WaitFor::Children)).await;
    let view = bed.instance(parent.id()).await;
    assert_eq!((view.status, view.waiting_for), (Status::Queued, None));
    check_invariants(&bed.store, parent.claimed.lease.run).await;
}

/// Delays live in the database.
pub async fn a_timer_wakes_when_its_moment_has_passed(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(3)).await;
    let later = Timestamp::from_micros(long_ago().micros() + 2 * i64::try_from(LONG.as_micros()).expect("an hour"));
    bed.commit(held[0].wait(WaitFor::Timer { until: long_ago() })).await;
    bed.commit(held[1].wait(WaitFor::Timer { until: later })).await;
    bed.commit(held[2].wait(WaitFor::Timer { until: long_ago() })).await;
    assert_eq!(bed.instance(held[1].id()).await.waiting_for, Some(WaitFor::Timer { until: later }));
    assert_eq!(bed.store.wake_due(1).await, Ok(1));
    assert_eq!(bed.store.wake_due(10).await, Ok(1));
    assert_eq!(bed.store.wake_due(10).await, Ok(0));
    let run = bed.run(spawned.run).await;
    assert_eq!((run.instances.waiting, run.instances.queued), (1, 2));
    assert_eq!(bed.store.grant(super::bed::WIDE).await.expect("granted").len(), 2);
    check_invariants(&bed.store, spawned.run).await;
}

/// However many are due, none is left behind by those that become due later.
pub async fn the_timer_that_is_longest_due_wakes_first(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, mut held) = bed.held(&Plan::tasks(3)).await;
    held.sort_by_key(Held::id);
    for (one, earlier) in held.iter().zip(0..) {
        let until = Timestamp::from_micros(long_ago().micros() - earlier * 1_000_000);
        bed.commit(one.wait(WaitFor::Timer { until })).await;
    }
    assert_eq!(bed.store.wake_due(1).await, Ok(1));
    assert_eq!(bed.instance(held[2].id()).await.status, Status::Queued);
    check_invariants(&bed.store, spawned.run).await;
}

/// A draining worker hands over without waiting for a time to live.
pub async fn a_release_keeps_the_grant_and_is_pushed_again(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, mut held) = bed.held(&Plan { max_parallel: 1, ..Plan::tasks(1) }).await;
    let step = held[0].turn("one");
    bed.commit(step.clone()).await;
    held[0].follow(&step);
    let committed = bed.commit(held[0].release()).await;
    assert_eq!(ids(&committed.ready), [held[0].id()]);
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.epoch, view.step), (Status::Queued, 2, 1));
    assert_eq!(bed.in_flight().await, 1);
    assert!(bed.store.stale_grants(LONG, 10).await.expect("answered").is_empty(), "the grant is stamped anew");
    let again = bed.claim(worker, &[held[0].id()]).await;
    assert_eq!((again[0].claimed.lease.epoch, again[0].claimed.last_seq), (3, 1));
    check_invariants(&bed.store, spawned.run).await;
}
