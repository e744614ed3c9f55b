//! Runs that end: with an answer, or without.

use std::sync::Arc;

use axum::http::StatusCode;
use muster_shared::{
    CORE_REV,
    engine::{Finish, Usage},
    event::{Completed, Entry, Event, ModelTurn},
    fsm::State,
    ids::{Incarnation, InstanceId},
    store::{Store, Then, WorkerRow, Write},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::support::App;

/// Does what a worker does with an instance whose model answers `text` at once.
async fn complete(store: &Arc<dyn Store>, instance: InstanceId, text: &str) {
    let worker = Incarnation(instance.0);
    store.register(&WorkerRow { incarnation: worker, name: "test".to_owned(), slots: 8, version: "test".to_owned() }).await.unwrap();
    let claimed = store.claim(worker, CORE_REV, &[instance]).await.unwrap().remove(0);
    let usage = Usage { input_tokens: 10, output_tokens: 5, cost_micros: 0 };
    let turn =
        ModelTurn { model: "offline/extract".to_owned(), text: text.to_owned(), tool_calls: Vec::new(), finish: Finish::Stop, usage };
    let (epoch, at) = (claimed.lease.epoch, Timestamp::from_micros(1_700_000_000_000_000));
    let first = Entry::following(instance, (claimed.last_seq, claimed.last_hash), epoch, &Event::Model(turn), at);
    let last = Entry::following(instance, (first.seq, first.hash), epoch, &Event::Completed(Completed { output_of: first.seq }), at);
    let write = Write {
        lease: claimed.lease,
        group: claimed.group,
        place: claimed.place,
        entries: vec![first, last],
        state: State::Completed,
        step: 1,
        steps_added: 1,
        usage_added: usage,
        then: Then::Complete { output: json!(text).to_string() },
    };
    store.commit(vec![write]).await.remove(0).unwrap();
}

fn id(value: &Value) -> InstanceId {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_completed_run_answers_its_result_with_provenance_and_its_log() {
    let app = App::new().await;
    app.template("scout").await;
    let spawned = app.spawn("scout", &json!({"task": "Look."})).await;
    let (run, instance) = (spawned["run_id"].as_str().unwrap(), &spawned["instance_id"]);
    complete(&app.store, id(instance), "All quiet.").await;
    let result = app.get(&format!("/v1/runs/{run}/result")).await;
    assert_eq!((result.status, &result.json()["output"]), (StatusCode::OK, &json!("All quiet.")), "{result:?}");
    assert_eq!(&result.json()["provenance"][0]["instance"], instance);
    let events = format!("/v1/instances/{}/events", instance.as_str().unwrap());
    let log = app.get(&events).await.json();
    let kinds: Vec<&Value> = log["items"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!((kinds, &log["next"]), (vec![&json!("model"), &json!("completed")], &Value::Null), "{log}");
    assert_eq!(log["items"][0]["payload"]["text"], "All quiet.");
    let first = app.get(&format!("{events}?limit=1")).await.json();
    assert_eq!((first["items"].as_array().unwrap().len(), &first["next"]), (1, &json!("1")));
    assert_eq!(app.get(&format!("{events}?after=1")).await.json()["items"][0]["seq"], 2);
    assert_eq!(app.get(&format!("{events}?after=2")).await.json(), json!({"items": []}));
    app.post(&format!("/v1/runs/{run}/cancel"), &json!({})).await.problem(409, "conflict");
}

#[tokio::test]
async fn several_tasks_without_a_reducer_answer_the_list_of_their_outputs() {
    let app = App::new().await;
    app.template("scout").await;
    let spawned = app.spawn("scout", &json!({"tasks": ["a", "b"]})).await;
    assert_eq!((&spawned["instances"], &spawned["instance_id"]), (&json!(2), &Value::Null));
    let run = format!("/v1/runs/{}", spawned["run_id"].as_str().unwrap());
    let instances = app.get(&format!("{run}/instances")).await.json();
    for (at, text) in [(1, "second"), (0, "first")] {
        complete(&app.store, id(&instances["items"][at]["id"]), text).await;
    }
    assert_eq!(app.get(&format!("{run}/result")).await.json()["output"], json!(["first", "second"]));
}

#[tokio::test]
async fn a_run_that_nobody_holds_is_cancelled_at_once_and_has_no_answer() {
    let app = App::new().await;
    app.template("scout").await;
    let run = format!("/v1/runs/{}", app.spawn("scout", &json!({"tasks": ["a", "b"]})).await["run_id"].as_str().unwrap());
    let bare = axum::http::Request::post(format!("{run}/cancel")).body(axum::body::Body::empty()).unwrap();
    let answer = app.send(bare).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::ACCEPTED, &json!("cancelled")), "{answer:?}");
    app.get(&format!("{run}/result")).await.problem(409, "run_cancelled");
}

#[tokio::test]
async fn an_instance_can_be_cancelled_with_a_reason_that_its_owner_reads() {
    let app = App::new().await;
    app.template("scout").await;
    let spawned = app.spawn("scout", &json!({"task": "a"})).await;
    let path = format!("/v1/instances/{}/cancel", spawned["instance_id"].as_str().unwrap());
    let answer = app.post(&path, &json!({"why": "no longer needed"})).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::ACCEPTED, &json!("cancelled")), "{answer:?}");
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("no longer needed"), "{answer:?}");
    let result = app.get(&format!("/v1/runs/{}/result", spawned["run_id"].as_str().unwrap())).await;
    assert_eq!(result.status, StatusCode::CONFLICT, "{result:?}");
}
