//! A small HTTP client for tests: JSON in, JSON out, and what a run looks like.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::until;

/// Speaks to one API process.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// For the API at `base`.
    pub fn new(base: String) -> Self {
        Self { http: reqwest::Client::new(), base }
    }

    /// The address of the API.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Status and JSON body of any request.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Value)> {
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)))
    }

    /// A request that is not usual.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Status and JSON body of a GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)))
    }

    /// Status and JSON body of a POST.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)))
    }

    /// A GET that must succeed.
    pub async fn fetch(&self, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.get(path).await?;
        ensure!(status == 200, "GET {path}: {status} {body}");
        Ok(body)
    }

    /// Stores a template.
    pub async fn put_template(&self, template: &Value) -> anyhow::Result<()> {
        let (status, body) = self.post("/v1/agents", template).await?;
        ensure!(status == 201 || status == 200, "{status} {body}");
        Ok(())
    }

    /// Spawns and answers the run's id.
    pub async fn spawn(&self, agent: &str, request: &Value) -> anyhow::Result<String> {
        let (status, body) = self.post(&format!("/v1/agents/{agent}/spawn"), request).await?;
        ensure!(status == 202, "{status} {body}");
        Ok(body["run_id"].as_str().context("run_id")?.to_owned())
    }

    /// Waits until so many instances of a run have completed.
    pub async fn completed(&self, run: &str, at_least: i64) -> anyhow::Result<()> {
        until(&format!("{at_least} instances of {run} to complete"), || async {
            let view = self.fetch(&format!("/v1/runs/{run}")).await?;
            Ok((view["instances"]["completed"].as_i64() >= Some(at_least)).then_some(()))
        })
        .await
    }

    /// Waits for the end of a run and answers its result.
    pub async fn result(&self, run: &str) -> anyhow::Result<Value> {
        until(&format!("the result of {run}"), || async {
            let (status, body) = self.get(&format!("/v1/runs/{run}/result")).await?;
            ensure!(status == 200 || status == 202, "{status} {body}");
            Ok((status == 200).then_some(body))
        })
        .await
    }

    /// Waits until a run has this status.
    pub async fn status(&self, run: &str, status: &str) -> anyhow::Result<Value> {
        until(&format!("{run} to be {status}"), || async {
            let view = self.fetch(&format!("/v1/runs/{run}")).await?;
            Ok((view["status"] == status).then_some(view))
        })
        .await
    }

    /// All instances of a run, page by page.
    pub async fn instances(&self, run: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.fetch(&format!("/v1/runs/{run}/instances?limit=200{after}")).await?;
            all.extend(page["items"].as_array().context("items")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(all),
            }
        }
    }
}
