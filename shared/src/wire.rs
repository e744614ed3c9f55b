//! What goes over the wire: the requests and views of the HTTP API, shared with its clients.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    engine::Usage,
    error::{AgentError, Fault},
    event::{EventKind, WaitFor},
    fsm::{State, Status},
    hash::Hash32,
    ids::{GroupId, InstanceId, RunId, TemplateId},
    policy::Overrides,
    template::Template,
    time::Timestamp,
};

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Listing<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give this as `after` to continue; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Body of `POST /v1/agents/{id}/spawn`: one task, or many.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnRequest {
    /// The task of a single instance. Either this or `tasks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// One instance for each. Either this or `task`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<TaskSpec>>,
    /// A snapshot that every instance sees; stored once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// How the outputs become one answer. Without it they are collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceSpec>,
    /// Without `reduce`: what failed instances do to the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Instances of the run that execute at once; at most the template's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// 0 to 9, 9 first. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Narrow the template for this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
    /// The run ends as `timeout` after this many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// One task of a fan-out: its text, or its text with more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "a task is a string, or an object of `task`, `name`, `role` and `context`")]
pub enum TaskSpec {
    /// Just the task.
    Text(String),
    /// The task, with its name, role and context.
    Full(Box<FullTask>),
}

/// A task with its name, role and context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FullTask {
    /// What to do.
    pub task: String,
    /// Name among its siblings: `doc-17`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Role among its siblings: `reviewer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A snapshot for this instance, beside the shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
}

/// How outputs become one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReduceSpec {
    /// The template of the reducers, without tools: `synthesizer`, `synthesizer@2`.
    pub agent: String,
    /// Outputs per reducer: 2 to 100. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<u32>,
    /// What the reducers are told. A default names the run's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// What failed instances do to the run. Default `fail_fast`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// What failed instances do to their run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The first failure fails the run.
    FailFast,
    /// This fraction of the instances may fail: 0 to 1.
    Tolerate(f64),
}

/// Answer to a spawn, after its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SpawnResponse {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// The instance, when there is exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub instance_id: Option<InstanceId>,
    /// Instances made, reducers not counted.
    pub instances: i64,
}

/// A template version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentView {
    /// The template.
    #[schema(value_type = String)]
    pub id: TemplateId,
    /// Its version.
    pub version: i32,
    /// Whether new instances use this version.
    pub active: bool,
    /// SHA-256 of the canonical JSON of `spec`.
    #[schema(value_type = String)]
    pub hash: Hash32,
    /// When it was stored.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// What it says.
    pub spec: Template,
}

impl From<crate::catalog::TemplateVersion> for AgentView {
    fn from(v: crate::catalog::TemplateVersion) -> Self {
        Self { id: v.id, version: v.version, active: v.active, hash: v.hash, created_at: v.created_at, spec: v.spec }
    }
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Work is left.
    Running,
    /// Cancel was asked for; some instance is still held.
    Cancelling,
    /// The answer is there.
    Completed,
    /// More failed than is tolerated.
    Failed,
    /// Its deadline passed.
    Timeout,
    /// Somebody cancelled it; nothing of it runs.
    Cancelled,
}

impl RunStatus {
    /// Every status there is.
    pub const ALL: [Self; 6] = [Self::Running, Self::Cancelling, Self::Completed, Self::Failed, Self::Timeout, Self::Cancelled];

    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    /// From its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Timeout | Self::Cancelled => true,
            Self::Running | Self::Cancelling => false,
        }
    }
}

/// Instances by status, reducers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Counts {
    /// Made so far.
    pub total: i64,
    /// Wait for a slot.
    pub queued: i64,
    /// Held by a worker.
    pub running: i64,
    /// Wait for something else.
    pub waiting: i64,
    /// Have their output.
    pub completed: i64,
    /// Failed.
    pub failed: i64,
    /// Ran out of time.
    pub timeout: i64,
    /// Cancelled.
    pub cancelled: i64,
}

/// The status of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunView {
    /// The run.
    #[schema(value_type = String)]
    pub id: RunId,
    /// How it stands.
    pub status: RunStatus,
    /// Template of its leaves: `researcher@3`.
    pub agent: String,
    /// Its root group.
    #[schema(value_type = String)]
    pub group: GroupId,
    /// Tasks that it was given.
    pub tasks: i64,
    /// Instances by status, reducers included.
    pub instances: Counts,
    /// Steps journaled.
    pub steps: i64,
    /// Tokens and money used.
    pub usage: Usage,
    /// 0 to 9.
    pub priority: i16,
    /// Instances of it that execute at once.
    pub max_parallel: i32,
    /// When it was made.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When it ends as `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub deadline_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub finished_at: Option<Timestamp>,
    /// The instance whose output is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub result_instance: Option<InstanceId>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AgentError>,
}

/// The status of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InstanceView {
    /// The instance.
    #[schema(value_type = String)]
    pub id: InstanceId,
    /// Its run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// Its template version.
    pub agent: String,
    /// 0 for leaves, above for reducers.
    pub level: i32,
    /// Position within the level.
    pub ordinal: i64,
    /// Name among its siblings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Role among its siblings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What it is to do.
    pub task: String,
    /// How it stands.
    pub status: Status,
    /// Where it is in its work.
    pub state: State,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitFor>,
    /// Steps journaled.
    pub step: i32,
    /// Times its ownership changed.
    pub epoch: i64,
    /// Tokens and money used.
    pub usage: Usage,
    /// What it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AgentError>,
    /// Content hash of its compiled policy.
    #[schema(value_type = String)]
    pub policy_hash: Hash32,
    /// When it was made.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// When its row last changed.
    #[schema(value_type = String)]
    pub updated_at: Timestamp,
}

/// One entry of an instance's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventView {
    /// Position, from 1.
    pub seq: i64,
    /// The epoch under which it was written.
    pub epoch: i64,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// Its content.
    pub payload: Value,
    /// When, by the writer's clock.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Link to everything before it.
    #[schema(value_type = String)]
    pub hash: Hash32,
}

/// The answer of a run, with its provenance down to each child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunResult {
    /// The run.
    #[schema(value_type = String)]
    pub run_id: RunId,
    /// How it ended.
    pub status: RunStatus,
    /// The answer; without `reduce` and with several tasks, the list of outputs in order (`null` where one failed).
    pub output: Value,
    /// Who made it, and from what: one answering instance with what it folded, or the collected children.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provenance: Vec<Provenance>,
}

/// An instance and those whose outputs it folded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Provenance {
    /// The instance.
    #[schema(value_type = String)]
    pub instance: InstanceId,
    /// Its name among its siblings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it ended.
    pub status: Status,
    /// 0 for leaves.
    pub level: i32,
    /// Position within the level.
    pub ordinal: i64,
    /// What it folded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub inputs: Vec<Provenance>,
}

/// What an autoscaler needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Demand {
    /// Queued and due.
    pub due: i64,
    /// Granted or running.
    pub in_flight: i64,
    /// Waiting for something else.
    pub waiting: i64,
    /// Workers with a fresh heartbeat.
    pub workers: i64,
    /// Slots of those workers.
    pub slots: i64,
    /// `due + in_flight`: scale workers so that their slots cover it.
    pub demand: i64,
}

/// An error answer: RFC 9457, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Where the code is explained.
    #[serde(rename = "type")]
    pub kind: String,
    /// The stable code: `template_invalid`.
    pub code: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, and what to do.
    pub detail: String,
    /// Every fault of the request, by JSON pointer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}
