//! Any server that speaks OpenAI's chat completions, over HTTP.
//!
//! One request per call: no retries (they are steps), no redirects (a key must not wander), no streaming. The
//! body of an answer is bounded. Nothing of prompts, answers and keys is logged.

mod body;
mod failure;
mod reply;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use muster_shared::{
    engine::{Engine, ModelError, ModelReply, ModelRequest},
    time::{Clock, SystemClock},
};
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
    redirect,
};

use crate::{
    config::{ProviderConfig, Structured},
    errors,
    glob::Glob,
    secret::Secret,
};

/// An answer larger than this is refused.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// One configured server.
pub struct OpenAi {
    client: Client,
    url: Url,
    key: Option<Secret>,
    authorization: Option<HeaderValue>,
    patterns: Vec<String>,
    models: Vec<Glob>,
    timeout: Option<Duration>,
    structured: Structured,
    /// For dates in `Retry-After`.
    clock: Arc<dyn Clock>,
}

impl OpenAi {
    /// Reads the key and makes the client. An error names the field of the configuration that is at fault.
    pub fn from_config(config: &ProviderConfig, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, (&'static str, String)> {
        let base = config.address().map_err(|why| ("base_url", why))?;
        let url = format!("{}/chat/completions", base.as_str().trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|error| ("base_url", error.to_string()))?;
        let key = config.api_key.as_ref().map(|source| source.read(environment)).transpose().map_err(|why| ("api_key", why))?;
        let authorization = key.as_ref().map(bearer).transpose().map_err(|why| ("api_key", why))?;
        Ok(Self {
            client: client(&url).map_err(|why| ("base_url", why))?,
            url,
            key,
            authorization,
            patterns: config.models.patterns().to_vec(),
            models: config.models.globs(),
            timeout: config.timeout(),
            structured: config.structured,
            clock: Arc::new(SystemClock),
        })
    }

    /// The same provider with another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    async fn call(&self, request: &ModelRequest) -> Result<ModelReply, ModelError> {
        let idempotency = HeaderValue::from_str(&request.idempotency_key)
            .map_err(|_| errors::invalid_request("the idempotency key holds characters that no header can carry"))?;
        let mut post = self
            .client
            .post(self.url.clone())
            .header(IDEMPOTENCY_KEY, idempotency)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body::of(request, self.structured, self.is_openai()).to_string());
        if let Some(authorization) = &self.authorization {
            post = post.header(AUTHORIZATION, authorization.clone());
        }
        let response = post.send().await.map_err(|error| failure::of_transport(&error))?;
        let status = response.status();
        let after = failure::retry_after(response.headers(), self.clock.now());
        let body = bounded(response).await;
        if status.is_success() { reply::read(&body?, request) } else { Err(failure::of_status(status, after, &body.unwrap_or_default())) }
    }

    /// OpenAI itself has renamed `max_tokens`; the others have not.
    fn is_openai(&self) -> bool {
        self.url.host_str() == Some("api.openai.com")
    }

    /// Providers repeat keys in their errors; errors are stored and shown.
    fn redacted(&self, mut failed: ModelError) -> ModelError {
        if let Some(key) = &self.key {
            failed.error.message = key.redact(&failed.error.message);
        }
        failed
    }
}

#[async_trait]
impl Engine for OpenAi {
    async fn complete(&self, request: ModelRequest) -> Result<ModelReply, ModelError> {
        let limit = self.timeout.map_or(request.timeout, |timeout| timeout.min(request.timeout));
        let answer = tokio::time::timeout(limit, self.call(&request)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(errors::timeout(format!("the provider did not answer within {} ms", limit.as_millis()))));
        answer.map_err(|failed| self.redacted(failed))
    }

    fn knows(&self, model: &str) -> bool {
        !model.is_empty() && self.models.iter().any(|glob| glob.matches(model))
    }

    fn models(&self) -> Vec<String> {
        self.patterns.clone()
    }
}

fn bearer(key: &Secret) -> Result<HeaderValue, String> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", key.expose())).map_err(|_| "the key does not fit into a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn client(url: &Url) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(30));
    // A proxy cannot reach this machine's own servers.
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| format!("no HTTP client can be made: {error}"))
}

/// The body, unless it is larger than any honest answer.
async fn bounded(mut response: Response) -> Result<Vec<u8>, ModelError> {
    let too_large = || errors::bad_reply(format!("the provider's answer is larger than {REPLY_BYTES_MAX} bytes"));
    if response.content_length().is_some_and(|length| length > REPLY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure::of_transport(&error))? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
