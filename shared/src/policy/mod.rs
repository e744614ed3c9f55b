//! The compiled policy: what one instance may do. Immutable, hashed, stored by content.

mod compile;
mod overrides;
#[cfg(test)]
mod tests;
mod within;

use serde::{Deserialize, Serialize};

use crate::{
    engine::OutputSpec,
    hash::Hash32,
    ids::TemplateId,
    template::{ContextPolicy, Limits, Mode, ModelParams, RetryPolicy, Summarization, ToolFailure, canonical},
};

pub use compile::compile;
pub use overrides::{LimitOverrides, Overrides};

/// Which template version a policy was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TemplateRef {
    /// The template.
    #[schema(value_type = String)]
    pub id: TemplateId,
    /// Its name when it was compiled.
    pub name: String,
    /// Its version.
    pub version: i32,
}

impl std::fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// What one instance may do: its template version, narrowed by the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// The version it was compiled from.
    pub template: TemplateRef,
    /// Content hash of that version.
    pub template_hash: Hash32,
    /// What the agent is to achieve.
    pub objective: String,
    /// What the model is told first.
    pub system_prompt: String,
    /// The model chain. Never empty.
    pub models: Vec<String>,
    /// Parameters of the model calls.
    pub model_params: ModelParams,
    /// Tools that may be called, sorted.
    pub tools: Vec<String>,
    /// How steps follow each other.
    pub mode: Mode,
    /// Steps at most, retries included.
    pub max_steps: u32,
    /// How context is treated.
    pub context: ContextPolicy,
    /// When and how the conversation is summarized.
    pub summarization: Summarization,
    /// The form of the answer.
    pub output: OutputSpec,
    /// What it may use at most.
    pub limits: Limits,
    /// How failed calls are retried.
    pub retry: RetryPolicy,
    /// What a failed tool call does to the agent.
    pub tool_failure: ToolFailure,
    /// Templates that it may spawn, sorted.
    pub child_templates: Vec<String>,
}

impl Policy {
    /// The stored form: canonical JSON (sorted keys).
    pub fn canonical_json(&self) -> String {
        canonical(self)
    }

    /// The content hash under which it is stored.
    pub fn hash(&self) -> Hash32 {
        Hash32::of(self.canonical_json().as_bytes())
    }
}
