//! What the registry does around every call.

use std::sync::Arc;

use async_trait::async_trait;
use muster_shared::{
    error::{ErrorClass, Retryable},
    gate::Permit,
    tool::{Effect, Tool, ToolError, ToolSpec, Toolbox as _},
};
use muster_tools::{RegisterError, Registry};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use crate::support::{Fixture, Memory, lease};

/// How the tool under test behaves.
enum Behaviour {
    Answer(Value),
    Panic,
    /// Never answers; tells when it was dropped.
    Hang(std::sync::Mutex<Option<oneshot::Sender<()>>>, Arc<Notify>),
    Fail(String),
}

struct Odd {
    spec: ToolSpec,
    behaviour: Behaviour,
}

impl Odd {
    fn new(effect: Effect, behaviour: Behaviour) -> Self {
        let spec = ToolSpec {
            name: "odd".to_owned(),
            description: String::new(),
            input_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["n"],
                "properties": {"n": {"type": "integer", "maximum": 3}, "tags": {"type": "array", "items": {"type": "string"}}},
            }),
            output_schema: json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}),
            timeout_ms: 20,
            effect,
        };
        Self { spec, behaviour }
    }
}

#[async_trait]
impl Tool for Odd {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, _: Permit) -> Result<Value, ToolError> {
        match &self.behaviour {
            Behaviour::Answer(value) => Ok(value.clone()),
            Behaviour::Panic => panic!("as the test wants it"),
            Behaviour::Hang(dropped, started) => {
                let held = dropped.lock().expect("no thread panics holding it").take();
                started.notify_one();
                std::future::pending::<()>().await;
                drop(held);
                Ok(Value::Null)
            }
            Behaviour::Fail(message) => Err(ToolError::new(ErrorClass::Tool, "odd", message.clone(), Retryable::Never)),
        }
    }
}

fn odd(effect: Effect, behaviour: Behaviour) -> Fixture {
    let mut registry = Registry::new();
    registry.register(Arc::new(Odd::new(effect, behaviour))).expect("it is valid");
    Fixture::new(registry)
}

async fn failure(fixture: &Fixture, arguments: Value) -> ToolError {
    fixture.call(lease(1, 1), "odd", arguments).await.expect_err("the call fails")
}

#[tokio::test]
async fn every_fault_of_the_arguments_is_named_with_its_pointer_and_without_its_value() {
    let fixture = odd(Effect::Pure, Behaviour::Answer(json!({"text": "x"})));
    let failure = failure(&fixture, json!({"n": 4711, "tags": ["a", 1], "secret": 1})).await;
    assert_eq!((failure.error.class, failure.error.code.as_str()), (ErrorClass::Validation, "invalid_arguments"));
    assert_eq!(failure.retry, Retryable::Never);
    for part in ["/n: ", "/tags/1: ", "secret"] {
        assert!(failure.error.message.contains(part), "{part}: {}", failure.error.message);
    }
    assert!(!failure.error.message.contains("4711"), "{}", failure.error.message);
    assert!(fixture.call(lease(1, 1), "odd", json!({"n": 1})).await.is_ok());
}

#[tokio::test]
async fn nul_in_the_arguments_never_reaches_the_tool() {
    let fixture = odd(Effect::Pure, Behaviour::Panic);
    assert_eq!(failure(&fixture, json!({"n": 1, "tags": ["a\0"]})).await.error.code, "invalid_arguments");
}

#[tokio::test]
async fn a_result_of_the_wrong_form_or_with_nul_is_refused() {
    for output in [json!({"other": 1}), json!("text"), json!({"text": "a\0"}), json!({"text": "a", "more\0": 1})] {
        let failure = failure(&odd(Effect::Pure, Behaviour::Answer(output)), json!({"n": 1})).await;
        assert_eq!((failure.error.code.as_str(), failure.retry), ("invalid_output", Retryable::Never));
    }
}

