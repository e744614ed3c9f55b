//! Runs of one instance: modes, tools, refusals, retries, limits.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    event::{Event, EventKind as K, ToolOutcome},
    fsm::Status,
    time::{Clock, SystemClock, Timestamp},
    wire::RunStatus,
};
use serde_json::json;

use crate::support::Fleet;

#[tokio::test(flavor = "multi_thread")]
async fn a_single_agent_answers_in_one_step() {
    let fleet = Fleet::new(json!([{ "answer": { "text": "{{task}}: done", "usage": { "input_tokens": 7, "output_tokens": 2 } } }])).await;
    fleet.template("chat", json!({})).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("chat", "greet").await;
    assert_eq!(fleet.answer(run).await, json!("greet: done"));
    let view = fleet.run(run).await;
    assert_eq!((view.steps, view.usage.input_tokens, view.usage.output_tokens), (1, 7, 2));
    assert_eq!(view.result_instance, Some(instance));
    assert_eq!(fleet.kinds(instance).await, [K::Model, K::Completed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tool_calls_go_through_the_gate_with_a_key_of_their_own() {
    let fleet = Fleet::new(json!([
        { "match": { "step": 1 }, "answer": { "tool_calls": [
            { "name": "probe", "arguments": { "n": 1 } },
            { "name": "calculator", "arguments": { "expression": "6*7" } },
        ] } },
        { "match": { "step": 4 }, "answer": { "text": "a turn without tools", "continue": true } },
        { "answer": { "text": "finished" } },
    ]))
    .await;
    fleet.template("agent", json!({ "mode": "multi_step", "tools": ["calculator", "probe"] })).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "count").await;
    assert_eq!(fleet.answer(run).await, json!("finished"));
    let log = fleet.log(instance).await;
    assert_eq!(fleet.kinds(instance).await, [K::Model, K::Tool, K::Tool, K::Model, K::Model, K::Completed]);
    let Event::Tool(probe) = &log[1] else { panic!("{:?}", log[1]) };
    let expected = json!({ "asked": { "n": 1 }, "epoch": 1, "key": format!("{instance}/2") });
    assert_eq!((probe.tool.as_str(), &probe.outcome), ("probe", &ToolOutcome::Ok(expected)));
    let Event::Tool(calculator) = &log[2] else { panic!("{:?}", log[2]) };
    assert!(matches!(&calculator.outcome, ToolOutcome::Ok(value) if value.to_string().contains("42")), "{calculator:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tool_call_is_told_to_an_open_agent_and_fails_a_closed_one() {
    let fleet = Fleet::new(json!([
        { "match": { "step": 1 }, "answer": { "tool_calls": [{ "name": "probe" }] } },
        { "answer": { "text": "without it, then" } },
    ]))
    .await;
    fleet.template("open", json!({ "mode": "multi_step", "tools": ["calculator"] })).await;
    fleet.template("closed", json!({ "mode": "multi_step", "tools": ["calculator"], "tool_failure": "closed" })).await;
    let _worker = fleet.process();
    let (open, instance) = fleet.one("open", "reach out").await;
    assert_eq!(fleet.answer(open).await, json!("without it, then"));
    let log = fleet.log(instance).await;
    assert!(
        matches!(&log[1], Event::Tool(turn) if matches!(&turn.outcome, ToolOutcome::Error(error) if error.code == "tool_not_allowed")),
        "{log:?}"
    );
    let (closed, instance) = fleet.one("closed", "reach out").await;
    assert_eq!(fleet.ended(closed).await.status, RunStatus::Failed);
    assert_eq!(fleet.kinds(instance).await, [K::Model, K::Tool, K::Failed]);
    assert_eq!(fleet.effects.calls_of(instance, 2), 0, "the tool was never reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_steps_and_max_steps_holds() {
    let fleet = Fleet::new(json!([
        { "match": { "task": "never" }, "answer": { "error": { "code": "overloaded" } } },
        { "match": { "task": "third", "attempt": "0-1" }, "answer": { "error": { "code": "overloaded" } } },
        { "match": { "task": "talk" }, "answer": { "text": "and another thing", "continue": true } },
        { "answer": { "text": "at last" } },
    ]))
    .await;
    let retry = json!({ "max_retries": 3, "initial_delay_ms": 2, "max_delay_ms": 4 });
    fleet.template("agent", json!({ "mode": "multi_step", "max_steps": 3, "retry": retry })).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "third time lucky").await;
    assert_eq!(fleet.answer(run).await, json!("at last"));
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Retry, K::Model, K::Completed]);
    let (run, instance) = fleet.one("agent", "never").await;
    assert_eq!(fleet.ended(run).await.status, RunStatus::Failed);
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Retry, K::Failed]);
    let (run, instance) = fleet.one("agent", "talk").await;
    assert_eq!(fleet.answer(run).await, json!("and another thing"), "the last turn that the steps allow is the answer");
    assert_eq!(fleet.kinds(instance).await, [K::Model, K::Model, K::Model, K::Completed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_model_gives_up_the_next_of_the_chain_answers() {
    let fleet = Fleet::new(json!([{ "answer": { "error": { "code": "overloaded" } } }])).await;
    let retry = json!({ "max_retries": 1, "initial_delay_ms": 2, "max_delay_ms": 4 });
    fleet.template("agent", json!({ "mode": "multi_step", "models": ["main/model", "spare/model"], "retry": retry })).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "anything").await;
    assert_eq!(fleet.answer(run).await, json!("the spare answers"));
    let log = fleet.log(instance).await;
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Retry, K::Model, K::Completed]);
    assert!(matches!(&log[2], Event::Model(turn) if turn.model == "spare/model"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_delay_gives_the_slot_back_and_the_timer_resumes_it() {
    let fleet = Fleet::new(json!([
        { "match": { "task": "later", "attempt": 0 }, "answer": { "error": { "code": "rate_limited", "retry_after_ms": 2600 } } },
        { "answer": { "text": "{{task}}" } },
    ]))
    .await;
    fleet.template("agent", json!({ "mode": "multi_step" })).await;
    let _worker = fleet.process_of(1);
    let (later, instance) = fleet.one("agent", "later").await;
    let waiting = fleet.stands(instance, Status::Waiting).await;
    assert!(waiting.waiting_for.is_some());
    let (now, _) = fleet.one("agent", "now").await;
    assert_eq!(fleet.answer(now).await, json!("now"), "the only slot is free");
    assert_eq!(fleet.instance(instance).await.status, Status::Waiting);
    assert_eq!(fleet.answer(later).await, json!("later"));
    let log = fleet.store_log(instance).await;
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Waiting, K::Model, K::Completed]);
    assert!(log[2].at.since(log[0].at) >= Duration::from_millis(2600), "not before the provider's Retry-After");
    assert_eq!((log[1].epoch, log[2].epoch), (1, 3), "waiting and claiming both raise the epoch");
}

