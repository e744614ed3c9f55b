//! The registry: every tool of a process, with its schemas compiled once, and the one way to execute a call.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jsonschema::Validator;
use muster_shared::{
    MAX_INLINE_BYTES,
    error::{ErrorClass, Retryable},
    gate::Permit,
    tool::{Effect, KeyValue, Tool, ToolError, ToolSpec, Toolbox},
};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::{
    artifacts::{ArtifactRead, ArtifactRoots, ArtifactWrite},
    calculator::Calculator,
    check,
    kv::{KvGet, KvPut},
};

/// Error messages are journaled and shown to models: they stay short.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// Why a tool cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Templates and models could not write its name.
    #[error("`{0}` is not a tool name: 1 to 64 ASCII letters, digits, `_`, `-` and `.`")]
    Name(String),
    /// There is one of that name.
    #[error("there is already a tool `{0}`")]
    Duplicate(String),
    /// No call could ever succeed.
    #[error("the tool `{0}` has a timeout of 0 ms")]
    Timeout(String),
    /// A schema of it is no JSON Schema.
    #[error("the {which} schema of the tool `{tool}` is not a JSON Schema: {why}")]
    Schema {
        /// The tool.
        tool: String,
        /// `input` or `output`.
        which: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

struct Registered {
    tool: Arc<dyn Tool>,
    input: Validator,
    output: Validator,
}

/// All the tools of a process. Built once, then shared; it never changes while it serves.
#[derive(Default)]
pub struct Registry {
    specs: BTreeMap<String, Arc<ToolSpec>>,
    tools: BTreeMap<String, Registered>,
}

impl Registry {
    /// A registry without tools.
    pub fn new() -> Self {
        Self::default()
    }

    /// The built-in tools: `calculator`, `kv_get`, `kv_put` and, where there are roots for artifacts,
    /// `artifact_read` and `artifact_write`.
    pub fn builtin(roots: Option<ArtifactRoots>, kv: Arc<dyn KeyValue>) -> Self {
        let mut tools: Vec<Arc<dyn Tool>> =
            vec![Arc::new(Calculator::new()), Arc::new(KvGet::new(Arc::clone(&kv))), Arc::new(KvPut::new(kv))];
        if let Some(roots) = roots {
            let roots = Arc::new(roots);
            tools.push(Arc::new(ArtifactRead::new(Arc::clone(&roots))));
            tools.push(Arc::new(ArtifactWrite::new(roots)));
        }
        let mut registry = Self::new();
        for tool in tools {
            registry.register(tool).expect("built-in tools have distinct names and valid schemas");
        }
        registry
    }

    /// Adds a tool. Its declaration is read once, here.
    pub fn register(&mut self, tool: Arc<dyn Tool>) -> Result<(), RegisterError> {
        let spec = Arc::new(tool.spec().clone());
        let name = spec.name.clone();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            return Err(RegisterError::Name(name));
        }
        if self.specs.contains_key(&name) {
            return Err(RegisterError::Duplicate(name));
        }
        if spec.timeout_ms == 0 {
            return Err(RegisterError::Timeout(name));
        }
        let compile = |which, schema: &Value| {
            jsonschema::validator_for(schema).map_err(|error| RegisterError::Schema { tool: name.clone(), which, why: error.to_string() })
        };
        let registered = Registered { input: compile("input", &spec.input_schema)?, output: compile("output", &spec.output_schema)?, tool };
        self.tools.insert(name.clone(), registered);
        self.specs.insert(name, spec);
        Ok(())
    }

    async fn run(&self, permit: Permit) -> Result<Value, ToolError> {
        let spec = permit.spec();
        let Some(registered) = self.tools.get(&spec.name) else {
            let message = format!("this worker has no tool `{}`", spec.name);
            return Err(ToolError::new(ErrorClass::Permission, "tool_not_available", message, Retryable::Never));
        };
        if let Some(faults) = check::faults(&registered.input, permit.arguments()) {
            let message = format!("the arguments of `{}` do not fit its schema: {faults}", spec.name);
            return Err(ToolError::new(ErrorClass::Validation, "invalid_arguments", message, Retryable::Never));
        }
        let spec = self.specs.get(&spec.name).map_or_else(|| Arc::new(spec.clone()), Arc::clone);
        let output = contained(Arc::clone(&registered.tool), permit, &spec).await?;
        fit(&registered.output, output, &spec)
    }
}

/// Runs the tool as a task of its own, so that neither a panic nor a call that does not yield harms the
/// caller. The task ends with the caller's interest in it.
async fn contained(tool: Arc<dyn Tool>, permit: Permit, spec: &ToolSpec) -> Result<Value, ToolError> {
    let again = match spec.effect {
        Effect::Pure | Effect::Idempotent => Retryable::Backoff,
        Effect::Irreversible => Retryable::Never,
    };
    let call = async move { tool.call(permit).await }.in_current_span();
    let task = AbortOnDropHandle::new(tokio::spawn(call));
    match tokio::time::timeout(spec.timeout(), task).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_panic() => {
            // Not retried: the same call would panic again. The panic hook has printed where.
            Err(ToolError::new(ErrorClass::Tool, "tool_panicked", format!("the tool `{}` panicked", spec.name), Retryable::Never))
        }
        Ok(Err(_)) => {
            Err(ToolError::new(ErrorClass::Tool, "tool_stopped", format!("the tool `{}` was stopped with its process", spec.name), again))
        }
        Err(_) => {
            let message = format!("the tool `{}` did not answer within {} ms", spec.name, spec.timeout_ms);
            Err(ToolError::new(ErrorClass::Timeout, "tool_timeout", message, again))
        }
    }
}

/// Validates and bounds a result.
fn fit(validator: &Validator, output: Value, spec: &ToolSpec) -> Result<Value, ToolError> {
    // The size first: a huge value is not walked by the validator.
    let size = check::serialized_len(&output);
    if size > MAX_INLINE_BYTES {
        let message = format!(
            "the result of `{}` has {size} bytes, and {MAX_INLINE_BYTES} are allowed: ask for less at a time, or write it to an artifact",
            spec.name
        );
        return Err(ToolError::new(ErrorClass::Tool, "output_too_large", message, Retryable::Never));
    }
    match check::faults(validator, &output) {
        None => Ok(output),
        Some(faults) => {
            let message = format!("the result of `{}` does not fit its schema: {faults}", spec.name);
            Err(ToolError::new(ErrorClass::Validation, "invalid_output", message, Retryable::Never))
        }
    }
}

/// A message that can be journaled: without NUL, and not without end.
fn presentable(mut failure: ToolError) -> ToolError {
    let message = &mut failure.error.message;
    if message.contains('\0') {
        *message = message.replace('\0', "\u{FFFD}");
    }
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    failure
}

const fn effect_name(effect: Effect) -> &'static str {
    match effect {
        Effect::Pure => "pure",
        Effect::Idempotent => "idempotent",
        Effect::Irreversible => "irreversible",
    }
}

#[async_trait]
impl Toolbox for Registry {
    fn specs(&self) -> &BTreeMap<String, Arc<ToolSpec>> {
        &self.specs
    }

    async fn execute(&self, permit: Permit) -> Result<Value, ToolError> {
        let span = tracing::info_span!(
            "tool_call",
            tool = %permit.spec().name,
            instance = %permit.lease().instance,
            effect = effect_name(permit.spec().effect),
            code = tracing::field::Empty,
        );
        let answer = self.run(permit).instrument(span.clone()).await.map_err(presentable);
        if let Err(failure) = &answer {
            span.record("code", failure.error.code.as_str());
        }
        answer
    }
}
