//! A real fleet: processes of the `muster` binary, spoken to over HTTP, as any user would.

mod client;
mod process;
mod script;

use std::{net::TcpListener, path::Path, time::Duration};

use anyhow::Context as _;
use muster_shared::{
    ids::uuid_v7,
    time::{SystemClock, SystemRandom},
};
use tempfile::TempDir;
use tokio::time::Instant;

use self::{client::Client, process::Process};
use crate::{report::say, workload::Workload};

/// Slots of the one worker.
const CONCURRENCY: u32 = 2000;

/// A fleet is ready within this time, or not at all.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the fleet stands on.
pub(crate) enum Kind<'a> {
    /// API and worker processes over Postgres and Redis.
    Servers {
        /// An empty database.
        database: &'a str,
        /// The Redis server.
        redis: &'a str,
    },
    /// `muster dev`: one process over SQLite.
    Embedded,
}

/// Running processes, and the templates of the workload in them.
pub(crate) struct Fleet {
    // In the order of dropping: processes before their folder.
    processes: Vec<Process>,
    client: Client,
    workload: Workload,
    #[expect(dead_code, reason = "held, so that script, data and logs live as long as the processes")]
    folder: TempDir,
}

impl Fleet {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(muster: &Path, workload: Workload, kind: Kind<'_>) -> anyhow::Result<Self> {
        anyhow::ensure!(
            muster.is_file(),
            "there is no {}: build it (cargo build --release -p muster-cli) or name it with --muster",
            muster.display()
        );
        let folder = tempfile::Builder::new().prefix("muster-bench.").tempdir().context("a temporary folder")?;
        let script = folder.path().join("script.yaml");
        std::fs::write(&script, script::text(workload)).context("writing the script")?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut environment = vec![("MUSTER_SCRIPT", script.display().to_string())];
        let commands: Vec<(&str, Vec<String>)> = match kind {
            Kind::Servers { database, redis } => {
                environment.push(("MUSTER_DATABASE_URL", database.to_owned()));
                environment.push(("MUSTER_REDIS_URL", redis.to_owned()));
                let prefix = format!("bench-{}", uuid_v7(&SystemClock, &SystemRandom).simple());
                environment.push(("MUSTER_REDIS_PREFIX", prefix));
                Process::start(muster, "migrate", &["migrate".to_owned()], &environment, folder.path())?.finish().await?;
                vec![
                    ("api", vec!["api".to_owned(), format!("--listen={listen}")]),
                    ("worker", vec!["worker".to_owned(), format!("--concurrency={CONCURRENCY}")]),
                ]
            }
            Kind::Embedded => {
                let data = folder.path().join("data").display().to_string();
                vec![("dev", vec!["dev".to_owned(), format!("--data={data}"), format!("--listen={listen}")])]
            }
        };
        let start = |(name, arguments): &(&'static str, Vec<String>)| Process::start(muster, name, arguments, &environment, folder.path());
        let processes = commands.iter().map(start).collect::<anyhow::Result<_>>()?;
        let client = Client::new(&format!("http://{listen}"))?;
        let mut fleet = Self { processes, client, workload, folder };
        let ready = fleet.prepare().await;
        if let Err(error) = ready {
            return Err(fleet.stop::<()>(Err(error)).await.err().context("the fleet did not start and gave no reason")?);
        }
        Ok(fleet)
    }

    async fn prepare(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !self.client.is_ready().await {
            for process in &mut self.processes {
                process.must_run()?;
            }
            anyhow::ensure!(Instant::now() < deadline, "the fleet was not ready within {} s", START_LIMIT.as_secs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for template in script::templates(self.workload) {
            self.client.put_template(&template).await?;
        }
        Ok(())
    }

    /// A small run first: connections, prepared statements, caches.
    pub(crate) async fn warm_up(&mut self) -> anyhow::Result<()> {
        self.run(Workload { n: self.workload.n.min(50), ..self.workload }).await.context("the warm-up run")?;
        Ok(())
    }

    /// Runs the workload once; the time from the spawn request until the root result has been read.
    pub(crate) async fn measure(&mut self) -> anyhow::Result<Duration> {
        self.run(self.workload).await
    }

    async fn run(&mut self, workload: Workload) -> anyhow::Result<Duration> {
        let request = client::spawn_body(workload)?;
        let start = Instant::now();
        let run = self.client.spawn(request).await?;
        let result = tokio::select! {
            result = self.client.result(run) => result?,
            ended = first_end(&mut self.processes) => return Err(ended),
        };
        let elapsed = start.elapsed();
        // Outside the measured time: the figure counts only if the work was done.
        self.client.check(run, &result, workload).await?;
        Ok(elapsed)
    }

    /// Stops every process; when something failed, says what they logged last.
    pub(crate) async fn stop<T>(self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        for process in self.processes {
            let log = process.stop().await;
            if outcome.is_err() {
                say(&log);
            }
        }
        outcome
    }
}

/// Waits until a process ends, which none should.
async fn first_end(processes: &mut [Process]) -> anyhow::Error {
    loop {
        for process in &mut *processes {
            if let Err(error) = process.must_run() {
                return error;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A port that is free now. Another process may take it before the API does; then the API says so.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("a free port")?.port())
}
