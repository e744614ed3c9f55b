//! Cancelling runs and instances, deadlines, and the cascade that ends what nobody holds (rule 10).

use muster_shared::{
    error::ErrorClass,
    event::{EventKind, WaitFor},
    fsm::{State, Status},
    ids::{InstanceId, RunId},
    store::{Cascade, Heartbeat, StoreError},
    wire::RunStatus,
};
use uuid::Uuid;

use super::{
    Database,
    bed::{Bed, LONG, Plan, TEAM, WIDE, ids},
    check_invariants,
};

/// `cancelling` until every holder has confirmed; then `cancelled`, for ever.
pub async fn a_cancelled_run_ends_when_its_last_holder_lets_go(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(10).await;
    let spawned = bed.spawn(&Plan { max_parallel: 2, ..Plan::tasks(5) }).await;
    let mut held = bed.claim(worker, &ids(&spawned.ready)).await;
    let unknown = bed.store.cancel_run(RunId(Uuid::from_u128(1)), "x").await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))));
    bed.store.cancel_run(spawned.run, "enough").await.expect("flagged");
    bed.store.cancel_run(spawned.run, "again").await.expect("harmless");
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Cancelling);
    assert_eq!(bed.store.cascade(100).await, Ok(Cascade { ended: 3, left: 2 }));
    let Ok(Heartbeat::Alive { mut cancel }) = bed.store.heartbeat(worker).await else { panic!("the worker lives") };
    cancel.sort_unstable();
    let mut wanted: Vec<InstanceId> = held.iter().map(super::bed::Held::id).collect();
    wanted.sort_unstable();
    assert_eq!(cancel, wanted);
    let step = held[0].turn("one more");
    assert!(bed.commit(step.clone()).await.cancel, "the next append says it too");
    held[0].follow(&step);
    bed.commit(held[0].fail(ErrorClass::Cancelled)).await;
    assert_eq!(bed.store.cascade(100).await, Ok(Cascade { ended: 0, left: 1 }));
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Cancelling);
    bed.commit(held[1].complete("1")).await;
    assert_eq!(bed.store.cascade(100).await, Ok(Cascade::default()));
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.cancelled, run.instances.completed), (RunStatus::Cancelled, 4, 1));
    assert!(run.finished_at.is_some());
    assert!(matches!(bed.store.cancel_run(spawned.run, "late").await, Err(StoreError::Conflict(_))));
    let ended = bed.instances(spawned.run).await.pop().expect("the last");
    assert_eq!((ended.status, ended.state, ended.epoch), (Status::Cancelled, State::Failed, 1));
    let log = bed.store.events(TEAM, ended.id, 0, 10).await.expect("read");
    assert_eq!(log.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Cancelled]);
    check_invariants(&bed.store, spawned.run).await;
}

/// Level-triggered: each call does a part.
pub async fn a_cascade_keeps_to_its_limit_and_goes_on(database: &impl Database) {
    let bed = Bed::new(database);
    let runs = [bed.spawn(&Plan::tasks(12)).await, bed.spawn(&Plan::tasks(70)).await];
    for spawned in &runs {
        bed.store.cancel_run(spawned.run, "enough").await.expect("flagged");
    }
    assert_eq!(bed.store.cascade(50).await, Ok(Cascade { ended: 50, left: 32 }));
    assert_eq!(bed.store.cascade(50).await, Ok(Cascade { ended: 32, left: 0 }));
    assert_eq!(bed.store.cascade(50).await, Ok(Cascade::default()));
    for spawned in &runs {
        assert_eq!(bed.run(spawned.run).await.status, RunStatus::Cancelled);
        check_invariants(&bed.store, spawned.run).await;
    }
}

/// From the commit of the cancel on, no reducer enters the run.
pub async fn no_reducer_enters_a_cancelled_run(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::reduced(2, 2)).await;
    bed.store.cancel_run(spawned.run, "enough").await.expect("flagged");
    for one in &held {
        let committed = bed.commit(one.complete("1")).await;
        assert!(committed.cancel && committed.ready.is_empty());
    }
    bed.cascade_all().await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.total, run.instances.completed), (RunStatus::Cancelled, 2, 2));
    check_invariants(&bed.store, spawned.run).await;
}

