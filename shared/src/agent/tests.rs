use serde_json::json;

use super::*;
use crate::{
    engine::{ModelError, OutputSpec},
    error::{ErrorClass, Retryable},
    event::{Completed, ModelTurn},
    hash::chain,
    ids::TemplateId,
    policy::TemplateRef,
    template::{ContextPolicy, Limits, ModelParams, RetryPolicy, Summarization},
    tool::{Effect, ToolError},
};

fn policy(mode: Mode, max_steps: u32) -> Policy {
    Policy {
        template: TemplateRef { id: TemplateId(uuid::Uuid::nil()), name: "tester".to_owned(), version: 1 },
        template_hash: Hash32::ZERO,
        objective: String::new(),
        system_prompt: String::new(),
        models: vec!["first".to_owned(), "second".to_owned()],
        model_params: ModelParams::default(),
        tools: vec!["look".to_owned()],
        mode,
        max_steps,
        context: ContextPolicy::Auto,
        summarization: Summarization::default(),
        output: OutputSpec::Text,
        limits: Limits::default(),
        retry: RetryPolicy::default(),
        tool_failure: ToolFailure::Open,
        child_templates: vec![],
    }
}

/// Folds events as a worker journals them.
struct Life {
    policy: Policy,
    form: OutputForm,
    agent: Agent,
    log: Vec<Event>,
}

impl Life {
    fn new(policy: Policy) -> Self {
        Self { form: OutputForm::new(&policy.output).unwrap(), policy, agent: Agent::default(), log: vec![] }
    }

    fn take(&mut self, event: Event) -> Result<(), BadLog> {
        let (seq, hash) = self.agent.tail();
        let next = chain(hash, uuid::Uuid::nil(), seq + 1, 1, event.kind(), 0, &event.payload());
        self.agent.apply(&self.policy, &event, Timestamp::from_micros(seq), seq + 1, next)?;
        self.log.push(event);
        Ok(())
    }

    fn next(&self) -> Action {
        self.agent.next(&self.policy, &self.form)
    }

    fn model_call(&self) -> ModelCall {
        match self.next() {
            Action::Model(call) => call,
            other @ (Action::Tool { .. } | Action::End { .. } | Action::Nothing) => panic!("expected a model call, not {other:?}"),
        }
    }

    fn end(&self) -> (Event, Option<String>) {
        match self.next() {
            Action::End { event, output } => (event, output),
            other @ (Action::Tool { .. } | Action::Model(_) | Action::Nothing) => panic!("expected the end, not {other:?}"),
        }
    }

    fn failure(&self) -> AgentError {
        match self.end() {
            (Event::Failed(error), None) => error,
            other => panic!("expected a failure, not {other:?}"),
        }
    }
}

fn says(text: &str, finish: Finish) -> Event {
    let usage = Usage { input_tokens: 10, output_tokens: 5, cost_micros: 0 };
    Event::Model(ModelTurn { model: "first".to_owned(), text: text.to_owned(), tool_calls: vec![], finish, usage })
}

fn asks(ids: &[&str]) -> Event {
    let call = |id: &&str| ToolCall { id: (*id).to_owned(), name: "look".to_owned(), arguments: json!({}) };
    Event::Model(ModelTurn {
        model: "first".to_owned(),
        text: String::new(),
        tool_calls: ids.iter().map(call).collect(),
        finish: Finish::ToolCalls,
        usage: Usage::default(),
    })
}

fn result(id: &str) -> Event {
    Event::Tool(ToolTurn { call_id: id.to_owned(), tool: "look".to_owned(), outcome: ToolOutcome::Ok(json!("seen")) })
}

fn overloaded(retry: Retryable) -> ModelError {
    ModelError::new(ErrorClass::Model, "overloaded", "busy", retry)
}

#[test]
fn a_single_agent_calls_the_model_once_without_tools_and_completes() {
    let mut life = Life::new(policy(Mode::Single, 1));
    assert!(life.model_call().last);
    life.take(says("done", Finish::Stop)).unwrap();
    assert_eq!(life.agent.state(), State::Synthesizing);
    assert_eq!(life.end(), (Event::Completed(Completed { output_of: 1 }), Some("\"done\"".to_owned())));
    life.take(life.end().0).unwrap();
    assert_eq!((life.agent.state(), life.next()), (State::Completed, Action::Nothing));
    assert_eq!(life.agent.step(), 1);
}

