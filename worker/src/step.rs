//! One step: make the decided call and say what became of it as an event. Nothing here writes.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
    time::Duration,
};

use muster_shared::{
    agent::{Agent, Briefing, ModelCall, tool_result},
    engine::{Caller, Engine, ModelError, ModelRequest, ToolCall},
    error::{AgentError, ErrorClass, Retryable},
    event::{Event, ModelTurn, ToolOutcome},
    gate::Gate,
    store::Claimed,
    time::mix64,
    tool::{Effect, ToolError},
};
use tracing::Instrument as _;

use crate::briefing::Prepared;

/// What a step sees of its instance.
pub(crate) struct Scene<'a> {
    pub(crate) claimed: &'a Claimed,
    pub(crate) prepared: &'a Prepared,
    pub(crate) briefing: &'a Briefing,
    pub(crate) agent: &'a Agent,
}

impl Scene<'_> {
    /// The same for every attempt at the event that comes next.
    fn idempotency_key(&self) -> String {
        format!("{}/{}", self.claimed.lease.instance, self.agent.tail().0 + 1)
    }

    /// Seed of the jitter: differs between instances and steps, the same when the step is repeated.
    fn seed(&self) -> u64 {
        let (high, low) = self.claimed.lease.instance.0.as_u64_pair();
        mix64(high ^ low ^ mix64(u64::from(self.agent.step())))
    }

    fn request(&self, call: &ModelCall) -> ModelRequest {
        let policy = &self.prepared.policy;
        ModelRequest {
            model: call.model.clone(),
            messages: self.briefing.messages(policy, self.agent),
            tools: if call.last { Vec::new() } else { self.prepared.offers.clone() },
            output: policy.output.clone(),
            temperature: policy.model_params.temperature,
            max_output_tokens: policy.model_params.max_output_tokens,
            timeout: Duration::from_millis(policy.limits.thinking_ms),
            idempotency_key: self.idempotency_key(),
            caller: Caller {
                run: self.claimed.lease.run,
                instance: self.claimed.lease.instance,
                agent: policy.template.name.clone(),
                task: self.claimed.task.clone(),
                name: self.claimed.name.clone(),
                step: self.agent.step() + 1,
                attempt: call.attempt,
            },
        }
    }

    /// Calls the model, within the wall clock of the state `thinking`.
    pub(crate) async fn model(&self, engine: &dyn Engine, call: &ModelCall) -> Event {
        let span =
            tracing::debug_span!("model_turn", instance = %self.claimed.lease.instance, model = %call.model, step = self.agent.step() + 1);
        let limit = self.prepared.policy.limits.thinking_ms;
        let late = || {
            ModelError::new(
                ErrorClass::Timeout,
                "timeout",
                format!("limit thinking_ms = {limit}: no answer from `{}` in time", call.model),
                Retryable::Backoff,
            )
        };
        let broken = || {
            ModelError::new(
                ErrorClass::Internal,
                "engine_panicked",
                format!("the engine panicked in a call of `{}`", call.model),
                Retryable::Never,
            )
        };
        let reply = within(limit, engine.complete(self.request(call)).instrument(span), late, broken).await;
        match reply {
            Ok(reply) => {
                metrics::counter!("muster_tokens_total", "direction" => "input").increment(count(reply.usage.input_tokens));
                metrics::counter!("muster_tokens_total", "direction" => "output").increment(count(reply.usage.output_tokens));
                Event::Model(ModelTurn {
                    model: call.model.clone(),
                    text: reply.text,
                    tool_calls: reply.tool_calls,
                    finish: reply.finish,
                    usage: reply.usage,
                })
            }
            Err(failed) => {
                metrics::counter!("muster_model_errors_total", "code" => failed.error.code.clone()).increment(1);
                self.agent.model_failed(&self.prepared.policy, &failed, self.seed())
            }
        }
    }

    /// Asks the gate, then makes the tool call, within the wall clock of the state `executing`.
    pub(crate) async fn tool(&self, gate: &Gate, call: &ToolCall) -> Event {
        let (policy, lease) = (&self.prepared.policy, self.claimed.lease);
        let permit = gate.permit(policy, self.prepared.hash, call, lease, self.agent.tool_calls(), self.agent.tail().0 + 1);
        let permit = match permit {
            Ok(permit) => permit,
            Err(refusal) => {
                metrics::counter!("muster_tool_refusals_total", "code" => refusal.code.clone()).increment(1);
                return tool_result(call, ToolOutcome::Error(refusal));
            }
        };
        let effect = permit.spec().effect;
        let limit = policy.limits.executing_ms;
        let late = || {
            ToolError::new(
                ErrorClass::Timeout,
                "timeout",
                format!("limit executing_ms = {limit}: no result from `{}` in time", call.name),
                Retryable::Backoff,
            )
        };
        let broken =
            || ToolError::new(ErrorClass::Internal, "tool_panicked", format!("the tool `{}` panicked", call.name), Retryable::Never);
        match within(limit, gate.toolbox().execute(permit), late, broken).await {
            Ok(value) => tool_result(call, ToolOutcome::Ok(value)),
            Err(failed) => self.tool_failed(call, effect, &failed),
        }
    }

    fn tool_failed(&self, call: &ToolCall, effect: Effect, failed: &ToolError) -> Event {
        metrics::counter!("muster_tool_errors_total", "code" => failed.error.code.clone()).increment(1);
        self.agent.tool_failed(&self.prepared.policy, call, effect, failed, self.seed())
    }

    /// How the instance ends when its own wall clock has passed.
    pub(crate) fn timed_out(&self) -> Event {
        let limit = self.prepared.policy.limits.agent_timeout_ms;
        let message =
            format!("limit agent_timeout_ms = {limit}, set by {}: the instance did not end in time", self.prepared.policy.template);
        Event::TimedOut(AgentError::new(ErrorClass::Timeout, "agent_timeout", message))
    }
}

/// The outcome of `call`, if it comes in time. A panic fails the call and not the worker's hold on the instance:
/// otherwise the next claim would panic again, for ever.
async fn within<T, E>(
    limit_ms: u64,
    call: impl Future<Output = Result<T, E>>,
    late: impl FnOnce() -> E,
    broken: impl Fn() -> E,
) -> Result<T, E> {
    let mut call = pin!(call);
    let contained = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
        Ok(polled) => polled,
        Err(_) => Poll::Ready(Err(broken())),
    });
    tokio::time::timeout(Duration::from_millis(limit_ms), contained).await.unwrap_or_else(|_| Err(late()))
}

fn count(tokens: i64) -> u64 {
    u64::try_from(tokens).unwrap_or(0)
}
