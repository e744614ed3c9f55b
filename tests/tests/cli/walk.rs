//! The walk through README.md: every command, in a person's order, on both kinds of fleet.

use anyhow::{Context as _, ensure};
use muster_tests::{Home, until};
use serde_json::{Value, json};

use crate::support::{Place, SLEEPY, check_steps, id, run_file};

#[tokio::test]
async fn every_command_does_its_work_on_an_embedded_fleet() -> anyhow::Result<()> {
    walk(&Place::embedded().await?).await
}

#[tokio::test]
async fn every_command_does_its_work_beside_postgres_and_redis() -> anyhow::Result<()> {
    walk(&Place::servers().await?).await
}

async fn walk(place: &Place) -> anyhow::Result<()> {
    templates(place).await?;
    let run = files(place).await?;
    looks(place, &run).await?;
    detached(place).await?;
    cancelled(place).await
}

async fn templates(place: &Place) -> anyhow::Result<()> {
    let listed = place.muster("agent list").await?;
    for preset in ["analyst", "chat", "decomposer", "research", "synthesizer", "verifier"] {
        ensure!(listed.ok()?.contains(&format!("{preset} ")), "{}", listed.stdout);
    }
    let files = "examples/templates/file-reader.yaml examples/templates/report-writer.yaml";
    let applied = place.json(&format!("agent apply {files}")).await?;
    ensure!(applied[0]["spec"]["name"] == "file-reader" && applied[1]["active"] == true, "{applied}");
    ensure!(place.json(&format!("agent apply {files}")).await? == applied, "the same content again is the same version");
    let shown = place.json("agent show file-reader@1").await?;
    ensure!(shown == applied[0], "{shown}");
    let shown = place.muster("agent show file-reader").await?;
    ensure!(shown.ok()?.contains("agent    file-reader@1") && shown.stdout.contains("tools:\n- artifact_read"), "{}", shown.stdout);
    let yaml = place.muster("agent list -o yaml").await?;
    ensure!(yaml.ok()?.starts_with("- id: tpl_"), "{}", yaml.stdout);

    place.write("second.yaml", "name: file-reader\nmodels: [offline/extract]\n")?;
    let second = place.json("agent apply second.yaml --no-activate").await?;
    ensure!((&second[0]["version"], &second[0]["active"]) == (&json!(2), &json!(false)), "{second}");
    let active = place.json("agent show file-reader").await?;
    ensure!(active["version"] == 1, "a version that was not activated is not used: {active}");
    Ok(())
}

/// The main job, over files.
async fn files(place: &Place) -> anyhow::Result<String> {
    let said = place.muster("run examples/summarize.yaml --input docs/*.md --set focus=dangers -o json").await?;
    let result = said.json()?;
    ensure!(said.stderr.contains("file-reader") && said.stderr.contains("completed in"), "{}", said.stderr);
    let report = result["output"].as_str().context("a report")?;
    ensure!(report.contains("[docs/errors.md]") && report.contains("[docs/configuration.md]"), "{report}");
    let leaves = result["provenance"][0]["inputs"].as_array().context("provenance")?;
    ensure!(leaves.iter().any(|leaf| leaf["name"] == "docs/errors.md"), "{result}");
    let tasks = place.json(&format!("run show {} --instances", id(&result, "run_id")?)).await?;
    ensure!(tasks["instances"][0]["task"].as_str().context("task")?.ends_with("and say dangers."), "{tasks}");
    id(&result, "run_id")
}

/// Looking at what has ended.
async fn looks(place: &Place, run: &str) -> anyhow::Result<()> {
    let listed = place.json("run list --limit 1").await?;
    ensure!(listed[0]["id"] == run && listed.as_array().map(Vec::len) == Some(1), "{listed}");
    let shown = place.json(&format!("run show {run}")).await?;
    ensure!(shown["status"] == "completed" && shown["instances"]["total"] == shown["instances"]["completed"], "{shown}");
    for line in [format!("run show {run}"), "run list".to_owned()] {
        let said = place.muster(&line).await?;
        ensure!(said.ok()?.contains(run) && said.stdout.contains("completed"), "{line}: {}", said.stdout);
    }
    let (watched, result) = (place.muster(&format!("run watch {run}")).await?, place.muster(&format!("run result {run}")).await?);
    ensure!(watched.ok()? == result.ok()? && !result.stdout.trim().is_empty(), "{}\n---\n{}", watched.stdout, result.stdout);
    ensure!(place.json(&format!("run result {run}")).await?["run_id"] == run);

    let instances = place.json(&format!("run show {run} --instances")).await?;
    let leaf = id(&instances["instances"][0], "id")?;
    let shown = place.json(&format!("instance show {leaf}")).await?;
    ensure!(shown["run_id"] == run && shown["output"]["summary"].is_string(), "{shown}");
    ensure!(place.muster(&format!("instance show {leaf}")).await?.ok()?.contains(run));
    let events = place.json(&format!("instance events {leaf}")).await?;
    let kinds: Vec<&str> = events.as_array().context("events")?.iter().filter_map(|event| event["type"].as_str()).collect();
    ensure!(kinds.first() == Some(&"model") && kinds.contains(&"tool") && kinds.last() == Some(&"completed"), "{kinds:?}");
    let table = place.muster(&format!("instance events {leaf}")).await?;
    ensure!(table.ok()?.lines().count() == kinds.len() + 1, "{}", table.stdout);
    Ok(())
}

