//! Listening, and stopping in order.

use std::{future::IntoFuture as _, io, time::Duration};

use axum::{Router, serve::ListenerExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{router::router, state::ApiState};

/// Serves until `shutdown`: then it accepts nothing more, and lets requests in progress finish within
/// [`crate::ApiLimits::shutdown_grace`]. What is still open after that is given up, and said.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: CancellationToken) -> io::Result<()> {
    let grace = state.limits.shutdown_grace;
    serve_router(listener, router(state), grace, shutdown).await
}

/// As [`serve`], for any router.
pub async fn serve_router(listener: TcpListener, router: Router, grace: Duration, shutdown: CancellationToken) -> io::Result<()> {
    // Answers are small: waiting to fill a packet only costs time.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
    });
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned()).into_future();
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        ended = server => ended,
        () = too_late => {
            tracing::warn!(grace_ms = grace.as_millis(), "requests were still open after the grace period");
            Ok(())
        }
    }
}
