//! The names of OpenTelemetry's semantic conventions for generative AI, pinned here: they still change.
//!
//! A span carries who asked which model, and what it used. It never carries prompts, answers or keys.

use muster_shared::engine::{Finish, ModelError, ModelReply, ModelRequest};
use tracing::{Span, field::Empty};

/// The name of the span around every model call.
pub const MODEL_CALL: &str = "model_call";
/// What is done: always `chat`.
pub const OPERATION: &str = "gen_ai.operation.name";
/// The provider, as configured.
pub const PROVIDER: &str = "gen_ai.provider.name";
/// The model that was asked for.
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
/// The token limit.
pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
/// Tokens read.
pub const USAGE_INPUT: &str = "gen_ai.usage.input_tokens";
/// Tokens written.
pub const USAGE_OUTPUT: &str = "gen_ai.usage.output_tokens";
/// Why the model stopped.
pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Name of the template that asks.
pub const AGENT_NAME: &str = "gen_ai.agent.name";
/// The stable code of a failure.
pub const ERROR_TYPE: &str = "error.type";

/// The span of one call.
pub(crate) fn model_call(provider: &str, request: &ModelRequest) -> Span {
    tracing::info_span!(
        MODEL_CALL,
        { OPERATION } = "chat",
        { PROVIDER } = provider,
        { REQUEST_MODEL } = request.model.as_str(),
        { REQUEST_MAX_TOKENS } = request.max_output_tokens,
        { AGENT_NAME } = request.caller.agent.as_str(),
        { USAGE_INPUT } = Empty,
        { USAGE_OUTPUT } = Empty,
        { FINISH_REASONS } = Empty,
        { ERROR_TYPE } = Empty,
        muster.run = %request.caller.run,
        muster.instance = %request.caller.instance,
        muster.step = request.caller.step,
        muster.attempt = request.caller.attempt,
    )
}

/// Writes what came of the call into its span.
pub(crate) fn record(span: &Span, outcome: &Result<ModelReply, ModelError>) {
    match outcome {
        Ok(reply) => {
            span.record(USAGE_INPUT, reply.usage.input_tokens);
            span.record(USAGE_OUTPUT, reply.usage.output_tokens);
            span.record(FINISH_REASONS, finish_name(reply.finish));
        }
        Err(failed) => {
            span.record(ERROR_TYPE, failed.error.code.as_str());
        }
    }
}

const fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
        Finish::Continue => "continue",
    }
}
