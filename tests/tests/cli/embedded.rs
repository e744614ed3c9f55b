//! The embedded fleet: without a server, killed in the middle, and held by another process.

use anyhow::{Context as _, ensure};
use muster_tests::{Home, Process, until};
use serde_json::Value;

use crate::support::{SCRIPT, check_steps, id, run_file};

const LEAVES: usize = 40;

fn home() -> anyhow::Result<Home> {
    let home = Home::new()?.with("MUSTER_SCRIPT", "script.yaml").with("MUSTER_CONCURRENCY", "4");
    home.write("script.yaml", SCRIPT)?;
    home.write("known.yaml", run_file(LEAVES))?;
    Ok(home)
}

async fn json(home: &Home, line: &str) -> anyhow::Result<Value> {
    let words: Vec<&str> = line.split_whitespace().chain(["-o", "json"]).collect();
    home.muster(&words).await?.json().with_context(|| line.to_owned())
}

async fn check(home: &Home, run: &str, target: &str) -> anyhow::Result<()> {
    let shown = json(home, &format!("run show {run} --instances {target}")).await?;
    check_steps(&shown["run"], shown["instances"].as_array().context("instances")?, LEAVES)
}

/// What was asked for and answered, without what differs between two runs.
async fn undisturbed(home: &Home) -> anyhow::Result<Value> {
    Ok(json(home, "run known.yaml --data undisturbed").await?["output"].clone())
}

#[tokio::test]
async fn a_fleet_that_is_killed_in_the_middle_of_a_run_completes_it_after_a_restart() -> anyhow::Result<()> {
    let home = home()?;
    let expected = undisturbed(&home).await?;
    let mut dev = home.dev("data", &[]).await?;
    let run = id(&json(&home, &format!("run known.yaml --detach --url {}", dev.url)).await?, "run_id")?;
    for completed in [3, 12] {
        dev.client.completed(&run, completed).await?;
        dev.process.kill();
        dev = home.dev("data", &[]).await?;
    }
    let result = dev.client.result(&run).await?;
    ensure!(result["output"] == expected, "{result}\n---\n{expected}");
    check(&home, &run, &format!("--url {}", dev.url)).await
}

#[tokio::test]
async fn a_command_that_is_killed_in_the_middle_of_its_run_leaves_it_to_the_next_one() -> anyhow::Result<()> {
    let home = home()?;
    let expected = undisturbed(&home).await?;
    let mut first = home.start(&["run", "known.yaml", "--data", "data"])?;
    let run = until("the run's id", || async { Ok(run_of(&first)) }).await?;
    let client = until("the address of the fleet", || async {
        let address = std::fs::read_to_string(home.path("data/address"))?;
        Ok(Some(muster_tests::Client::new(address)))
    })
    .await?;
    client.completed(&run, 5).await?;
    first.kill();
    let watched = json(&home, &format!("run watch {run} --data data")).await?;
    ensure!(watched["output"] == expected, "{watched}\n---\n{expected}");
    check(&home, &run, "--data data").await
}

fn run_of(process: &Process) -> Option<String> {
    let said = process.stderr();
    let (_, rest) = said.split_once("known: ")?;
    rest.split_once(" with ").map(|(run, _)| run.to_owned())
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_to_others_and_open_to_clients() -> anyhow::Result<()> {
    let home = home()?;
    let dev = home.dev("data", &[]).await?;
    let second = home.muster(&["dev", "--data", "data", "--listen", "127.0.0.1:0"]).await?;
    let why = second.code.filter(|code| *code == 1).map(|_| second.stderr.as_str()).with_context(|| format!("{second:?}"))?;
    ensure!(why.contains("is in use") && why.contains(&format!("process {}", dev.process.id())) && why.contains("stop it"), "{why}");
    // Client commands find the process that holds it.
    let run = id(&json(&home, "run known.yaml --data data").await?, "run_id")?;
    check(&home, &run, &format!("--url {}", dev.url)).await?;
    let port = dev.url.trim_start_matches("http://").to_owned();
    let taken = home.muster(&["dev", "--data", "other", "--listen", &port]).await?;
    ensure!(taken.refusal(2)?.contains("Address already in use") && taken.stderr.contains("--listen 127.0.0.1:0"), "{}", taken.stderr);
    Ok(())
}

#[tokio::test]
async fn a_drained_fleet_gives_its_directory_back_and_commands_need_no_server() -> anyhow::Result<()> {
    let home = home()?;
    let mut dev = home.dev("data", &[]).await?;
    let run = id(&json(&home, &format!("run known.yaml --detach --url {}", dev.url)).await?, "run_id")?;
    dev.client.completed(&run, 3).await?;
    dev.process.signal(nix::sys::signal::Signal::SIGTERM);
    let status = dev.process.ended().await?;
    ensure!(status.success(), "{status}: {}", dev.process.stderr());
    // Looking changes nothing: the run stands where it was.
    let shown = json(&home, &format!("run show {run} --data data")).await?;
    ensure!(shown["status"] == "running", "{shown}");
    let watched = json(&home, &format!("run watch {run} --data data")).await?;
    ensure!(watched["status"] == "completed", "{watched}");
    check(&home, &run, "--data data").await?;
    let listed = json(&home, "run list --data data").await?;
    ensure!(listed.as_array().map(Vec::len) == Some(1), "{listed}");
    Ok(())
}