#[tokio::test]
async fn a_result_over_64_kilobytes_is_refused_with_advice() {
    let sized = |bytes: usize| json!({"text": "x".repeat(bytes - r#"{"text":""}"#.len())});
    let fits = odd(Effect::Pure, Behaviour::Answer(sized(64 * 1024)));
    assert!(fits.call(lease(1, 1), "odd", json!({"n": 1})).await.is_ok());
    let failure = failure(&odd(Effect::Pure, Behaviour::Answer(sized(64 * 1024 + 1))), json!({"n": 1})).await;
    assert_eq!(failure.error.code, "output_too_large");
    assert!(failure.error.message.contains("65537") && failure.error.message.contains("ask for less"), "{}", failure.error.message);
}

#[tokio::test]
async fn a_panicking_tool_is_an_error_of_that_call_and_of_nothing_else() {
    let fixture = odd(Effect::Pure, Behaviour::Panic);
    for _ in 0..2 {
        let failure = failure(&fixture, json!({"n": 1})).await;
        assert_eq!((failure.error.class, failure.error.code.as_str()), (ErrorClass::Tool, "tool_panicked"));
    }
}

#[tokio::test]
async fn a_tool_that_does_not_answer_is_given_up_and_retried_unless_it_is_irreversible() {
    for (effect, retry) in
        [(Effect::Pure, Retryable::Backoff), (Effect::Idempotent, Retryable::Backoff), (Effect::Irreversible, Retryable::Never)]
    {
        let (sender, receiver) = oneshot::channel();
        let fixture = odd(effect, Behaviour::Hang(Some(sender).into(), Arc::default()));
        let failure = failure(&fixture, json!({"n": 1})).await;
        assert_eq!((failure.error.class, failure.error.code.as_str()), (ErrorClass::Timeout, "tool_timeout"));
        assert_eq!(failure.retry, retry);
        assert!(receiver.await.is_err(), "the call was dropped, not left behind");
    }
}

#[tokio::test]
async fn a_call_ends_when_its_caller_goes_away() {
    let (sender, receiver) = oneshot::channel();
    let started = Arc::new(Notify::new());
    let mut tool = Odd::new(Effect::Pure, Behaviour::Hang(Some(sender).into(), Arc::clone(&started)));
    tool.spec.timeout_ms = 3_600_000;
    let mut registry = Registry::new();
    registry.register(Arc::new(tool)).expect("it is valid");
    let fixture = Fixture::new(registry);
    tokio::select! {
        _ = fixture.call(lease(1, 1), "odd", json!({"n": 1})) => panic!("it never answers"),
        () = started.notified() => {}
    }
    assert!(receiver.await.is_err(), "the call was dropped");
}

#[tokio::test]
async fn a_message_of_a_tool_is_made_fit_for_the_log() {
    let failure = failure(&odd(Effect::Pure, Behaviour::Fail("\0ü".repeat(10_000))), json!({"n": 1})).await;
    assert!(failure.error.message.len() < 9_000 && !failure.error.message.contains('\0'));
}

#[test]
fn a_tool_that_could_not_work_is_not_registered() {
    let try_with = |change: fn(&mut ToolSpec)| {
        let mut tool = Odd::new(Effect::Pure, Behaviour::Panic);
        change(&mut tool.spec);
        Registry::new().register(Arc::new(tool))
    };
    assert!(matches!(try_with(|spec| spec.name = "no spaces".to_owned()), Err(RegisterError::Name(_))));
    assert!(matches!(try_with(|spec| spec.timeout_ms = 0), Err(RegisterError::Timeout(_))));
    assert!(matches!(try_with(|spec| spec.input_schema = json!({"type": "strnig"})), Err(RegisterError::Schema { which: "input", .. })));
    let remote = try_with(|spec| spec.output_schema = json!({"$ref": "https://example.com/schema.json"}));
    assert!(matches!(remote, Err(RegisterError::Schema { which: "output", .. })), "nothing is fetched");
    let mut registry = Registry::builtin(None, Arc::new(Memory::default()));
    let taken = registry.register(Arc::new(muster_tools::Calculator::new()));
    assert_eq!(taken, Err(RegisterError::Duplicate("calculator".to_owned())));
}

#[test]
fn artifact_tools_exist_only_where_there_are_roots() {
    let without = Registry::builtin(None, Arc::new(Memory::default()));
    assert_eq!(without.specs().keys().collect::<Vec<_>>(), ["calculator", "kv_get", "kv_put"]);
    let roots = muster_tools::ArtifactRoots { read: "in".into(), write: "out".into() };
    let with = Registry::builtin(Some(roots), Arc::new(Memory::default()));
    assert_eq!(with.specs().keys().collect::<Vec<_>>(), ["artifact_read", "artifact_write", "calculator", "kv_get", "kv_put"]);
}

#[tokio::test]
async fn the_calculator_answers_whole_numbers_as_such_and_says_what_is_wrong() {
    let fixture = Fixture::builtin(None);
    let calculate = |text: &str| fixture.call(lease(1, 1), "calculator", json!({"expression": text}));
    assert_eq!(calculate("6 * 7").await, Ok(json!({"result": 42})));
    assert_eq!(calculate("1 / 8").await, Ok(json!({"result": 0.125})));
    assert_eq!(calculate("2 ^ 80").await, Ok(json!({"result": 2_f64.powi(80)})));
    for (expression, code) in [
        ("1 / 0", "division_by_zero"),
        ("sqrt(-1)", "result_not_finite"),
        ("1 +", "invalid_expression"),
        (&"(".repeat(65), "expression_too_deep"),
        (&"1".repeat(1001), "invalid_arguments"),
    ] {
        assert_eq!(fixture.code("calculator", json!({"expression": expression})).await, code, "{expression}");
    }
}
