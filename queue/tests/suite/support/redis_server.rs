//! A private Redis, for tests that flush, restart or break it.

use std::{net::TcpListener, process::Stdio};

use muster_queue::RedisQueue;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::limited;

pub(crate) struct RedisServer {
    dir: TempDir,
    port: u16,
    child: Child,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        for _ in 0..10 {
            let port = free_port();
            if let Some(child) = spawn(&dir, port).await {
                return Self { dir, port, child };
            }
        }
        panic!("redis-server did not start on any of ten ports");
    }

    /// Ends it as a crash does. What it held is lost.
    pub(crate) async fn kill(&mut self) {
        limited(self.child.kill()).await.expect("it can be killed");
    }

    /// Starts it again on its port.
    pub(crate) async fn start_again(&mut self) {
        for _ in 0..100 {
            // Another process may have the port for a moment.
            if let Some(child) = spawn(&self.dir, self.port).await {
                self.child = child;
                return;
            }
        }
        panic!("redis-server did not start again on port {}", self.port);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn queue(&self) -> RedisQueue {
        queue_at(self.port)
    }

    /// Says a command over a connection of its own.
    pub(crate) async fn say<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let client = redis::Client::open(url(self.port)).expect("a good URL");
        let mut connection = limited(client.get_multiplexed_async_connection()).await.expect("it accepts");
        let mut words = redis::cmd(command[0]);
        words.arg(&command[1..]);
        limited(words.query_async(&mut connection)).await.expect("it answers")
    }

    /// The ids of the connections that block in `command`, once there is one.
    pub(crate) async fn blocked_in(&self, command: &str) -> Vec<String> {
        limited(async {
            loop {
                let clients: String = self.say(&["CLIENT", "LIST"]).await;
                let wanted = format!("cmd={command}");
                let blocked: Vec<String> = clients
                    .lines()
                    .filter(|line| line.split(' ').any(|field| field == wanted) && line.contains("flags=b"))
                    .filter_map(|line| line.strip_prefix("id=")?.split(' ').next().map(str::to_owned))
                    .collect();
                if !blocked.is_empty() {
                    return blocked;
                }
            }
        })
        .await
    }
}

pub(crate) fn queue_at(port: u16) -> RedisQueue {
    RedisQueue::connect(&url(port), "test").expect("a good URL and prefix")
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// Free for now; the caller copes with somebody who is quicker.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// `None` when it ended before it was ready, as it does when the port is taken.
async fn spawn(dir: &TempDir, port: u16) -> Option<Child> {
    let program = std::env::var_os("MUSTER_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let mut child = Command::new(&program)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error} (install redis-server, or set MUSTER_TEST_REDIS_SERVER)", program.display()));
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    while let Some(line) = limited(lines.next_line()).await.expect("its log is text") {
        if line.contains("Ready to accept connections") {
            // Read on, or it would stop at a full pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Some(child);
        }
    }
    limited(child.wait()).await.expect("it has ended");
    None
}
