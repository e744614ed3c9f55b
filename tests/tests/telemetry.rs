//! Telemetry by configuration: one trace from the request to the tool, and no content in traces or logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture as _,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use muster_tests::{Fleet, FleetOptions};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::Span,
};
use prost::Message as _;
use serde_json::{Value, json};

/// What must be found nowhere: each is a word that occurs nowhere else.
const TASK: &str = "zebrafinchtask";
const CONTEXT: &str = "quokkacontext";
const ARGUMENTS: &str = "axolotlarguments";
const ANSWER: &str = "pangolinanswer";
const REFUSAL: &str = "narwhalrefusal";
const KEY: &str = "sk-capybarakey";
const PASSWORD: &str = "ocelotpassword";

const SECRETS: [&str; 7] = [TASK, CONTEXT, ARGUMENTS, ANSWER, REFUSAL, KEY, PASSWORD];

/// A model and a collector of traces, behind one port.
#[derive(Clone, Default)]
struct Outside(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Requests to the model.
    asked: Vec<Value>,
    /// Keys that came with them.
    keys: BTreeSet<String>,
    /// What was exported.
    exports: Vec<ExportTraceServiceRequest>,
}

impl Outside {
    fn with<T>(&self, what: impl FnOnce(&mut Seen) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves until the test ends; answers the address.
    async fn serve(&self) -> anyhow::Result<String> {
        let router =
            Router::new().route("/v1/chat/completions", post(complete)).route("/v1/traces", post(collect)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        drop(tokio::spawn(axum::serve(listener, router).into_future()));
        Ok(format!("http://{address}"))
    }
}

/// First busy, then it asks for a tool with good arguments, then with bad ones, then it answers.
async fn complete(State(outside): State<Outside>, headers: HeaderMap, Json(request): Json<Value>) -> Response {
    let turn = outside.with(|seen| {
        seen.keys.extend(headers.get("authorization").and_then(|key| key.to_str().ok()).map(str::to_owned));
        seen.asked.push(request);
        seen.asked.len()
    });
    let call = |id: &str, name: &str, arguments: Value| {
        let call = json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments.to_string() } });
        (json!({ "role": "assistant", "content": Value::Null, "tool_calls": [call] }), "tool_calls")
    };
    let (message, finish) = match turn {
        1 => {
            let refusal = json!({ "error": { "message": format!("busy with {REFUSAL}"), "code": "busy" } });
            return (StatusCode::SERVICE_UNAVAILABLE, Json(refusal)).into_response();
        }
        2 => call("one", "kv_put", json!({ "key": ARGUMENTS, "value": { "of": ARGUMENTS } })),
        3 => call("two", "artifact_read", json!({ "path": format!("../{ARGUMENTS}") })),
        _ => (json!({ "role": "assistant", "content": format!("The {ANSWER} is forty-two.") }), "stop"),
    };
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3 });
    Json(json!({ "choices": [{ "index": 0, "message": message, "finish_reason": finish }], "usage": usage })).into_response()
}

