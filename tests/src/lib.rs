//! Harness for tests with real processes: a fleet of `muster` processes over a database of its own in the
//! private Postgres, and a private Redis. `make test` (or `scripts/with-servers`) provides the servers.

mod client;
mod dev;
mod fleet;
mod postgres_server;
mod process;
mod redis_server;
mod said;

pub use client::Client;
pub use dev::{Dev, Home, checkout, copy_documents};
pub use fleet::{Fleet, FleetOptions};
pub use postgres_server::PostgresServer;
pub use process::Process;
pub use redis_server::RedisServer;
pub use said::Said;

use std::{future::Future, path::PathBuf, time::Duration};

/// No wait in a test is meant to be this long; it only keeps a hang from lasting for ever.
pub const HANG_LIMIT: Duration = Duration::from_secs(120);

/// The `muster` binary that was built beside the tests.
pub fn muster_binary() -> PathBuf {
    if let Ok(path) = std::env::var("MUSTER_TEST_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps");
    let binary = folder.join("muster");
    assert!(binary.exists(), "{} is missing: run through `make test`, or `cargo build -p muster-cli` first", binary.display());
    binary
}

/// The environment variable that `scripts/with-servers` sets.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run through `make test` or `scripts/with-servers`"))
}

/// Asks until the answer is there. The condition is polled, not slept for; the hang limit is generous.
pub async fn until<T, F: Future<Output = anyhow::Result<Option<T>>>>(what: &str, mut ask: impl FnMut() -> F) -> anyhow::Result<T> {
    let mut last = None;
    let waited = tokio::time::timeout(HANG_LIMIT, async {
        loop {
            match ask().await {
                Ok(Some(answer)) => return answer,
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.map_err(|_| anyhow::anyhow!("waited in vain for: {what} (last error: {last:?})"))
}
