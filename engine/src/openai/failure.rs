//! From a refused or broken call to an error with the decision that it needs.

use std::time::Duration;

use muster_shared::{engine::ModelError, time::Timestamp};
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use serde_json::Value;

use crate::{errors, tokens};

/// A provider's own words are kept up to this length.
const MESSAGE_BYTES_MAX: usize = 500;

/// The call did not get through, or its answer did not.
pub(super) fn of_transport(error: &reqwest::Error) -> ModelError {
    if error.is_connect() {
        errors::unreachable(format!("the provider cannot be reached: {}", root_cause(error)))
    } else if error.is_timeout() {
        errors::timeout("the provider did not answer in time")
    } else if error.is_builder() {
        errors::invalid_request("the request cannot be sent: a header or the address is not valid")
    } else {
        errors::unreachable(format!("the connection to the provider broke: {}", root_cause(error)))
    }
}

/// The innermost reason. The outer ones repeat the URL.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    tokens::cut(&cause.to_string(), MESSAGE_BYTES_MAX)
}

/// The provider answered with an error status.
pub(super) fn of_status(status: StatusCode, after: Option<Duration>, body: &[u8]) -> ModelError {
    let said = said(body);
    let quota = said.code.as_deref() == Some("insufficient_quota");
    let message = format!("the provider answered {}{}", status.as_u16(), said.message);
    classify(status.as_u16(), after, quota, message)
}

/// Some gateways answer 200 with an error inside; its `code` may be a status.
pub(super) fn of_error_object(error: &Value) -> ModelError {
    let message = format!("the provider answered an error{}", words(error));
    match error.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400) {
        Some(code) => classify(code, None, false, message),
        None => errors::bad_reply(message),
    }
}

fn classify(status: u16, after: Option<Duration>, quota_used_up: bool, message: String) -> ModelError {
    match status {
        429 if quota_used_up => errors::quota_used_up(message),
        429 => errors::rate_limited(message, after),
        408 | 504 => errors::timeout(message),
        401 | 403 => errors::auth(message),
        // The same request is still being worked on, or came too early.
        409 | 425 => errors::overloaded(message, after),
        500..=599 => errors::overloaded(message, after),
        300..=399 => errors::invalid_request(format!("{message}; redirects are not followed: set base_url to the final address")),
        404 => errors::invalid_request(format!("{message}; check base_url and the name of the model")),
        _ => errors::invalid_request(message),
    }
}

struct Said {
    message: String,
    code: Option<String>,
}

fn said(body: &[u8]) -> Said {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = value.get("error").unwrap_or(&value);
    Said { message: words(error), code: error.get("code").and_then(Value::as_str).map(str::to_owned) }
}

/// The provider's own explanation, if it is where providers put it.
fn words(error: &Value) -> String {
    let text = error.as_str().or_else(|| error.get("message").and_then(Value::as_str)).unwrap_or_default().trim();
    if text.is_empty() { String::new() } else { format!(": {}", tokens::cut(text, MESSAGE_BYTES_MAX)) }
}

/// `retry-after-ms`, or `Retry-After` in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    if let Some(millis) = header("retry-after-ms").and_then(|text| text.parse::<u64>().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = header(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp::from_micros(date.timestamp_micros()).since(now))
}
