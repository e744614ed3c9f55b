//! What surrounds every request: its id, its span and metrics, its time limit, the net below panics.

use std::any::Any;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use muster_shared::ids::uuid_v7;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    headers::{REQUEST_ID, request_id, traceparent},
    problem::{ApiError, Code},
    state::ApiState,
};

/// Gives the request an id, unless it brings a usable one, and the answer the same; sets the security headers.
pub(crate) async fn identify(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let id = match request_id(request.headers()) {
        Some(given) => given.to_owned(),
        None => format!("req_{}", uuid_v7(&*state.clock, &*state.random).simple()),
    };
    let id = HeaderValue::try_from(id).expect("request ids are visible ASCII");
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The pattern of the route (`/v1/runs/{id}`), so that neither metrics nor spans grow with the ids.
fn route(request: &Request) -> String {
    request.extensions().get::<MatchedPath>().map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned())
}

/// The span of a request. No headers, query or body: they may hold secrets.
/// It continues the trace of the client, if the client has one.
pub(crate) fn span(request: &Request, set_parent: fn(&Span, &str)) -> Span {
    let span = tracing::info_span!(
        "http_request",
        otel.kind = "server",
        method = method(request.method()),
        route = route(request),
        path = request.uri().path(),
        request_id = request_id(request.headers()).unwrap_or_default(),
    );
    if let Some(given) = traceparent(request.headers()) {
        set_parent(&span, &given);
    }
    span
}

/// A method of HTTP; whatever else a client invents counts as one.
fn method(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    const NAMES: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    KNOWN.iter().position(|known| known == method).map_or("OTHER", |at| NAMES[at])
}

/// Counts requests and their times.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    let (method, route, began) = (method(request.method()), route(&request), Instant::now());
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics::counter!("muster_http_requests_total", "method" => method, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!("muster_http_request_seconds", "method" => method, "route" => route).record(began.elapsed());
    response
}

/// Answers in place of a handler that takes too long. Its future is dropped: a transaction in it is rolled
/// back, unless its commit was already on its way.
pub(crate) async fn limit_time(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(state.limits.answer_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            tracing::warn!("a request was given up");
            ApiError::new(Code::AnswerTimeout, "Try again; a spawn that carries an Idempotency-Key is made once at most.").into_response()
        }
    }
}

/// The answer in place of a handler that panicked.
#[expect(clippy::needless_pass_by_value, reason = "CatchPanic wants a function of a box")]
pub(crate) fn after_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(&format_args!("a handler panicked: {}", said.unwrap_or("it did not say why"))).into_response()
}

/// For paths that are not there.
pub(crate) async fn no_route(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(Code::RouteNotFound, format!("there is no `{path}`; /v1/openapi.json lists what there is"))
}

/// For methods that a path has not. The router adds the `Allow` header.
pub(crate) async fn no_method(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::new(Code::MethodNotAllowed, format!("`{path}` has no such method; the Allow header lists those that it has"))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::to_bytes, http::StatusCode, routing::get};
    use tower::ServiceExt as _;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_handler_becomes_a_problem_that_reveals_nothing() {
        async fn explode() -> &'static str {
            panic!("the secret is 42")
        }
        let app = Router::new().route("/", get(explode)).layer(CatchPanicLayer::custom(after_panic));
        let response = app.oneshot(Request::new(axum::body::Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], crate::problem::PROBLEM_JSON);
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.contains("\"internal\"") && !text.contains("42"), "{text}");
    }
}
