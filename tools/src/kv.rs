//! `kv_get` and `kv_put`: a small durable memory, private to each instance.

use std::sync::Arc;

use async_trait::async_trait;
use muster_shared::{
    error::{ErrorClass, Retryable},
    gate::Permit,
    store::StoreError,
    tool::{Effect, KeyValue, Tool, ToolError, ToolSpec},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{arguments, check, invalid_arguments};

/// Characters of a key.
const MAX_KEY_CHARS: usize = 256;

/// Bytes of a value as JSON text.
const MAX_VALUE_BYTES: usize = 32 * 1024;

fn key_schema() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS})
}

/// What the agent learns of a failing store. No text of the database: it could say too much.
fn failed(error: &StoreError) -> ToolError {
    let (code, message, retry) = match error {
        StoreError::Unavailable(_) => ("store_unavailable", "the store is unavailable", Retryable::Backoff),
        StoreError::Refused(_) => ("value_refused", "the store refuses this value", Retryable::Never),
        StoreError::NotFound(_) | StoreError::Conflict(_) | StoreError::KeyReused(_) | StoreError::Schema(_) | StoreError::Corrupt(_) => {
            ("store_failed", "the store failed", Retryable::Never)
        }
    };
    tracing::warn!(code, "kv: {error}");
    ToolError::new(ErrorClass::Tool, code, message, retry)
}

/// `kv_get {key} -> {key, found, value}`.
pub struct KvGet {
    spec: ToolSpec,
    kv: Arc<dyn KeyValue>,
}

impl KvGet {
    /// Reads from this store.
    pub fn new(kv: Arc<dyn KeyValue>) -> Self {
        let spec = ToolSpec {
            name: "kv_get".to_owned(),
            description: "Reads a value that this agent stored under a key with kv_put. `found` is false when there is none.".to_owned(),
            input_schema: json!({"type": "object", "additionalProperties": false, "required": ["key"], "properties": {"key": key_schema()}}),
            output_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["key", "found", "value"],
                "properties": {"key": {"type": "string"}, "found": {"type": "boolean"}, "value": {}},
            }),
            timeout_ms: 10_000,
            effect: Effect::Pure,
        };
        Self { spec, kv }
    }
}

#[derive(Deserialize)]
struct GetArguments {
    key: String,
}

#[async_trait]
impl Tool for KvGet {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, permit: Permit) -> Result<Value, ToolError> {
        let GetArguments { key } = arguments(permit.arguments())?;
        let value = self.kv.kv_get(permit.lease().instance, &key).await.map_err(|error| failed(&error))?;
        Ok(json!({"key": key, "found": value.is_some(), "value": value}))
    }
}

/// `kv_put {key, value} -> {key, bytes}`. Idempotent: the repeated call sets the same value.
pub struct KvPut {
    spec: ToolSpec,
    kv: Arc<dyn KeyValue>,
}

impl KvPut {
    /// Writes to this store.
    pub fn new(kv: Arc<dyn KeyValue>) -> Self {
        let spec = ToolSpec {
            name: "kv_put".to_owned(),
            description: format!(
                "Stores a JSON value (at most {MAX_VALUE_BYTES} bytes) under a key, for this agent alone. It replaces what was there."
            ),
            input_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["key", "value"],
                "properties": {"key": key_schema(), "value": {}},
            }),
            output_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["key", "bytes"],
                "properties": {"key": {"type": "string"}, "bytes": {"type": "integer", "minimum": 0}},
            }),
            timeout_ms: 10_000,
            effect: Effect::Idempotent,
        };
        Self { spec, kv }
    }
}

#[derive(Deserialize)]
struct PutArguments {
    key: String,
    value: Value,
}

#[async_trait]
impl Tool for KvPut {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, permit: Permit) -> Result<Value, ToolError> {
        let PutArguments { key, value } = arguments(permit.arguments())?;
        let bytes = check::serialized_len(&value);
        if bytes > MAX_VALUE_BYTES {
            return Err(invalid_arguments(format!("/value: has {bytes} bytes as JSON, and {MAX_VALUE_BYTES} are allowed")));
        }
        self.kv.kv_put(permit.lease().instance, &key, &value).await.map_err(|error| failed(&error))?;
        Ok(json!({"key": key, "bytes": bytes}))
    }
}
