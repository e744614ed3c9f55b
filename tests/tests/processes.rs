//! Real API and worker processes over Postgres and Redis, really killed.

use anyhow::{Context as _, ensure};
use muster_tests::{Client, Fleet, FleetOptions, Process, RedisServer};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Four model turns and one tool call; the reducers are `offline/extract` over what the leaves say.
const SCRIPT: &str = r#"
rules:
  - match: {agent: leaf, step: 1}
    answer: {tool_calls: [{name: calculator, arguments: {expression: "6 * 7"}}], delay_ms: 15}
  - match: {agent: leaf, step: "3-4"}
    answer: {text: "Working on {{name}}.", continue: true, delay_ms: 15}
  - match: {agent: leaf}
    answer: {text: "The finding of {{name}} is that {{task}} has the answer forty-two.", delay_ms: 15}
"#;

const LEAF_STEPS: i64 = 5;

async fn templates(client: &Client) -> anyhow::Result<()> {
    client
        .put_template(
            &json!({ "name": "leaf", "models": ["offline/script"], "mode": "multi_step", "max_steps": 8, "tools": ["calculator"] }),
        )
        .await?;
    client
        .put_template(&json!({ "name": "joiner", "models": ["offline/extract"], "mode": "multi_step", "max_steps": 3, "output": { "format": "markdown" }, "model_params": { "max_output_tokens": 400 } }))
        .await
}

fn request(tasks: usize) -> Value {
    let tasks: Vec<Value> = (0..tasks).map(|n| json!({ "task": format!("topic number {n}"), "name": format!("doc-{n}") })).collect();
    json!({ "tasks": tasks, "reduce": { "agent": "joiner", "chunk_size": 5 } })
}

