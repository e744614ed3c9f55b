//! A place where commands can be given, whatever fleet is behind it; and a run whose outcome is known beforehand.

use anyhow::{Context as _, ensure};
use muster_tests::{Client, Dev, Fleet, FleetOptions, Home, Process, Said, copy_documents};
use serde_json::{Value, json};

/// Four model turns and one tool call; the reducers join what the leaves say.
pub(crate) const SCRIPT: &str = r#"
rules:
  - match: {agent: leaf, step: 1}
    answer: {tool_calls: [{name: calculator, arguments: {expression: "6 * 7"}}], delay_ms: 15}
  - match: {agent: leaf, step: "3-4"}
    answer: {text: "Working on {{name}}.", continue: true, delay_ms: 15}
  - match: {agent: leaf}
    answer: {text: "{{name}} says forty-two.", delay_ms: 15}
  - match: {agent: joiner}
    answer: {text: "joined: {{inputs}}"}
  - match: {agent: sleeper}
    answer: {text: "awake", delay_ms: 600000}
"#;

/// What one leaf takes.
pub(crate) const LEAF_STEPS: i64 = 5;

/// A run file over the script.
pub(crate) fn run_file(leaves: usize) -> String {
    let tasks: Vec<Value> = (0..leaves).map(|n| json!({ "task": format!("topic {n}"), "name": format!("doc-{n}") })).collect();
    json!({
        "name": "known",
        "templates": [
            { "name": "leaf", "models": ["offline/script"], "mode": "multi_step", "max_steps": 8, "tools": ["calculator"] },
            { "name": "joiner", "models": ["offline/script"] }
        ],
        "agent": "leaf",
        "tasks": tasks,
        "reduce": { "agent": "joiner", "chunk_size": 5 }
    })
    .to_string()
}

/// A run that does not end by itself.
pub(crate) const SLEEPY: &str = "
templates: [{name: sleeper, models: [offline/script]}]
agent: sleeper
tasks: [one, two]
";

/// Where commands are given.
pub(crate) enum Place {
    /// A working directory with `muster dev`.
    Embedded(Box<(Home, Dev)>),
    /// API and worker over Postgres and Redis.
    Servers(Box<(Fleet, Client, Vec<Process>)>),
}

impl Place {
    /// `muster dev` on SQLite.
    pub(crate) async fn embedded() -> anyhow::Result<Self> {
        let home = Home::new()?;
        home.write("script.yaml", SCRIPT)?;
        let dev = home.dev("data", &["--script", "script.yaml"]).await?;
        Ok(Self::Embedded(Box::new((home, dev))))
    }

    /// An API and a worker, over Postgres and Redis.
    pub(crate) async fn servers() -> anyhow::Result<Self> {
        let fleet = Fleet::new(FleetOptions { script: Some(SCRIPT.to_owned()), ..FleetOptions::default() }).await?;
        copy_documents(fleet.folder())?;
        let (api, client) = fleet.api().await?;
        let worker = fleet.worker(20)?;
        Ok(Self::Servers(Box::new((fleet, client, vec![api, worker]))))
    }

    /// `muster LINE` for this fleet; the words of the line have no spaces.
    pub(crate) async fn muster(&self, line: &str) -> anyhow::Result<Said> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match self {
            Self::Embedded(place) => {
                let (home, dev) = &**place;
                home.muster(&[&words[..], &["--url", &dev.url]].concat()).await
            }
            Self::Servers(place) => {
                let (fleet, client, _processes) = &**place;
                fleet.muster(client, &words).await
            }
        }
        .with_context(|| line.to_owned())
    }

    /// The JSON that `muster LINE -o json` prints.
    pub(crate) async fn json(&self, line: &str) -> anyhow::Result<Value> {
        self.muster(&format!("{line} -o json")).await?.json().with_context(|| line.to_owned())
    }

    /// Writes a file into the working directory.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let path = match self {
            Self::Embedded(place) => place.0.path(name),
            Self::Servers(place) => place.0.path(name),
        };
        std::fs::write(path, bytes).with_context(|| name.to_owned())
    }

    /// Its API.
    pub(crate) fn client(&self) -> &Client {
        match self {
            Self::Embedded(place) => &place.1.client,
            Self::Servers(place) => &place.1,
        }
    }
}

/// The id in a document.
pub(crate) fn id(document: &Value, field: &str) -> anyhow::Result<String> {
    Ok(document[field].as_str().with_context(|| format!("no `{field}` in {document}"))?.to_owned())
}

/// Every instance of a run over [`run_file`] completed with exactly its steps: none ran again, none is missing.
pub(crate) fn check_steps(run: &Value, instances: &[Value], leaves: usize) -> anyhow::Result<()> {
    let of_level = |level: i64| instances.iter().filter(move |view| view["level"] == level);
    ensure!(of_level(0).count() == leaves, "{} leaves", of_level(0).count());
    for leaf in of_level(0) {
        ensure!(leaf["status"] == "completed" && leaf["step"] == LEAF_STEPS, "{leaf}");
    }
    let reducers = instances.len() - leaves;
    let steps = i64::try_from(leaves)? * LEAF_STEPS + i64::try_from(reducers)?;
    ensure!(run["status"] == "completed" && run["steps"] == steps, "{steps} steps wanted: {run}");
    ensure!(run["instances"]["completed"] == json!(instances.len()), "{run}");
    Ok(())
}
