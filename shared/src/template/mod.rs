//! Agent templates: declarative data, no logic (REQUIREMENTS A1-A4).
//!
//! A template is parsed from JSON with [`Template::parse`], which reports every fault at once. A version of
//! it, once stored, is immutable and known by its content hash.

mod aliases;
mod canonical;
mod fields;
mod output_schema;
mod parse;
mod presets;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;
mod validate;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{engine::OutputSpec, hash::Hash32};

pub use presets::{presets, presets_for};

pub(crate) use canonical::canonical;

/// The few, audited, versioned, safe. Unknown fields are faults; common spellings are accepted as aliases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Unique per team: lower-case letters, digits, `-` and `_`, at most 64.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What the agent is to achieve.
    #[serde(default)]
    pub objective: String,
    /// What the model is told first.
    #[serde(default)]
    pub system_prompt: String,
    /// Models that may be used: the first is primary, the rest are the fallback chain.
    #[schemars(length(min = 1, max = 100))]
    pub models: Vec<String>,
    /// Parameters of the model calls.
    #[serde(default)]
    pub model_params: ModelParams,
    /// Tools that may be called. There is no implicit "all".
    #[schemars(length(max = 100))]
    #[serde(default)]
    pub tools: Vec<String>,
    /// How steps follow each other.
    #[serde(default)]
    pub mode: Mode,
    /// Steps at most, retries included: 1 to 20. Default: 1 for `single`, else 10.
    #[schemars(range(min = 1, max = 20))]
    #[serde(default)]
    pub max_steps: Option<u32>,
    /// Options of planner mode.
    #[serde(default)]
    pub planning: Planning,
    /// How context is treated.
    #[serde(default)]
    pub context: ContextPolicy,
    /// When and how the conversation is summarized.
    #[serde(default)]
    pub summarization: Summarization,
    /// The form of the answer.
    #[serde(default)]
    pub output: OutputSpec,
    /// Subjects and forms that are refused.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// What an instance, and what it causes, may use at most.
    #[serde(default)]
    pub limits: Limits,
    /// How failed calls are retried.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// What a failed or refused tool call does to the agent.
    #[serde(default)]
    pub tool_failure: ToolFailure,
    /// Templates that an instance may spawn.
    #[schemars(length(max = 100))]
    #[serde(default)]
    pub child_templates: Vec<String>,
    /// MCP servers, by name.
    #[serde(default)]
    pub mcp_servers: Vec<String>,
    /// Knowledge collections, by name.
    #[serde(default)]
    pub collections: Vec<String>,
    /// What it is good at, for discovery.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// US dollars per 1,000 tokens, as observed: for choosing among templates.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_1k_tokens: Option<f64>,
    /// Milliseconds per answer, as observed: for choosing among templates.
    #[schemars(range(min = 0, max = 31_536_000_000_u64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_latency_ms: Option<u64>,
}

/// Parameters of the model calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelParams {
    /// 0 to 2; the provider's default when absent.
    #[schemars(range(min = 0.0, max = 2.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Output tokens of one call: 1 to 128,000.
    #[schemars(range(min = 1, max = 128_000))]
    #[serde(default = "default_max_output_tokens")]
    pub max_output_tokens: u32,
}

const fn default_max_output_tokens() -> u32 {
    1024
}

impl Default for ModelParams {
    fn default() -> Self {
        Self { temperature: None, max_output_tokens: default_max_output_tokens() }
    }
}

/// How steps follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One model call, no loop.
    #[default]
    Single,
    /// Model and tools, step by step.
    MultiStep,
    /// A validated plan first.
    Planner,
}

/// Options of planner mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Planning {
    /// Whether the plan may be changed once it is validated.
    #[serde(default)]
    pub allow_replan: bool,
}

/// How context is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextPolicy {
    /// Muster decides.
    #[default]
    Auto,
    /// Summarize early.
    AggressiveSummarization,
    /// Never lose a word; fail instead.
    Lossless,
}

