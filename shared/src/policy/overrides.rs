//! What a request may change of a template: only downwards.

use serde::{Deserialize, Serialize};

/// Narrowings of a template for one request. What is absent stays as the template has it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Overrides {
    /// A non-empty part of the template's models; their order here is the order of fallback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// A part of the template's tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// A part of the template's child templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child_templates: Option<Vec<String>>,
    /// At most the template's, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u32>,
    /// At most the template's. A template that leaves it to the provider gives nothing to lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// At most the template's, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// At most the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Each at most the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitOverrides>,
}

/// Narrowings of [`crate::template::Limits`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitOverrides {
    /// See [`crate::template::Limits::max_instances`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u32>,
    /// See [`crate::template::Limits::max_depth`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// See [`crate::template::Limits::max_parallel`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// See [`crate::template::Limits::max_tool_calls`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tool_calls: Option<u32>,
    /// See [`crate::template::Limits::max_tokens`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// See [`crate::template::Limits::thinking_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_ms: Option<u64>,
    /// See [`crate::template::Limits::executing_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executing_ms: Option<u64>,
    /// See [`crate::template::Limits::blocked_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_ms: Option<u64>,
    /// See [`crate::template::Limits::agent_timeout_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_timeout_ms: Option<u64>,
}
