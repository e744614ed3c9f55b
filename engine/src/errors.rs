//! One constructor for each way in which a model call fails. Class and retry are decided here and nowhere else.

use std::time::Duration;

use muster_shared::{
    engine::ModelError,
    error::{ErrorClass, Retryable},
};

pub(crate) fn rate_limited(message: impl Into<String>, after: Option<Duration>) -> ModelError {
    ModelError::new(ErrorClass::Model, "rate_limited", message, after_or_backoff(after))
}

pub(crate) fn overloaded(message: impl Into<String>, after: Option<Duration>) -> ModelError {
    ModelError::new(ErrorClass::Model, "overloaded", message, after_or_backoff(after))
}

/// Waiting does not refill an account: somebody has to pay first.
pub(crate) fn quota_used_up(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Model, "rate_limited", message, Retryable::Never)
}

pub(crate) fn timeout(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Timeout, "timeout", message, Retryable::Backoff)
}

pub(crate) fn unreachable(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Model, "unreachable", message, Retryable::Backoff)
}

pub(crate) fn invalid_request(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Model, "invalid_request", message, Retryable::Never)
}

pub(crate) fn auth(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Permission, "auth", message, Retryable::Never)
}

pub(crate) fn content_filtered(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Model, "content_filtered", message, Retryable::Never)
}

/// The model is asked again: what it says differs from time to time.
pub(crate) fn bad_reply(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Validation, "bad_reply", message, Retryable::Backoff)
}

pub(crate) fn unknown_model(message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorClass::Validation, "unknown_model", message, Retryable::Never)
}

fn after_or_backoff(after: Option<Duration>) -> Retryable {
    after.map_or(Retryable::Backoff, |after| Retryable::After(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
}
