//! From a request to a run: what is refused, and what is answered twice.

use muster_control::{SpawnError, SpawnMeta};
use muster_shared::{
    hash::Hash32,
    ids::RunId,
    store::StoreError,
    time::{SystemClock, SystemRandom},
};
use serde_json::json;

use crate::support::{House, TEAM};

fn pointers(error: SpawnError) -> Vec<String> {
    match error {
        SpawnError::Invalid(faults) => faults.0.into_iter().map(|fault| fault.pointer).collect(),
        SpawnError::UnknownTemplate(_) | SpawnError::Store(_) => panic!("not invalid, but: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_templates_models_and_tools_are_named() {
    let house = House::new().await;
    let request = serde_json::from_value(json!({ "task": "x" })).unwrap();
    let unknown = house.spawner.spawn(TEAM, &"nobody@3".parse().unwrap(), request, SpawnMeta::default()).await;
    assert!(matches!(unknown, Err(SpawnError::UnknownTemplate(what)) if what.contains("nobody@3")));
    let reducer = house.try_spawn(json!({ "tasks": ["x", "y"], "reduce": { "agent": "nobody" } })).await;
    assert_eq!(pointers(reducer.unwrap_err()), ["/reduce/agent"]);
    let widening = house.try_spawn(json!({ "task": "x", "overrides": { "tools": ["calculator"] } })).await;
    assert_eq!(pointers(widening.unwrap_err()), ["/overrides/tools/0"]);
    let template = json!({ "name": "t", "mode": "multi_step", "models": ["openai/none"], "tools": ["no_such_tool"] });
    let mut faults = pointers(house.template(template).await.unwrap_err());
    faults.sort();
    assert_eq!(faults, ["/models/0", "/tools/0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_answers_the_same_run_and_another_request_under_it_is_refused() {
    let house = House::new().await;
    let spawn = async |task: &str, hash: &[u8]| {
        let request = serde_json::from_value(json!({ "task": task })).unwrap();
        let meta = SpawnMeta { idempotency: Some(("key".to_owned(), Hash32::of(hash))), traceparent: None };
        house.spawner.spawn(TEAM, &"leaf".parse().unwrap(), request, meta).await
    };
    let first = spawn("x", b"x").await.unwrap();
    let again = spawn("x", b"x").await.unwrap();
    assert_eq!((again.run, again.instance, again.replayed), (first.run, first.instance, true));
    assert!(again.ready.is_empty());
    assert!(matches!(spawn("y", b"y").await, Err(SpawnError::Store(StoreError::KeyReused(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_no_result_while_it_runs_and_an_unknown_one_is_not_there() {
    let house = House::new().await;
    let spawned = house.spawn(2).await;
    assert_eq!(house.spawner.result(TEAM, spawned.run).await, Ok(None));
    let unknown = RunId::new(&SystemClock, &SystemRandom);
    assert!(matches!(house.spawner.result(TEAM, unknown).await, Err(StoreError::NotFound(_))));
    assert!(matches!(house.spawner.cancel_run(unknown, "x").await, Err(StoreError::NotFound(_))));
}
