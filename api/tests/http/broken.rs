//! A store that fails in a chosen way, and what clients see of it.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use muster_api::ApiLimits;
use muster_shared::{
    catalog::{TemplateSelector, TemplateVersion},
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, RunId, TeamId, TemplateId},
    queue::Ready,
    reduce::Place,
    store::{
        Cascade, Catalog, Claimed, Claims, Committed, Entry, GrantWindow, GroupRow, Heartbeat, Journal, Lease, Output, Page, Reads,
        SpawnBatch, Spawned, StoreError, WorkerRow, Write, WriteError,
    },
    template::Template,
    time::Timestamp,
    tool::KeyValue,
    wire::{Demand, InstanceView, Listing, RunView},
};
use serde_json::{Value, json};

use crate::support::App;

/// How it fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Broken {
    Away,
    OtherSchema,
    Unreadable,
    Panics,
    Hangs,
}

/// What must never reach a client.
const SECRET: &str = "connection to 10.0.0.7:5432 as muster/hunter2 refused";

impl Broken {
    async fn fail<T>(&self) -> Result<T, StoreError> {
        match self {
            Self::Away => Err(StoreError::Unavailable(SECRET.to_owned())),
            Self::OtherSchema => Err(StoreError::Schema(SECRET.to_owned())),
            Self::Unreadable => Err(StoreError::Corrupt(SECRET.to_owned())),
            Self::Panics => panic!("{SECRET}"),
            Self::Hangs => pending().await,
        }
    }
}

#[async_trait]
impl Journal for Broken {
    async fn spawn(&self, _: SpawnBatch) -> Result<Spawned, StoreError> {
        self.fail().await
    }
    async fn commit(&self, batch: Vec<Write>) -> Vec<Result<Committed, WriteError>> {
        batch.iter().map(|_| Err(WriteError::Unavailable(SECRET.to_owned()))).collect()
    }
    async fn cancel_run(&self, _: RunId, _: &str) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn cancel_instance(&self, _: InstanceId, _: &str) -> Result<Cascade, StoreError> {
        self.fail().await
    }
    async fn cascade(&self, _: i64) -> Result<Cascade, StoreError> {
        self.fail().await
    }
}

#[async_trait]
impl Claims for Broken {
    async fn register(&self, _: &WorkerRow) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn heartbeat(&self, _: Incarnation) -> Result<Heartbeat, StoreError> {
        self.fail().await
    }
    async fn retire(&self, _: Incarnation) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn claim(&self, _: Incarnation, _: i32, _: &[InstanceId]) -> Result<Vec<Claimed>, StoreError> {
        self.fail().await
    }
    async fn logs(&self, _: &[&Claimed]) -> Result<Vec<Vec<Entry>>, StoreError> {
        self.fail().await
    }
    async fn owned(&self, _: Incarnation) -> Result<Vec<Lease>, StoreError> {
        self.fail().await
    }
    async fn give_back(&self, _: &[Lease]) -> Result<u64, StoreError> {
        self.fail().await
    }
    async fn elect(&self, _: &str, _: Incarnation, _: Duration) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn grant(&self, _: GrantWindow) -> Result<Vec<Ready>, StoreError> {
        self.fail().await
    }
    async fn stale_grants(&self, _: Duration, _: i64) -> Result<Vec<Ready>, StoreError> {
        self.fail().await
    }
    async fn bury(&self, _: Duration) -> Result<Vec<Incarnation>, StoreError> {
        self.fail().await
    }
    async fn sweep(&self, _: i64) -> Result<u64, StoreError> {
        self.fail().await
    }
    async fn wake_due(&self, _: i64) -> Result<u64, StoreError> {
        self.fail().await
    }
}

#[async_trait]
impl Catalog for Broken {
    async fn put_template(&self, _: TeamId, _: TemplateId, _: &Template, _: bool) -> Result<TemplateVersion, StoreError> {
        self.fail().await
    }
    async fn activate(&self, _: TeamId, _: TemplateId, _: i32) -> Result<TemplateVersion, StoreError> {
        self.fail().await
    }
    async fn template(&self, _: TeamId, _: &TemplateSelector) -> Result<TemplateVersion, StoreError> {
        self.fail().await
    }
    async fn templates(&self, _: TeamId) -> Result<Vec<TemplateVersion>, StoreError> {
        self.fail().await
    }
}