/// It arrives in its tree as a failed leaf: tolerated, or fatal for the run.
pub async fn cancelling_an_unheld_instance_ends_it_with_all_consequences(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(10).await;
    let batch = Plan { max_parallel: 1, tolerated: 1, ..Plan::reduced(2, 2) }.batch();
    let spawned = bed.store.spawn(batch.clone()).await.expect("spawned");
    let held = bed.claim(worker, &ids(&spawned.ready)).await;
    bed.commit(held[0].complete("0")).await;
    let cancelled = bed.store.cancel_instance(batch.instances[1].id, "not needed").await;
    assert_eq!(cancelled, Ok(Cascade { ended: 1, left: 0 }));
    let view = bed.instance(batch.instances[1].id).await;
    assert_eq!((view.status, view.error.map(|error| error.message)), (Status::Cancelled, Some("not needed".to_owned())));
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.total, run.instances.cancelled), (RunStatus::Running, 3, 1));
    // The reducer may need the dispatcher: nobody else pushes it.
    let mut ready = bed.store.grant(WIDE).await.expect("granted");
    ready.extend(bed.store.stale_grants(std::time::Duration::ZERO, 10).await.expect("answered"));
    assert!(bed.in_flight().await <= 1, "max_parallel holds");
    let folding = bed.claim(worker, &ids(&ready)).await;
    bed.commit(folding[0].complete("[0]")).await;
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Completed);
    check_invariants(&bed.store, spawned.run).await;

    let strict = bed.spawn(&Plan::tasks(2)).await;
    bed.store.cancel_instance(strict.ready[0].id, "not needed").await.expect("ended");
    assert_eq!(bed.run(strict.run).await.status, RunStatus::Failed);
    check_invariants(&bed.store, strict.run).await;
}

/// Its holder learns it from the heartbeat or the next append.
pub async fn cancelling_a_held_instance_flags_it(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, mut held) = bed.held(&Plan { tolerated: 2, ..Plan::tasks(2) }).await;
    let flagged = bed.store.cancel_instance(held[0].id(), "enough").await;
    assert_eq!(flagged, Ok(Cascade { ended: 0, left: 1 }));
    assert_eq!(bed.store.heartbeat(worker).await, Ok(Heartbeat::Alive { cancel: vec![held[0].id()] }));
    let writes = vec![held[0].turn("one"), held[1].turn("one")];
    let answers = bed.commit_all(writes.clone()).await;
    let flags: Vec<bool> = answers.into_iter().map(|answer| answer.expect("accepted").cancel).collect();
    assert_eq!(flags, [true, false]);
    held[0].follow(&writes[0]);
    bed.commit(held[0].fail(ErrorClass::Cancelled)).await;
    assert!(matches!(bed.store.cancel_instance(held[0].id(), "again").await, Err(StoreError::Conflict(_))));
    let unknown = bed.store.cancel_instance(InstanceId(Uuid::from_u128(1)), "x").await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))));
    assert_eq!(bed.instance(held[0].id()).await.status, Status::Cancelled);
    check_invariants(&bed.store, spawned.run).await;
}

/// The flag outlives the owner that should have seen it; so does one that waits instead.
pub async fn a_flagged_instance_whose_owner_died_is_ended_by_the_cascade(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, held) = bed.held(&Plan { tolerated: 3, ..Plan::tasks(3) }).await;
    for one in &held[..2] {
        bed.store.cancel_instance(one.id(), "enough").await.expect("flagged");
    }
    bed.commit(held[1].wait(WaitFor::Children)).await;
    bed.store.retire(worker).await.expect("retired");
    assert_eq!(bed.store.sweep(10).await, Ok(2));
    assert_eq!(bed.store.cascade(10).await.map(|cascade| cascade.ended), Ok(2));
    for one in &held[..2] {
        assert_eq!(bed.instance(one.id()).await.status, Status::Cancelled);
    }
    assert_eq!(bed.run(spawned.run).await.instances.queued, 1);
    check_invariants(&bed.store, spawned.run).await;
}

