//! The HTTP API of the fleet (axum, OpenAPI 3.1).
//!
//! Purpose: turn requests into calls of the [`Spawner`](muster_control::Spawner) and of the store's reading
//! traits, and turn what comes back into JSON, or into a problem (RFC 9457) with a stable code.
//! It owns no data, keeps no state between requests, and never calls a model, a tool or a database itself.
//! An answer with a 2xx status to a write is sent after its commit.

mod agents;
mod extract;
mod headers;
mod instances;
mod layers;
mod ops;
mod problem;
mod router;
mod runs;
mod serve;
mod spawn;
mod state;

pub use problem::Code;
pub use router::{health_router, openapi_json, router};
pub use serve::{serve, serve_router};
pub use state::{ApiLimits, ApiState, HealthState, MetricsRender};
