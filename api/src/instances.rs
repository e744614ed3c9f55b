//! Single instances: status, log, cancellation.

use axum::{Json, extract::State, http::StatusCode};
use muster_shared::{
    error::{Fault, Faults},
    ids::InstanceId,
    store::Entry,
    wire::{EventView, InstanceView, Listing},
};
use serde::Deserialize;

use crate::{
    extract::{Body, LogParams, OptionalBody, Params, PathId},
    problem::{ApiError, Code, Problems},
    state::ApiState,
};

/// A reason is at most this long, in characters.
const MAX_WHY_CHARS: usize = 1000;

/// Why something is cancelled.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cancel {
    /// For people: it is journaled and shown. At most 1000 characters.
    #[serde(default)]
    why: Option<String>,
}

impl Body for Cancel {
    const INVALID: Code = Code::BodyInvalid;
}

impl Cancel {
    /// The reason, within bounds.
    pub(crate) fn why(self) -> Result<String, ApiError> {
        let why = self.why.unwrap_or_else(|| "cancelled by request".to_owned());
        if why.chars().count() > MAX_WHY_CHARS || why.contains('\0') {
            let fault = Fault::new("/why", format!("may have {MAX_WHY_CHARS} characters at most, and no NUL"));
            return Err(ApiError::faulty(Code::BodyInvalid, Faults(vec![fault])));
        }
        Ok(why)
    }
}

/// Shows an instance.
#[utoipa::path(
    get, path = "/v1/instances/{id}", tag = "instances", operation_id = "showInstance",
    params(("id" = String, Path, description = "`ins_…`")),
    responses((status = 200, description = "How it stands", body = InstanceView), Problems)
)]
pub(crate) async fn show(State(state): State<ApiState>, PathId(id): PathId<InstanceId>) -> Result<Json<InstanceView>, ApiError> {
    Ok(Json(state.store.instance(state.team(), id).await?))
}

/// Reads the log of an instance, in order.
#[utoipa::path(
    get, path = "/v1/instances/{id}/events", tag = "instances", operation_id = "instanceEvents",
    params(("id" = String, Path, description = "`ins_…`"), LogParams),
    responses((status = 200, description = "Events; `next` is the `after` of the next page", body = Listing<EventView>), Problems)
)]
pub(crate) async fn events(
    State(state): State<ApiState>,
    PathId(id): PathId<InstanceId>,
    Params(params): Params<LogParams>,
) -> Result<Json<Listing<EventView>>, ApiError> {
    let (after, limit) = params.bounds()?;
    // One more than asked tells whether there is a next page.
    let mut stored = state.store.events(state.team(), id, after, limit + 1).await?;
    if stored.is_empty() {
        // An empty page of an instance that exists, or 404.
        state.store.instance(state.team(), id).await?;
    }
    let more = i64::try_from(stored.len()).is_ok_and(|found| found > limit);
    if more {
        stored.pop();
    }
    let next = stored.last().filter(|_| more).map(|last| last.seq.to_string());
    let items = stored.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(Json(Listing { items, next }))
}

fn view(stored: Entry) -> Result<EventView, ApiError> {
    let payload = serde_json::from_str(&stored.payload)
        .map_err(|error| ApiError::internal(&format_args!("agent_events.payload at seq {} is not JSON: {error}", stored.seq)))?;
    Ok(EventView { seq: stored.seq, epoch: stored.epoch, kind: stored.kind, payload, at: stored.at, hash: stored.hash })
}

/// Cancels an instance: at once when no worker holds it, else at its next step.
#[utoipa::path(
    post, path = "/v1/instances/{id}/cancel", tag = "instances", operation_id = "cancelInstance",
    params(("id" = String, Path, description = "`ins_…`")),
    request_body(content = Option<Cancel>, description = "May be left out"),
    responses((status = 202, description = "The cancellation is durable; this is how the instance stands", body = InstanceView), Problems)
)]
pub(crate) async fn cancel(
    State(state): State<ApiState>,
    PathId(id): PathId<InstanceId>,
    OptionalBody(body): OptionalBody<Cancel>,
) -> Result<(StatusCode, Json<InstanceView>), ApiError> {
    let why = body.why()?;
    // Whose it is, before anything changes.
    state.store.instance(state.team(), id).await?;
    state.spawner.cancel_instance(id, &why).await?;
    Ok((StatusCode::ACCEPTED, Json(state.store.instance(state.team(), id).await?)))
}