/// A clock that is wrong.
struct Slow(Duration);

impl Clock for Slow {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() - i64::try_from(self.0.as_micros()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_slow_waits_once_and_believes_the_timer() {
    let mut fleet = Fleet::new(json!([
        { "match": { "attempt": 0 }, "answer": { "error": { "code": "rate_limited", "retry_after_ms": 5000 } } },
        { "answer": { "text": "{{task}}" } },
    ]))
    .await;
    fleet.clock = Arc::new(Slow(Duration::from_secs(3600)));
    fleet.template("agent", json!({ "mode": "multi_step" })).await;
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "later").await;
    assert_eq!(fleet.answer(run).await, json!("later"));
    assert_eq!(fleet.kinds(instance).await, [K::Retry, K::Waiting, K::Model, K::Completed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_used_or_stored_fails_its_instance_only() {
    let fleet = Fleet::new(json!([
        { "match": { "task": "nul" }, "answer": { "text": "a\u{0}b" } },
        { "match": { "task": "huge" }, "answer": { "text": "{{repeat:x:70000}}" } },
        { "match": { "agent": "json" }, "answer": { "text": "not JSON" } },
        { "answer": { "text": "fine" } },
    ]))
    .await;
    fleet.template("chat", json!({})).await;
    fleet.template("json", json!({ "output": { "format": "json" } })).await;
    let _worker = fleet.process();
    for (agent, task, code) in [
        ("chat", "nul", "not_storable"),
        ("chat", "huge", "not_storable"),
        ("json", "anything", "invalid_output"),
        ("chat", "panic in the engine", "engine_panicked"),
    ] {
        let (run, instance) = fleet.one(agent, task).await;
        assert_eq!(fleet.ended(run).await.status, RunStatus::Failed, "{task}");
        assert_eq!(fleet.instance(instance).await.error.map(|error| error.code).as_deref(), Some(code), "{task}");
    }
    let (run, _) = fleet.one("chat", "something else").await;
    assert_eq!(fleet.answer(run).await, json!("fine"));
}
