use muster_shared::{
    engine::{Finish, Message, OutputSpec, ToolCall},
    error::{ErrorClass, Retryable},
    time::{ManualClock, Timestamp},
};
use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path},
};

use super::*;
use crate::{
    config::Models,
    testing::{artifact_read, input, request},
};

async fn provider(server: &MockServer) -> OpenAi {
    let config = ProviderConfig {
        base_url: Some(format!("{}/v1/", server.uri())),
        api_key: Some("env:KEY".parse().unwrap()),
        ..ProviderConfig::named("test")
    };
    OpenAi::from_config(&config, &|_| Some("sk-secret".to_owned())).unwrap()
}

/// What becomes of a call that is answered this way.
async fn answered(template: ResponseTemplate) -> Result<ModelReply, ModelError> {
    let server = MockServer::start().await;
    Mock::given(method("POST")).and(path("/v1/chat/completions")).respond_with(template).mount(&server).await;
    provider(&server).await.complete(request("gpt-x", "Hi")).await
}

fn completion(message: Value, finish: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "choices": [{ "message": message, "finish_reason": finish }],
        "usage": { "prompt_tokens": 11, "completion_tokens": 7 },
    }))
}

fn seen(failed: &ModelError) -> (&str, ErrorClass, Retryable) {
    (failed.error.code.as_str(), failed.error.class, failed.retry)
}

async fn sent(change: impl FnOnce(&mut ModelRequest), structured: Structured) -> Value {
    let server = MockServer::start().await;
    Mock::given(header("authorization", "Bearer sk-secret"))
        .and(header("idempotency-key", "ins_1-1"))
        .and(header("user-agent", concat!("muster/", env!("CARGO_PKG_VERSION"))))
        .and(header("content-type", "application/json"))
        .respond_with(completion(json!({ "content": "ok" }), "stop"))
        .mount(&server)
        .await;
    let mut provider = provider(&server).await;
    provider.structured = structured;
    let mut request = request("gpt-x", "Hi");
    change(&mut request);
    provider.complete(request).await.unwrap();
    serde_json::from_slice(&server.received_requests().await.unwrap()[0].body).unwrap()
}

#[tokio::test]
async fn the_whole_conversation_is_sent_with_tools_and_parameters() {
    let call = ToolCall { id: "call_1".to_owned(), name: "artifact_read".to_owned(), arguments: json!({ "path": "a" }) };
    let body = sent(
        |request| {
            request.temperature = Some(0.5);
            request.tools = vec![artifact_read()];
            request.messages.extend([
                Message::Inputs { inputs: vec![input(1, "doc-1", json!("one"))] },
                Message::Assistant { text: String::new(), tool_calls: vec![call] },
                Message::Tool {
                    call_id: "call_1".to_owned(),
                    name: "artifact_read".to_owned(),
                    content: json!({ "code": "not_found" }),
                    is_error: true,
                },
            ]);
        },
        Structured::JsonSchema,
    )
    .await;
    let expected = json!({
        "model": "gpt-x", "stream": false, "max_tokens": 1024, "temperature": 0.5, "tool_choice": "auto",
        "tools": [{ "type": "function", "function": {
            "name": "artifact_read", "description": "Reads an artifact.", "parameters": artifact_read().input_schema,
        } }],
        "messages": [
            { "role": "system", "content": "You help." },
            { "role": "user", "content": "Hi" },
            { "role": "user", "content": r#"{"inputs":[{"name":"doc-1","output":"one"}]}"# },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "call_1", "type": "function", "function": { "name": "artifact_read", "arguments": r#"{"path":"a"}"# } },
            ] },
            { "role": "tool", "tool_call_id": "call_1", "content": r#"{"error":{"code":"not_found"}}"# },
        ],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn json_is_asked_for_in_the_configured_way() {
    let schema = json!({ "type": "object" });
    let json_schema = json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema, "strict": false } });
    let object = json!({ "type": "json_object" });
    for (structured, with_schema, with_tools, expected) in [
        (Structured::JsonSchema, true, true, json_schema),
        (Structured::JsonSchema, false, false, object.clone()),
        (Structured::JsonObject, true, false, object),
        (Structured::JsonObject, true, true, Value::Null),
        (Structured::Prompt, true, false, Value::Null),
    ] {
        let body = sent(
            |request| {
                request.output = OutputSpec::Json { schema: with_schema.then(|| schema.clone()) };
                request.tools = if with_tools { vec![artifact_read()] } else { Vec::new() };
            },
            structured,
        )
        .await;
        assert_eq!(body["response_format"], expected, "{structured:?}, schema {with_schema}, tools {with_tools}");
    }
}

