//! Claims: only what is granted, once, by a core that knows it; logs after the claim (rule 1).

use muster_shared::{
    CORE_REV, error::ErrorClass, event::EventKind, fsm::Status, hash::Hash32, reduce::Place, store::StoreError, wire::RunStatus,
};

use super::{
    Database,
    bed::{Bed, Plan, WIDE, ids},
    check_invariants,
};

/// Everything needed to drive the instance is in the answer.
pub async fn a_claim_takes_what_is_granted_and_raises_the_epoch(database: &impl Database) {
    let bed = Bed::new(database);
    let batch = Plan::reduced(3, 2).batch();
    let spawned = bed.store.spawn(batch.clone()).await.expect("spawned");
    let worker = bed.worker(10).await;
    let wanted: Vec<_> = batch.instances.iter().map(|instance| instance.id).collect();
    let claimed = bed.store.claim(worker, CORE_REV, &wanted).await.expect("claimed");
    assert_eq!(claimed.len(), 3);
    for one in &claimed {
        let given = batch.instances.iter().find(|given| given.id == one.lease.instance).expect("one of those given");
        assert_eq!((one.lease.run, one.lease.epoch, one.lease.worker), (spawned.run, 1, worker));
        assert_eq!((one.place, &one.name, &one.task, one.policy), (Place::leaf(given.ordinal), &given.name, &given.task, given.policy));
        assert_eq!((one.last_seq, one.last_hash, one.wake_seq, one.elapsed_micros), (0, Hash32::ZERO, 0, 0));
        assert_eq!((one.group.id, one.group.tree, one.group.context), (batch.group.id, batch.group.tree, batch.group.context));
        assert_eq!(one.traceparent, batch.run.traceparent);
    }
    let view = bed.run(spawned.run).await;
    assert_eq!((view.instances.running, view.instances.queued), (3, 0));
    check_invariants(&bed.store, spawned.run).await;
}

/// Repeated and reordered messages are harmless (I2).
pub async fn an_instance_is_claimed_once_however_many_try(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(20)).await;
    let mut wanted = ids(&spawned.ready);
    wanted.extend(wanted.clone());
    let mut tries = Vec::new();
    for _ in 0..4 {
        let (store, wanted, worker) = (bed.store.clone(), wanted.clone(), bed.worker(20).await);
        tries.push(tokio::spawn(async move { store.claim(worker, CORE_REV, &wanted).await.expect("answered") }));
    }
    let mut taken = Vec::new();
    for one in tries {
        taken.extend(one.await.expect("no panic").into_iter().map(|claimed| claimed.lease.instance));
    }
    taken.sort_unstable();
    let mut all = ids(&spawned.ready);
    all.sort_unstable();
    assert_eq!(taken, all);
}

/// The grant is what counts against `max_parallel`, so nothing starts without it (I8).
pub async fn what_is_not_granted_is_not_claimed(database: &impl Database) {
    let bed = Bed::new(database);
    let batch = Plan { max_parallel: 1, ..Plan::tasks(3) }.batch();
    bed.store.spawn(batch.clone()).await.expect("spawned");
    let worker = bed.worker(10).await;
    let all: Vec<_> = batch.instances.iter().map(|instance| instance.id).collect();
    let claimed = bed.claim(worker, &all).await;
    assert_eq!(claimed.iter().map(super::bed::Held::place).collect::<Vec<_>>(), [Place::leaf(0)]);
}

/// A binary claims only what its core can continue (rule 17).
pub async fn an_older_core_claims_nothing_newer(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(1)).await;
    let worker = bed.worker(1).await;
    let wanted = ids(&spawned.ready);
    assert!(bed.store.claim(worker, CORE_REV - 1, &wanted).await.expect("answered").is_empty());
    assert_eq!(bed.store.claim(worker, CORE_REV, &wanted).await.expect("answered").len(), 1);
}

/// After an acknowledged cancel nothing of the run starts (I9).
pub async fn nothing_of_a_cancelled_run_is_claimed(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(2)).await;
    let worker = bed.worker(2).await;
    bed.store.cancel_run(spawned.run, "enough").await.expect("flagged");
    assert!(bed.claim(worker, &ids(&spawned.ready)).await.is_empty());
}