#[test]
fn tools_are_called_in_order_and_their_results_go_into_the_transcript() {
    let mut life = Life::new(policy(Mode::MultiStep, 10));
    life.take(asks(&["a", "b"])).unwrap();
    for id in ["a", "b"] {
        assert!(matches!(life.next(), Action::Tool { call, .. } if call.id == id));
        life.take(result(id)).unwrap();
    }
    life.take(says("done", Finish::Stop)).unwrap();
    assert_eq!((life.agent.step(), life.agent.tool_calls(), life.agent.transcript().len()), (4, 2, 4));
    assert_eq!(life.agent.usage().input_tokens, 10);
}

#[test]
fn a_result_that_nobody_asked_for_is_a_bad_log() {
    let mut life = Life::new(policy(Mode::MultiStep, 10));
    life.take(asks(&["a", "b"])).unwrap();
    assert!(matches!(life.take(result("b")), Err(BadLog::Unasked { seq: 2, .. })));
}

#[test]
fn the_last_step_offers_no_tools_and_a_call_beyond_it_fails_with_the_limit() {
    let mut life = Life::new(policy(Mode::MultiStep, 3));
    assert!(!life.model_call().last);
    life.take(asks(&["a"])).unwrap();
    life.take(result("a")).unwrap();
    assert!(life.model_call().last, "one step is left");
    life.take(asks(&["b"])).unwrap();
    let error = life.failure();
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Budget, "max_steps"));
    assert!(error.message.contains("max_steps = 3, set by tester@1"), "{}", error.message);
}

#[test]
fn tools_are_offered_only_while_a_call_and_its_answer_fit() {
    let mut life = Life::new(policy(Mode::MultiStep, 4));
    for last in [false, false, true, true] {
        assert_eq!(life.model_call().last, last, "after {} steps", life.agent.step());
        life.take(says("more", Finish::Continue)).unwrap();
    }
}

#[test]
fn a_model_that_wants_to_go_on_goes_on_until_the_last_step() {
    let mut life = Life::new(policy(Mode::MultiStep, 3));
    for _ in 0..2 {
        life.take(says("more", Finish::Continue)).unwrap();
        assert_eq!(life.agent.state(), State::Executing);
    }
    life.take(says("enough", Finish::Continue)).unwrap();
    assert_eq!(life.end().1.as_deref(), Some("\"enough\""));
}

#[test]
fn a_retry_is_a_step_and_carries_its_delay() {
    let mut life = Life::new(policy(Mode::MultiStep, 4));
    let event = life.agent.model_failed(&life.policy, &overloaded(Retryable::After(9000)), 1);
    let Event::Retry(retry) = event.clone() else { panic!("{event:?}") };
    assert_eq!((retry.attempt, retry.delay_ms, retry.next_model), (1, 9000, 0));
    life.take(event).unwrap();
    let call = life.model_call();
    assert_eq!((call.attempt, call.not_before), (1, Some(Timestamp::from_micros(9_000_000))));
    assert_eq!(life.agent.step(), 1);
}

#[test]
fn retries_stop_at_max_steps() {
    let mut life = Life::new(policy(Mode::MultiStep, 3));
    for _ in 0..2 {
        let event = life.agent.model_failed(&life.policy, &overloaded(Retryable::Backoff), 1);
        assert!(matches!(event, Event::Retry(_)), "{event:?}");
        life.take(event).unwrap();
    }
    assert!(matches!(life.agent.model_failed(&life.policy, &overloaded(Retryable::Backoff), 1), Event::Failed(_)));
    let single = Life::new(policy(Mode::Single, 1));
    assert!(matches!(single.agent.model_failed(&single.policy, &overloaded(Retryable::Backoff), 1), Event::Failed(_)));
}

#[test]
fn when_a_model_fails_for_good_the_next_of_the_chain_is_tried() {
    let mut life = Life::new(policy(Mode::MultiStep, 10));
    life.take(life.agent.model_failed(&life.policy, &overloaded(Retryable::Never), 1)).unwrap();
    assert_eq!((life.model_call().model.as_str(), life.model_call().attempt), ("second", 0));
    assert!(matches!(life.agent.model_failed(&life.policy, &overloaded(Retryable::Never), 1), Event::Failed(_)));
}

