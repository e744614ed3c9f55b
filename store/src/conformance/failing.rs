//! Failures against what is tolerated: fail fast, a fraction, whole chunks, reducers.

use muster_shared::{error::ErrorClass, fsm::Status, ids::Incarnation, queue::Ready, reduce::Place, store::Spawned, wire::RunStatus};

use super::{
    Database,
    bed::{Bed, Held, Plan, ids},
    check_invariants,
    trees::work_off,
};

/// Ends the leaves, these by failure, and answers what became ready.
async fn end_leaves(bed: &Bed, held: &[Held], failing: impl Fn(i64) -> bool) -> Vec<Ready> {
    let mut ready = Vec::new();
    for one in held {
        let index = one.place().index;
        let write = if failing(index) { one.fail(ErrorClass::Model) } else { one.complete(&index.to_string()) };
        ready.extend(bed.commit(write).await.ready);
    }
    ready
}

/// Completes what is ready and everything after it.
async fn complete_rest(bed: &Bed, worker: Incarnation, spawned: &Spawned, ready: Vec<Ready>) {
    work_off(bed, worker, &Spawned { ready, ..spawned.clone() }, 3).await;
}

fn place(ready: &Held) -> (i32, i64) {
    (ready.place().level, ready.place().index)
}

/// The first failure decides; what nobody holds is ended, without further reducers.
pub async fn one_failure_fails_a_fail_fast_run_and_the_cascade_ends_the_rest(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(10).await;
    let spawned = bed.spawn(&Plan { max_parallel: 1, ..Plan::reduced(6, 2) }).await;
    let held = bed.claim(worker, &ids(&spawned.ready)).await;
    bed.commit(held[0].fail(ErrorClass::Model)).await;
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Failed, "at once");
    bed.cascade_all().await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.failed, run.instances.cancelled, run.instances.total), (RunStatus::Failed, 1, 5, 6));
    assert_eq!(bed.store.cascade(10).await.expect("answered").left, 0);
    check_invariants(&bed.store, spawned.run).await;
}

/// Outputs of the others are folded.
pub async fn what_is_tolerated_does_not_fail_the_run(database: &impl Database) {
    let bed = Bed::new(database);
    let plan = Plan { tolerated: 2, ..Plan::reduced(10, 5) };
    let (spawned, worker, held) = bed.held(&plan).await;
    let ready = end_leaves(&bed, &held, |index| index == 1 || index == 7).await;
    assert_eq!(ready.len(), 2);
    complete_rest(&bed, worker, &spawned, ready).await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.failed, run.instances.completed), (RunStatus::Completed, 2, 11));
    let result = bed.instance(run.result_instance.expect("there is a result")).await;
    assert_eq!(result.output, Some(serde_json::json!([[0, 2, 3, 4], [5, 6, 8, 9]])));
    check_invariants(&bed.store, spawned.run).await;
}

/// The last straw, also when it comes in one batch with the others.
pub async fn one_failure_more_than_tolerated_fails_the_run(database: &impl Database) {
    let bed = Bed::new(database);
    let plan = Plan { tolerated: 2, ..Plan::reduced(10, 5) };
    let (spawned, _, held) = bed.held(&plan).await;
    end_leaves(&bed, &held[..2], |_| true).await;
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Running);
    end_leaves(&bed, &held[2..3], |_| true).await;
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Failed);
    check_invariants(&bed.store, spawned.run).await;
    let (together, _, held) = bed.held(&plan).await;
    let answers = bed.commit_all(held.iter().map(|held| held.fail(ErrorClass::Tool)).collect()).await;
    assert!(answers.iter().all(Result::is_ok));
    bed.cascade_all().await;
    let run = bed.run(together.run).await;
    assert_eq!((run.status, run.instances.failed, run.instances.total), (RunStatus::Failed, 10, 10));
    check_invariants(&bed.store, together.run).await;
}

