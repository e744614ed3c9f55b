//! Commands and requests of the documents are made; examples are run.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, ensure};
use muster_tests::{Home, checkout};
use serde_json::Value;

use crate::markdown::{arguments_of_muster, blocks, document, quoted, shell};

/// Every `muster …` in a document: in its shell blocks and between backquotes, and in the comments of an example.
fn commands(name: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let text = document(name)?;
    let mut shells = blocks(&text, "sh");
    shells.extend(quoted(&text));
    // What a comment in a shell block advises is a command as well.
    let comments =
        text.lines().filter_map(|line| line.split_once("# then: ")).flat_map(|(_, advice)| advice.split(", ")).map(str::to_owned);
    shells.extend(comments);
    let found: Vec<Vec<String>> = shells
        .iter()
        .flat_map(|text| shell(text))
        .filter_map(|words| arguments_of_muster(&words).map(<[String]>::to_vec))
        .filter(|arguments| !arguments.is_empty())
        .collect();
    Ok(found)
}

#[tokio::test]
async fn every_command_line_of_the_documents_is_understood() -> anyhow::Result<()> {
    let home = Home::new()?;
    for (name, least) in [("README.md", 6), ("examples/README.md", 4), ("docs/configuration.md", 3), ("ARCHITECTURE.md", 0)] {
        let commands = commands(name)?;
        ensure!(commands.len() >= least, "only {} commands in {name}: {commands:?}", commands.len());
        for arguments in commands {
            let mut line: Vec<&str> = arguments.iter().map(String::as_str).collect();
            // Whatever stands before it is checked before the help is shown.
            if !line.contains(&"--help") {
                line.push("--help");
            }
            let said = home.muster(&line).await?;
            said.ok().with_context(|| format!("{name}: muster {}", arguments.join(" ")))?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_requests_of_the_readme_get_the_answers_that_it_shows() -> anyhow::Result<()> {
    let home = Home::new()?;
    let dev = home.dev("data", &[]).await?;
    let requests: Vec<Vec<String>> =
        blocks(&document("README.md")?, "sh").iter().flat_map(|text| shell(text)).filter(|words| words[0] == "curl").collect();
    ensure!(requests.len() == 3, "{requests:?}");
    let mut run = String::new();
    for words in requests {
        let url = words.iter().find_map(|word| word.strip_prefix("localhost:8080")).context("the address")?.replace("run_…", &run);
        let body = words.iter().position(|word| word == "-d").and_then(|at| words.get(at + 1));
        match body {
            Some(body) => {
                let (status, answer) = dev.client.post(&url, &serde_json::from_str(body)?).await?;
                ensure!(status == 202, "{status} {answer}");
                run = answer["run_id"].as_str().context("run_id")?.to_owned();
                dev.client.result(&run).await?;
            }
            None => {
                let answer = dev.client.fetch(&url).await?;
                ensure!(answer["status"] == "completed", "{url}: {answer}");
                let has = |field: &str| answer.get(field).is_some_and(|value| !value.is_null());
                ensure!(
                    if url.ends_with("/result") { has("provenance") && has("output") } else { has("steps") && has("usage") },
                    "{answer}"
                );
            }
        }
    }
    Ok(())
}

/// What an example is, by its content.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Run,
    Template,
    Script,
    Document,
}

fn kind(path: &Path) -> anyhow::Result<Kind> {
    if path.extension().is_some_and(|extension| extension == "md") {
        return Ok(Kind::Document);
    }
    let text = fs::read_to_string(path)?;
    let begins = |key: &str| text.lines().any(|line| line.starts_with(key));
    match (begins("agent:"), begins("models:"), begins("- match:") || begins("rules:")) {
        (true, false, false) => Ok(Kind::Run),
        (false, true, false) => Ok(Kind::Template),
        (false, false, true) => Ok(Kind::Script),
        other => anyhow::bail!("{} is no run file, template or script: {other:?}", path.display()),
    }
}

fn examples(folder: &Path, found: &mut Vec<(Kind, String)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            examples(&path, found)?;
        } else {
            let name = path.strip_prefix(checkout())?.to_str().context("a name in UTF-8")?.to_owned();
            found.push((kind(&path)?, name));
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_example_works_with_the_offline_models() -> anyhow::Result<()> {
    let mut found = Vec::new();
    examples(&checkout().join("examples"), &mut found)?;
    found.sort();
    let of = |kind: Kind| found.iter().filter(move |(is, _)| *is == kind).map(|(_, name)| name.as_str());
    let kinds: BTreeSet<&Kind> = found.iter().map(|(kind, _)| kind).collect();
    ensure!(kinds.len() == 4, "{found:?}");
    let listed = document("examples/README.md")?;
    for run in of(Kind::Run).chain(of(Kind::Script)) {
        ensure!(listed.contains(run.trim_start_matches("examples/")), "examples/README.md does not name {run}");
    }
    for script in of(Kind::Script) {
        let home = Home::new()?.with("MUSTER_SCRIPT", script);
        let templates: Vec<&str> = ["agent", "apply"].into_iter().chain(of(Kind::Template)).chain(["--data", "data"]).collect();
        fs::create_dir(home.path("data"))?;
        home.muster(&templates).await?.ok()?;
        for run in of(Kind::Run) {
            let said = home.muster(&["run", run, "--data", "data", "-o", "json"]).await?;
            let result = said.json().with_context(|| run.to_owned())?;
            ensure!(result["status"] == "completed" && result["output"] != Value::Null, "{run}: {result}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_scripted_example_shows_what_it_promises() -> anyhow::Result<()> {
    let home = Home::new()?.with("MUSTER_SCRIPT", "examples/script.yaml");
    let result = home.muster(&["run", "examples/scripted.yaml", "--data", "data", "-o", "json"]).await?.json()?;
    ensure!(result["output"].as_str().is_some_and(|output| output.starts_with("folded: ")), "{result}");
    let run = result["run_id"].as_str().context("run_id")?;
    let shown = home.muster(&["run", "show", run, "--instances", "--data", "data", "-o", "json"]).await?.json()?;
    let mut kinds = BTreeSet::new();
    for instance in shown["instances"].as_array().context("instances")? {
        let id = instance["id"].as_str().context("id")?;
        let events = home.muster(&["instance", "events", id, "--data", "data", "-o", "json"]).await?.json()?;
        kinds.extend(events.as_array().context("events")?.iter().filter_map(|event| event["type"].as_str().map(str::to_owned)));
    }
    for promised in ["retry", "tool", "model", "completed"] {
        ensure!(kinds.contains(promised), "no event `{promised}` among {kinds:?}");
    }
    Ok(())
}
