//! The tools of a process: a [`Registry`] that validates, times, contains and bounds every call, and the
//! built-in tools.
//!
//! A call needs a [`muster_shared::gate::Permit`], which only the gate makes; nothing here decides what an
//! agent may do. Owns no data: artifacts live under the roots that the operator names, keys and values in
//! the store behind [`muster_shared::tool::KeyValue`]. Never logs arguments or results.

mod artifacts;
mod calculator;
mod check;
mod kv;
mod registry;

pub use artifacts::{ArtifactRead, ArtifactRoots, ArtifactWrite};
pub use calculator::{CalcError, Calculator, evaluate};
pub use kv::{KvGet, KvPut};
pub use registry::{RegisterError, Registry};

use muster_shared::{
    error::{ErrorClass, Retryable},
    tool::ToolError,
};

/// Arguments that the schema accepts and the tool does not: nothing was done.
fn invalid_arguments(message: impl Into<String>) -> ToolError {
    ToolError::new(ErrorClass::Validation, "invalid_arguments", message, Retryable::Never)
}

/// Reads typed arguments. The registry has validated them, so a mismatch is a schema that says too little.
fn arguments<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Result<T, ToolError> {
    T::deserialize(value).map_err(|error| invalid_arguments(format!("the arguments cannot be read: {error}")))
}
