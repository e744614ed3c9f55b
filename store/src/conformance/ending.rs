//! Terminal events: one path for every kind; terminal is final (I5).

use muster_shared::{
    error::ErrorClass,
    fsm::{State, Status},
    store::WriteError,
    wire::RunStatus,
};

use super::{
    Database,
    bed::{Bed, Plan},
    check_invariants,
};

/// The output is in the row, and nobody can write any more.
pub async fn a_completed_instance_keeps_its_output_and_nothing_follows(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, mut held) = bed.held(&Plan::tasks(2)).await;
    let end = held[0].complete(r#"{"answer": [1, "zwei"]}"#);
    let committed = bed.commit(end.clone()).await;
    assert!(committed.ready.is_empty());
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.state, view.epoch, view.step), (Status::Completed, State::Completed, 2, 1));
    assert_eq!(view.output, Some(serde_json::json!({"answer": [1, "zwei"]})));
    held[0].follow(&end);
    for late in [held[0].turn("more"), held[0].fail(ErrorClass::Model), held[0].release()] {
        assert_eq!(bed.commit_all(vec![late]).await, [Err(WriteError::LeaseLost)]);
    }
    assert!(bed.claim(worker, &[held[0].id()]).await.is_empty());
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.completed, run.instances.running), (RunStatus::Running, 1, 1));
    assert_eq!(bed.in_flight().await, 1);
    check_invariants(&bed.store, spawned.run).await;
}

/// N = 1: the child's output is the result, with a reducer planned or not.
pub async fn a_run_of_one_ends_with_its_instance(database: &impl Database) {
    let bed = Bed::new(database);
    for plan in [Plan::tasks(1), Plan::reduced(1, 5)] {
        let (spawned, _, held) = bed.held(&plan).await;
        bed.commit(held[0].complete("1")).await;
        let run = bed.run(spawned.run).await;
        assert_eq!((run.status, run.result_instance, run.instances.total), (RunStatus::Completed, spawned.instance, 1));
        assert!(run.finished_at.is_some() && run.error.is_none());
        check_invariants(&bed.store, spawned.run).await;
    }
}

/// `timeout`, `cancelled`, and everything else.
pub async fn the_class_of_a_failure_decides_the_status(database: &impl Database) {
    let bed = Bed::new(database);
    let cases = [
        (ErrorClass::Timeout, Status::Timeout, State::Timeout),
        (ErrorClass::Cancelled, Status::Cancelled, State::Failed),
        (ErrorClass::Permission, Status::Failed, State::Failed),
        (ErrorClass::Internal, Status::Failed, State::Failed),
    ];
    let (spawned, _, held) = bed.held(&Plan { tolerated: 4, ..Plan::tasks(4) }).await;
    for ((class, status, state), one) in cases.into_iter().zip(&held) {
        bed.commit(one.fail(class)).await;
        let view = bed.instance(one.id()).await;
        assert_eq!((view.status, view.state, view.epoch), (status, state, 2));
        assert_eq!(view.error.map(|error| error.class), Some(class));
    }
    let counts = bed.run(spawned.run).await.instances;
    assert_eq!((counts.timeout, counts.cancelled, counts.failed, counts.running), (1, 1, 2, 0));
    check_invariants(&bed.store, spawned.run).await;
}

/// Whatever comes after it.
pub async fn the_first_outcome_of_a_run_stays(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(3)).await;
    bed.commit(held[1].fail(ErrorClass::Tool)).await;
    let failed = bed.run(spawned.run).await;
    assert_eq!(failed.status, RunStatus::Failed);
    let error = failed.error.clone().expect("it says why");
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Tool, "broken"));
    assert!(error.message.contains(&held[1].id().to_string()), "{}", error.message);
    bed.commit(held[0].fail(ErrorClass::Model)).await;
    bed.commit(held[2].complete("2")).await;
    bed.cascade_all().await;
    let after = bed.run(spawned.run).await;
    assert_eq!((after.status, after.error, after.result_instance), (RunStatus::Failed, failed.error, None));
    assert_eq!(after.finished_at, failed.finished_at);
    check_invariants(&bed.store, spawned.run).await;
}
