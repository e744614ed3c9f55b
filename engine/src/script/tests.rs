use muster_shared::{
    engine::Message,
    error::{ErrorClass, Retryable},
};
use serde_json::json;

use super::*;
use crate::testing::{input, request};

async fn ask(engine: &ScriptEngine, change: impl FnOnce(&mut ModelRequest)) -> Result<ModelReply, ModelError> {
    let mut request = request("script", "Find water on Mars");
    change(&mut request);
    engine.complete(request).await
}

fn engine(yaml: &str) -> ScriptEngine {
    ScriptEngine::new(Script::parse(yaml).unwrap())
}

#[tokio::test]
async fn the_first_rule_that_matches_answers() {
    let engine = engine(
        r#"
rules:
  - { match: { agent: "other*" }, answer: { text: never } }
  - { match: { step: 1, attempt: 0 }, answer: { text: "first of {{name}}", continue: true } }
  - { match: { step: "2-3", task: "on Mars" }, answer: { text: "step {{step}}: {{task}}" } }
  - { match: { step: ">=4", task: "Find*Mars", name: "doc-*" }, answer: { text: "{{repeat:ab:5}}" } }
"#,
    );
    let first = ask(&engine, |_| {}).await.unwrap();
    assert_eq!((first.text.as_str(), first.finish), ("first of doc-1", Finish::Continue));
    let third = ask(&engine, |request| request.caller.step = 3).await.unwrap();
    assert_eq!((third.text.as_str(), third.finish), ("step 3: Find water on Mars", Finish::Stop));
    assert_eq!(ask(&engine, |request| request.caller.step = 9).await.unwrap().text, "ababa");

    let none = ask(&engine, |request| request.caller.attempt = 1).await.unwrap_err();
    assert_eq!((none.error.code.as_str(), none.retry), ("invalid_request", Retryable::Never));
    assert!(none.error.message.contains("none of the script's 4 rules matches agent `tester`"), "{none}");
}

#[tokio::test]
async fn json_is_filled_in_and_stays_json() {
    let engine = engine(r#"[{ answer: { json: { task: "do: {{task}}", got: "{{inputs}}", step: "{{step}}", list: [1, "{{name}}"] } } }]"#);
    let reply = ask(&engine, |request| {
        request.caller.task = "say \"hi\"\n".to_owned();
        request.messages.push(Message::Inputs { inputs: vec![input(1, "a", json!({ "x": 1 }))] });
    })
    .await
    .unwrap();
    let value: Value = serde_json::from_str(&reply.text).unwrap();
    let expected = json!({ "task": "do: say \"hi\"\n", "got": [{ "name": "a", "output": { "x": 1 } }], "step": 1, "list": [1, "doc-1"] });
    assert_eq!(value, expected);
}

#[tokio::test]
async fn tool_calls_have_ids_that_are_unique_in_the_conversation() {
    let engine = engine(
        r#"[{ answer: { text: "I read", tool_calls: [{ name: artifact_read, arguments: { path: "{{name}}.md" } }, { name: clock }] } }]"#,
    );
    let first = ask(&engine, |_| {}).await.unwrap();
    assert_eq!((first.finish, first.text.as_str()), (Finish::ToolCalls, "I read"));
    let shown: Vec<_> = first.tool_calls.iter().map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.clone())).collect();
    assert_eq!(shown, [("call_1", "artifact_read", json!({ "path": "doc-1.md" })), ("call_2", "clock", json!({}))]);
    let calls = first.tool_calls.clone();
    let second =
        ask(&engine, |request| request.messages.push(Message::Assistant { text: String::new(), tool_calls: calls })).await.unwrap();
    assert_eq!(second.tool_calls[0].id, "call_3");
}

