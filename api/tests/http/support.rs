//! The API over real parts, and one way to ask it.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use muster_api::{ApiLimits, ApiState};
use muster_control::Spawner;
use muster_queue::MemoryQueue;
use muster_shared::{
    store::Store,
    time::{SystemClock, SystemRandom},
    tool::KeyValue,
};
use muster_store::testing::TestDatabase;
use muster_tools::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

/// Which store the API of a test binary stands on.
#[derive(Clone, Copy)]
#[expect(dead_code, reason = "each of the two test binaries uses one")]
pub(crate) enum Database {
    /// A file of its own.
    Sqlite,
    /// A database of its own beside the private server.
    Postgres,
}

/// The API over some store.
pub(crate) struct App {
    pub(crate) router: Router,
    pub(crate) store: Arc<dyn Store>,
    _data: Data,
}

/// What goes away with the test.
enum Data {
    Folder(#[expect(dead_code, reason = "held for its drop")] TempDir),
    Database(#[expect(dead_code, reason = "held for its drop")] Box<TestDatabase>),
    Callers,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The problem, after a check of everything that every problem has.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!((self.status.as_u16(), &problem["code"]), (status, &json!(code)), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["type"], format!("/docs/errors#{code}"), "{self:?}");
        assert!(!problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty(), "{self:?}");
        assert!(self.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{self:?}");
        problem
    }

    /// The pointers of the problem's faults.
    #[track_caller]
    pub(crate) fn pointers(&self, code: &str) -> Vec<String> {
        let problem = self.problem(422, code);
        problem["faults"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap().to_owned()).collect()
    }
}

/// Real parts around `store`.
pub(crate) fn state(store: Arc<dyn Store>, limits: ApiLimits) -> ApiState {
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let kv: Arc<dyn KeyValue> = store.clone();
    let tools = Arc::new(Registry::builtin(None, kv));
    let engine = Arc::new(muster_engine::Router::offline());
    let spawner = Spawner::new(store.clone(), Arc::new(MemoryQueue::new()), engine, tools, clock.clone(), random.clone());
    ApiState {
        store,
        spawner,
        clock,
        random,
        metrics: Arc::new(|| "# HELP up\nup 1\n".to_owned()),
        trace_context: || None,
        set_parent: |_, _| {},
        limits,
    }
}

impl App {
    /// Over the real store of this test binary, empty.
    pub(crate) async fn new() -> Self {
        match crate::DATABASE {
            Database::Sqlite => Self::embedded().await,
            Database::Postgres => {
                let database = Box::new(TestDatabase::create().await);
                let store = database.store();
                Self { router: muster_api::router(state(store.clone(), ApiLimits::default())), store, _data: Data::Database(database) }
            }
        }
    }

    async fn embedded() -> Self {
        let data = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", data.path().join("muster.db").display());
        muster_store::migrate(&url).await.unwrap();
        let store = muster_store::open(&url).await.unwrap();
        Self { router: muster_api::router(state(store.clone(), ApiLimits::default())), store, _data: Data::Folder(data) }
    }

    /// Over any store.
    pub(crate) fn over(store: Arc<dyn Store>, limits: ApiLimits) -> Self {
        Self { router: muster_api::router(state(store.clone(), limits)), store, _data: Data::Callers }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: head.status, headers: head.headers, text: String::from_utf8(body.into()).unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Posts these bytes as JSON.
    pub(crate) async fn post_bytes(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string()).await
    }

    /// Posts with an idempotency key.
    pub(crate) async fn post_once(&self, path: &str, key: &str, body: &Value) -> Answer {
        let request = Request::post(path).header("content-type", "application/json").header("idempotency-key", key);
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn method(&self, method: Method, path: &str) -> Answer {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
    }

    /// Stores a template of this name without tools.
    pub(crate) async fn template(&self, name: &str) -> Answer {
        let answer = self.post("/v1/agents", &template(name)).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer
    }

    /// Spawns, and answers `SpawnResponse`.
    pub(crate) async fn spawn(&self, agent: &str, body: &Value) -> Value {
        let answer = self.post(&format!("/v1/agents/{agent}/spawn"), body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()
    }
}

/// A template that is valid.
pub(crate) fn template(name: &str) -> Value {
    json!({"name": name, "objective": "Say what matters.", "models": ["offline/extract"]})
}
