//! Spawning: all shapes, all or nothing, idempotent.

use muster_shared::{
    fsm::{State, Status},
    hash::Hash32,
    store::{Page, SpawnBatch, StoreError},
    wire::RunStatus,
};

use super::{
    Database,
    bed::{Bed, Plan, TEAM, ids},
    check_invariants,
};

/// Every task is a row, in order, with what it was given.
pub async fn a_spawn_makes_a_queued_instance_for_every_task(database: &impl Database) {
    let bed = Bed::new(database);
    let batch = Plan::reduced(3, 2).batch();
    let spawned = bed.store.spawn(batch.clone()).await.expect("spawned");
    assert_eq!((spawned.run, spawned.instance, spawned.instances, spawned.replayed), (batch.run.id, None, 3, false));
    let view = bed.run(spawned.run).await;
    assert_eq!((view.status, view.tasks, view.instances.total, view.instances.queued), (RunStatus::Running, 3, 3, 3));
    assert_eq!((view.agent.as_str(), view.group, view.priority, view.max_parallel), ("worker@1", batch.group.id, 5, 1000));
    let group = bed.store.group(batch.group.id).await.expect("the group is there");
    assert_eq!((group.run, group.parent, group.tree, group.context), (spawned.run, None, batch.group.tree, batch.group.context));
    let instances = bed.instances(spawned.run).await;
    assert_eq!(instances.len(), 3);
    for (view, given) in instances.iter().zip(&batch.instances) {
        assert_eq!((view.id, view.run_id, view.level, view.ordinal), (given.id, spawned.run, 0, given.ordinal));
        assert_eq!((&view.name, &view.task, view.policy_hash), (&given.name, &given.task, given.policy));
        assert_eq!((view.status, view.state, view.epoch, view.step), (Status::Queued, State::Init, 0, 0));
    }
    check_invariants(&bed.store, spawned.run).await;
}

/// The caller of a single task polls its instance.
pub async fn a_spawn_of_one_answers_its_instance(database: &impl Database) {
    let bed = Bed::new(database);
    let batch = Plan::tasks(1).batch();
    let spawned = bed.store.spawn(batch.clone()).await.expect("spawned");
    assert_eq!((spawned.instance, spawned.instances), (Some(batch.instances[0].id), 1));
    assert_eq!(ids(&spawned.ready), [batch.instances[0].id]);
    let ready = &spawned.ready[0];
    assert_eq!((ready.priority, ready.reducer, &ready.traceparent), (5, false, &batch.run.traceparent));
}

/// N = 0: an empty result, no reducer.
pub async fn a_spawn_of_nothing_is_completed_at_once(database: &impl Database) {
    let bed = Bed::new(database);
    for plan in [Plan::tasks(0), Plan::reduced(0, 5)] {
        let spawned = bed.spawn(&plan).await;
        let view = bed.run(spawned.run).await;
        assert_eq!((view.status, view.result_instance, view.instances.total), (RunStatus::Completed, None, 0));
        assert!(view.finished_at.is_some());
        check_invariants(&bed.store, spawned.run).await;
    }
}

/// What is granted in the spawn needs no dispatcher, and `max_parallel` holds for it (I8).
pub async fn a_small_spawn_is_granted_within_max_parallel(database: &impl Database) {
    let bed = Bed::new(database);
    let plan = Plan { max_parallel: 4, ..Plan::tasks(10) };
    let spawned = bed.spawn(&plan).await;
    assert_eq!(spawned.ready.len(), 4);
    let demand = bed.store.demand().await.expect("answered");
    assert_eq!((demand.due, demand.in_flight, demand.demand), (6, 4, 10));
    let worker = bed.worker(10).await;
    assert_eq!(bed.claim(worker, &ids(&spawned.ready)).await.len(), 4);
}

/// A large spawn fills many statements, and the dispatcher shares it out.
pub async fn a_large_spawn_is_stored_whole_and_left_to_the_dispatcher(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(1234)).await;
    assert_eq!((spawned.ready.len(), spawned.instances), (0, 1234));
    assert_eq!(bed.run(spawned.run).await.instances.queued, 1234);
    let ordinals: Vec<i64> = bed.instances(spawned.run).await.iter().map(|view| view.ordinal).collect();
    assert_eq!(ordinals, (0..1234).collect::<Vec<_>>());
}

/// After a crash the key tells: nothing is made twice.
pub async fn the_same_key_and_request_replays_what_was_made(database: &impl Database) {
    let bed = Bed::new(database);
    for plan in [Plan { key: Some(("one", "a")), ..Plan::tasks(1) }, Plan { key: Some(("many", "a")), ..Plan::tasks(3) }] {
        let first = bed.spawn(&plan).await;
        let again = bed.spawn(&plan).await;
        assert_eq!((again.run, again.instance, again.instances), (first.run, first.instance, first.instances));
        assert!(again.replayed && !first.replayed && again.ready.is_empty());
    }
    let all = bed.store.runs(TEAM, &Page { limit: 10, after: None }).await.expect("listed");
    assert_eq!(all.items.len(), 2);
}

/// A key names one request.
pub async fn the_same_key_with_another_request_is_refused(database: &impl Database) {
    let bed = Bed::new(database);
    bed.spawn(&Plan { key: Some(("key", "a")), ..Plan::tasks(1) }).await;
    let other = Plan { key: Some(("key", "b")), ..Plan::tasks(1) }.batch();
    assert_eq!(bed.store.spawn(other).await, Err(StoreError::KeyReused("key".to_owned())));
}

/// One wins, the others find what it made.
pub async fn racing_spawns_with_one_key_make_one_run(database: &impl Database) {
    let bed = Bed::new(database);
    let plan = Plan { key: Some(("race", "a")), ..Plan::tasks(2) };
    let racers: Vec<_> = (0..6)
        .map(|_| {
            let (store, batch) = (bed.store.clone(), plan.batch());
            tokio::spawn(async move { store.spawn(batch).await.expect("answered") })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racers {
        answers.push(racer.await.expect("no panic"));
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.run == answers[0].run && answer.instances == 2));
}

/// Two runs with the same policy share one row; what is unknown is left out.
pub async fn contents_are_stored_once_by_their_hash(database: &impl Database) {
    let bed = Bed::new(database);
    bed.spawn(&Plan::tasks(1)).await;
    bed.spawn(&Plan::tasks(1)).await;
    let (known, unknown) = (Hash32::of(b"policy"), Hash32::of(b"unknown"));
    let blobs = bed.store.blobs(&[known, unknown]).await.expect("read");
    assert_eq!(blobs.into_iter().collect::<Vec<_>>(), [(known, b"policy".to_vec())]);
}

/// All or nothing.
pub async fn a_task_with_a_nul_is_refused_and_nothing_is_stored(database: &impl Database) {
    let bed = Bed::new(database);
    let mut batch: SpawnBatch = Plan::tasks(3).batch();
    batch.instances[1].task = "a\0b".to_owned();
    assert!(matches!(bed.store.spawn(batch.clone()).await, Err(StoreError::Refused(_))));
    assert!(matches!(bed.store.run(TEAM, batch.run.id).await, Err(StoreError::NotFound(_))));
}