#[tokio::test]
async fn an_answer_has_its_text_finish_and_usage() {
    let reply = answered(completion(json!({ "content": "Hello" }), "stop")).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.finish, reply.usage.input_tokens, reply.usage.output_tokens), ("Hello", Finish::Stop, 11, 7));
    let cut = answered(completion(json!({ "content": [{ "type": "text", "text": "Hel" }] }), "length")).await.unwrap();
    assert_eq!((cut.text.as_str(), cut.finish), ("Hel", Finish::Length));
    let uncounted = ResponseTemplate::new(200).set_body_json(json!({ "choices": [{ "message": { "content": "12345678" } }] }));
    assert_eq!(answered(uncounted).await.unwrap().usage.output_tokens, 2, "estimated");
}

#[tokio::test]
async fn tool_calls_are_read_in_every_form_that_servers_send() {
    let message = json!({ "content": null, "tool_calls": [
        { "id": "x", "type": "function", "function": { "name": "a", "arguments": "{\"n\": 1}" } },
        { "function": { "name": "b", "arguments": { "n": 2 } } },
        { "id": "", "function": { "name": "c", "arguments": "" } },
    ] });
    let reply = answered(completion(message, "stop")).await.unwrap();
    assert_eq!(reply.finish, Finish::ToolCalls);
    let calls: Vec<_> = reply.tool_calls.iter().map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.clone())).collect();
    assert_eq!(calls, [("x", "a", json!({ "n": 1 })), ("call_2", "b", json!({ "n": 2 })), ("call_3", "c", json!({}))]);
}

#[tokio::test]
async fn every_status_becomes_the_error_that_says_what_to_do() {
    use ErrorClass::{Model, Permission, Timeout};
    use Retryable::{Backoff, Never};
    for (status, expected) in [
        (301, ("invalid_request", Model, Never)),
        (400, ("invalid_request", Model, Never)),
        (401, ("auth", Permission, Never)),
        (403, ("auth", Permission, Never)),
        (404, ("invalid_request", Model, Never)),
        (408, ("timeout", Timeout, Backoff)),
        (409, ("overloaded", Model, Backoff)),
        (413, ("invalid_request", Model, Never)),
        (422, ("invalid_request", Model, Never)),
        (429, ("rate_limited", Model, Backoff)),
        (500, ("overloaded", Model, Backoff)),
        (502, ("overloaded", Model, Backoff)),
        (503, ("overloaded", Model, Backoff)),
        (504, ("timeout", Timeout, Backoff)),
        (529, ("overloaded", Model, Backoff)),
    ] {
        let body = json!({ "error": { "message": "because of sk-secret" } });
        let failed = answered(ResponseTemplate::new(status).set_body_json(body)).await.unwrap_err();
        assert_eq!(seen(&failed), expected, "{status}");
        assert!(failed.error.message.contains(&format!("{status}: because of ***")), "{failed}");
    }
}

#[tokio::test]
async fn a_rate_limit_says_when_to_come_back() {
    let server = MockServer::start().await;
    // 2015-10-21 07:27:30 UTC.
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_445_412_450_000_000)));
    let provider = provider(&server).await.with_clock(clock);
    for (name, value, expected) in [
        ("retry-after", "3", Retryable::After(3_000)),
        ("retry-after", "0.25", Retryable::After(250)),
        ("retry-after-ms", "40", Retryable::After(40)),
        ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", Retryable::After(30_000)),
        ("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT", Retryable::After(0)),
        ("retry-after", "soon", Retryable::Backoff),
        ("retry-after", "-1", Retryable::Backoff),
    ] {
        server.reset().await;
        Mock::given(method("POST")).respond_with(ResponseTemplate::new(429).insert_header(name, value)).mount(&server).await;
        let failed = provider.complete(request("m", "Hi")).await.unwrap_err();
        assert_eq!(seen(&failed), ("rate_limited", ErrorClass::Model, expected), "{name}: {value}");
    }
    let no_money = ResponseTemplate::new(429).set_body_json(json!({ "error": { "code": "insufficient_quota", "message": "pay" } }));
    assert_eq!(seen(&answered(no_money).await.unwrap_err()), ("rate_limited", ErrorClass::Model, Retryable::Never));
}