/// Nobody has to ask: the cascade finds it.
pub async fn a_passed_deadline_ends_the_run_as_timeout(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(10).await;
    let far = bed.spawn(&Plan { deadline_ms: Some(3_600_000), ..Plan::tasks(1) }).await;
    let spawned = bed.spawn(&Plan { deadline_ms: Some(0), max_parallel: 1, ..Plan::tasks(3) }).await;
    let held = bed.claim(worker, &ids(&spawned.ready)).await;
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Running);
    assert_eq!(bed.store.cascade(10).await, Ok(Cascade { ended: 2, left: 1 }));
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Timeout, "at once");
    assert_eq!(bed.store.heartbeat(worker).await, Ok(Heartbeat::Alive { cancel: vec![held[0].id()] }));
    bed.commit(held[0].fail(ErrorClass::Timeout)).await;
    bed.cascade_all().await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.timeout), (RunStatus::Timeout, 3));
    assert_eq!(run.error.map(|error| error.class), Some(ErrorClass::Timeout));
    let ended = bed.instances(spawned.run).await.pop().expect("the last");
    assert_eq!((ended.status, ended.state), (Status::Timeout, State::Timeout));
    let log = bed.store.events(TEAM, ended.id, 0, 10).await.expect("read");
    assert_eq!(log[0].kind, EventKind::TimedOut);
    assert_eq!(bed.run(far.run).await.status, RunStatus::Running);
    check_invariants(&bed.store, spawned.run).await;
}

/// No slot, no grant, no owner, and still ended.
pub async fn waiting_instances_are_ended_by_the_cascade(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(2)).await;
    let until = bed.store.now().await.expect("answered").plus(LONG);
    bed.commit(held[0].wait(WaitFor::Children)).await;
    bed.commit(held[1].wait(WaitFor::Timer { until })).await;
    bed.store.cancel_run(spawned.run, "enough").await.expect("flagged");
    assert_eq!(bed.store.cascade(10).await, Ok(Cascade { ended: 2, left: 0 }));
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.cancelled, run.instances.waiting), (RunStatus::Cancelled, 2, 0));
    check_invariants(&bed.store, spawned.run).await;
}

/// The outcome shows at once, the rest follows.
pub async fn a_failed_run_closes_when_its_held_instances_have_ended(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, held) = bed.held(&Plan::tasks(2)).await;
    bed.commit(held[0].fail(ErrorClass::Tool)).await;
    assert_eq!(bed.store.cascade(10).await, Ok(Cascade { ended: 0, left: 1 }));
    assert_eq!(bed.store.heartbeat(worker).await, Ok(Heartbeat::Alive { cancel: vec![held[1].id()] }));
    bed.commit(held[1].fail(ErrorClass::Cancelled)).await;
    assert_eq!(bed.store.cascade(10).await, Ok(Cascade::default()));
    let run = database.literal(spawned.run.0);
    let open = format!("SELECT count(*) FROM run_outcomes WHERE run_id = {run} AND NOT closed");
    assert_eq!(database.number(&open).await, 0);
    check_invariants(&bed.store, spawned.run).await;
}

/// However many runs over are still held, and for however long: those that came after them end all the same.
pub async fn runs_that_wait_for_their_holders_hold_up_no_other(database: &impl Database) {
    const HELD: u64 = 70;
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    for _ in 0..HELD {
        let held = bed.spawn(&Plan::tasks(1)).await;
        assert_eq!(bed.claim(worker, &ids(&held.ready)).await.len(), 1);
        bed.store.cancel_run(held.run, "enough").await.expect("flagged");
    }
    let last = bed.spawn(&Plan::tasks(3)).await;
    bed.store.cancel_run(last.run, "enough").await.expect("flagged");
    assert_eq!(bed.store.cascade(1000).await, Ok(Cascade { ended: 3, left: HELD }));
    assert_eq!(bed.run(last.run).await.status, RunStatus::Cancelled);
}

/// A holder need not wait for its next heartbeat, nor for a cascade.
pub async fn an_append_tells_that_its_run_is_cancelled(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, mut held) = bed.held(&Plan::tasks(1)).await;
    let first = held[0].turn("one");
    assert!(!bed.commit(first.clone()).await.cancel);
    held[0].follow(&first);
    bed.store.cancel_run(spawned.run, "enough").await.expect("flagged");
    assert!(bed.commit(held[0].turn("two")).await.cancel);
}