/// There is nothing to fold: no reducer at that node, but one above.
pub async fn a_chunk_of_failures_passes_up_empty_without_a_reducer(database: &impl Database) {
    let bed = Bed::new(database);
    let plan = Plan { tolerated: 5, ..Plan::reduced(10, 5) };
    let (spawned, worker, held) = bed.held(&plan).await;
    let ready = end_leaves(&bed, &held, |index| index < 5).await;
    let folding = bed.claim(worker, &ids(&ready)).await;
    assert_eq!(folding.iter().map(place).collect::<Vec<_>>(), [(1, 1)]);
    let ready = bed.commit(folding[0].complete("[5,6,7,8,9]")).await.ready;
    complete_rest(&bed, worker, &spawned, ready).await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.instances.total), (RunStatus::Completed, 12));
    let result = bed.instance(run.result_instance.expect("there is a result")).await;
    assert_eq!((result.level, result.output), (2, Some(serde_json::json!([[5, 6, 7, 8, 9]]))));
    check_invariants(&bed.store, spawned.run).await;
}

/// An empty answer, as the spec allowed.
pub async fn a_run_whose_failures_are_all_tolerated_completes_without_a_result(database: &impl Database) {
    let bed = Bed::new(database);
    for plan in [
        Plan { tolerated: 6, ..Plan::reduced(6, 5) },
        Plan { tolerated: 3, ..Plan::tasks(3) },
        Plan { tolerated: 1, ..Plan::reduced(1, 5) },
    ] {
        let (spawned, _, held) = bed.held(&plan).await;
        assert!(end_leaves(&bed, &held, |_| true).await.is_empty());
        let run = bed.run(spawned.run).await;
        assert_eq!((run.status, run.result_instance, run.instances.total), (RunStatus::Completed, None, plan.total));
        check_invariants(&bed.store, spawned.run).await;
    }
}

/// All of them count as failed, those that completed too.
pub async fn a_failed_reducer_loses_the_leaves_below_it(database: &impl Database) {
    let bed = Bed::new(database);
    for (tolerated, status) in [(5, RunStatus::Completed), (4, RunStatus::Failed)] {
        let (spawned, worker, held) = bed.held(&Plan { tolerated, ..Plan::reduced(10, 5) }).await;
        let ready = end_leaves(&bed, &held, |_| false).await;
        let mut folding = bed.claim(worker, &ids(&ready)).await;
        folding.sort_by_key(Held::place);
        bed.commit(folding[0].fail(ErrorClass::Model)).await;
        let ready = bed.commit(folding[1].complete("[5,6,7,8,9]")).await.ready;
        complete_rest(&bed, worker, &spawned, ready).await;
        let run = bed.run(spawned.run).await;
        assert_eq!(run.status, status, "{tolerated} tolerated");
        assert_eq!(bed.instance(folding[0].id()).await.status, Status::Failed);
        check_invariants(&bed.store, spawned.run).await;
    }
}

/// A leaf that failed below a reducer that fails, below a root that fails.
pub async fn no_leaf_is_counted_as_failed_twice(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, held) = bed.held(&Plan { tolerated: 10, ..Plan::reduced(10, 5) }).await;
    let ready = end_leaves(&bed, &held, |index| index == 0).await;
    let mut folding = bed.claim(worker, &ids(&ready)).await;
    folding.sort_by_key(Held::place);
    bed.commit(folding[0].fail(ErrorClass::Model)).await;
    let ready = bed.commit(folding[1].complete("[5,6,7,8,9]")).await.ready;
    let root = bed.claim(worker, &ids(&ready)).await;
    assert_eq!(root[0].place(), Place { level: 2, index: 0 });
    bed.commit(root[0].fail(ErrorClass::Model)).await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.status, run.result_instance), (RunStatus::Completed, None));
    let group = database.literal(run.group.0);
    assert_eq!(database.number(&format!("SELECT failed_leaves FROM groups WHERE id = {group}")).await, 10);
    check_invariants(&bed.store, spawned.run).await;
}
