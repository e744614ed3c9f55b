//! One dispatcher at a time, and nudges that reach it.

use std::{sync::atomic::Ordering, time::Duration};

use muster_control::ControlSettings;
use muster_shared::{
    ids::Incarnation,
    queue::ReadyQueue as _,
    time::{SystemClock, SystemRandom},
};

use crate::support::{House, limited, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_large_spawn_is_dispatched_as_far_as_slots_go_and_a_small_one_at_once() {
    let house = House::new().await;
    let small = house.spawn(3).await;
    assert_eq!((small.ready.len(), house.queue.depth().await.unwrap()), (3, 3), "without any control loop");
    house.messages(3).await;
    house.worker(13).await;
    let large = house.spawn(100).await;
    assert!(large.ready.is_empty());
    let control = house.control(settings());
    // The window is 13 slots, and the small spawn's three grants are in it.
    let granted = house.messages(10).await;
    assert_eq!(granted.len(), 10);
    control.stop().await;
    assert_eq!(house.queue.depth().await.unwrap(), 0, "and no more than that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nudge_reaches_the_dispatcher_whoever_else_runs_control_loops() {
    let house = House::new().await;
    house.worker(1000).await;
    // Nobody looks by himself for a long time: without the nudge nothing would come.
    let hour = Duration::from_secs(3600);
    let patient = ControlSettings { busy_poll: hour, idle_poll: hour, dispatcher_ttl: hour, ..settings() };
    let loops: Vec<_> = (0..4).map(|_| house.control(patient)).collect();
    limited(async {
        while house.queue.listens.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..12 {
        house.spawn(65).await;
        house.messages(65).await;
    }
    for one in loops {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_leaves_resigns() {
    let house = House::new().await;
    house.worker(100).await;
    let control = house.control(ControlSettings { dispatcher_ttl: Duration::from_secs(3600), ..settings() });
    house.spawn(65).await;
    house.messages(65).await;
    let other = Incarnation::new(&SystemClock, &SystemRandom);
    assert_ne!(control.holder, other);
    assert_eq!(house.store.elect("dispatcher", other, Duration::from_secs(60)).await, Ok(false));
    control.stop().await;
    assert_eq!(house.store.elect("dispatcher", other, Duration::from_secs(60)).await, Ok(true), "an hour before its lease would end");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_takes_over_from_a_dispatcher_that_is_gone() {
    let house = House::new().await;
    house.worker(100).await;
    let gone = Incarnation::new(&SystemClock, &SystemRandom);
    assert_eq!(house.store.elect("dispatcher", gone, Duration::from_millis(300)).await, Ok(true));
    let control = house.control(settings());
    house.spawn(65).await;
    assert_eq!(house.messages(65).await.len(), 65);
    control.stop().await;
}
