//! What a worker answers to those who operate it: is it alive, is it ready, how does it do.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use muster_api::MetricsRender;
use muster_shared::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct OpsState {
    store: Arc<dyn Store>,
    render: MetricsRender,
    draining: CancellationToken,
}

impl OpsState {
    /// Of this process; it is not ready once it drains.
    pub(crate) fn new(store: Arc<dyn Store>, render: MetricsRender, draining: CancellationToken) -> Self {
        Self { store, render, draining }
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until `over`: through the whole drain, so that it can be watched.
pub(crate) async fn serve(listener: TcpListener, state: OpsState, over: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "{\"status\":\"ok\"}"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state);
    tokio::select! {
        served = axum::serve(listener, router) => if let Err(error) = served {
            tracing::error!(%error, "health and metrics are no longer served");
        },
        () = over.cancelled() => {}
    }
}

async fn ready(State(state): State<OpsState>) -> Response {
    let word = if state.draining.is_cancelled() {
        Err("draining")
    } else {
        // The reason may name hosts and users: it is for the log.
        state.store.check().await.map_err(|error| {
            tracing::warn!(%error, "not ready");
            "the database is away, or has another schema"
        })
    };
    match word {
        Ok(()) => (StatusCode::OK, "{\"status\":\"ready\"}").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{{\"status\":\"not ready\",\"why\":\"{why}\"}}")).into_response(),
    }
}

async fn metrics(State(state): State<OpsState>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.render)()).into_response()
}
