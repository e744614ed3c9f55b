//! Arrivals, reducers, and cancel against them.

use std::sync::Arc;

use muster_shared::{
    reduce::Place,
    store::{Journal as _, StoreError},
    wire::RunStatus,
};
use tokio::time::timeout;

use crate::support::{Fleet, HANG, batch, complete, fail};

const REDUCERS: &str = "SELECT count(*) FROM agent_instances WHERE level > 0";

#[tokio::test]
async fn rule_8_two_children_of_one_node_in_one_batch_fire_it_once() {
    let fleet = Fleet::of(batch(2, 2, 2)).await;
    let leaves = fleet.claim_leaves().await;
    let answers = fleet.store().commit(leaves.iter().map(complete).collect()).await;
    let ready: Vec<_> = answers.into_iter().flat_map(|answer| answer.unwrap().ready).collect();
    assert_eq!(ready.len(), 1);
    assert!(ready[0].reducer);
    assert_eq!(fleet.count(REDUCERS).await, 1);

    let root = fleet.claim(&[ready[0].id]).await.remove(0);
    assert_eq!(root.place, Place { level: 1, index: 0 });
    assert!(fleet.store().commit(vec![complete(&root)]).await[0].is_ok());
    let run = fleet.run().await;
    assert_eq!((run.status, run.result_instance), (RunStatus::Completed, Some(root.lease.instance)));
    assert_eq!((run.instances.total, run.instances.completed, run.instances.queued), (3, 3, 0));
}

#[tokio::test]
async fn two_arrivals_of_one_node_from_two_processes_fire_exactly_one_reducer() {
    let fleet = Fleet::of(batch(2, 2, 2)).await;
    let leaves = fleet.claim_leaves().await;
    let other = fleet.another().await;

    // The first is stopped at the counters, with its node counted; the second then waits for the node.
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; SELECT 1 FROM run_counters FOR UPDATE").await;
    let (store, write) = (Arc::clone(fleet.store()), complete(&leaves[0]));
    let first = tokio::spawn(async move { store.commit(vec![write]).await });
    beside.until_blocked("add_to_counters").await;
    let write = complete(&leaves[1]);
    let second = tokio::spawn(async move { other.commit(vec![write]).await });
    beside.until_blocked("arrive_at_nodes").await;
    beside.run("COMMIT").await;

    let first = first.await.unwrap().remove(0).unwrap();
    let second = second.await.unwrap().remove(0).unwrap();
    assert_eq!((first.ready.len(), second.ready.len()), (0, 1));
    assert_eq!(fleet.count(REDUCERS).await, 1);
    assert_eq!(fleet.count("SELECT arrived FROM reductions").await, 2);
}

#[tokio::test]
async fn rule_10_cancel_waits_for_a_reducer_that_is_being_spawned_and_lets_no_other_in() {
    let fleet = Fleet::of(batch(4, 2, 4)).await;
    let leaves = fleet.claim_leaves().await;
    let other = fleet.another().await;
    assert!(fleet.store().commit(vec![complete(&leaves[0])]).await[0].is_ok());

    let mut beside = fleet.beside().await;
    beside.run("BEGIN; SELECT 1 FROM run_counters FOR UPDATE").await;
    let (store, write) = (Arc::clone(fleet.store()), complete(&leaves[1]));
    let spawning = tokio::spawn(async move { store.commit(vec![write]).await });
    beside.until_blocked("add_to_counters").await;
    let (store, run) = (Arc::clone(fleet.store()), fleet.spawned.run);
    let cancel = tokio::spawn(async move { store.cancel_run(run, "enough").await });
    beside.until_blocked("cancel_barrier").await;

    // Who comes after the flag neither waits nor adds: the node of the other two leaves does not fire.
    let late = timeout(HANG, other.commit(vec![complete(&leaves[2]), complete(&leaves[3])])).await.unwrap();
    for answer in late {
        let committed = answer.unwrap();
        assert!(committed.cancel && committed.ready.is_empty());
    }
    assert!(!cancel.is_finished());
    beside.run("COMMIT").await;
    assert!(spawning.await.unwrap()[0].is_ok());
    cancel.await.unwrap().unwrap();
    assert_eq!(fleet.count(REDUCERS).await, 1);
    assert_eq!(fleet.run().await.status, RunStatus::Cancelling);

    let cascade = fleet.store().cascade(100).await.unwrap();
    assert_eq!((cascade.ended, cascade.left), (1, 0));
    let run = fleet.run().await;
    assert_eq!((run.status, run.instances.cancelled, run.instances.completed), (RunStatus::Cancelled, 1, 4));
    assert_eq!(fleet.store().cascade(100).await.unwrap().ended, 0);
    assert!(matches!(fleet.store().cancel_run(fleet.spawned.run, "again").await, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn a_cancelled_run_closes_only_when_its_holders_have_let_go() {
    let fleet = Fleet::of(batch(3, 2, 2)).await;
    let held = fleet.claim(&fleet.leaves[..1]).await.remove(0);
    fleet.store().cancel_run(fleet.spawned.run, "enough").await.unwrap();
    let cascade = fleet.store().cascade(100).await.unwrap();
    assert_eq!((cascade.ended, cascade.left), (2, 1));
    assert_eq!(fleet.run().await.status, RunStatus::Cancelling);
    assert!(fleet.store().commit(vec![fail(&held)]).await[0].as_ref().unwrap().cancel);
    assert_eq!(fleet.store().cascade(100).await.unwrap().left, 0);
    assert_eq!(fleet.run().await.status, RunStatus::Cancelled);
    // The logs of those that were ended from outside have their last event, under an epoch of their own.
    assert_eq!(fleet.count("SELECT count(*) FROM agent_events WHERE type = 'cancelled' AND epoch = 1 AND seq = 1").await, 2);
}

#[tokio::test]
async fn one_failure_too_many_fails_the_run_at_once_and_its_node_spawns_nothing() {
    let fleet = Fleet::of(batch(3, 3, 2)).await;
    let held = fleet.claim(&fleet.leaves[..2]).await;
    let writes = held.iter().map(|one| if one.place.index == 0 { fail(one) } else { complete(one) }).collect();
    assert!(fleet.store().commit(writes).await.iter().all(Result::is_ok));
    let run = fleet.run().await;
    assert_eq!(run.status, RunStatus::Failed);
    assert!(run.error.unwrap().message.contains(&fleet.leaves[0].to_string()));
    let cascade = fleet.store().cascade(100).await.unwrap();
    assert_eq!((cascade.ended, cascade.left), (1, 0));
    assert_eq!(fleet.count(REDUCERS).await, 0);
    let run = fleet.run().await;
    assert_eq!((run.status, run.instances.cancelled, run.instances.failed), (RunStatus::Failed, 1, 1));
}

#[tokio::test]
async fn cancelling_a_queued_instance_grants_no_slot_that_it_did_not_hold() {
    let mut batch = batch(2, 2, 1);
    batch.group.tolerated = 1;
    let fleet = Fleet::of(batch).await;
    let held = fleet.claim(&fleet.leaves[..1]).await.remove(0);
    assert!(fleet.store().commit(vec![complete(&held)]).await[0].is_ok());
    let done = fleet.store().cancel_instance(fleet.leaves[1], "not this one").await.unwrap();
    assert_eq!((done.ended, done.left), (1, 0));
    assert_eq!(fleet.count("SELECT count(*) FROM agent_instances WHERE level = 1 AND granted_at IS NULL").await, 1);
    assert!(matches!(fleet.store().cancel_instance(fleet.leaves[1], "again").await, Err(StoreError::Conflict(_))));
}
