//! The few calls of the HTTP API that the workload needs.

use std::time::Duration;

use anyhow::Context as _;
use muster_shared::{
    ids::RunId,
    wire::{Demand, ReduceSpec, RunResult, RunStatus, RunView, SpawnRequest, SpawnResponse, TaskSpec},
};
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::script::{REDUCER, WORKER};
use crate::workload::{CHUNK, Workload};

/// Between two looks for the result.
const POLL: Duration = Duration::from_millis(5);

/// Between two looks whether the run can still end well.
const LOOK: Duration = Duration::from_secs(1);

/// A run that has no result by then has failed.
const RUN_LIMIT: Duration = Duration::from_secs(900);

/// A user of one API process.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

/// The spawn request of a workload, made before the clock starts.
pub(super) fn spawn_body(workload: Workload) -> anyhow::Result<Vec<u8>> {
    let tasks = (0..workload.n).map(|index| TaskSpec::Text(format!("task {index}"))).collect();
    let reduce = ReduceSpec { agent: REDUCER.to_owned(), chunk_size: Some(u32::try_from(CHUNK)?), task: None, on_failure: None };
    let request = SpawnRequest { tasks: Some(tasks), reduce: Some(reduce), ..SpawnRequest::default() };
    Ok(serde_json::to_vec(&request)?)
}

impl Client {
    pub(super) fn new(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().context("an HTTP client")?;
        Ok(Self { http, base: base.to_owned() })
    }

    /// Whether the API is ready and sees a worker.
    pub(super) async fn is_ready(&self) -> bool {
        let ready = self.http.get(format!("{}/readyz", self.base)).send().await;
        if !ready.is_ok_and(|answer| answer.status().is_success()) {
            return false;
        }
        self.get::<Demand>("/v1/demand").await.is_ok_and(|demand| demand.workers >= 1)
    }

    pub(super) async fn put_template(&self, template: &Value) -> anyhow::Result<()> {
        let answer = self.http.post(format!("{}/v1/agents", self.base)).json(template).send().await.context("POST /v1/agents")?;
        read::<Value>(answer).await.context("POST /v1/agents").map(drop)
    }

    pub(super) async fn spawn(&self, body: Vec<u8>) -> anyhow::Result<RunId> {
        let path = format!("{}/v1/agents/{WORKER}/spawn", self.base);
        let request = self.http.post(path).header("content-type", "application/json").body(body);
        let answer: SpawnResponse = read(request.send().await.context("spawn")?).await.context("spawn")?;
        Ok(answer.run_id)
    }

    /// Polls until the result is there.
    pub(super) async fn result(&self, run: RunId) -> anyhow::Result<RunResult> {
        let start = Instant::now();
        let mut next_look = start + LOOK;
        let path = format!("{}/v1/runs/{run}/result", self.base);
        loop {
            let answer = self.http.get(&path).send().await.context("result")?;
            match answer.status() {
                StatusCode::OK => return read(answer).await.context("result"),
                StatusCode::ACCEPTED | StatusCode::NOT_FOUND | StatusCode::CONFLICT => {}
                _ => return read(answer).await.context("result"),
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK;
                let view = self.view(run).await?;
                let hopeless = view.status.is_terminal() && view.status != RunStatus::Completed;
                anyhow::ensure!(!hopeless, "the run ended as {}: {:?}", view.status.as_str(), view.error);
                anyhow::ensure!(start.elapsed() < RUN_LIMIT, "no result within {} s: {view:?}", RUN_LIMIT.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The run did all of the work, and nothing twice.
    pub(super) async fn check(&self, run: RunId, result: &RunResult, workload: Workload) -> anyhow::Result<()> {
        let view = self.view(run).await?;
        anyhow::ensure!(result.status == RunStatus::Completed && !result.output.is_null(), "the result of {run}: {:?}", result.status);
        let (steps, total) = (workload.steps().cast_signed(), (workload.n + workload.reducers()).cast_signed());
        anyhow::ensure!(view.steps == steps, "{run} journaled {} steps; W({}, {}) has {steps}", view.steps, workload.n, workload.k);
        anyhow::ensure!(view.instances.completed == total, "{run} completed {} of {total} instances", view.instances.completed);
        Ok(())
    }

    async fn view(&self, run: RunId) -> anyhow::Result<RunView> {
        self.get(&format!("/v1/runs/{run}")).await.context("the status of the run")
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(self.http.get(format!("{}{path}", self.base)).send().await?).await
    }
}

/// The body of a success; of anything else, an error that repeats it.
async fn read<T: DeserializeOwned>(answer: reqwest::Response) -> anyhow::Result<T> {
    let status = answer.status();
    let body = answer.text().await.context("reading the answer")?;
    anyhow::ensure!(status.is_success(), "the API answered {status}: {}", body.chars().take(2_000).collect::<String>());
    serde_json::from_str(&body).with_context(|| format!("an answer that is not understood: {}", body.chars().take(500).collect::<String>()))
}
