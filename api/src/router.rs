//! Every route, the OpenAPI document made from the same list, and the layers around them.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    http::header,
    middleware,
    routing::get,
};
use muster_shared::wire::Problem;
use tower_http::{
    catch_panic::CatchPanicLayer,
    trace::{DefaultOnFailure, DefaultOnResponse, TraceLayer},
};
use tracing::Level;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    agents, instances, layers, ops, runs, spawn,
    state::{ApiState, HealthState},
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Muster", description = "A policy-governed fleet of agents.", version = env!("CARGO_PKG_VERSION")),
    components(schemas(Problem)),
    tags(
        (name = "agents", description = "Templates: few, audited, versioned"),
        (name = "runs", description = "One request and everything that it caused"),
        (name = "instances", description = "Single spawned agents"),
        (name = "operations", description = "Health, scaling, documentation"),
    )
)]
struct Document;

fn documented() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(agents::put, agents::list))
        .routes(routes!(agents::schema))
        .routes(routes!(agents::show))
        .routes(routes!(agents::activate))
        .routes(routes!(spawn::spawn))
        .routes(routes!(instances::show))
        .routes(routes!(instances::events))
        .routes(routes!(instances::cancel))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::instances))
        .routes(routes!(runs::result))
        .routes(routes!(runs::cancel))
        .routes(routes!(ops::demand))
        .routes(routes!(ops::alive))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::metrics))
        .routes(routes!(ops::errors))
}

/// The OpenAPI 3.1 document that `GET /v1/openapi.json` answers.
pub fn openapi_json() -> String {
    let (_, document) = documented().split_for_parts();
    document.to_json().expect("the document holds only strings, numbers and maps")
}

/// The whole API as an axum router.
pub fn router(state: ApiState) -> Router {
    let set_parent = state.set_parent;
    let document = openapi_json();
    let serve_document = move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], document.clone()));
    let (router, _) = documented().split_for_parts();
    router
        .route("/v1/openapi.json", get(serve_document))
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        // From the innermost to the outermost.
        .layer(DefaultBodyLimit::max(state.limits.max_body_bytes))
        .layer(middleware::from_fn_with_state(state.clone(), layers::limit_time))
        .layer(CatchPanicLayer::custom(layers::after_panic))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(move |request: &Request| layers::span(request, set_parent))
                .on_response(DefaultOnResponse::new().level(Level::DEBUG))
                .on_failure(DefaultOnFailure::new().level(Level::WARN)),
        )
        .layer(middleware::from_fn(layers::measure))
        .layer(middleware::from_fn_with_state(state.clone(), layers::identify))
        .with_state(state)
}

/// Only health and metrics, for processes that serve nothing else: `/healthz`, `/readyz`, `/metrics`.
pub fn health_router(state: HealthState) -> Router {
    Router::new()
        .route("/healthz", get(ops::alive))
        .route("/readyz", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        .layer(CatchPanicLayer::custom(layers::after_panic))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn the_openapi_document_is_of_version_3_1_and_every_operation_names_the_problem() {
        let document: Value = serde_json::from_str(&super::openapi_json()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["operationId"].is_string(), "{method} {path}");
                let schema = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{method} {path}");
            }
        }
    }

    #[test]
    fn the_openapi_document_has_unique_operation_ids_and_no_dangling_reference() {
        let text = super::openapi_json();
        let document: Value = serde_json::from_str(&text).unwrap();
        let mut ids: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|item| item.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
        for reference in text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(reference).is_some(), "nothing at {reference}");
        }
    }
}
