//! Workers: heartbeats, deaths, and the return of what they held (rules 4 and 15).

use std::time::Duration;

use muster_shared::{
    fsm::Status,
    ids::Incarnation,
    store::{Heartbeat, StoreError, WorkerRow, WriteError},
};
use uuid::Uuid;

use super::{
    Database,
    bed::{Bed, LONG, Plan, WIDE, ids},
    check_invariants,
};

/// Unknown, alive, retired.
pub async fn a_heartbeat_tells_the_living_from_the_dead(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(3).await;
    assert_eq!(bed.store.heartbeat(Incarnation(Uuid::from_u128(1))).await, Ok(Heartbeat::Dead));
    assert_eq!(bed.store.heartbeat(worker).await, Ok(Heartbeat::Alive { cancel: Vec::new() }));
    let demand = bed.store.demand().await.expect("answered");
    assert_eq!((demand.workers, demand.slots), (1, 3));
    bed.store.retire(worker).await.expect("retired");
    assert_eq!(bed.store.heartbeat(worker).await, Ok(Heartbeat::Dead));
    assert_eq!(bed.store.demand().await.expect("answered").workers, 0);
}

/// Death is one way.
pub async fn the_silent_are_buried_once(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(3).await;
    assert_eq!(bed.store.bury(LONG).await, Ok(Vec::new()));
    assert_eq!(bed.store.bury(Duration::ZERO).await, Ok(vec![worker]));
    assert_eq!(bed.store.bury(Duration::ZERO).await, Ok(Vec::new()));
    assert_eq!(bed.store.heartbeat(worker).await, Ok(Heartbeat::Dead));
}

/// The epoch rises, so that the dead worker changes nothing should it still be there (I2).
pub async fn the_instances_of_the_dead_are_swept_and_their_writes_refused(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, dead, mut held) = bed.held(&Plan::tasks(3)).await;
    let (other, living, _) = bed.held(&Plan::tasks(1)).await;
    let step = held[0].turn("one");
    bed.commit(step.clone()).await;
    held[0].follow(&step);
    bed.store.retire(dead).await.expect("retired");
    assert_eq!(bed.store.sweep(2).await, Ok(2));
    assert_eq!(bed.store.sweep(10).await, Ok(1));
    assert_eq!(bed.store.sweep(10).await, Ok(0), "level-triggered");
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.epoch), (Status::Queued, 2));
    assert_eq!(bed.commit_all(vec![held[0].turn("late")]).await, [Err(WriteError::LeaseLost)]);
    assert!(bed.claim(living, &[held[0].id()]).await.is_empty(), "it needs a new grant");
    assert_eq!(bed.store.grant(WIDE).await.expect("granted").len(), 3);
    let again = bed.claim(living, &[held[0].id()]).await;
    assert_eq!((again[0].claimed.lease.epoch, again[0].claimed.last_seq), (3, 1));
    bed.commit(again[0].complete("1")).await;
    assert_eq!(bed.run(other.run).await.instances.running, 1);
    check_invariants(&bed.store, spawned.run).await;
}

/// Poison is told from bad luck by its position.
pub async fn deaths_are_counted_at_the_same_position(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(1)).await;
    let id = spawned.ready[0].id;
    let deaths = format!("SELECT CAST(deaths AS bigint) FROM agent_instances WHERE id = {}", database.literal(id.0));
    let mut due = ids(&spawned.ready);
    for (moves, wanted) in [(false, 1), (false, 2), (true, 1), (false, 2)] {
        let worker = bed.worker(1).await;
        let held = bed.claim(worker, &due).await;
        if moves {
            bed.commit(held[0].turn("on")).await;
        }
        bed.store.retire(worker).await.expect("retired");
        assert_eq!(bed.store.sweep(10).await, Ok(1));
        assert_eq!(database.number(&deaths).await, wanted);
        bed.worker(1).await;
        due = ids(&bed.store.grant(WIDE).await.expect("granted"));
    }
    check_invariants(&bed.store, spawned.run).await;
}

/// Reconciliation: rows that the store says I own and I do not hold.
pub async fn what_nobody_holds_is_given_back(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, held) = bed.held(&Plan::tasks(3)).await;
    let mut owned = bed.store.owned(worker).await.expect("answered");
    owned.sort_by_key(|lease| lease.instance);
    let mut leases: Vec<_> = held.iter().map(|held| held.claimed.lease).collect();
    leases.sort_by_key(|lease| lease.instance);
    assert_eq!(owned, leases);
    let mut stale = leases[1];
    stale.epoch -= 1;
    assert_eq!(bed.store.give_back(&[leases[0], stale]).await, Ok(1));
    assert_eq!(bed.store.give_back(&[leases[0]]).await, Ok(0));
    assert_eq!(bed.store.give_back(&[]).await, Ok(0));
    let view = bed.instance(leases[0].instance).await;
    assert_eq!((view.status, view.epoch), (Status::Queued, 2));
    assert_eq!(bed.store.owned(worker).await.expect("answered").len(), 2);
    assert_eq!(bed.in_flight().await, 2);
    check_invariants(&bed.store, spawned.run).await;
}

/// The answer may have been lost; death is one way (rule 4).
pub async fn a_registration_may_be_repeated_until_the_worker_is_dead(database: &impl Database) {
    let bed = Bed::new(database);
    let incarnation = Incarnation(Uuid::from_u128(7));
    let row = WorkerRow { incarnation, name: "test".to_owned(), slots: 3, version: "0".to_owned() };
    for _ in 0..2 {
        assert_eq!(bed.store.register(&row).await, Ok(()));
    }
    assert_eq!(bed.store.demand().await.expect("answered").workers, 1);
    bed.store.retire(incarnation).await.expect("retired");
    assert!(matches!(bed.store.register(&row).await, Err(StoreError::Conflict(_))));
    assert_eq!(bed.store.heartbeat(incarnation).await, Ok(Heartbeat::Dead));
}
