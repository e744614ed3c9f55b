//! Templates: store, list, show, activate.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_shared::{
    catalog::{TemplateSelector, TemplateVersion},
    error::{Fault, Faults},
    template::Template,
    wire::{AgentView, Listing},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    extract::{Body, JsonBody, PathAgent},
    headers::idempotency_key,
    problem::{ApiError, Code, Problems},
    state::ApiState,
};

/// A template with what is to be done with it; the template alone is accepted too.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the second form of the body in the OpenAPI document; `split` reads it")]
pub(crate) struct PutAgent {
    /// The template.
    template: Template,
    /// Whether new instances use it. Default true.
    activate: Option<bool>,
}

/// Stores a template version.
///
/// Naturally idempotent: the same content again answers the version that is there, with status 200. An
/// `Idempotency-Key` is accepted and adds nothing.
#[utoipa::path(
    post, path = "/v1/agents", tag = "agents", operation_id = "putAgent",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters")),
    request_body(content = PutAgent, description = "`{\"template\": …, \"activate\": bool}`, or the template itself"),
    responses(
        (status = 201, description = "A new version", body = AgentView, headers(("Location" = String))),
        (status = 200, description = "The newest version has this content already", body = AgentView, headers(("Location" = String))),
        Problems,
    )
)]
pub(crate) async fn put(State(state): State<ApiState>, headers: HeaderMap, JsonBody(body): JsonBody<Value>) -> Result<Response, ApiError> {
    idempotency_key(&headers)?;
    let (template, activate) = split(body).map_err(|faults| ApiError::faulty(Code::TemplateInvalid, faults))?;
    // By the database's clock, like `created_at`: what was made since is new.
    let before = state.store.now().await?;
    let version = state
        .spawner
        .put_template(state.team(), template, activate)
        .await
        .map_err(|error| ApiError::refused(Code::TemplateInvalid, error))?;
    let status = if version.created_at >= before { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/v1/agents/{}", version.reference());
    Ok((status, [(header::LOCATION, location)], Json(AgentView::from(version))).into_response())
}

/// The template and whether to activate it, from either form of the body.
fn split(mut body: Value) -> Result<(Value, bool), Faults> {
    let Some(fields) = body.as_object_mut() else { return Ok((body, true)) };
    let Some(template) = fields.remove("template") else { return Ok((body, true)) };
    let mut faults = Vec::new();
    let activate = match fields.remove("activate") {
        None => true,
        Some(Value::Bool(activate)) => activate,
        Some(_) => {
            faults.push(Fault::new("/activate", "must be true or false"));
            true
        }
    };
    faults.extend(fields.keys().map(|key| Fault::new(format!("/{key}"), "is unknown; beside `template` there is only `activate`")));
    Faults::check(faults).map(|()| (template, activate))
}

/// Lists the templates: the active version of each, or the newest where none is active.
#[utoipa::path(
    get, path = "/v1/agents", tag = "agents", operation_id = "listAgents",
    responses((status = 200, description = "By name", body = Listing<AgentView>), Problems)
)]
pub(crate) async fn list(State(state): State<ApiState>) -> Result<Json<Listing<AgentView>>, ApiError> {
    let versions = state.store.templates(state.team()).await?;
    Ok(Json(Listing { items: versions.into_iter().map(AgentView::from).collect(), next: None }))
}

/// The JSON Schema of a template, for forms and editors.
#[utoipa::path(
    get, path = "/v1/agents/schema", tag = "agents", operation_id = "agentSchema",
    responses((status = 200, description = "JSON Schema, draft 2020-12", body = Value, content_type = "application/schema+json"), Problems)
)]
pub(crate) async fn schema() -> Response {
    ([(header::CONTENT_TYPE, "application/schema+json")], Template::json_schema().to_string()).into_response()
}

/// Shows a template version.
#[utoipa::path(
    get, path = "/v1/agents/{id}", tag = "agents", operation_id = "showAgent",
    params(("id" = String, Path, description = "`researcher`, `researcher@3` or `tpl_…`; without a version, the active one")),
    responses((status = 200, description = "The version", body = AgentView), Problems)
)]
pub(crate) async fn show(State(state): State<ApiState>, PathAgent(selector): PathAgent) -> Result<Json<AgentView>, ApiError> {
    let version = state.store.template(state.team(), &selector).await?;
    Ok(Json(version.into()))
}

/// Which version shall be active.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Activate {
    /// The version that new instances shall use.
    version: i32,
}

impl Body for Activate {
    const INVALID: Code = Code::BodyInvalid;
}

/// Makes a version the one that new instances use. Running instances keep theirs.
#[utoipa::path(
    post, path = "/v1/agents/{id}/activate", tag = "agents", operation_id = "activateAgent",
    params(("id" = String, Path, description = "`researcher` or `tpl_…`")),
    request_body = Activate,
    responses((status = 200, description = "It is active", body = AgentView), Problems)
)]
pub(crate) async fn activate(
    State(state): State<ApiState>,
    PathAgent(selector): PathAgent,
    JsonBody(Activate { version }): JsonBody<Activate>,
) -> Result<Json<AgentView>, ApiError> {
    if selector.version.is_some_and(|named| named != version) {
        return Err(ApiError::new(Code::BadId, "the path names another version than the body; name the template without a version"));
    }
    let wanted = TemplateSelector { which: selector.which, version: Some(version) };
    let TemplateVersion { id, .. } = state.store.template(state.team(), &wanted).await?;
    let activated = state.store.activate(state.team(), id, version).await?;
    Ok(Json(activated.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_may_come_alone_or_with_what_to_do_with_it() {
        assert_eq!(split(json!({"name": "a"})), Ok((json!({"name": "a"}), true)));
        assert_eq!(split(json!({"template": {"name": "a"}, "activate": false})), Ok((json!({"name": "a"}), false)));
        assert_eq!(split(json!([1])), Ok((json!([1]), true)));
    }

    #[test]
    fn what_stands_beside_the_template_is_checked() {
        let faults = split(json!({"template": {}, "activate": 1, "name": "a"})).expect_err("two faults");
        let pointers: Vec<&str> = faults.0.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/activate", "/name"]);
    }
}
