//! Cancelling, deadlines and wall clocks, wherever an instance is at that moment.

use muster_shared::{
    error::ErrorClass,
    event::{Event, EventKind as K},
    fsm::Status,
    wire::RunStatus,
};
use serde_json::{Value, json};

use crate::support::{Fleet, folding};

fn rules() -> Value {
    json!([
        { "match": { "task": "later" }, "answer": { "error": { "code": "rate_limited", "retry_after_ms": 3_600_000 } } },
        { "match": { "step": 1 }, "answer": { "text": "turn", "continue": true } },
        { "answer": { "text": "finished" } },
    ])
}

async fn fleet() -> Fleet {
    let fleet = Fleet::new(rules()).await;
    fleet.template("agent", json!({ "mode": "multi_step" })).await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_in_the_queue_is_cancelled_at_once() {
    let fleet = fleet().await;
    let spawned = fleet.spawn("agent", json!({ "tasks": ["a", "b", "c"] })).await;
    fleet.cancel_run(spawned.run).await;
    assert_eq!(fleet.ended(spawned.run).await.status, RunStatus::Cancelled);
    let _worker = fleet.process();
    let (run, _) = fleet.one("agent", "another").await;
    fleet.answer(run).await;
    assert_eq!(fleet.effects.calls_in(spawned.run), 0, "its messages are still there, and claim nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_progress_ends_with_the_cancel_of_its_run() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "long").await;
    fleet.effects.held(1).await;
    fleet.cancel_run(run).await;
    fleet.effects.held(0).await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Cancelled);
    assert_eq!(fleet.kinds(instance).await, [K::Model, K::Cancelled]);
    assert_eq!(fleet.instance(instance).await.status, Status::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_timer_is_cancelled_without_it() {
    let fleet = fleet().await;
    let _worker = fleet.process();
    fleet.template("patient", json!({ "mode": "multi_step", "limits": { "agent_timeout_ms": 7_200_000 } })).await;
    let (run, instance) = fleet.one("patient", "later").await;
    fleet.stands(instance, Status::Waiting).await;
    fleet.cancel_run(run).await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Cancelled);
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Waiting, K::Cancelled]);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_instances_are_cancelled_wherever_they_are_and_the_others_finish() {
    let fleet = fleet().await;
    fleet.template("patient", json!({ "mode": "multi_step", "limits": { "agent_timeout_ms": 7_200_000 } })).await;
    fleet.effects.hold(|task, step| task == "hold" && step == 2);
    let _worker = fleet.process_of(1);
    let request = json!({ "tasks": ["later", "hold", "queued", "spared"], "max_parallel": 1, "on_failure": { "tolerate": 0.75 } });
    let run = fleet.spawn("patient", request).await.run;
    let ids: Vec<_> = fleet.instances(run).await.into_iter().map(|instance| instance.id).collect();
    fleet.stands(ids[0], Status::Waiting).await;
    fleet.effects.held(1).await;
    for id in &ids[..3] {
        fleet.cancel(*id).await;
    }
    let answer = fleet.answer(run).await;
    assert_eq!(answer, json!([null, null, null, "finished"]));
    for id in &ids[..3] {
        assert_eq!(fleet.instance(*id).await.status, Status::Cancelled);
    }
    assert_eq!(fleet.kinds(ids[2]).await, [K::Cancelled]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cancel_has_been_acknowledged_no_effect_starts() {
    let fleet = Fleet::new(folding()).await;
    fleet.template("leaf", json!({ "output": { "format": "json" } })).await;
    fleet.effects.hold(|task, _| task.ends_with('3'));
    let (_one, _other) = (fleet.process_of(3), fleet.process_of(3));
    let tasks: Vec<String> = (0..60).map(|n| format!("task {n}")).collect();
    let run = fleet.spawn("leaf", json!({ "tasks": tasks, "reduce": { "agent": "reducer", "chunk_size": 2 } })).await.run;
    fleet.effects.held(6).await;
    fleet.cancel_run(run).await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Cancelled);
    let calls = fleet.effects.calls_in(run);
    fleet.effects.release();
    let (other, _) = fleet.one("leaf", "another").await;
    fleet.answer(other).await;
    assert_eq!(fleet.effects.calls_in(run), calls);
    let total = fleet.run(run).await.instances.total;
    assert_eq!(fleet.instances(run).await.len(), usize::try_from(total).unwrap(), "no reducer entered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_what_runs_and_what_waits() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, _| true);
    let _worker = fleet.process_of(2);
    let run = fleet.spawn("agent", json!({ "tasks": ["a", "b", "c", "d"], "deadline_ms": 400 })).await.run;
    let view = fleet.ended(run).await;
    assert_eq!(view.status, RunStatus::Timeout);
    assert_eq!(view.instances.completed, 0);
    fleet.effects.held(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_its_own_wall_clock_and_so_has_each_call() {
    let fleet = fleet().await;
    fleet.effects.hold(|task, _| task.starts_with("hang"));
    fleet.template("hasty", json!({ "mode": "multi_step", "limits": { "agent_timeout_ms": 250 } })).await;
    let retry = json!({ "max_retries": 1, "initial_delay_ms": 1, "max_delay_ms": 1 });
    fleet.template("thinker", json!({ "mode": "multi_step", "limits": { "thinking_ms": 60 }, "retry": retry })).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("hasty", "hang").await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Failed);
    assert_eq!(fleet.instance(instance).await.status, Status::Timeout);
    assert_eq!(fleet.kinds(instance).await, [K::TimedOut]);
    let (run, instance) = fleet.one("thinker", "hang").await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Failed);
    let log = fleet.log(instance).await;
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Failed]);
    assert!(matches!(&log[1], Event::Failed(error) if error.code == "timeout" && error.class == ErrorClass::Model), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_never_outlasts_the_wall_clock_of_its_instance() {
    let fleet = fleet().await;
    fleet.template("agent", json!({ "mode": "multi_step", "limits": { "agent_timeout_ms": 2300 } })).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "later").await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Failed);
    assert_eq!(fleet.instance(instance).await.status, Status::Timeout);
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Waiting, K::TimedOut], "and not after the hour of Retry-After");
}
