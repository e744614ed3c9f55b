//! The HTTP API, as its clients use it: typed answers, problems as failures, safe retries.

use std::time::Duration;

use muster_shared::wire::Problem;
use reqwest::{Method, StatusCode, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;

use crate::failure::{Exit, Failure};

/// A connection is given up after this time.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer may take this long: large spawns commit for a while.
const ANSWER: Duration = Duration::from_secs(180);
/// Tries of one request, where it can be repeated.
const TRIES: u32 = 4;
/// No further try begins after this time: a server that is slow to say that its database is away is not asked for ever.
const TRY_FOR: Duration = Duration::from_secs(5);
/// Before the second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A client of one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    tries: u32,
}

/// What is sent.
struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Option<Vec<u8>>,
    key: Option<&'a str>,
}

impl Client {
    /// A client of the server at `url`.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let base = Url::parse(url.trim_end_matches('/')).ok().filter(|base| matches!(base.scheme(), "http" | "https") && base.has_host());
        let Some(base) = base else {
            return Err(Failure::usage(format!("`{url}` is not the URL of a server: write http://host:port or https://host:port")));
        };
        let local = base.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
        let mut http =
            reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER).user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if local {
            // A proxy cannot reach this machine's loopback.
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| Failure::failed(format!("the HTTP client cannot be made: {error}")))?;
        Ok(Self { http, base, tries: TRIES })
    }

    /// The server, for people.
    pub(crate) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Call { method: Method::GET, path, body: None, key: None }).await
    }

    /// Asks for something that may be repeated by its nature.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Failure> {
        self.call(Call { method: Method::POST, path, body: Some(json(body)?), key: None }).await
    }

    /// Asks for something that may be repeated because of its key.
    pub(crate) async fn post_once<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B, key: &str) -> Result<T, Failure> {
        self.call(Call { method: Method::POST, path, body: Some(json(body)?), key: Some(key) }).await
    }

    /// Whether a server answers.
    pub(crate) async fn alive(&self) -> bool {
        let once = Self { tries: 1, ..self.clone() };
        once.get::<Value>("/healthz").await.is_ok()
    }

    /// Sends, and again while the server is away for a moment. Everything that is sent may be repeated.
    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Failure> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        for left in (0..self.tries).rev() {
            let failure = match self.send(&call).await {
                Ok(answer) => return answer,
                Err(failure) => failure,
            };
            if left == 0 || began.elapsed() >= TRY_FOR || failure.exit != Exit::Unreachable {
                return Err(failure);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Failure::unreachable(format!("{} was not asked", self.base())))
    }

    /// The outer error may pass; the inner one is the answer.
    async fn send<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<Result<T, Failure>, Failure> {
        let url = format!("{}{}", self.base(), call.path);
        let mut request = self.http.request(call.method.clone(), url);
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(key) = call.key {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.map_err(|error| self.away(&error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.away(&error))?;
        if !status.is_success() {
            let failure = refused(status, &bytes);
            return if failure.exit == Exit::Unreachable { Err(failure) } else { Ok(Err(failure)) };
        }
        let read = serde_json::from_slice(&bytes);
        Ok(read.map_err(|error| {
            Failure::failed(format!("the answer of {}{} is not understood (is it another version?): {error}", self.base(), call.path))
        }))
    }

    fn away(&self, error: &reqwest::Error) -> Failure {
        // The innermost reason says most: "Connection refused".
        let mut why: &dyn std::error::Error = error;
        while let Some(source) = why.source() {
            why = source;
        }
        let hint = "start one with `muster dev`, or name one with --url, MUSTER_URL or --data";
        Failure::unreachable(format!("no Muster server answers at {} ({why}); {hint}", self.base()))
    }
}

fn json<B: Serialize>(body: &B) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|error| Failure::usage(format!("the request cannot be written as JSON: {error}")))
}

/// From a problem to a failure.
fn refused(status: StatusCode, bytes: &[u8]) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Problem>(bytes) else {
        let message = format!("the server answered {status}, and not as Muster does");
        return if status.is_server_error() { Failure::unreachable(message) } else { Failure::failed(message) };
    };
    let message = if problem.faults.len() == 1 { problem.title.clone() } else { problem.detail.clone() };
    let message = format!("{message} ({})", problem.code);
    let failure = match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => Failure::usage(message),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Failure::unreachable(message),
        _ => Failure::failed(message),
    };
    failure.with(problem.faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_a_failure_with_its_faults_and_the_right_exit_code() {
        let problem = |status: u16, code: &str, faults: Value| {
            let text =
                serde_json::json!({"type": "/docs/errors", "code": code, "title": "T", "status": status, "detail": "D", "faults": faults})
                    .to_string();
            refused(StatusCode::from_u16(status).unwrap(), text.as_bytes())
        };
        let failure = problem(422, "spawn_invalid", serde_json::json!([{"pointer": "/tasks", "detail": "none"}]));
        assert_eq!((failure.exit, failure.to_string().as_str()), (Exit::Usage, "T (spawn_invalid)\n  /tasks: none"));
        assert_eq!(problem(404, "not_found", serde_json::json!([])).exit, Exit::Failed);
        assert_eq!(problem(503, "database_unavailable", serde_json::json!([])).exit, Exit::Unreachable);
        assert_eq!(refused(StatusCode::NOT_FOUND, b"<html>").exit, Exit::Failed);
        assert_eq!(refused(StatusCode::BAD_GATEWAY, b"").exit, Exit::Unreachable);
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for url in ["127.0.0.1:8080", "ftp://h", "x"] {
            assert_eq!(Client::new(url).unwrap_err().exit, Exit::Usage, "{url}");
        }
        assert_eq!(Client::new("http://h:1/").unwrap().base(), "http://h:1");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_what_to_do() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client { tries: 1, ..Client::new(&url).unwrap() };
        let failure = client.get::<Value>("/healthz").await.unwrap_err();
        assert!(failure.exit == Exit::Unreachable && failure.message.contains(&url) && failure.message.contains("muster dev"), "{failure}");
    }
}
