//! What the handlers share.

use std::{fmt, sync::Arc, time::Duration};

use axum::extract::FromRef;
use muster_control::Spawner;
use muster_shared::{
    ids::TeamId,
    store::Store,
    time::{Clock, Random},
};

/// Renders the metrics of this process in the Prometheus text format.
pub type MetricsRender = Arc<dyn Fn() -> String + Send + Sync>;

/// What one request may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// A request body must have arrived within this time.
    pub body_timeout: Duration,
    /// An answer must be ready within this time, the reading of the body included.
    pub answer_timeout: Duration,
    /// After the shutdown signal, requests in progress may take this long.
    pub shutdown_grace: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 * 1024 * 1024,
            body_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(120),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// Everything that the API is made of; the composition root fills it. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// For reading.
    pub store: Arc<dyn Store>,
    /// For everything that changes something.
    pub spawner: Spawner,
    /// For request ids.
    pub clock: Arc<dyn Clock>,
    /// For request ids.
    pub random: Arc<dyn Random>,
    /// Behind `GET /metrics`.
    pub metrics: MetricsRender,
    /// The W3C trace context of the current tracing span; none when nothing is traced.
    pub trace_context: fn() -> Option<String>,
    /// Makes a span the child of a W3C trace context that a client sent.
    pub set_parent: fn(&tracing::Span, &str),
    /// Bounds.
    pub limits: ApiLimits,
}

impl ApiState {
    /// Who asks. Until callers are known, everything belongs to one team.
    pub(crate) const fn team(&self) -> TeamId {
        TeamId::DEFAULT
    }
}

/// What health and metrics need; workers have it too.
#[derive(Clone)]
pub struct HealthState {
    /// For `GET /readyz`.
    pub store: Arc<dyn Store>,
    /// Behind `GET /metrics`.
    pub metrics: MetricsRender,
}

impl FromRef<ApiState> for HealthState {
    fn from_ref(state: &ApiState) -> Self {
        Self { store: Arc::clone(&state.store), metrics: Arc::clone(&state.metrics) }
    }
}

impl fmt::Debug for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthState").finish_non_exhaustive()
    }
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").field("limits", &self.limits).finish_non_exhaustive()
    }
}
