//! What is lost comes back: messages, workers, timers.

use std::{sync::atomic::Ordering, time::Duration};

use muster_control::ControlSettings;
use muster_shared::{
    fsm::Status,
    store::{Heartbeat, StoreError},
    wire::RunStatus,
};

use crate::support::{House, TEAM, limited, settings};

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_a_flushed_queue_lost_are_pushed_again() {
    let house = House::new().await;
    house.worker(100).await;
    let spawned = house.spawn(5).await;
    let mut first = house.messages(5).await;
    let control = house.control(settings());
    house.queue.lost.store(true, Ordering::SeqCst);
    let mut again = house.messages(5).await;
    first.sort();
    again.sort();
    assert_eq!(first, again);
    assert_eq!(spawned.instances, 5);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_that_nobody_claims_are_pushed_again_and_claimed_ones_are_not() {
    let house = House::new().await;
    let worker = house.worker(100).await;
    house.spawn(3).await;
    let ids = house.messages(3).await;
    assert_eq!(house.claim(worker, &ids[..2]).await.len(), 2);
    let control =
        house.control(ControlSettings { stale_grant: Duration::from_millis(30), lease_ttl: Duration::from_secs(600), ..settings() });
    assert_eq!(house.messages(3).await, [ids[2]; 3], "again and again, until somebody takes it");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_falls_silent_is_buried_after_the_ttl_and_its_instances_go_to_another() {
    let house = House::new().await;
    let silent = house.worker(4).await;
    house.spawn(4).await;
    let ids = house.messages(4).await;
    let claimed = house.claim(silent, &ids).await;
    assert_eq!(claimed.len(), 4);
    let living = house.worker(8).await;
    let control = house.control(settings());
    // The other worker is heard all the time, and lives on.
    let beats = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            assert!(matches!(house.store.heartbeat(living).await, Ok(Heartbeat::Alive { .. })));
        }
    };
    let mut again = tokio::select! {
        again = house.messages(4) => again,
        () = beats => Vec::new(),
    };
    assert_eq!(house.store.heartbeat(silent).await, Ok(Heartbeat::Dead));
    let mut expected = ids.clone();
    again.sort();
    expected.sort();
    assert_eq!(again, expected);
    let taken = house.claim(living, &again).await;
    assert!(taken.iter().all(|one| one.lease.epoch == claimed[0].lease.epoch + 2), "sweep and claim both raise it");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_closes_the_run_without_any_worker() {
    let house = House::new().await;
    let spawned = house.try_spawn(serde_json::json!({ "tasks": vec!["x"; 20], "deadline_ms": 30 })).await.unwrap();
    let control = house.control(settings());
    limited(async {
        while house.store.run(TEAM, spawned.run).await.unwrap().status != RunStatus::Timeout {
            tokio::task::yield_now().await;
        }
        while house.store.run(TEAM, spawned.run).await.unwrap().instances.timeout < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_is_cascaded_however_many_instances_it_has() {
    let house = House::new().await;
    let worker = house.worker(2).await;
    let spawned = house.spawn(64).await;
    let ids = house.messages(64).await;
    house.claim(worker, &ids[..1]).await;
    house.spawner.cancel_run(spawned.run, "enough").await.unwrap();
    let view = house.store.run(TEAM, spawned.run).await.unwrap();
    assert_eq!((view.status, view.instances.cancelled), (RunStatus::Cancelling, 63), "one is held");
    assert_eq!(house.store.heartbeat(worker).await, Ok(Heartbeat::Alive { cancel: vec![ids[0]] }));
    // Its holder dies: nobody is left to confirm, and the control loops do it.
    house.store.retire(worker).await.unwrap();
    let control = house.control(settings());
    limited(async {
        while house.store.run(TEAM, spawned.run).await.unwrap().status != RunStatus::Cancelled {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(house.store.instance(TEAM, ids[0]).await.unwrap().status, Status::Cancelled);
    assert!(matches!(house.spawner.cancel_run(spawned.run, "again").await, Err(StoreError::Conflict(_))));
    control.stop().await;
}
