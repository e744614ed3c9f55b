//! The events of an instance's log. They record decisions, not only inputs, so that a newer core folds an
//! old log the same way.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    engine::{Finish, ToolCall, Usage},
    error::AgentError,
    hash::{Hash32, chain},
    ids::InstanceId,
    time::Timestamp,
};

/// What an event is; the `type` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// One model turn. A step.
    Model,
    /// One tool call with its result or error. A step.
    Tool,
    /// A failed model or tool call that will be tried again. A step.
    Retry,
    /// The instance gave its slot back and waits.
    Waiting,
    /// Terminal: the output is there.
    Completed,
    /// Terminal: it failed.
    Failed,
    /// Terminal: a wall clock or deadline passed.
    TimedOut,
    /// Terminal: somebody cancelled it.
    Cancelled,
}

impl EventKind {
    /// Every kind there is.
    pub const ALL: [Self; 8] =
        [Self::Model, Self::Tool, Self::Retry, Self::Waiting, Self::Completed, Self::Failed, Self::TimedOut, Self::Cancelled];

    /// The name in the `type` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Retry => "retry",
            Self::Waiting => "waiting",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    /// From the `type` column.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// A *step* is one model turn, tool call or retry that is journaled. This is the only definition.
    pub const fn is_step(self) -> bool {
        match self {
            Self::Model | Self::Tool | Self::Retry => true,
            Self::Waiting | Self::Completed | Self::Failed | Self::TimedOut | Self::Cancelled => false,
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// See [`EventKind::Model`].
    Model(ModelTurn),
    /// See [`EventKind::Tool`].
    Tool(ToolTurn),
    /// See [`EventKind::Retry`].
    Retry(Retry),
    /// See [`EventKind::Waiting`].
    Waiting(WaitFor),
    /// See [`EventKind::Completed`].
    Completed(Completed),
    /// See [`EventKind::Failed`].
    Failed(AgentError),
    /// See [`EventKind::TimedOut`].
    TimedOut(AgentError),
    /// See [`EventKind::Cancelled`].
    Cancelled(AgentError),
}

/// What the model said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelTurn {
    /// The model that answered.
    pub model: String,
    /// Its text; may be empty beside tool calls.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The tools that it asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it stopped.
    pub finish: Finish,
    /// What it used.
    #[serde(default)]
    pub usage: Usage,
}

/// What became of one tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolTurn {
    /// The model's id of the call.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// Its result, or why there is none.
    pub outcome: ToolOutcome,
}

/// Result or error of a tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    /// It answered.
    Ok(Value),
    /// It failed, or the gate refused it; the model is told.
    Error(AgentError),
}

/// A failure and the decision to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// What went wrong.
    pub error: AgentError,
    /// How many attempts at this call have failed, this one included.
    pub attempt: u32,
    /// How long to wait before the next.
    pub delay_ms: u64,
    /// Position in the policy's model chain for the next attempt.
    pub next_model: usize,
}

/// What a waiting instance waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum WaitFor {
    /// Until its children are done.
    Children,
    /// Until a moment.
    Timer {
        /// That moment.
        #[schema(value_type = String)]
        until: Timestamp,
    },
}

impl WaitFor {
    /// The name in the `waiting_for` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Children => "children",
            Self::Timer { .. } => "timer",
        }
    }
}

/// The end of a successful instance. The output itself is the text of an earlier event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The event whose text is the output.
    pub output_of: i64,
}

/// An event whose stored form cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event of type `{kind}` cannot be read: {why}")]
pub struct BadEvent {
    /// The `type` column.
    pub kind: String,
    /// What is wrong.
    pub why: String,
}

impl Event {
    /// What this event is.
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Model(_) => EventKind::Model,
            Self::Tool(_) => EventKind::Tool,
            Self::Retry(_) => EventKind::Retry,
            Self::Waiting(_) => EventKind::Waiting,
            Self::Completed(_) => EventKind::Completed,
            Self::Failed(_) => EventKind::Failed,
            Self::TimedOut(_) => EventKind::TimedOut,
            Self::Cancelled(_) => EventKind::Cancelled,
        }
    }

    /// The `payload` column.
    pub fn payload(&self) -> String {
        let json = match self {
            Self::Model(turn) => serde_json::to_string(turn),
            Self::Tool(turn) => serde_json::to_string(turn),
            Self::Retry(retry) => serde_json::to_string(retry),
            Self::Waiting(wait) => serde_json::to_string(wait),
            Self::Completed(end) => serde_json::to_string(end),
            Self::Failed(error) | Self::TimedOut(error) | Self::Cancelled(error) => serde_json::to_string(error),
        };
        json.expect("events hold only strings, numbers and JSON values")
    }

    /// From the `type` and `payload` columns.
    pub fn decode(kind: EventKind, payload: &str) -> Result<Self, BadEvent> {
        let read = match kind {
            EventKind::Model => serde_json::from_str(payload).map(Self::Model),
            EventKind::Tool => serde_json::from_str(payload).map(Self::Tool),
            EventKind::Retry => serde_json::from_str(payload).map(Self::Retry),
            EventKind::Waiting => serde_json::from_str(payload).map(Self::Waiting),
            EventKind::Completed => serde_json::from_str(payload).map(Self::Completed),
            EventKind::Failed => serde_json::from_str(payload).map(Self::Failed),
            EventKind::TimedOut => serde_json::from_str(payload).map(Self::TimedOut),
            EventKind::Cancelled => serde_json::from_str(payload).map(Self::Cancelled),
        };
        read.map_err(|error| BadEvent { kind: kind.as_str().to_owned(), why: error.to_string() })
    }
}

/// An event in a log, or on its way there: numbered, linked, serialised once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log, from 1.
    pub seq: i64,
    /// The epoch under which it is written.
    pub epoch: i64,
    /// What it is.
    pub kind: EventKind,
    /// Its content as JSON.
    pub payload: String,
    /// When it was made, by the writer's clock.
    pub at: Timestamp,
    /// Link to everything before it.
    pub hash: Hash32,
}

impl Entry {
    /// The event itself.
    pub fn event(&self) -> Result<Event, BadEvent> {
        Event::decode(self.kind, &self.payload)
    }

    /// The entry that follows `(seq, hash)` in the log of `instance`.
    pub fn following(instance: InstanceId, after: (i64, Hash32), epoch: i64, event: &Event, at: Timestamp) -> Self {
        let (seq, payload, kind) = (after.0 + 1, event.payload(), event.kind());
        let hash = chain(after.1, instance.0, seq, epoch, kind, at.micros(), &payload);
        Self { seq, epoch, kind, payload, at, hash }
    }
}
