//! SIGTERM: what is between steps is given back, calls in progress are journaled, the rest is counted.

use std::time::Duration;

use muster_shared::{event::EventKind as K, fsm::Status, queue::ReadyQueue as _};
use muster_worker::Drained;
use serde_json::{Value, json};

use crate::support::{
    Fleet,
    process::{Process, settings},
};

fn talk() -> Value {
    json!([
        { "match": { "task": "limited", "attempt": 0 }, "answer": { "error": { "code": "rate_limited", "retry_after_ms": 1900 } } },
        { "match": { "step": "1-3" }, "answer": { "text": "turn {{step}}", "continue": true } },
        { "answer": { "text": "finished" } },
    ])
}

async fn fleet() -> Fleet {
    let fleet = Fleet::new(talk()).await;
    fleet.template("agent", json!({ "mode": "multi_step" })).await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_progress_are_journaled_and_their_instances_given_back() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let first = fleet.process();
    let spawned = fleet.spawn("agent", json!({ "tasks": ["a", "b", "c"] })).await;
    fleet.effects.held(3).await;
    first.terminate();
    fleet.effects.release();
    assert_eq!(first.drain().await, Drained { abandoned: 0 });
    for instance in fleet.instances(spawned.run).await {
        assert_eq!(fleet.kinds(instance.id).await, [K::Model, K::Model], "the call in progress is journaled, and no other begun");
        assert_eq!(instance.status, Status::Queued, "nobody waits for a TTL");
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), 3, "they are known to be runnable");
    let _second = fleet.process();
    assert_eq!(fleet.answer(spawned.run).await, json!(["finished", "finished", "finished"]));
    assert!(fleet.effects.calls().values().all(|calls| *calls == 1), "{:?}", fleet.effects.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_outlast_the_grace_period_are_counted_and_made_again_elsewhere() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let mut short = settings();
    short.grace = Duration::from_millis(300);
    let first = Process::worker(&fleet, short);
    let spawned = fleet.spawn("agent", json!({ "tasks": ["a", "b"] })).await;
    fleet.effects.held(2).await;
    assert_eq!(first.drain().await, Drained { abandoned: 2 });
    fleet.effects.held(0).await;
    fleet.effects.release();
    let _second = fleet.process();
    fleet.ended(spawned.run).await;
    for instance in fleet.instances(spawned.run).await {
        assert_eq!((1..=4).map(|seq| fleet.effects.calls_of(instance.id, seq)).collect::<Vec<_>>(), [1, 2, 1, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_for_its_retry_is_given_back_at_once() {
    let fleet = fleet().await;
    let first = fleet.process();
    let (run, instance) = fleet.one("agent", "limited").await;
    fleet.until(async || (fleet.kinds(instance).await == [K::Retry]).then_some(())).await;
    assert_eq!(fleet.instance(instance).await.status, Status::Running, "it keeps its slot for a short delay");
    assert_eq!(first.drain().await, Drained { abandoned: 0 });
    assert_eq!(fleet.kinds(instance).await, [K::Retry], "it was not waited for");
    assert_eq!(fleet.instance(instance).await.status, Status::Queued);
    let _second = fleet.process();
    assert_eq!(fleet.answer(run).await, json!("finished"));
    let log = fleet.store_log(instance).await;
    assert!(log[1].at.since(log[0].at) >= Duration::from_millis(1900), "the delay is kept by the next worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_work_leaves_at_once_and_one_that_cannot_register_too() {
    let fleet = fleet().await;
    let idle = fleet.process();
    fleet.until(async || (fleet.store.registered().len() == 1).then_some(())).await;
    assert_eq!(idle.drain().await, Drained { abandoned: 0 });
    fleet.store.faults(|_| crate::support::store::Fault::Unreached);
    let cut_off = fleet.process();
    assert_eq!(cut_off.drain().await, Drained { abandoned: 0 });
}
