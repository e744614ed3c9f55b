//! For those who operate the fleet: demand, health, metrics, the page of errors.

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use muster_shared::wire::Demand;
use serde::Serialize;

use crate::{
    problem::{ApiError, Problems},
    state::{ApiState, HealthState},
};

/// The text that explains every code.
const ERRORS: &str = include_str!("../../docs/errors.md");

/// What an autoscaler needs.
#[utoipa::path(
    get, path = "/v1/demand", tag = "operations", operation_id = "demand",
    responses((status = 200, description = "Work and the slots for it, across the fleet", body = Demand), Problems)
)]
pub(crate) async fn demand(State(state): State<ApiState>) -> Result<Json<Demand>, ApiError> {
    Ok(Json(state.store.demand().await?))
}

/// A word about health.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// `ok` or `ready`.
    status: &'static str,
}

/// Whether the process is alive. It asks nobody else.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = 200, description = "Alive", body = Health), Problems)
)]
pub(crate) async fn alive() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether requests can be served: the database is there, and its schema is known.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz",
    responses((status = 200, description = "Ready", body = Health), Problems)
)]
pub(crate) async fn ready(State(state): State<HealthState>) -> Result<Json<Health>, ApiError> {
    state.store.check().await?;
    Ok(Json(Health { status: "ready" }))
}

/// The metrics of this process, in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain"), Problems)
)]
pub(crate) async fn metrics(State(state): State<HealthState>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)()).into_response()
}

/// Every error code, explained: where the `type` of a problem leads.
#[utoipa::path(
    get, path = "/docs/errors", tag = "operations", operation_id = "errors",
    responses((status = 200, description = "Markdown", body = String, content_type = "text/markdown"), Problems)
)]
pub(crate) async fn errors() -> Response {
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], ERRORS).into_response()
}
