//! Killed at any point, a worker changes nothing: another folds the log and goes on.

use muster_shared::event::EventKind as K;
use serde_json::{Value, json};

use crate::support::{Fleet, folded, folding};

/// Four turns; the third asks for a tool.
fn talk() -> Value {
    json!([
        { "match": { "step": 3 }, "answer": { "tool_calls": [{ "name": "probe" }] } },
        { "match": { "step": ">=5" }, "answer": { "text": "finished after {{step}}" } },
        { "answer": { "text": "turn {{step}}", "continue": true } },
    ])
}

async fn fleet() -> Fleet {
    let fleet = Fleet::new(talk()).await;
    fleet.template("agent", json!({ "mode": "multi_step", "tools": ["probe"] })).await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_any_call_is_replaced_and_nothing_journaled_runs_again() {
    // Calls 1 to 3 and 5 are the model's, the fourth is the tool's (whose step is not told).
    for killed_in in 1..=5_i64 {
        let fleet = fleet().await;
        fleet.effects.hold(move |task, step| if task == "probe" { killed_in == 4 } else { i64::from(step) == killed_in });
        let first = fleet.process();
        let (run, instance) = fleet.one("agent", "talk").await;
        fleet.effects.held(1).await;
        first.crash().await;
        let log = fleet.store_log(instance).await;
        assert_eq!(i64::try_from(log.len()).unwrap(), killed_in - 1, "what was journaled is there");
        fleet.bury_all().await;
        fleet.effects.release();
        let _second = fleet.process();
        assert_eq!(fleet.answer(run).await, json!("finished after 5"));
        assert_eq!(fleet.kinds(instance).await, [K::Model, K::Model, K::Model, K::Tool, K::Model, K::Completed]);
        for seq in 1..=5 {
            let expected = if seq == killed_in { 2 } else { 1 };
            assert_eq!(fleet.effects.calls_of(instance, seq), expected, "calls for event {seq}, killed in {killed_in}");
        }
        assert_eq!(fleet.store_log(instance).await[..log.len()], log, "the past is not rewritten");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_is_declared_dead_when_its_lease_has_run_out() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let first = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.effects.held(1).await;
    let _second = fleet.process();
    first.crash().await;
    fleet.effects.release();
    assert_eq!(fleet.answer(run).await, json!("finished after 5"));
    assert_eq!((1..=5).map(|seq| fleet.effects.calls_of(instance, seq)).collect::<Vec<_>>(), [1, 2, 1, 1, 1]);
    assert_eq!(fleet.store.registered().len(), 2, "the living one was not declared dead with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_whose_workers_die_again_and_again_gives_the_same_answer() {
    let tasks: Vec<String> = (1..=24).map(|n| format!("task {n:03}")).collect();
    let fleet = Fleet::new(folding()).await;
    fleet.template("leaf", json!({ "output": { "format": "json" } })).await;
    let run = fleet.spawn("leaf", json!({ "tasks": tasks, "reduce": { "agent": "reducer", "chunk_size": 3 } })).await.run;
    // 24 leaves and 13 reducers; each worker dies in the middle of something, at another place each time.
    let mut calls = 0;
    for more in [1, 3, 4, 2, 6, 5, 7] {
        calls += more;
        let worker = fleet.process_of(3);
        fleet.effects.begun(calls).await;
        worker.crash().await;
        calls = fleet.effects.calls().values().sum::<usize>().max(calls);
        fleet.bury_all().await;
    }
    let _last = fleet.process();
    assert_eq!(folded(&fleet.answer(run).await), tasks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_right_after_a_step_leaves_it_done() {
    for journaled in 1..=4_usize {
        let fleet = fleet().await;
        // Nothing is held: the worker is killed as soon as the store has so many steps.
        let first = fleet.process();
        let (run, instance) = fleet.one("agent", "talk").await;
        fleet.until(async || (fleet.store_log(instance).await.len() >= journaled).then_some(())).await;
        first.crash().await;
        let log = fleet.store_log(instance).await;
        fleet.bury_all().await;
        let _second = fleet.process();
        assert_eq!(fleet.answer(run).await, json!("finished after 5"));
        assert_eq!(fleet.store_log(instance).await[..log.len()], log);
    }
}