/// A pause stops grants and claims; statuses stay (rule 11).
pub async fn nothing_of_a_paused_run_is_granted_or_claimed(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan { max_parallel: 1, ..Plan::tasks(2) }).await;
    let run = database.literal(spawned.run.0);
    assert_eq!(database.execute(&format!("UPDATE runs SET paused = true, max_parallel = 2 WHERE id = {run}")).await, 1);
    let worker = bed.worker(2).await;
    assert!(bed.claim(worker, &ids(&spawned.ready)).await.is_empty());
    assert!(bed.store.grant(WIDE).await.expect("answered").is_empty());
    assert_eq!(bed.instance(spawned.ready[0].id).await.status, Status::Queued);
    database.execute(&format!("UPDATE runs SET paused = false WHERE id = {run}")).await;
    assert_eq!(bed.store.grant(WIDE).await.expect("answered").len(), 1);
    assert_eq!(bed.claim(worker, &ids(&spawned.ready)).await.len(), 1);
}

/// Each instance gets its own log, whole and in order, and its clock runs from the first claim.
pub async fn logs_are_read_in_the_order_asked_and_match_the_claim(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, mut held) = bed.held(&Plan::tasks(3)).await;
    for (n, one) in held.iter_mut().enumerate() {
        for step in 0..n {
            let write = one.turn(&format!("{n}/{step}"));
            bed.commit(write.clone()).await;
            one.follow(&write);
        }
        bed.commit(one.release()).await;
    }
    let wanted: Vec<_> = held.iter().rev().map(super::bed::Held::id).collect();
    let claimed = bed.store.claim(worker, CORE_REV, &wanted).await.expect("claimed");
    let mut asked: Vec<_> = claimed.iter().collect();
    asked.sort_by_key(|one| std::cmp::Reverse(one.place));
    let logs = bed.store.logs(&asked).await.expect("the tails match");
    assert_eq!(logs.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!((logs[0][1].seq, logs[0][1].kind, logs[0][1].epoch), (2, EventKind::Model, 1));
    assert_eq!((asked[0].last_seq, asked[0].last_hash, asked[0].lease.epoch), (2, logs[0][1].hash, 3));
    assert!(asked.iter().all(|one| one.elapsed_micros > 0), "time runs from the first claim");
    check_invariants(&bed.store, spawned.run).await;
}

/// A tail that does not match the claim means that somebody else owns the instance by now.
pub async fn a_log_that_moved_on_is_a_conflict(database: &impl Database) {
    let bed = Bed::new(database);
    let (_, worker, mut held) = bed.held(&Plan::tasks(1)).await;
    let step = held[0].turn("one");
    bed.commit(step.clone()).await;
    held[0].follow(&step);
    bed.commit(held[0].release()).await;
    let again = bed.claim(worker, &[held[0].id()]).await;
    bed.commit(again[0].turn("two")).await;
    assert!(matches!(bed.store.logs(&[&again[0].claimed]).await, Err(StoreError::Conflict(_))));
}

/// Its outcome stands, so nothing that it made could still arrive.
pub async fn nothing_of_a_run_that_has_ended_is_claimed(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(2)).await;
    let worker = bed.worker(2).await;
    let held = bed.claim(worker, &ids(&spawned.ready[..1])).await;
    bed.commit(held[0].fail(ErrorClass::Tool)).await;
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Failed);
    assert!(bed.claim(worker, &ids(&spawned.ready)).await.is_empty());
    bed.cascade_all().await;
    check_invariants(&bed.store, spawned.run).await;
}

/// It would be swept, and count as a death that nobody died.
pub async fn a_worker_that_was_declared_dead_claims_nothing(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(1)).await;
    let worker = bed.worker(1).await;
    bed.store.retire(worker).await.expect("retired");
    assert!(bed.claim(worker, &ids(&spawned.ready)).await.is_empty());
    assert_eq!(bed.store.sweep(10).await, Ok(0));
    let living = bed.worker(1).await;
    assert_eq!(bed.claim(living, &ids(&spawned.ready)).await.len(), 1);
}
