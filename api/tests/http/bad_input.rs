//! Requests that are refused before the store is asked. It is away throughout: whatever reaches it is a 503.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{Method, Request},
};
use muster_api::ApiLimits;
use serde_json::json;

use crate::{broken::Broken, support::App};

const RUN: &str = "run_0190a6c2f5f07000800000000000000a";
const INSTANCE: &str = "ins_0190a6c2f5f07000800000000000000a";

fn app() -> App {
    App::over(Arc::new(Broken::Away), ApiLimits { max_body_bytes: 10_000, ..ApiLimits::default() })
}

/// Every route that reads a body.
fn writes() -> [String; 3] {
    ["/v1/agents".to_owned(), "/v1/agents/chat/spawn".to_owned(), "/v1/agents/chat/activate".to_owned()]
}

#[tokio::test]
async fn malformed_json_is_400_with_line_and_column() {
    for path in writes() {
        let problem = app().post_bytes(&path, "{\n  \"task\": nope\n}").await.problem(400, "bad_json");
        assert!(problem["detail"].as_str().unwrap().contains("line 2 column"), "{path}: {problem}");
        app().post_bytes(&path, "").await.problem(400, "bad_json");
        app().post_bytes(&path, "{} trailing").await.problem(400, "bad_json");
        app().post_bytes(&path, "[".repeat(5_000)).await.problem(400, "bad_json");
    }
    app().post_bytes(&format!("/v1/runs/{RUN}/cancel"), "{").await.problem(400, "bad_json");
    app().post_bytes(&format!("/v1/instances/{INSTANCE}/cancel"), "{").await.problem(400, "bad_json");
}

#[tokio::test]
async fn a_body_that_is_not_utf8_is_400() {
    for path in writes() {
        app().post_bytes(&path, b"{\"task\": \"\xc3\x28\"}".to_vec()).await.problem(400, "bad_utf8");
    }
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json_is_415() {
    for path in writes() {
        app().send(Request::post(&path).body(Body::from("{}")).unwrap()).await.problem(415, "unsupported_media_type");
        let form = Request::post(&path).header("content-type", "application/x-www-form-urlencoded").body(Body::from("task=x")).unwrap();
        app().send(form).await.problem(415, "unsupported_media_type");
    }
}

#[tokio::test]
async fn a_body_of_the_wrong_form_is_422_with_pointers() {
    let cases = [
        ("/v1/agents/chat/spawn", json!({"tasks": ["a", {"task": 1}]}), "spawn_invalid", "/tasks/1"),
        (
            "/v1/agents/chat/spawn",
            json!({"overrides": {"limits": {"max_tokens": "many"}}}),
            "spawn_invalid",
            "/overrides/limits/max_tokens",
        ),
        ("/v1/agents/chat/activate", json!({"version": "two"}), "body_invalid", "/version"),
        ("/v1/agents", json!({"template": {}, "activate": "yes"}), "template_invalid", "/activate"),
    ];
    for (path, body, code, pointer) in cases {
        assert_eq!(app().post(path, &body).await.pointers(code), [pointer], "{path} {body}");
    }
    app().post("/v1/agents/chat/spawn", &json!({"task": "x", "tusks": []})).await.problem(422, "spawn_invalid");
    app().post(&format!("/v1/runs/{RUN}/cancel"), &json!({"why": "x\u{0}"})).await.problem(422, "body_invalid");
    app().post(&format!("/v1/runs/{RUN}/cancel"), &json!({"why": "x".repeat(1001)})).await.problem(422, "body_invalid");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_whether_its_length_is_announced_or_not() {
    for path in writes() {
        app().post_bytes(&path, "x".repeat(10_001)).await.problem(413, "body_too_large");
        let chunks = futures::stream::iter((0..11).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 1000]))));
        let problem = app().post_bytes(&path, Body::from_stream(chunks)).await.problem(413, "body_too_large");
        assert!(problem["detail"].as_str().unwrap().contains("10000"), "{problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_408() {
    let never = futures::stream::pending::<Result<Bytes, Infallible>>();
    app().post_bytes("/v1/agents", Body::from_stream(never)).await.problem(408, "request_timeout");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400() {
    let broken = futures::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
    app().post_bytes("/v1/agents", Body::from_stream(broken)).await.problem(400, "bad_body");
}

#[tokio::test]
async fn an_unknown_route_is_404_and_a_wrong_method_405_with_allow() {
    for path in ["/", "/v2/agents", "/v1/agents/", "/v1/runs/x/y/z"] {
        app().get(path).await.problem(404, "route_not_found");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/v1/agents", "POST"),
        (Method::POST, "/v1/runs", "GET"),
        (Method::PUT, "/healthz", "GET"),
        (Method::GET, "/v1/agents/chat/spawn", "POST"),
        (Method::OPTIONS, "/v1/openapi.json", "GET"),
    ] {
        let answer = app().method(method, path).await;
        answer.problem(405, "method_not_allowed");
        assert!(answer.header("allow").is_some_and(|methods| methods.contains(allow)), "{answer:?}");
    }
}

#[tokio::test]
async fn an_id_of_the_wrong_kind_is_400_and_says_what_was_wanted() {
    let problem = app().get(&format!("/v1/runs/{INSTANCE}")).await.problem(400, "bad_id");
    assert!(problem["detail"].as_str().unwrap().contains("is not a run id"), "{problem}");
    for path in [
        format!("/v1/instances/{RUN}"),
        format!("/v1/instances/{RUN}/events"),
        format!("/v1/runs/{INSTANCE}/result"),
        format!("/v1/runs/{INSTANCE}/instances"),
        "/v1/runs/run_1".to_owned(),
        "/v1/runs/%ff".to_owned(),
        "/v1/runs/%00".to_owned(),
        "/v1/agents/chat@zero".to_owned(),
        "/v1/agents/a%00b".to_owned(),
        "/v1/agents/tpl_1".to_owned(),
    ] {
        app().get(&path).await.problem(400, "bad_id");
    }
    app().post(&format!("/v1/runs/{INSTANCE}/cancel"), &json!({})).await.problem(400, "bad_id");
    app().post(&format!("/v1/instances/{RUN}/cancel"), &json!({})).await.problem(400, "bad_id");
    app().post("/v1/agents/chat@1/activate", &json!({"version": 2})).await.problem(400, "bad_id");
}

#[tokio::test]
async fn query_parameters_out_of_bounds_are_400() {
    for query in ["limit=0", "limit=1001", "limit=many", "limit=-1", "after=%00", "after=%ff%00", "since=1"] {
        app().get(&format!("/v1/runs?{query}")).await.problem(400, "bad_query");
    }
    for query in ["after=-1", "after=x", "limit=0", "before=1"] {
        app().get(&format!("/v1/instances/{INSTANCE}/events?{query}")).await.problem(400, "bad_query");
    }
}

#[tokio::test]
async fn an_idempotency_key_out_of_bounds_is_400_on_every_write_that_takes_one() {
    for key in ["", "two words", &"k".repeat(256)] {
        for path in ["/v1/agents", "/v1/agents/chat/spawn"] {
            app().post_once(path, key, &json!({"task": "x"})).await.problem(400, "bad_idempotency_key");
        }
    }
}

#[tokio::test]
async fn a_request_id_is_kept_when_it_is_harmless_and_made_when_not() {
    let ask = |id: &'static str| async move {
        let answer = app().send(Request::get("/healthz").header("x-request-id", id).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("mine-1").await, "mine-1");
    assert!(ask("two words").await.starts_with("req_"));
}
