//! What an agent does next, and what a failed call becomes.

use super::Agent;
use crate::{
    engine::{ModelError, ToolCall},
    error::{AgentError, ErrorClass, Retryable},
    event::{Completed, Event, Retry, ToolOutcome, ToolTurn},
    fsm::State,
    policy::Policy,
    retry,
    template::Mode,
    time::Timestamp,
    tool::{Effect, ToolError},
};

use super::OutputForm;

/// The next thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Call the model.
    Model(ModelCall),
    /// Ask the gate for this tool call, then make it.
    Tool {
        /// The call.
        call: ToolCall,
        /// Not before this moment (after a retry).
        not_before: Option<Timestamp>,
    },
    /// Journal this terminal event; with it the output as JSON text, if there is one.
    End {
        /// The event.
        event: Event,
        /// The output.
        output: Option<String>,
    },
    /// There is nothing left: the log has its terminal event.
    Nothing,
}

/// A model call that the controller decided on.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCall {
    /// Which model of the policy's chain.
    pub model: String,
    /// The steps left do not allow for another tool call and its answer: no tools are offered.
    pub last: bool,
    /// Attempts at this call that have failed.
    pub attempt: u32,
    /// Not before this moment (after a retry).
    pub not_before: Option<Timestamp>,
}

impl Agent {
    /// The next action. Pure: depends on the log and the policy alone.
    pub fn next(&self, policy: &Policy, form: &OutputForm) -> Action {
        if self.end.is_some() {
            return Action::Nothing;
        }
        if let Some(error) = &self.failing.fatal {
            return fails(error.clone());
        }
        if self.state == State::Synthesizing {
            return self.finish(form);
        }
        if self.step >= policy.max_steps {
            return fails(limit("max_steps", u64::from(policy.max_steps), policy, "the steps are used up, and there is no answer yet"));
        }
        let not_before = self.failing.not_before;
        if let Some(call) = self.pending.front() {
            return Action::Tool { call: call.clone(), not_before };
        }
        let tokens = u64::try_from(self.usage.input_tokens + self.usage.output_tokens).unwrap_or(0);
        if tokens >= policy.limits.max_tokens {
            return fails(limit("max_tokens", policy.limits.max_tokens, policy, &format!("{tokens} tokens were used")));
        }
        Action::Model(ModelCall {
            model: policy.models.get(self.failing.model).or(policy.models.first()).cloned().unwrap_or_default(),
            // A tool call is of use only if its result can still be answered: turn, call, answer.
            last: policy.mode == Mode::Single || self.step + 3 > policy.max_steps,
            attempt: self.failing.attempts,
            not_before,
        })
    }

    fn finish(&self, form: &OutputForm) -> Action {
        let Some(answer) = &self.answer else {
            return fails(AgentError::new(ErrorClass::Internal, "no_answer", "synthesizing without an answer"));
        };
        match form.read(&answer.text) {
            Ok(output) => Action::End { event: Event::Completed(Completed { output_of: answer.seq }), output: Some(output) },
            Err(error) => fails(error),
        }
    }

    /// What becomes of a failed model call: a retry on the same model, the next model of the chain, or the end.
    pub fn model_failed(&self, policy: &Policy, failed: &ModelError, seed: u64) -> Event {
        let attempt = self.failing.attempts + 1;
        let again = retry::delay(&policy.retry, attempt, failed.retry, seed).map(|delay| (delay, self.failing.model));
        let choice = again.or_else(|| {
            let next = self.failing.model + 1;
            (failed.error.class != ErrorClass::Permission && next < policy.models.len()).then_some((std::time::Duration::ZERO, next))
        });
        match choice {
            Some((delay, next_model)) if self.can_retry(policy) => retried(failed.error.clone(), attempt, delay, next_model),
            Some(_) | None => failure(failed.error.clone()),
        }
    }

    /// What becomes of a failed tool call: a retry if its effect and error allow one, else its result is the
    /// error. Permission errors are never retried, whatever the tool says.
    pub fn tool_failed(&self, policy: &Policy, call: &ToolCall, effect: Effect, failed: &ToolError, seed: u64) -> Event {
        let attempt = self.failing.attempts + 1;
        let repeatable = match effect {
            Effect::Pure | Effect::Idempotent => failed.error.class != ErrorClass::Permission,
            Effect::Irreversible => false,
        };
        let retry = if repeatable { failed.retry } else { Retryable::Never };
        match retry::delay(&policy.retry, attempt, retry, seed) {
            Some(delay) if self.can_retry(policy) => retried(failed.error.clone(), attempt, delay, self.failing.model),
            Some(_) | None => tool_result(call, ToolOutcome::Error(failed.error.clone())),
        }
    }

    /// A retry is a step, and so is the call that it makes possible.
    const fn can_retry(&self, policy: &Policy) -> bool {
        self.step + 2 <= policy.max_steps
    }
}

/// The event that records the outcome of a tool call.
pub fn tool_result(call: &ToolCall, outcome: ToolOutcome) -> Event {
    Event::Tool(ToolTurn { call_id: call.id.clone(), tool: call.name.clone(), outcome })
}

fn retried(error: AgentError, attempt: u32, delay: std::time::Duration, next_model: usize) -> Event {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Event::Retry(Retry { error, attempt, delay_ms, next_model })
}

/// A terminal failure. A call that took too long is a failure of the model or tool; the class `timeout` is
/// kept for the instance's own wall clock.
fn failure(mut error: AgentError) -> Event {
    match error.class {
        ErrorClass::Timeout => error.class = ErrorClass::Model,
        ErrorClass::Cancelled => error.class = ErrorClass::Internal,
        ErrorClass::Model
        | ErrorClass::Tool
        | ErrorClass::Validation
        | ErrorClass::Permission
        | ErrorClass::Budget
        | ErrorClass::Internal => {}
    }
    Event::Failed(error)
}

fn fails(error: AgentError) -> Action {
    Action::End { event: failure(error), output: None }
}

fn limit(name: &str, value: u64, policy: &Policy, what: &str) -> AgentError {
    AgentError::new(ErrorClass::Budget, name, format!("limit {name} = {value}, set by {}: {what}", policy.template))
}
