//! A database or a Redis that is down at the start, or goes away later: it is said, and nothing is lost.

use anyhow::{Context as _, ensure};
use muster_tests::{Client, Fleet, FleetOptions, PostgresServer, Process, RedisServer, Said};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{SCRIPT, check_steps, run_file};

const LEAVES: usize = 60;

/// An API and a worker; the templates are stored.
async fn fleet(options: FleetOptions) -> anyhow::Result<(Fleet, Client, Vec<Process>)> {
    let fleet = Fleet::new(FleetOptions { script: Some(SCRIPT.to_owned()), ..options }).await?;
    let (api, client) = fleet.api().await?;
    let worker = fleet.worker(5)?;
    let file: Value = serde_json::from_str(&run_file(LEAVES))?;
    for template in file["templates"].as_array().context("templates")? {
        client.put_template(template).await?;
    }
    Ok((fleet, client, vec![api, worker]))
}

fn request() -> anyhow::Result<Value> {
    let file: Value = serde_json::from_str(&run_file(LEAVES))?;
    Ok(json!({ "tasks": file["tasks"], "reduce": file["reduce"] }))
}

async fn check(fleet: &Fleet, client: &Client, run: &str) -> anyhow::Result<()> {
    client.result(run).await?;
    check_steps(&client.fetch(&format!("/v1/runs/{run}")).await?, &client.instances(run).await?, LEAVES)?;
    let broken = fleet.broken_logs().await?;
    ensure!(broken.is_empty(), "broken logs: {broken:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_goes_away_in_the_middle_of_a_run_is_said_and_loses_nothing() -> anyhow::Result<()> {
    let postgres = PostgresServer::start()?;
    let (fleet, client, mut processes) = fleet(FleetOptions { postgres_url: Some(postgres.url()), ..FleetOptions::default() }).await?;
    let run = client.spawn("leaf", &request()?).await?;
    client.completed(&run, 5).await?;
    postgres.down()?;
    ensure!(client.get("/healthz").await?.0 == 200, "the process is alive");
    // The command that follows the run stays with it, across the outage.
    let watching = fleet.run(&["run", "watch", &run, "--url", client.base(), "-o", "json"])?;
    // At once, since each waits for a connection for a while.
    let (path, request, show) = (format!("/v1/runs/{run}"), request()?, ["run", "show", &run]);
    let (shown, read, ready, spawned, watches) = tokio::join!(
        fleet.muster(&client, &show),
        client.get(&path),
        client.get("/readyz"),
        client.post("/v1/agents/leaf/spawn", &request),
        watching.says("the server is away; the run is safe there"),
    );
    watches?;
    ensure!(shown?.refusal(3)?.contains("(database_unavailable)"));
    for (status, problem) in [read?, ready?, spawned?] {
        ensure!(status == 503 && problem["code"] == "database_unavailable", "{status} {problem}");
    }
    postgres.up()?;
    check(&fleet, &client, &run).await?;
    let watched = Said::by(watching).await?.json()?;
    ensure!(watched["status"] == "completed", "{watched}");
    for process in &mut processes {
        process.signal(Signal::SIGTERM);
        let status = process.ended().await?;
        ensure!(status.success(), "{status}: {}", process.stderr());
    }
    Ok(())
}

#[tokio::test]
async fn a_redis_that_goes_away_delays_work_and_loses_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut redis = RedisServer::start(folder.path().to_owned()).await?;
    let (fleet, client, _processes) = fleet(FleetOptions { redis_url: Some(redis.url()), ..FleetOptions::default() }).await?;
    let early = client.spawn("leaf", &request()?).await?;
    client.completed(&early, 5).await?;
    redis.stop();
    // The database is the truth: a spawn is acknowledged all the same.
    let late = client.spawn("leaf", &request()?).await?;
    ensure!(client.get("/readyz").await?.0 == 200, "the API answers without Redis");
    redis.restart().await?;
    check(&fleet, &client, &early).await?;
    check(&fleet, &client, &late).await
}

#[tokio::test]
async fn a_database_that_is_down_at_the_start_is_waited_for_with_its_real_cause() -> anyhow::Result<()> {
    let postgres = PostgresServer::start()?;
    let fleet = Fleet::new(FleetOptions { postgres_url: Some(postgres.url()), ..FleetOptions::default() }).await?;
    postgres.down()?;
    let mut waiting = Vec::new();
    for command in ["migrate", "api", "worker"] {
        let args: &[&str] = if command == "api" { &["api", "--listen", "127.0.0.1:0"] } else { &[command] };
        let process = fleet.run(args)?;
        process.says("waiting for the database at postgres://postgres@127.0.0.1:").await?;
        process.says("Connection refused").await?;
        waiting.push(process);
    }
    postgres.up()?;
    let [migrate, api, worker] = &mut waiting[..] else { anyhow::bail!("three processes") };
    ensure!(migrate.ended().await?.success(), "{}", migrate.stderr());
    api.says("listening on").await?;
    worker.says("working").await
}
