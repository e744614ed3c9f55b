//! Claims, fences, sweeps.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    CORE_REV,
    store::{Claims as _, Heartbeat, Journal as _, StoreError, WriteError},
};
use tokio::time::timeout;

use crate::support::{Fleet, HANG, batch, register, step, stop_before};

#[tokio::test]
async fn rule_1_a_claim_beside_an_uncommitted_append_takes_nothing_and_the_next_one_sees_its_entry() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let mut first = fleet.claim_leaves().await.remove(0);
    assert!(fleet.store().commit(vec![step(&mut first, "one")]).await[0].is_ok());
    let before = first.clone();

    // The append is stopped at the counters, which it locks last.
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; SELECT 1 FROM run_counters FOR UPDATE").await;
    let (store, write) = (Arc::clone(fleet.store()), step(&mut first, "two"));
    let append = tokio::spawn(async move { store.commit(vec![write]).await });
    beside.until_blocked("append_events").await;

    fleet.store().retire(fleet.worker).await.unwrap();
    let other = register(fleet.store(), 1).await;
    let swept = timeout(HANG, fleet.store().sweep(10)).await.unwrap().unwrap();
    assert_eq!(swept, 0, "what is being written to is left for the next sweep");
    assert_eq!(fleet.store().claim(other, CORE_REV, &fleet.leaves).await.unwrap(), []);

    beside.run("COMMIT").await;
    assert!(append.await.unwrap()[0].is_ok());
    assert_eq!(fleet.store().sweep(10).await.unwrap(), 1);
    assert_eq!(fleet.store().grant(super::dispatch::WINDOW).await.unwrap().len(), 1);
    let again = fleet.store().claim(other, CORE_REV, &fleet.leaves).await.unwrap();
    assert_eq!(again[0].last_seq, 2);
    assert_eq!(fleet.store().logs(&[&again[0]]).await.unwrap()[0].len(), 2);

    // A tail that is older than the log is noticed.
    let conflict = fleet.store().logs(&[&before]).await.unwrap_err();
    assert!(matches!(conflict, StoreError::Conflict(_)), "{conflict}");
}

#[tokio::test]
async fn rule_2_a_fence_beside_an_uncommitted_claim_waits_for_it_and_loses() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let mut held = fleet.claim_leaves().await.remove(0);
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; UPDATE agent_instances SET epoch = epoch + 2, worker_incarnation = '00000000-0000-0000-0000-000000000009'").await;
    let (store, write) = (Arc::clone(fleet.store()), step(&mut held, "late"));
    let append = tokio::spawn(async move { store.commit(vec![write]).await });
    beside.until_blocked("append_events").await;
    beside.run("COMMIT").await;
    assert_eq!(append.await.unwrap(), [Err(WriteError::LeaseLost)]);
    assert_eq!(fleet.count("SELECT count(*) FROM agent_events").await, 0);
    assert_eq!(fleet.run().await.steps, 0);
}

#[tokio::test]
async fn a_swept_lease_is_lost_and_its_next_owner_goes_on() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let mut held = fleet.claim_leaves().await.remove(0);
    assert!(fleet.store().commit(vec![step(&mut held, "one")]).await[0].is_ok());
    fleet.store().retire(fleet.worker).await.unwrap();
    assert_eq!(fleet.store().sweep(10).await.unwrap(), 1);
    assert_eq!(fleet.store().sweep(10).await.unwrap(), 0, "a sweep may be repeated");
    assert_eq!(fleet.store().commit(vec![step(&mut held, "two")]).await, [Err(WriteError::LeaseLost)]);
    assert_eq!(fleet.store().heartbeat(fleet.worker).await.unwrap(), Heartbeat::Dead);
    assert_eq!(fleet.count("SELECT deaths::bigint FROM agent_instances").await, 1);
    assert_eq!(fleet.count("SELECT deaths_at_seq FROM agent_instances").await, 1);
}

#[tokio::test]
async fn a_judge_that_waited_for_a_heartbeat_spares_the_worker() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let mut beside = fleet.beside().await;
    beside.run("UPDATE workers SET heartbeat_at = now() - interval '1 minute'").await;
    beside.run("BEGIN; UPDATE workers SET heartbeat_at = now()").await;
    let store = Arc::clone(fleet.store());
    let judge = tokio::spawn(async move { store.bury(Duration::from_secs(10)).await });
    beside.until_blocked("bury_workers").await;
    beside.run("COMMIT").await;
    assert_eq!(judge.await.unwrap().unwrap(), []);
    assert_eq!(fleet.store().heartbeat(fleet.worker).await.unwrap(), Heartbeat::Alive { cancel: Vec::new() });
}

#[tokio::test]
async fn a_heartbeat_that_waited_for_the_judge_learns_that_the_worker_is_dead() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; UPDATE workers SET alive = false").await;
    let (store, worker) = (Arc::clone(fleet.store()), fleet.worker);
    let heartbeat = tokio::spawn(async move { store.heartbeat(worker).await });
    beside.until_blocked("heartbeat").await;
    beside.run("COMMIT").await;
    assert_eq!(heartbeat.await.unwrap().unwrap(), Heartbeat::Dead);
}

#[tokio::test]
async fn two_claims_of_one_instance_give_one_lease() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let other = register(fleet.store(), 1).await;
    let (one, two) =
        tokio::join!(fleet.store().claim(fleet.worker, CORE_REV, &fleet.leaves), fleet.store().claim(other, CORE_REV, &fleet.leaves));
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 1);
    assert_eq!(fleet.count("SELECT epoch FROM agent_instances").await, 1);
}

#[tokio::test]
async fn a_slow_sweep_spares_the_worker_that_took_over_meanwhile() {
    let fleet = Fleet::of(batch(2, 2, 2)).await;
    fleet.claim_leaves().await;
    let first = fleet.leaves.iter().min().unwrap().0;
    // The sweep stops at its first instance, having seen that the owner of both is dead.
    let mut beside = fleet.beside().await;
    beside.run(&stop_before("UPDATE", &format!("OLD.id = '{first}'"))).await;
    fleet.store().retire(fleet.worker).await.unwrap();
    let living = register(fleet.store(), 10).await;
    let store = Arc::clone(fleet.store());
    let slow = tokio::spawn(async move { store.sweep(10).await });
    beside.until_blocked("sweep_dead_workers").await;

    // Meanwhile the other is swept by another process, granted, and claimed by a worker that lives.
    let other = fleet.another().await;
    assert_eq!(other.sweep(10).await.unwrap(), 1);
    let granted: Vec<_> = other.grant(super::dispatch::WINDOW).await.unwrap().iter().map(|one| one.id).collect();
    assert_eq!(other.claim(living, CORE_REV, &granted).await.unwrap().len(), 1);

    beside.run("SELECT pg_advisory_unlock(1)").await;
    assert_eq!(slow.await.unwrap().unwrap(), 1);
    assert_eq!(fleet.store().owned(living).await.unwrap().len(), 1);
    assert_eq!(fleet.count("SELECT max(deaths)::bigint FROM agent_instances").await, 1);
}