#[tokio::test]
async fn an_answer_without_the_right_form_is_a_bad_reply() {
    let ok = |body: &str| ResponseTemplate::new(200).set_body_raw(body.to_owned(), "application/json");
    let call =
        |arguments: &str| completion(json!({ "tool_calls": [{ "function": { "name": "a", "arguments": arguments } }] }), "tool_calls");
    let cases = [
        ok("<html>"),
        ok("{}"),
        ok(r#"{"choices": []}"#),
        ok(r#"{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}"#),
        ok(r#"{"error": {"message": "odd"}}"#),
        call("{\"n\": "),
        call("[1]"),
        completion(json!({ "tool_calls": [{ "function": { "name": "a", "arguments": "{}" } }] }), "length"),
        ok(&" ".repeat(REPLY_BYTES_MAX + 1)),
    ];
    for case in cases {
        let failed = answered(case).await.unwrap_err();
        assert_eq!(seen(&failed), ("bad_reply", ErrorClass::Validation, Retryable::Backoff), "{failed}");
    }
    let inside = ok(r#"{"error": {"code": 429, "message": "slow down"}}"#);
    assert_eq!(seen(&answered(inside).await.unwrap_err()).0, "rate_limited");
}

#[tokio::test]
async fn what_the_provider_filters_is_not_tried_again() {
    for case in [completion(json!({ "content": "" }), "content_filter"), completion(json!({ "refusal": "I cannot" }), "stop")] {
        let failed = answered(case).await.unwrap_err();
        assert_eq!(seen(&failed), ("content_filtered", ErrorClass::Model, Retryable::Never));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = MockServer::start().await;
    let elsewhere = ResponseTemplate::new(307).insert_header("location", format!("{}/elsewhere", server.uri()));
    Mock::given(path("/v1/chat/completions")).respond_with(elsewhere).mount(&server).await;
    let failed = provider(&server).await.complete(request("m", "Hi")).await.unwrap_err();
    assert_eq!(seen(&failed).0, "invalid_request");
    assert_eq!(server.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_slow_provider_is_given_up_and_an_absent_one_is_unreachable() {
    let server = MockServer::start().await;
    let slow = completion(json!({ "content": "late" }), "stop").set_delay(Duration::from_secs(60));
    Mock::given(method("POST")).respond_with(slow).mount(&server).await;
    let mut request = request("m", "Hi");
    request.timeout = Duration::from_millis(30);
    let failed = provider(&server).await.complete(request.clone()).await.unwrap_err();
    assert_eq!(seen(&failed), ("timeout", ErrorClass::Timeout, Retryable::Backoff));

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let config = ProviderConfig { base_url: Some(base_url), ..ProviderConfig::named("absent") };
    let absent = OpenAi::from_config(&config, &|_| None).unwrap();
    request.timeout = Duration::from_secs(30);
    let failed = absent.complete(request).await.unwrap_err();
    assert_eq!(seen(&failed), ("unreachable", ErrorClass::Model, Retryable::Backoff), "{failed}");
}

#[test]
fn a_provider_serves_the_models_that_it_lists() {
    let models = Models::Many(vec!["gpt-*".to_owned(), "o1".to_owned()]);
    let config = ProviderConfig { models, ..ProviderConfig::named("ollama") };
    let provider = OpenAi::from_config(&config, &|_| None).unwrap();
    assert_eq!(provider.url.as_str(), "http://127.0.0.1:11434/v1/chat/completions");
    assert!(provider.knows("gpt-4o") && provider.knows("o1") && !provider.knows("o1-mini") && !provider.knows(""));
}