#[async_trait]
impl Reads for Broken {
    async fn check(&self) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn run(&self, _: TeamId, _: RunId) -> Result<RunView, StoreError> {
        self.fail().await
    }
    async fn runs(&self, _: TeamId, _: &Page) -> Result<Listing<RunView>, StoreError> {
        self.fail().await
    }
    async fn instance(&self, _: TeamId, _: InstanceId) -> Result<InstanceView, StoreError> {
        self.fail().await
    }
    async fn instances(&self, _: TeamId, _: RunId, _: &Page) -> Result<Listing<InstanceView>, StoreError> {
        self.fail().await
    }
    async fn events(&self, _: TeamId, _: InstanceId, _: i64, _: i64) -> Result<Vec<Entry>, StoreError> {
        self.fail().await
    }
    async fn group(&self, _: GroupId) -> Result<GroupRow, StoreError> {
        self.fail().await
    }
    async fn outputs(&self, _: RunId, _: GroupId, _: &[Place]) -> Result<Vec<Output>, StoreError> {
        self.fail().await
    }
    async fn blobs(&self, _: &[Hash32]) -> Result<BTreeMap<Hash32, Vec<u8>>, StoreError> {
        self.fail().await
    }
    async fn demand(&self) -> Result<Demand, StoreError> {
        self.fail().await
    }
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.fail().await
    }
}

#[async_trait]
impl KeyValue for Broken {
    async fn kv_get(&self, _: InstanceId, _: &str) -> Result<Option<Value>, StoreError> {
        self.fail().await
    }
    async fn kv_put(&self, _: InstanceId, _: &str, _: &Value) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn kv_keys(&self, _: InstanceId) -> Result<Vec<String>, StoreError> {
        self.fail().await
    }
}

fn app(how: Broken) -> App {
    App::over(Arc::new(how), ApiLimits::default())
}

/// Every route that needs the store, with a request that is otherwise right.
async fn ask_everything(app: &App) -> Vec<crate::support::Answer> {
    let id = "0190a6c2f5f07000800000000000000a";
    let mut answers = Vec::new();
    for path in ["/v1/agents", "/v1/agents/chat", "/v1/runs", "/v1/demand", "/readyz"] {
        answers.push(app.get(path).await);
    }
    for path in [format!("/v1/runs/run_{id}"), format!("/v1/runs/run_{id}/instances"), format!("/v1/runs/run_{id}/result")] {
        answers.push(app.get(&path).await);
    }
    for path in [format!("/v1/instances/ins_{id}"), format!("/v1/instances/ins_{id}/events")] {
        answers.push(app.get(&path).await);
    }
    for path in [format!("/v1/runs/run_{id}/cancel"), format!("/v1/instances/ins_{id}/cancel")] {
        answers.push(app.post(&path, &json!({})).await);
    }
    answers.push(app.post("/v1/agents", &crate::support::template("chat")).await);
    answers.push(app.post("/v1/agents/chat/activate", &json!({"version": 1})).await);
    answers.push(app.post("/v1/agents/chat/spawn", &json!({"task": "x"})).await);
    answers
}

#[tokio::test]
async fn a_database_that_is_away_is_503_everywhere_and_says_when_to_try_again() {
    for answer in ask_everything(&app(Broken::Away)).await {
        answer.problem(503, "database_unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
        assert!(!answer.text.contains("10.0.0.7") && !answer.text.contains("hunter2"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_database_with_another_schema_is_503_and_names_the_remedy() {
    let answer = app(Broken::OtherSchema).get("/readyz").await;
    let problem = answer.problem(503, "schema_mismatch");
    assert!(problem["detail"].as_str().unwrap().contains("muster migrate"));
    assert!(!answer.text.contains("hunter2"), "{answer:?}");
}

#[tokio::test]
async fn unreadable_rows_and_panics_are_500_and_reveal_nothing() {
    for how in [Broken::Unreadable, Broken::Panics] {
        for answer in ask_everything(&app(how)).await {
            answer.problem(500, "internal");
            assert!(!answer.text.contains("hunter2") && !answer.text.contains("panic"), "{answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_never_answers_is_given_up_after_the_time_limit() {
    let answer = app(Broken::Hangs).get("/v1/demand").await;
    answer.problem(504, "answer_timeout");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn the_process_is_alive_and_explains_itself_whatever_the_database_does() {
    let app = app(Broken::Away);
    assert_eq!(app.get("/healthz").await.json(), json!({"status": "ok"}));
    let metrics = app.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.text.contains("up 1"));
    let errors = app.get("/docs/errors").await;
    assert_eq!(errors.header("content-type"), Some("text/markdown; charset=utf-8"));
    assert!(errors.text.contains("## database_unavailable"));
    assert_eq!(app.get("/v1/openapi.json").await.json()["openapi"], "3.1.0");
    let schema = app.get("/v1/agents/schema").await;
    assert_eq!(schema.header("content-type"), Some("application/schema+json"));
    assert!(schema.json()["properties"]["models"].is_object(), "{schema:?}");
}
