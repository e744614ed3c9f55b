//! The one interface to models. Agents never change it; providers implement it.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{AgentError, ErrorClass, Retryable},
    ids::{InstanceId, RunId},
};

/// Tokens and money of one or many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Usage {
    /// Tokens that were read.
    pub input_tokens: i64,
    /// Tokens that were written.
    pub output_tokens: i64,
    /// Millionths of a US dollar.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost_micros: i64,
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            input_tokens: self.input_tokens - earlier.input_tokens,
            output_tokens: self.output_tokens - earlier.output_tokens,
            cost_micros: self.cost_micros - earlier.cost_micros,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cost_micros += other.cost_micros;
    }
}

/// A tool that the model asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's id of this call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// It has said what it had to say.
    Stop,
    /// It asks for tools.
    ToolCalls,
    /// It reached its token limit.
    Length,
    /// It wants another turn, without tools.
    Continue,
}

/// One output that a reducer folds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Which instance said it.
    pub from: InstanceId,
    /// Its name, such as `doc-17` or a path.
    pub name: String,
    /// What it said.
    pub output: Value,
}

/// One message of the conversation with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// The template's prompt and objective.
    System {
        /// The text.
        text: String,
    },
    /// The task, with the context snapshot.
    User {
        /// The text.
        text: String,
    },
    /// What a reducer has to fold. Providers without a notion of it send it as JSON text.
    Inputs {
        /// The outputs, in the order of the children.
        inputs: Vec<Input>,
    },
    /// An earlier turn of the model.
    Assistant {
        /// The text.
        text: String,
        /// The tools that it asked for.
        tool_calls: Vec<ToolCall>,
    },
    /// The result of a tool call.
    Tool {
        /// The call that it answers.
        call_id: String,
        /// The tool.
        name: String,
        /// Result or error, as JSON.
        content: Value,
        /// Whether `content` is an error.
        is_error: bool,
    },
}

/// A tool as the model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolOffer {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: Value,
}

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(tag = "format", rename_all = "snake_case")]
pub enum OutputSpec {
    /// Free text.
    #[default]
    Text,
    /// Markdown.
    Markdown,
    /// JSON that conforms to a schema.
    Json {
        /// The JSON Schema; any JSON when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<Value>,
    },
}

/// Everything that a provider needs for one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRequest {
    /// `provider/model`, or a bare model of the default provider.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The tools on offer; empty on the last turn.
    pub tools: Vec<ToolOffer>,
    /// The form of the final answer.
    pub output: OutputSpec,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// The provider is told to stop here.
    pub max_output_tokens: u32,
    /// The call is given up after this time.
    pub timeout: Duration,
    /// The same for every attempt at the same step.
    pub idempotency_key: String,
    /// Who asks: for scripts, logs and traces.
    pub caller: Caller,
}

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The run.
    pub run: RunId,
    /// The instance.
    pub instance: InstanceId,
    /// Name of its template.
    pub agent: String,
    /// Its task.
    pub task: String,
    /// Its name among its siblings, if it has one.
    pub name: Option<String>,
    /// Number of the step that this call makes, from 1.
    pub step: u32,
    /// How many attempts at this call have failed before.
    pub attempt: u32,
}

/// What the model answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReply {
    /// The text.
    pub text: String,
    /// The tools that it asks for.
    pub tool_calls: Vec<ToolCall>,
    /// Why it stopped.
    pub finish: Finish,
    /// What it used.
    pub usage: Usage,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ModelError {
    /// Class [`ErrorClass::Model`], `Validation`, `Permission` or `Timeout`; the code names the case:
    /// `timeout`, `overloaded`, `rate_limited`, `invalid_request`, `auth`, `content_filtered`, `bad_reply`, `unknown_model`, `unreachable`.
    pub error: AgentError,
    /// Whether trying again can help; decided by the provider.
    pub retry: Retryable,
}

impl ModelError {
    /// An error with the decision that it needs.
    pub fn new(class: ErrorClass, code: &str, message: impl Into<String>, retry: Retryable) -> Self {
        Self { error: AgentError::new(class, code, message), retry }
    }
}

/// A way to reach models.
#[async_trait]
pub trait Engine: Send + Sync {
    /// One turn. A crash during the call leaves nothing behind in Muster; the next owner of the instance
    /// makes the same call again with the same `idempotency_key`.
    async fn complete(&self, request: ModelRequest) -> Result<ModelReply, ModelError>;

    /// Whether this engine can serve `model`, so that unknown ones are refused when a template is made.
    fn knows(&self, model: &str) -> bool;

    /// The models, or patterns of models, that can be named: for error messages.
    fn models(&self) -> Vec<String>;
}
