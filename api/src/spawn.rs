//! Spawning: one request, one run.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_control::SpawnMeta;
use muster_shared::{
    catalog::TemplateSelector,
    hash::Hash32,
    wire::{SpawnRequest, SpawnResponse},
};

use crate::{
    extract::{JsonBody, PathAgent},
    headers::{IDEMPOTENCY_REPLAYED, idempotency_key, traceparent},
    problem::{ApiError, Code, Problems},
    state::ApiState,
};

/// Spawns one instance for each task, and reducers over them if asked.
///
/// The answer comes after the commit: what it names is never lost. With an `Idempotency-Key`, the same
/// request again gets the same answer, and `Idempotency-Replayed: true`.
#[utoipa::path(
    post, path = "/v1/agents/{id}/spawn", tag = "agents", operation_id = "spawn",
    params(
        ("id" = String, Path, description = "`researcher`, `researcher@3` or `tpl_…`; without a version, the active one"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; the run's spans continue it"),
    ),
    request_body = SpawnRequest,
    responses(
        (status = 202, description = "Committed; the work goes on", body = SpawnResponse, headers(("Location" = String), ("Idempotency-Replayed" = String))),
        Problems,
    )
)]
pub(crate) async fn spawn(
    State(state): State<ApiState>,
    PathAgent(selector): PathAgent,
    headers: HeaderMap,
    JsonBody(request): JsonBody<SpawnRequest>,
) -> Result<Response, ApiError> {
    let idempotency = idempotency_key(&headers)?.map(|key| (key, fingerprint(&selector, &request)));
    let traceparent = continued(traceparent(&headers), (state.trace_context)());
    let spawned = state
        .spawner
        .spawn(state.team(), &selector, request, SpawnMeta { idempotency, traceparent })
        .await
        .map_err(|error| ApiError::refused(Code::SpawnInvalid, error))?;
    let body = SpawnResponse { run_id: spawned.run, instance_id: spawned.instance, instances: spawned.instances };
    let location = format!("/v1/runs/{}", spawned.run);
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response();
    if spawned.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The trace context of the run: this request's own span when it continues the client's trace, or when the
/// client has none; else what the client gave.
fn continued(given: Option<String>, own: Option<String>) -> Option<String> {
    let trace = |context: &str| context.split('-').nth(1).map(str::to_owned);
    match (given, own) {
        (Some(given), Some(own)) if trace(&given) == trace(&own) => Some(own),
        (Some(given), _) => Some(given),
        (None, own) => own,
    }
}

/// What makes two requests the same: the template as it was named, and the content of the body, whatever its
/// white space and the order of its fields.
fn fingerprint(selector: &TemplateSelector, request: &SpawnRequest) -> Hash32 {
    let body = serde_json::to_string(request).expect("requests hold only strings, numbers and JSON values");
    Hash32::of(format!("spawn {selector}\n{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(selector: &str, body: &str) -> Hash32 {
        fingerprint(&selector.parse().unwrap(), &serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_run_stays_in_the_trace_of_its_client() {
        let context = |trace: &str, span: &str| Some(format!("00-{trace}-{span}-01"));
        assert_eq!(continued(context("a", "1"), context("a", "2")), context("a", "2"));
        assert_eq!(continued(context("a", "1"), context("b", "2")), context("a", "1"));
        assert_eq!(continued(context("a", "1"), None), context("a", "1"));
        assert_eq!(continued(None, context("b", "2")), context("b", "2"));
        assert_eq!(continued(None, None), None);
    }

    #[test]
    fn a_request_is_the_same_whatever_its_white_space_and_order() {
        let one = hash("a", r#"{"task":"x","context":{"p":1,"q":2}}"#);
        assert_eq!(one, hash("a", r#"{ "context": {"q": 2, "p": 1}, "task": "x" }"#));
        assert_ne!(one, hash("b", r#"{"task":"x","context":{"p":1,"q":2}}"#));
        assert_ne!(one, hash("a", r#"{"task":"x","context":{"p":1,"q":3}}"#));
    }
}
