//! API and worker processes over a database and a queue of their own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tempfile::TempDir;

use crate::{Client, Process, Said, muster_binary, server, until};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What differs between fleets.
#[derive(Debug, Clone, Default)]
pub struct FleetOptions {
    /// The script of `offline/script`.
    pub script: Option<String>,
    /// A Redis of the test's own instead of the shared one.
    pub redis_url: Option<String>,
    /// A Postgres of the test's own instead of the shared one: its maintenance database.
    pub postgres_url: Option<String>,
}

/// A database, a queue prefix and a folder; processes are started on them.
pub struct Fleet {
    folder: TempDir,
    postgres: String,
    database: String,
    env: Vec<(String, String)>,
    started: AtomicU32,
}

impl Fleet {
    /// Creates and migrates the database.
    pub async fn new(options: FleetOptions) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let database = format!("fleet_{}", uuid::Uuid::from_u128(u128::from(std::process::id()) << 64 | unique()).simple());
        let postgres = options.postgres_url.unwrap_or_else(|| server("MUSTER_TEST_POSTGRES_URL"));
        let mut admin = PgConnection::connect(&postgres).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut admin).await?;
        let env = [
            ("MUSTER_DATABASE_URL", database_url(&postgres, &database)),
            ("MUSTER_REDIS_URL", options.redis_url.unwrap_or_else(|| server("MUSTER_TEST_REDIS_URL"))),
            ("MUSTER_REDIS_PREFIX", database.clone()),
            ("MUSTER_LEASE_TTL_MS", "2000".to_owned()),
            ("MUSTER_HEARTBEAT_MS", "300".to_owned()),
            ("MUSTER_GRACE_MS", "5000".to_owned()),
            ("MUSTER_ARTIFACTS_READ", folder.path().display().to_string()),
            ("MUSTER_ARTIFACTS_WRITE", folder.path().join("written").display().to_string()),
        ];
        let mut env: Vec<(String, String)> = env.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if let Some(rules) = options.script {
            let script = folder.path().join("script.yaml");
            std::fs::write(&script, rules)?;
            env.push(("MUSTER_SCRIPT".to_owned(), script.display().to_string()));
        }
        let fleet = Self { folder, postgres, database, env, started: AtomicU32::new(0) };
        let status = fleet.run(&["migrate"])?.ended().await?;
        anyhow::ensure!(status.success(), "migrate: {status}");
        Ok(fleet)
    }

    /// The folder in which processes run, and where their output is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its database.
    pub fn database_url(&self) -> String {
        database_url(&self.postgres, &self.database)
    }

    /// Starts `muster ARGS`.
    pub fn run(&self, args: &[&str]) -> anyhow::Result<Process> {
        self.run_with(args, &[])
    }

    /// Starts `muster ARGS` with more environment.
    pub fn run_with(&self, args: &[&str], more: &[(&str, &str)]) -> anyhow::Result<Process> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut env = self.env.clone();
        env.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let label = format!("{number}-{}", args.first().unwrap_or(&"muster"));
        Process::start(&muster_binary(), args, &env, self.folder(), &label)
    }

    /// Starts an API process and waits until it is ready.
    pub async fn api(&self) -> anyhow::Result<(Process, Client)> {
        self.api_with(&[]).await
    }

    /// The same with more environment.
    pub async fn api_with(&self, more: &[(&str, &str)]) -> anyhow::Result<(Process, Client)> {
        let port = free_port()?;
        let process = self.run_with(&["api", "--listen", &format!("127.0.0.1:{port}")], more)?;
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        until("the API to be ready", || async { Ok((client.get("/readyz").await?.0 == 200).then_some(())) })
            .await
            .with_context(|| process.stderr())?;
        Ok((process, client))
    }

    /// Runs a client command against this fleet's API to its end, in the fleet's folder.
    pub async fn muster(&self, client: &Client, args: &[&str]) -> anyhow::Result<Said> {
        let mut all = args.to_vec();
        all.extend(["--url", client.base()]);
        Said::by(self.run(&all)?).await
    }

    /// Starts a worker process.
    pub fn worker(&self, concurrency: usize) -> anyhow::Result<Process> {
        self.run(&["worker", "--concurrency", &concurrency.to_string()])
    }

    /// Breaks of the log's rules (I3, I4) in the whole database; empty when all is well.
    pub async fn broken_logs(&self) -> anyhow::Result<Vec<String>> {
        let mut connection = PgConnection::connect(&self.database_url()).await?;
        let rows = sqlx::query(
            "-- broken_logs
             SELECT i.id::text AS id, i.last_seq, i.step, count(e.*) AS events, coalesce(max(e.seq), 0) AS last,
                    count(e.*) FILTER (WHERE e.type IN ('model', 'tool', 'retry')) AS steps,
                    count(e.*) FILTER (WHERE e.type IN ('completed', 'failed', 'timed_out', 'cancelled')) AS ends
             FROM agent_instances i LEFT JOIN agent_events e ON e.run_id = i.run_id AND e.instance_id = i.id
             GROUP BY i.id
             HAVING count(e.*) <> i.last_seq OR coalesce(max(e.seq), 0) <> i.last_seq
                 OR count(e.*) FILTER (WHERE e.type IN ('model', 'tool', 'retry')) <> i.step
                 OR count(e.*) FILTER (WHERE e.type IN ('completed', 'failed', 'timed_out', 'cancelled')) > 1",
        )
        .fetch_all(&mut connection)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<String, _>("id")?)).collect()
    }

    /// A path in the fleet's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn database_url(server: &str, database: &str) -> String {
    let (base, _) = server.rsplit_once('/').expect("a URL with a database");
    format!("{base}/{database}")
}

fn unique() -> u128 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}