#[tokio::test]
async fn errors_and_usage_are_as_the_script_says() {
    let engine = engine(
        r#"
- { match: { step: 1 }, answer: { error: { code: rate_limited, retry_after_ms: 70, message: slow } } }
- { match: { step: 2 }, answer: { error: { code: auth } } }
- { match: { step: 3 }, answer: { text: a, usage: { input_tokens: 7, output_tokens: 9 } } }
- { answer: { plan: [ { do: a } ] } }
"#,
    );
    let limited = ask(&engine, |_| {}).await.unwrap_err();
    assert_eq!((limited.error.class, limited.retry, limited.error.message.as_str()), (ErrorClass::Model, Retryable::After(70), "slow"));
    let auth = ask(&engine, |request| request.caller.step = 2).await.unwrap_err();
    assert_eq!((auth.error.class, auth.retry), (ErrorClass::Permission, Retryable::Never));
    let usage = ask(&engine, |request| request.caller.step = 3).await.unwrap().usage;
    assert_eq!((usage.input_tokens, usage.output_tokens), (7, 9));
    let plan = ask(&engine, |request| request.caller.step = 4).await.unwrap();
    assert_eq!(plan.text, r#"[{"do":"a"}]"#);
    assert_eq!((plan.usage.input_tokens, plan.usage.output_tokens), (7, 3), "estimated from the bytes");
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_timeout_is_a_timeout() {
    let engine = engine("[{ answer: { text: late, delay_ms: 5000 } }]");
    let before = tokio::time::Instant::now();
    assert_eq!(ask(&engine, |_| {}).await.unwrap().text, "late");
    assert_eq!(before.elapsed().as_millis(), 5000);
    let failed = ask(&engine, |request| request.timeout = Duration::from_millis(100)).await.unwrap_err();
    assert_eq!((failed.error.code.as_str(), failed.error.class, failed.retry), ("timeout", ErrorClass::Timeout, Retryable::Backoff));
    assert_eq!(before.elapsed().as_millis(), 5100);
}

#[test]
fn every_fault_of_a_script_is_reported_with_its_place() {
    let yaml = r#"
- match: { agent: 5, step: "3-1", colour: red }
  answer: { text: "{{tsk}} and {{repeat:x:many}}", delay_ms: -1 }
- match: []
  answer: { text: a, json: b }
- answer: { tool_calls: [{ arguments: [] }], continue: yes please }
- answer: { error: { code: oops, retry_after_ms: 1 } }
- { text: a, continue: true }
- answer: {}
- text
- answer: { error: { code: auth }, continue: true }
- answer: { text: "{{open", usage: { input_tokens: some } }
"#;
    let faults = Script::parse(yaml).unwrap_err();
    let mut found: Vec<&str> = faults.0.iter().map(|fault| fault.pointer.as_str()).collect();
    found.sort_unstable();
    let mut expected = [
        "/0/match/agent",
        "/0/match/step",
        "/0/match/colour",
        "/0/answer/text",
        "/0/answer/text",
        "/0/answer/delay_ms",
        "/1/match",
        "/1/answer",
        "/2/answer/tool_calls/0",
        "/2/answer/tool_calls/0/arguments",
        "/2/answer/continue",
        "/3/answer/error/code",
        "/3/answer/error/retry_after_ms",
        "/4",
        "/4/continue",
        "/4/text",
        "/5/answer",
        "/6",
        "/7/answer/continue",
        "/8/answer/text",
        "/8/answer/usage/input_tokens",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected, "{faults}");
}

#[test]
fn what_is_no_script_at_all_is_refused_with_a_reason() {
    for (yaml, reason) in [
        ("", "a script is a list of rules"),
        ("[]", "at least one rule"),
        ("rules: 5", "a script is a list of rules"),
        ("a: [", "not YAML"),
        ("{ rules: [{ answer: { text: a } }], more: 1 }", "/more: is not known here"),
    ] {
        let faults = Script::parse(yaml).unwrap_err().to_string();
        assert!(faults.contains(reason), "{yaml}: {faults}");
    }
    let missing = Script::load(Path::new("no/such/script.yaml")).unwrap_err().to_string();
    assert!(missing.contains("cannot be read"), "{missing}");
}

#[tokio::test]
async fn the_built_in_script_answers_everybody() {
    let reply = ask(&ScriptEngine::default(), |_| {}).await.unwrap();
    assert_eq!(reply.text, "Find water on Mars");
}