async fn fleet(workers: usize, concurrency: usize, redis: Option<&RedisServer>) -> anyhow::Result<(Fleet, Process, Client, Vec<Process>)> {
    let options = FleetOptions { script: Some(SCRIPT.to_owned()), redis_url: redis.map(RedisServer::url), ..FleetOptions::default() };
    let fleet = Fleet::new(options).await?;
    let (api, client) = fleet.api().await?;
    templates(&client).await?;
    let workers = (0..workers).map(|_| fleet.worker(concurrency)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((fleet, api, client, workers))
}

/// Every instance completed with exactly its steps: none ran again, none is missing.
async fn check_run(fleet: &Fleet, client: &Client, run: &str, leaves: usize) -> anyhow::Result<()> {
    let instances = client.instances(run).await?;
    let at_level = |level: i64| instances.iter().filter(move |view| view["level"] == level);
    ensure!(at_level(0).count() == leaves, "{} leaves", at_level(0).count());
    for leaf in at_level(0) {
        ensure!(leaf["status"] == "completed" && leaf["step"] == LEAF_STEPS, "{leaf}");
    }
    let view = client.fetch(&format!("/v1/runs/{run}")).await?;
    let reducers = i64::try_from(instances.len() - leaves)?;
    ensure!(view["steps"] == i64::try_from(leaves)? * LEAF_STEPS + reducers, "{view}");
    ensure!(view["instances"]["completed"] == json!(instances.len()), "{view}");
    let broken = fleet.broken_logs().await?;
    ensure!(broken.is_empty(), "broken logs: {broken:?}");
    Ok(())
}

#[tokio::test]
async fn a_killed_worker_and_a_drained_one_change_nothing_in_the_answer() -> anyhow::Result<()> {
    const LEAVES: usize = 500;
    let (fleet, _api, client, mut workers) = fleet(3, 20, None).await?;

    let undisturbed = client.spawn("leaf", &request(LEAVES)).await?;
    let expected = client.result(&undisturbed).await?;
    check_run(&fleet, &client, &undisturbed, LEAVES).await?;

    let disturbed = client.spawn("leaf", &request(LEAVES)).await?;
    client.completed(&disturbed, 60).await?;
    workers[0].kill();
    client.completed(&disturbed, 150).await?;
    workers[1].signal(Signal::SIGTERM);
    let drained = workers[1].ended().await?;
    ensure!(drained.success(), "a drain ends with success, not {drained}: {}", workers[1].stderr());
    let result = client.result(&disturbed).await?;
    check_run(&fleet, &client, &disturbed, LEAVES).await?;

    let text = expected["output"].as_str().context("a Markdown answer")?;
    ensure!(!text.is_empty() && result["output"] == expected["output"], "{text}\n---\n{}", result["output"]);
    ensure!(leaves_of(&result["provenance"]) == LEAVES, "provenance goes down to each child");
    Ok(())
}

fn leaves_of(provenance: &Value) -> usize {
    let nodes = provenance.as_array().map_or(&[][..], Vec::as_slice);
    nodes.iter().map(|node| if node["level"] == 0 { 1 } else { leaves_of(&node["inputs"]) }).sum()
}

#[tokio::test]
async fn a_flushed_redis_loses_nothing() -> anyhow::Result<()> {
    const LEAVES: usize = 300;
    let folder = tempfile::tempdir()?;
    let redis = RedisServer::start(folder.path().to_owned()).await?;
    let (fleet, _api, client, _workers) = fleet(2, 10, Some(&redis)).await?;
    let run = client.spawn("leaf", &request(LEAVES)).await?;
    for completed in [30, 90, 150] {
        client.completed(&run, completed).await?;
        redis.flush_all().await?;
    }
    client.result(&run).await?;
    check_run(&fleet, &client, &run, LEAVES).await
}

#[tokio::test]
async fn a_restarted_redis_loses_nothing() -> anyhow::Result<()> {
    const LEAVES: usize = 100;
    let folder = tempfile::tempdir()?;
    let mut redis = RedisServer::start(folder.path().to_owned()).await?;
    let (fleet, _api, client, _workers) = fleet(2, 10, Some(&redis)).await?;
    let run = client.spawn("leaf", &request(LEAVES)).await?;
    client.completed(&run, 20).await?;
    redis.restart().await?;
    client.result(&run).await?;
    check_run(&fleet, &client, &run, LEAVES).await
}

#[tokio::test]
async fn an_acknowledged_spawn_survives_the_death_of_every_process() -> anyhow::Result<()> {
    const LEAVES: usize = 60;
    let (fleet, mut api, client, mut workers) = fleet(1, 5, None).await?;
    let run = client.spawn("leaf", &request(LEAVES)).await?;
    client.completed(&run, 5).await?;
    api.kill();
    workers[0].kill();
    let (_api, client) = fleet.api().await?;
    let _worker = fleet.worker(20)?;
    client.result(&run).await?;
    check_run(&fleet, &client, &run, LEAVES).await
}

#[tokio::test]
async fn a_cancelled_run_stops_and_nothing_of_it_is_left() -> anyhow::Result<()> {
    let (fleet, _api, client, _workers) = fleet(1, 10, None).await?;
    let run = client.spawn("leaf", &request(400)).await?;
    client.completed(&run, 10).await?;
    let (status, body) = client.post(&format!("/v1/runs/{run}/cancel"), &json!({})).await?;
    ensure!(status == 202, "{status} {body}");
    let view = client.status(&run, "cancelled").await?;
    for live in ["queued", "running", "waiting"] {
        ensure!(view["instances"][live] == 0, "{view}");
    }
    let (status, problem) = client.get(&format!("/v1/runs/{run}/result")).await?;
    ensure!((status, problem["code"].as_str()) == (409, Some("run_cancelled")), "{status} {problem}");
    let broken = fleet.broken_logs().await?;
    ensure!(broken.is_empty(), "broken logs: {broken:?}");
    Ok(())
}

#[tokio::test]
async fn a_process_waits_for_what_is_down_and_says_for_what() -> anyhow::Result<()> {
    let fleet = Fleet::new(FleetOptions::default()).await?;
    let nobody = "postgres://postgres@127.0.0.1:9/none";
    let mut api = fleet.run_with(&["api", "--listen", "127.0.0.1:0"], &[("MUSTER_DATABASE_URL", nobody)])?;
    api.says("waiting for the database").await?;
    api.signal(Signal::SIGTERM);
    api.ended().await?;

    let folder = tempfile::tempdir()?;
    let mut redis = RedisServer::start(folder.path().to_owned()).await?;
    let url = redis.url();
    redis.stop();
    let worker = fleet.run_with(&["worker"], &[("MUSTER_REDIS_URL", &url)])?;
    worker.says("waiting for Redis").await?;
    redis.restart().await?;
    worker.says("working").await
}

#[tokio::test]
async fn a_schema_that_the_binary_does_not_know_is_refused() -> anyhow::Result<()> {
    let fleet = Fleet::new(FleetOptions::default()).await?;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&fleet.database_url()).await?;
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)",
    )
    .execute(&mut connection)
    .await?;
    for command in ["api", "worker", "migrate"] {
        let mut process = fleet.run(&[command])?;
        let status = process.ended().await?;
        ensure!(!status.success(), "{command}");
        ensure!(process.stderr().contains("9999") || process.stderr().contains("newer"), "{command}: {}", process.stderr());
    }
    Ok(())
}
