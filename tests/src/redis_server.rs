//! A Redis of the test's own, which it may flush, stop and start again.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::{Process, until};

/// A private server on a free port.
pub struct RedisServer {
    port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts one; its files are in `folder`.
    pub async fn start(folder: PathBuf) -> anyhow::Result<Self> {
        let mut server = Self { port: crate::fleet::free_port()?, folder, process: None };
        server.restart().await?;
        Ok(server)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Stops it at once; everything in it is lost.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it, empty, on the same port.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop();
        let program = std::env::var("MUSTER_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let port = self.port.to_string();
        let args = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        self.process = Some(Process::start(program.as_ref(), &args, &[], &self.folder, "redis")?);
        until("redis to answer", || async {
            let mut connection = self.connection().await?;
            redis::cmd("PING").query_async::<String>(&mut connection).await.map(Some).context("ping")
        })
        .await?;
        Ok(())
    }

    /// Deletes everything in it.
    pub async fn flush_all(&self) -> anyhow::Result<()> {
        redis::cmd("FLUSHALL").query_async::<()>(&mut self.connection().await?).await.context("flushall")
    }

    async fn connection(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await.context("connect")
    }
}
