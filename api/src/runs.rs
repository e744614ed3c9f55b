//! Runs: status, instances, result, cancellation.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_shared::{
    ids::RunId,
    wire::{InstanceView, Listing, RunResult, RunStatus, RunView},
};

use crate::{
    extract::{OptionalBody, PageParams, Params, PathId},
    instances::Cancel,
    problem::{ApiError, Code, Problems},
    state::ApiState,
};

/// Lists the runs, newest first.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", operation_id = "listRuns",
    params(PageParams),
    responses((status = 200, description = "A page", body = Listing<RunView>), Problems)
)]
pub(crate) async fn list(State(state): State<ApiState>, Params(params): Params<PageParams>) -> Result<Json<Listing<RunView>>, ApiError> {
    Ok(Json(state.store.runs(state.team(), &params.page()?).await.map_err(ApiError::of_page)?))
}

/// Shows a run.
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs", operation_id = "showRun",
    params(("id" = String, Path, description = "`run_…`")),
    responses((status = 200, description = "How it stands", body = RunView), Problems)
)]
pub(crate) async fn show(State(state): State<ApiState>, PathId(id): PathId<RunId>) -> Result<Json<RunView>, ApiError> {
    Ok(Json(state.store.run(state.team(), id).await?))
}

/// Lists the instances of a run: leaves first, in order, then the levels of reducers.
#[utoipa::path(
    get, path = "/v1/runs/{id}/instances", tag = "runs", operation_id = "runInstances",
    params(("id" = String, Path, description = "`run_…`"), PageParams),
    responses((status = 200, description = "A page", body = Listing<InstanceView>), Problems)
)]
pub(crate) async fn instances(
    State(state): State<ApiState>,
    PathId(id): PathId<RunId>,
    Params(params): Params<PageParams>,
) -> Result<Json<Listing<InstanceView>>, ApiError> {
    let page = params.page()?;
    let listing = state.store.instances(state.team(), id, &page).await.map_err(ApiError::of_page)?;
    if listing.items.is_empty() {
        // An empty page of a run that exists, or 404.
        state.store.run(state.team(), id).await?;
    }
    Ok(Json(listing))
}

/// The answer of a run, with its provenance.
#[utoipa::path(
    get, path = "/v1/runs/{id}/result", tag = "runs", operation_id = "runResult",
    params(("id" = String, Path, description = "`run_…`")),
    responses(
        (status = 200, description = "The answer", body = RunResult),
        (status = 202, description = "It still runs; ask again", body = RunView, headers(("Retry-After" = u32))),
        Problems,
    )
)]
pub(crate) async fn result(State(state): State<ApiState>, PathId(id): PathId<RunId>) -> Result<Response, ApiError> {
    let run = state.store.run(state.team(), id).await?;
    match run.status {
        RunStatus::Running | RunStatus::Cancelling => Ok(still_running(run)),
        RunStatus::Failed => Err(ended_without_answer(Code::RunFailed, &run)),
        RunStatus::Cancelled => Err(ended_without_answer(Code::RunCancelled, &run)),
        RunStatus::Timeout => Err(ended_without_answer(Code::RunTimeout, &run)),
        RunStatus::Completed => match state.spawner.result(state.team(), id).await? {
            Some(result) => Ok(Json(result).into_response()),
            None => Err(ApiError::internal(&format_args!("{id} is completed, and has no result"))),
        },
    }
}

fn still_running(run: RunView) -> Response {
    (StatusCode::ACCEPTED, [(header::RETRY_AFTER, "1")], Json(run)).into_response()
}

fn ended_without_answer(code: Code, run: &RunView) -> ApiError {
    let why = run.error.as_ref().map_or_else(|| "no reason is recorded".to_owned(), ToString::to_string);
    ApiError::new(code, format!("{} has no answer: {why}", run.id))
}

/// Cancels a run and everything in it.
#[utoipa::path(
    post, path = "/v1/runs/{id}/cancel", tag = "runs", operation_id = "cancelRun",
    params(("id" = String, Path, description = "`run_…`")),
    request_body(content = Option<Cancel>, description = "May be left out"),
    responses((status = 202, description = "The cancellation is durable; `cancelling` until no worker holds an instance of it", body = RunView), Problems)
)]
pub(crate) async fn cancel(
    State(state): State<ApiState>,
    PathId(id): PathId<RunId>,
    OptionalBody(body): OptionalBody<Cancel>,
) -> Result<(StatusCode, Json<RunView>), ApiError> {
    let why = body.why()?;
    // Whose it is, before anything changes.
    state.store.run(state.team(), id).await?;
    state.spawner.cancel_run(id, &why).await?;
    Ok((StatusCode::ACCEPTED, Json(state.store.run(state.team(), id).await?)))
}
