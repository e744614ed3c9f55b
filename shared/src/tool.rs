//! Tools: what they declare, and the interface that the gate stands before.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{AgentError, ErrorClass, Retryable},
    gate::Permit,
    ids::InstanceId,
};

/// What a second execution of the same call would do (REQUIREMENTS C13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing: it only reads or computes.
    Pure,
    /// The same as the first, under the same idempotency key.
    Idempotent,
    /// Something else: it must not be repeated.
    Irreversible,
}

/// What a tool declares about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Its name, as templates and models write it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: Value,
    /// JSON Schema of its result.
    pub output_schema: Value,
    /// A call is given up after this many milliseconds.
    pub timeout_ms: u64,
    /// What a second execution would do.
    pub effect: Effect,
}

impl ToolSpec {
    /// The timeout as a span.
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Why a tool gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ToolError {
    /// Class [`ErrorClass::Tool`], `Validation`, `Permission` or `Timeout`, with a stable code.
    pub error: AgentError,
    /// Whether trying again can help; decided by the tool.
    pub retry: Retryable,
}

impl ToolError {
    /// An error with the decision that it needs.
    pub fn new(class: ErrorClass, code: &str, message: impl Into<String>, retry: Retryable) -> Self {
        Self { error: AgentError::new(class, code, message), retry }
    }
}

/// A tool. It can only be reached with a [`Permit`], and only the gate makes those.
#[async_trait]
pub trait Tool: Send + Sync {
    /// What it declares.
    fn spec(&self) -> &ToolSpec;

    /// Executes the permitted call. A crash during it leaves whatever the effect class says: the next owner
    /// repeats pure and idempotent calls under the same key.
    async fn call(&self, permit: Permit) -> Result<Value, ToolError>;
}

/// All the tools of a process: what can be declared to exist, and the one way to execute a call.
#[async_trait]
pub trait Toolbox: Send + Sync {
    /// The declarations, by name.
    fn specs(&self) -> &BTreeMap<String, Arc<ToolSpec>>;

    /// Validates the arguments, executes within the tool's timeout, validates and bounds the result.
    async fn execute(&self, permit: Permit) -> Result<Value, ToolError>;
}

/// A small durable store, private to each instance: behind the `kv` tool. Every operation is idempotent.
#[async_trait]
pub trait KeyValue: Send + Sync {
    /// The value under `key`, if there is one.
    async fn kv_get(&self, instance: InstanceId, key: &str) -> Result<Option<Value>, crate::store::StoreError>;
    /// Sets it. After a crash it is either set or not; the repeated call sets it.
    async fn kv_put(&self, instance: InstanceId, key: &str, value: &Value) -> Result<(), crate::store::StoreError>;
    /// The keys, in order.
    async fn kv_keys(&self, instance: InstanceId) -> Result<Vec<String>, crate::store::StoreError>;
}