/// When and how the conversation is summarized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Summarization {
    /// The strategy.
    #[serde(default)]
    pub strategy: SummaryStrategy,
    /// Above this many tokens: 1 to 10,000,000.
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(default = "default_trigger_tokens")]
    pub trigger_tokens: u32,
    /// 0 to 1: the length of the summary to that of its source.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(default = "default_compression_ratio")]
    pub compression_ratio: f64,
    /// Whether names, numbers and places must survive.
    #[serde(default)]
    pub preserve_entities: bool,
}

const fn default_trigger_tokens() -> u32 {
    12_000
}

const fn default_compression_ratio() -> f64 {
    0.5
}

impl Default for Summarization {
    fn default() -> Self {
        Self {
            strategy: SummaryStrategy::default(),
            trigger_tokens: default_trigger_tokens(),
            compression_ratio: default_compression_ratio(),
            preserve_entities: false,
        }
    }
}

/// How a summary is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SummaryStrategy {
    /// Not at all.
    #[default]
    None,
    /// Summaries of summaries.
    Hierarchical,
    /// Only what can be restored.
    Lossless,
}

/// Subjects and forms that are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Guardrails {
    /// Topics that the agent must not touch.
    #[serde(default)]
    pub blocked_topics: Vec<String>,
    /// Constraints on the answer beyond its format.
    #[serde(default)]
    pub output_constraints: Vec<String>,
}

/// What an instance, and what it causes, may use at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Instances of one run, reducers not counted: 1 to 1,000,000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_instances: u32,
    /// Levels of spawning below the run's root: 0 to 16.
    #[schemars(range(min = 0, max = 16))]
    pub max_depth: u32,
    /// Instances of one run that execute at the same time: 1 to 100,000.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_parallel: u32,
    /// Tool calls of one instance: 0 to 1,000.
    #[schemars(range(min = 0, max = 1_000))]
    pub max_tool_calls: u32,
    /// Tokens of one instance, input and output together: 1 to 1,000,000,000,000.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub max_tokens: u64,
    /// One model call may take this long, in milliseconds: 1 to 3,600,000.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub thinking_ms: u64,
    /// One tool call may take this long, in milliseconds: 1 to 3,600,000.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub executing_ms: u64,
    /// One wait for children or limits may take this long, in milliseconds: at most 31,536,000,000 (a year).
    #[schemars(range(min = 1, max = 31_536_000_000_u64))]
    pub blocked_ms: u64,
    /// The instance may take this long from its first claim, in milliseconds: at most 31,536,000,000 (a year).
    #[schemars(range(min = 1, max = 31_536_000_000_u64))]
    pub agent_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_instances: 100_000,
            max_depth: 4,
            max_parallel: 10_000,
            max_tool_calls: 20,
            max_tokens: 1_000_000,
            thinking_ms: 300_000,
            executing_ms: 600_000,
            blocked_ms: 1_800_000,
            agent_timeout_ms: 300_000,
        }
    }
}

/// How failed calls are retried. Every retry is a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts after the first, for one call on one model: 0 to 3.
    #[schemars(range(min = 0, max = 3))]
    pub max_retries: u32,
    /// Before the first retry, in milliseconds; doubled for each further one. At most 3,600,000.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub initial_delay_ms: u64,
    /// Between two attempts at most, in milliseconds: initial_delay_ms to 3,600,000.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub max_delay_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: 2, initial_delay_ms: 500, max_delay_ms: 30_000 }
    }
}

/// What a failed or refused tool call does to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolFailure {
    /// The model is told and goes on.
    #[default]
    Open,
    /// The instance fails.
    Closed,
}

impl Template {
    /// Steps at most, with the default of the mode.
    pub fn max_steps(&self) -> u32 {
        self.max_steps.unwrap_or(match self.mode {
            Mode::Single => 1,
            Mode::MultiStep | Mode::Planner => 10,
        })
    }

    /// The canonical JSON (sorted keys): what is stored and hashed.
    pub fn canonical_json(&self) -> String {
        canonical(self)
    }

    /// The content hash of this version.
    pub fn hash(&self) -> Hash32 {
        Hash32::of(self.canonical_json().as_bytes())
    }

    /// JSON Schema (draft 2020-12) of a template, so that forms can be generated.
    pub fn json_schema() -> Value {
        schemars::schema_for!(Self).to_value()
    }
}