/// A run that is left alone and looked at later.
async fn detached(place: &Place) -> anyhow::Result<()> {
    const LEAVES: usize = 12;
    place.write("known.yaml", run_file(LEAVES))?;
    let said = place.muster("run known.yaml --detach").await?;
    let run = said.ok()?.trim().to_owned();
    ensure!(run.starts_with("run_") && !run.contains(char::is_whitespace), "only the id is printed: {}", said.stdout);
    let watched = place.json(&format!("run watch {run}")).await?;
    let output = watched["output"].as_str().context("text")?;
    ensure!(output.starts_with("joined: ") && output.contains("doc-11 says forty-two."), "{output}");
    let shown = place.json(&format!("run show {run} --instances")).await?;
    check_steps(&shown["run"], shown["instances"].as_array().context("instances")?, LEAVES)?;
    let spawned = place.json("run known.yaml --detach").await?;
    ensure!(spawned["instances"] == LEAVES && id(&spawned, "run_id")? != run, "{spawned}");
    Ok(())
}

/// A run that is cancelled while it runs.
async fn cancelled(place: &Place) -> anyhow::Result<()> {
    place.write("sleepy.yaml", SLEEPY)?;
    let run = place.muster("run sleepy.yaml --detach").await?.ok()?.trim().to_owned();
    place.muster(&format!("run result {run}")).await?.refusal(1)?.contains("is still running").then_some(()).context("still running")?;
    let cancelled = place.json(&format!("run cancel {run}")).await?;
    ensure!(["cancelling", "cancelled"].map(Value::from).contains(&cancelled["status"]), "{cancelled}");
    let watched = place.muster(&format!("run watch {run}")).await?;
    ensure!(watched.refusal(1)?.contains(&format!("{run} was cancelled")), "{}", watched.stderr);
    let again = place.muster(&format!("run cancel {run}")).await?;
    ensure!(again.refusal(1)?.contains(&format!("muster: {run} has ended (conflict)")), "{}", again.stderr);

    let run = place.muster("run sleepy.yaml --detach").await?.ok()?.trim().to_owned();
    let instances = place.json(&format!("run show {run} --instances")).await?;
    let one = id(&instances["instances"][0], "id")?;
    place.json(&format!("instance cancel {one}")).await?;
    until("the run to end with its instance", || async {
        let run = place.client().fetch(&format!("/v1/runs/{run}")).await?;
        Ok(matches!(run["status"].as_str(), Some("failed" | "cancelled")).then_some(()))
    })
    .await
}

/// The commands that a `--help` lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[tokio::test]
async fn every_command_explains_itself() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut open = vec![Vec::<String>::new()];
    let mut seen = Vec::new();
    while let Some(command) = open.pop() {
        let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
        args.push("--help");
        let said = home.muster(&args).await?;
        let help = said.ok().with_context(|| format!("{command:?}"))?;
        ensure!(help.contains("Usage: muster") && help.lines().next().is_some_and(|about| !about.trim().is_empty()), "{help}");
        open.extend(commands(help).into_iter().map(|sub| [&command[..], &[sub]].concat()));
        seen.push(command.join(" "));
    }
    for wanted in ["dev", "api", "worker", "migrate", "demo", "run list", "run cancel", "agent apply", "agent schema", "instance events"] {
        ensure!(seen.iter().any(|command| command == wanted), "{wanted} is not among {seen:?}");
    }
    let schema = home.muster(&["agent", "schema"]).await?.json()?;
    ensure!(schema["properties"]["models"].is_object(), "{schema}");
    ensure!(home.muster(&["--version"]).await?.ok()?.starts_with("muster "));
    Ok(())
}