#[test]
fn permission_errors_are_never_retried() {
    let mut life = Life::new(policy(Mode::MultiStep, 10));
    let auth = ModelError::new(ErrorClass::Permission, "auth", "no", Retryable::Never);
    assert!(matches!(life.agent.model_failed(&life.policy, &auth, 1), Event::Failed(_)), "not on the next model either");
    life.take(asks(&["a"])).unwrap();
    let call = ToolCall { id: "a".to_owned(), name: "look".to_owned(), arguments: json!({}) };
    let refused = ToolError::new(ErrorClass::Permission, "outside_root", "no", Retryable::Backoff);
    let event = life.agent.tool_failed(&life.policy, &call, Effect::Pure, &refused, 1);
    assert!(matches!(event, Event::Tool(ToolTurn { outcome: ToolOutcome::Error(_), .. })), "{event:?}");
}

#[test]
fn a_tool_is_retried_by_its_declared_effect() {
    let life = Life::new(policy(Mode::MultiStep, 10));
    let call = ToolCall { id: "a".to_owned(), name: "look".to_owned(), arguments: json!({}) };
    let failed = ToolError::new(ErrorClass::Tool, "busy", "later", Retryable::Backoff);
    for (effect, retried) in [(Effect::Pure, true), (Effect::Idempotent, true), (Effect::Irreversible, false)] {
        let event = life.agent.tool_failed(&life.policy, &call, effect, &failed, 1);
        assert_eq!(matches!(event, Event::Retry(_)), retried, "{effect:?}");
    }
}

#[test]
fn a_failed_tool_fails_the_agent_only_when_the_template_is_closed() {
    let error = AgentError::new(ErrorClass::Permission, "tool_not_allowed", "no");
    let refused = Event::Tool(ToolTurn { call_id: "a".to_owned(), tool: "look".to_owned(), outcome: ToolOutcome::Error(error.clone()) });
    for (tool_failure, fails) in [(ToolFailure::Open, false), (ToolFailure::Closed, true)] {
        let mut life = Life::new(Policy { tool_failure, ..policy(Mode::MultiStep, 10) });
        life.take(asks(&["a"])).unwrap();
        life.take(refused.clone()).unwrap();
        assert_eq!(matches!(life.next(), Action::End { event: Event::Failed(found), .. } if found == error), fails);
    }
}

#[test]
fn a_token_limit_ends_the_agent_before_the_next_call() {
    let limits = Limits { max_tokens: 15, ..Limits::default() };
    let mut life = Life::new(Policy { limits, ..policy(Mode::MultiStep, 10) });
    life.take(says("more", Finish::Continue)).unwrap();
    assert_eq!(life.failure().code, "max_tokens");
}

#[test]
fn a_slow_call_fails_the_agent_as_a_model_error_not_as_its_own_timeout() {
    let life = Life::new(Policy { models: vec!["only".to_owned()], ..policy(Mode::Single, 1) });
    let late = ModelError::new(ErrorClass::Timeout, "timeout", "late", Retryable::Backoff);
    let Event::Failed(error) = life.agent.model_failed(&life.policy, &late, 1) else { panic!("no steps are left") };
    assert_eq!((error.class, error.code.as_str()), (ErrorClass::Model, "timeout"));
}

#[test]
fn an_answer_that_breaks_the_schema_fails_validation() {
    let schema = json!({ "type": "object", "required": ["n"] });
    let mut life = Life::new(Policy { output: OutputSpec::Json { schema: Some(schema) }, ..policy(Mode::Single, 1) });
    life.take(says("{}", Finish::Stop)).unwrap();
    assert_eq!(life.failure().class, ErrorClass::Validation);
}

#[test]
fn folding_the_log_again_gives_the_same_agent() {
    let mut life = Life::new(policy(Mode::MultiStep, 10));
    life.take(life.agent.model_failed(&life.policy, &overloaded(Retryable::Backoff), 1)).unwrap();
    life.take(asks(&["a"])).unwrap();
    life.take(result("a")).unwrap();
    life.take(says("done", Finish::Stop)).unwrap();
    life.take(life.end().0).unwrap();
    let mut again = Life::new(life.policy.clone());
    for event in &life.log {
        let decoded = Event::decode(event.kind(), &event.payload()).unwrap();
        again.take(decoded).unwrap();
    }
    assert_eq!(again.agent, life.agent);
}
