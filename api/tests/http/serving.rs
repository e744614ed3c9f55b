//! Listening on a real socket, and stopping.

use std::{sync::Arc, time::Duration};

use muster_api::{ApiLimits, ApiState, HealthState};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{broken::Broken, support};

/// No test waits that long; it only keeps a defect from hanging the suite.
const HANG: Duration = Duration::from_secs(30);

fn state(store: Broken, grace: Duration) -> ApiState {
    support::state(Arc::new(store), ApiLimits { shutdown_grace: grace, ..ApiLimits::default() })
}

async fn connect(listener: &TcpListener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
}

#[tokio::test]
async fn after_the_signal_requests_are_finished_and_no_connection_is_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = connect(&listener).await;
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(muster_api::serve(listener, state(Broken::Away, HANG), shutdown.clone()));
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    shutdown.cancel();
    tokio::time::timeout(HANG, server).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn requests_that_outlast_the_grace_period_do_not_keep_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = connect(&listener).await;
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(muster_api::serve(listener, state(Broken::Hangs, Duration::from_millis(20)), shutdown.clone()));
    client.write_all(b"GET /v1/demand HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    shutdown.cancel();
    tokio::time::timeout(HANG, server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_process_that_serves_only_health_has_no_other_route() {
    let full = state(Broken::Away, HANG);
    let router = muster_api::health_router(HealthState { store: full.store, metrics: full.metrics });
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/metrics", 200), ("/v1/runs", 404)] {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status().as_u16(), status, "{path}");
    }
}
