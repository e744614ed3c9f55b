//! Grants: dispatchers against each other and against cancel.

use std::{collections::BTreeSet, sync::Arc};

use muster_shared::{
    CORE_REV,
    store::{Claims as _, GrantWindow, Journal as _},
};
use tokio::time::timeout;

use crate::support::{Fleet, HANG, batch, complete};

pub(crate) const WINDOW: GrantWindow = GrantWindow { slots_percent: 200, round: 1000, per_run: 500 };
const IN_FLIGHT: &str = "SELECT count(*) FROM agent_instances WHERE granted_at IS NOT NULL";

/// A run that is too large to be granted at once.
async fn large(max_parallel: i32) -> Fleet {
    let fleet = Fleet::of(batch(100, 5, max_parallel)).await;
    assert_eq!(fleet.count(IN_FLIGHT).await, 0);
    fleet
}

#[tokio::test]
async fn rule_9_a_second_dispatcher_leaves_the_run_to_the_first_and_max_parallel_holds() {
    let fleet = large(7).await;
    // Reading and locking go on, changing rows does not: the first dispatcher stops with the run's lock in its hand.
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; LOCK TABLE agent_instances IN SHARE MODE").await;
    let store = Arc::clone(fleet.store());
    let first = tokio::spawn(async move { store.grant(WINDOW).await });
    beside.until_blocked("grant_instances").await;
    let other = fleet.another().await;
    assert_eq!(timeout(HANG, other.grant(WINDOW)).await.unwrap().unwrap(), []);
    beside.run("COMMIT").await;
    assert_eq!(first.await.unwrap().unwrap().len(), 7);
    assert_eq!(other.grant(WINDOW).await.unwrap(), []);
    assert_eq!(fleet.count(IN_FLIGHT).await, 7);
}

#[tokio::test]
async fn many_dispatchers_at_once_grant_each_instance_once_and_never_exceed_max_parallel() {
    let fleet = large(7).await;
    let mut granted = BTreeSet::new();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(fleet.another().await);
    }
    while granted.len() < 100 {
        let rounds: Vec<_> = stores.iter().cloned().map(|store| tokio::spawn(async move { store.grant(WINDOW).await.unwrap() })).collect();
        let mut now = Vec::new();
        for round in rounds {
            now.extend(round.await.unwrap());
        }
        assert!(fleet.count(IN_FLIGHT).await <= 7);
        assert!(!now.is_empty(), "something is due and nothing is in flight");
        let ids: Vec<_> = now.iter().filter(|one| !one.reducer).map(|one| one.id).collect();
        assert!(ids.iter().all(|id| granted.insert(*id)), "granted twice");
        let held = fleet.claim(&ids).await;
        assert_eq!(held.len(), ids.len());
        // Their reducers take over their grants, so they are ended as well before the next round.
        let mut writes: Vec<_> = held.iter().map(complete).collect();
        while !writes.is_empty() {
            let answers = fleet.store().commit(writes).await;
            let ready: Vec<_> = answers.into_iter().flat_map(|answer| answer.unwrap().ready).map(|one| one.id).collect();
            assert!(fleet.count(IN_FLIGHT).await <= 7);
            writes = fleet.claim(&ready).await.iter().map(complete).collect();
        }
    }
    assert!(fleet.run().await.result_instance.is_some());
}

#[tokio::test]
async fn a_cancel_waits_for_a_grant_in_progress_and_what_was_granted_is_not_claimed() {
    let fleet = large(7).await;
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; LOCK TABLE agent_instances IN SHARE MODE").await;
    let store = Arc::clone(fleet.store());
    let grant = tokio::spawn(async move { store.grant(WINDOW).await });
    beside.until_blocked("grant_instances").await;
    let (store, run) = (Arc::clone(fleet.store()), fleet.spawned.run);
    let cancel = tokio::spawn(async move { store.cancel_run(run, "enough").await });
    beside.until_blocked("flag_run").await;
    beside.run("COMMIT").await;
    let granted: Vec<_> = grant.await.unwrap().unwrap().iter().map(|one| one.id).collect();
    cancel.await.unwrap().unwrap();
    assert_eq!(granted.len(), 7);
    assert_eq!(fleet.store().claim(fleet.worker, CORE_REV, &granted).await.unwrap(), []);
    assert_eq!(fleet.store().grant(WINDOW).await.unwrap(), []);
    let mut ended = 0;
    while ended < 100 {
        let pass = fleet.store().cascade(30).await.unwrap();
        assert!(pass.ended > 0);
        ended += pass.ended;
    }
    assert_eq!(ended, 100);
    assert_eq!(fleet.run().await.instances.cancelled, 100);
}

#[tokio::test]
async fn a_grant_beside_an_uncommitted_cancel_leaves_the_run_alone() {
    let fleet = large(7).await;
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; UPDATE runs SET cancel_requested = true, cancel_reason = 'enough'").await;
    assert_eq!(timeout(HANG, fleet.store().grant(WINDOW)).await.unwrap().unwrap(), []);
    beside.run("COMMIT").await;
    assert_eq!(fleet.store().grant(WINDOW).await.unwrap(), []);
}
