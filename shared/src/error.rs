//! The taxonomy of what goes wrong in an agent's life. An error is classified once, at its source, by the
//! decision that it needs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it was (REQUIREMENTS C8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The model or its provider failed.
    Model,
    /// A tool failed.
    Tool,
    /// Data did not have the required form.
    Validation,
    /// The gate refused. Never retried.
    Permission,
    /// A wall clock or deadline passed.
    Timeout,
    /// A limit or budget was reached.
    Budget,
    /// Somebody cancelled it.
    Cancelled,
    /// Muster itself failed.
    Internal,
}

impl ErrorClass {
    /// The name used in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tool => "tool",
            Self::Validation => "validation",
            Self::Permission => "permission",
            Self::Timeout => "timeout",
            Self::Budget => "budget",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retryable {
    /// Never: the same call would fail the same way.
    Never,
    /// After the usual backoff.
    Backoff,
    /// Not before this many milliseconds have passed (a provider's Retry-After).
    After(u64),
}

/// A failure in an agent's life, as it is journaled and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgentError {
    /// What kind of failure it was.
    pub class: ErrorClass,
    /// A stable code, such as `rate_limited`, `tool_not_allowed`, `max_steps`.
    pub code: String,
    /// What happened and what to do, for a person.
    pub message: String,
}

impl AgentError {
    /// An error of this class and code.
    pub fn new(class: ErrorClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), message: message.into() }
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} error `{}`: {}", self.class.as_str(), self.code, self.message)
    }
}

impl std::error::Error for AgentError {}

/// One thing that is wrong with a document, by JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Fault {
    /// Where: `/limits/max_parallel`. Empty for the whole document.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl Fault {
    /// A fault at a place.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Every fault of a document, reported at once. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// `Ok` when nothing was found.
    pub fn check(found: Vec<Fault>) -> Result<(), Self> {
        if found.is_empty() { Ok(()) } else { Err(Self(found)) }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self
            .0
            .iter()
            .map(|fault| format!("{}: {}", if fault.pointer.is_empty() { "/" } else { &fault.pointer }, fault.detail))
            .collect();
        f.write_str(&shown.join("; "))
    }
}

impl std::error::Error for Faults {}