async fn collect(State(outside): State<Outside>, body: Bytes) -> StatusCode {
    match ExportTraceServiceRequest::decode(body) {
        Ok(export) => {
            outside.with(|seen| seen.exports.push(export));
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

/// A span with the role of the process that exported it.
#[derive(Debug, Clone)]
struct Traced {
    role: String,
    span: Span,
}

impl Traced {
    fn attribute(&self, key: &str) -> Option<String> {
        value(&self.span.attributes, key)
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<String> {
    attributes.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_ref()).map(text)
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn spans(exports: &[ExportTraceServiceRequest]) -> Vec<Traced> {
    let mut all = Vec::new();
    for resource in exports.iter().flat_map(|export| &export.resource_spans) {
        let attributes = resource.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
        let role = value(attributes, "muster.role").unwrap_or_default();
        let of = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
        all.extend(of.map(|span| Traced { role: role.clone(), span: span.clone() }));
    }
    all
}

/// One run on a fleet that exports traces and logs everything. Answers the processes' logs.
async fn run_traced(outside: &Outside) -> anyhow::Result<Vec<String>> {
    let address = outside.serve().await?;
    let fleet = Fleet::new(FleetOptions::default()).await?;
    let database = fleet.database_url().replace("postgres@", &format!("postgres:{PASSWORD}@"));
    let env = [
        ("MUSTER_DATABASE_URL", database.as_str()),
        ("MUSTER_OTLP_ENDPOINT", &address),
        ("MUSTER_MODEL", "clever"),
        ("MUSTER_MODEL_URL", &format!("{address}/v1")),
        ("MUSTER_MODEL_KEY", KEY),
        ("MUSTER_LOG", "debug"),
        ("MUSTER_LOG_FORMAT", "json"),
    ];
    let (mut api, client) = fleet.api_with(&env).await?;
    let mut worker = fleet.run_with(&["worker", "--concurrency", "5"], &env)?;
    let template = json!({
        "name": "explorer",
        "models": ["env/clever"],
        "mode": "multi_step",
        "max_steps": 8,
        "tools": ["kv_put", "artifact_read"],
        "retry": { "max_retries": 3, "initial_delay_ms": 1 }
    });
    client.put_template(&template).await?;
    let request = json!({ "task": format!("Find the {TASK}."), "context": { "secret": CONTEXT } });
    let run = client.spawn("explorer", &request).await?;
    let result = client.result(&run).await.with_context(|| worker.stderr())?;
    ensure!(result["output"].as_str().is_some_and(|output| output.contains(ANSWER)), "{result}");
    for process in [&mut api, &mut worker] {
        process.signal(Signal::SIGTERM);
        let status = process.ended().await?;
        ensure!(status.success(), "{status}: {}", process.stderr());
    }
    Ok(vec![api.stderr(), worker.stderr(), api.stdout(), worker.stdout()])
}

#[tokio::test]
async fn one_trace_leads_from_the_request_to_every_model_and_tool_call_and_no_content_is_in_it() -> anyhow::Result<()> {
    let outside = Outside::default();
    let logs = run_traced(&outside).await?;
    let (asked, keys, exports) = outside.with(|seen| (seen.asked.clone(), seen.keys.clone(), seen.exports.clone()));
    // The content really went where it belongs: the absence below means something.
    let sent = serde_json::to_string(&asked)?;
    ensure!([TASK, CONTEXT, ARGUMENTS].iter().all(|content| sent.contains(content)), "{sent}");
    ensure!(asked.len() == 4 && keys == BTreeSet::from([format!("Bearer {KEY}")]), "{} {keys:?}", asked.len());

    let spans = spans(&exports);
    check_trace(&spans)?;
    let exported = format!("{exports:?}");
    for secret in SECRETS {
        ensure!(!exported.contains(secret), "`{secret}` is in a trace: {}", around(&exported, secret));
        for log in &logs {
            ensure!(!log.contains(secret), "`{secret}` is in a log: {}", around(log, secret));
        }
    }
    check_logs(&logs)
}

/// What stands around the first place of a word.
fn around(text: &str, word: &str) -> String {
    let at = text.find(word).unwrap_or_default();
    let before: String = text[..at].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{before}{}", text[at..].chars().take(200).collect::<String>())
}

fn check_trace(spans: &[Traced]) -> anyhow::Result<()> {
    let named = |name: &'static str| spans.iter().filter(move |traced| traced.span.name == name);
    let request = named("http_request")
        .find(|traced| traced.attribute("route").is_some_and(|route| route.ends_with("/spawn")))
        .with_context(|| format!("no span of the spawn request among {:?}", names(spans)))?;
    ensure!(request.role == "api", "{request:?}");
    let trace = &request.span.trace_id;
    let of_trace: BTreeMap<&[u8], &Traced> =
        spans.iter().filter(|traced| traced.span.trace_id == *trace).map(|traced| (traced.span.span_id.as_slice(), traced)).collect();
    for (name, least) in [("instance", 1), ("model_call", 4), ("tool_call", 2)] {
        let found: Vec<&Traced> = of_trace.values().copied().filter(|traced| traced.span.name == name).collect();
        ensure!(found.len() >= least, "{} spans `{name}` in the trace, {:?}", found.len(), names(spans));
        for traced in found {
            ensure!(traced.role == "worker", "{traced:?}");
            ensure!(leads_to(traced, request, &of_trace), "{name} does not lead back to the request");
        }
    }
    let model =
        named("model_call").find(|traced| traced.attribute("gen_ai.usage.input_tokens").is_some()).context("a call with its usage")?;
    let read = |key: &str| model.attribute(key).unwrap_or_default();
    ensure!(read("gen_ai.request.model").contains("clever") && read("gen_ai.usage.input_tokens") == "7", "{model:?}");
    let tools: BTreeSet<String> = named("tool_call").filter_map(|traced| traced.attribute("tool")).collect();
    ensure!(tools == BTreeSet::from(["artifact_read".to_owned(), "kv_put".to_owned()]), "{tools:?}");
    Ok(())
}

fn names(spans: &[Traced]) -> Vec<(&str, &str)> {
    spans.iter().map(|traced| (traced.role.as_str(), traced.span.name.as_str())).collect()
}

/// Whether a span's parents lead to another.
fn leads_to(traced: &Traced, ancestor: &Traced, all: &BTreeMap<&[u8], &Traced>) -> bool {
    let mut at = traced;
    while at.span.span_id != ancestor.span.span_id {
        match all.get(at.span.parent_span_id.as_slice()) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    true
}

/// Every line is one JSON object, and the debug level was really on.
fn check_logs(logs: &[String]) -> anyhow::Result<()> {
    for log in &logs[..2] {
        let lines = log.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>().with_context(|| log.clone())?;
        ensure!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{log}");
        ensure!(lines.iter().any(|line| line["level"] == "DEBUG"), "nothing was logged at the level debug");
    }
    ensure!(logs[1].contains("will try again"), "the retry is logged, without its reason's words: {}", logs[1]);
    Ok(())
}
