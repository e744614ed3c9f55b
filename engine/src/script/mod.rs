//! `offline/script`: answers by rules from a YAML file, for tests, benchmarks and users' own tests.
//!
//! ```yaml
//! # A list of rules (or `rules:` with such a list). The first that matches answers.
//! - match: { agent: "researcher*", step: 1 }      # `*` stands for any characters
//!   answer:
//!     tool_calls: [{ name: artifact_read, arguments: { path: "{{name}}" } }]
//! - match: { agent: researcher, task: "water", step: ">=2", attempt: 0 }   # task: a part of it, or a pattern
//!   answer: { error: { code: rate_limited, retry_after_ms: 50, message: "slow down" } }
//! - match: { step: "2-4" }
//!   answer: { text: "{{repeat:x:200}}", continue: true, delay_ms: 20 }
//! - answer:                                        # no `match`: matches everything
//!     json: { task: "{{task}}", got: "{{inputs}}" }
//!     usage: { input_tokens: 10, output_tokens: 5 }
//! ```
//!
//! `match`: `agent`, `name` (exact or with `*`), `task` (a part of it; with `*` a pattern of the whole), `step`
//! and `attempt` (`3`, `"1-3"`, `">=2"`, `"<=4"`). `answer`: one of `text`, `json`, `plan` (JSON too), `error`,
//! or `tool_calls` (with `text`, if wanted); with `continue`, `delay_ms` and `usage`. Texts may hold `{{task}}`,
//! `{{name}}`, `{{agent}}`, `{{step}}`, `{{attempt}}`, `{{inputs}}` (what a reducer folds, as JSON) and
//! `{{repeat:x:200}}` (filler). A JSON string that is only `{{inputs}}` or `{{step}}` becomes that value itself.

mod parse;
mod rule;
mod template;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use muster_shared::{
    engine::{Engine, Finish, ModelError, ModelReply, ModelRequest, ToolCall},
    error::{Fault, Faults},
};
use serde_json::Value;

use crate::{errors, tokens};
use rule::{Content, Rule};

/// A script larger than this is a mistake.
const SCRIPT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A script, validated and made ready: answering parses nothing.
#[derive(Debug, Clone)]
pub struct Script {
    rules: Vec<Rule>,
}

impl Script {
    /// From YAML. Every fault is reported, with its JSON pointer.
    pub fn parse(yaml: &str) -> Result<Self, Faults> {
        let value: Value = serde_norway::from_str(yaml).map_err(|error| Faults(vec![Fault::new("", format!("not YAML: {error}"))]))?;
        Self::from_value(&value)
    }

    /// From the same structure as JSON.
    pub fn from_value(value: &Value) -> Result<Self, Faults> {
        parse::rules(value).map(|rules| Self { rules })
    }

    /// From a YAML file.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let whole = |detail: String| Faults(vec![Fault::new("", detail)]);
        let size = std::fs::metadata(path).map_err(|error| whole(format!("cannot be read: {error}")))?.len();
        if size > SCRIPT_BYTES_MAX {
            return Err(whole(format!("has {size} bytes; a script has at most {SCRIPT_BYTES_MAX}")));
        }
        let yaml = std::fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
        Self::parse(&yaml)
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::parse(include_str!("builtin.yaml")).expect("the built-in script is valid: a test parses it")
    }
}

/// The engine behind `offline/script`. Serves any model name.
#[derive(Debug, Clone, Default)]
pub struct ScriptEngine {
    script: Script,
}

impl ScriptEngine {
    /// Answers by this script.
    pub const fn new(script: Script) -> Self {
        Self { script }
    }

    /// Answers by these rules: `json!([{ "match": {…}, "answer": {…} }, …])`.
    pub fn from_rules(rules: &Value) -> Result<Self, Faults> {
        Script::from_value(rules).map(Self::new)
    }

    fn rule(&self, request: &ModelRequest) -> Result<&Rule, ModelError> {
        self.script.rules.iter().find(|rule| rule.matches(&request.caller)).ok_or_else(|| {
            let caller = &request.caller;
            errors::invalid_request(format!(
                "none of the script's {} rules matches agent `{}`, name `{}`, step {}, attempt {}, task `{}`",
                self.script.rules.len(),
                caller.agent,
                caller.name.as_deref().unwrap_or_default(),
                caller.step,
                caller.attempt,
                tokens::cut(&caller.task, 80),
            ))
        })
    }
}

#[async_trait]
impl Engine for ScriptEngine {
    async fn complete(&self, request: ModelRequest) -> Result<ModelReply, ModelError> {
        let rule = self.rule(&request)?;
        simulate_latency(rule.delay, request.timeout).await?;
        let finish = if rule.more { Finish::Continue } else { Finish::Stop };
        let (text, tool_calls, finish) = match &rule.content {
            Content::Text(text) => (text.render(&request), Vec::new(), finish),
            Content::Tools { text, calls } => {
                let before = calls_before(&request);
                let called = |(index, call): (usize, &rule::Call)| ToolCall {
                    id: format!("call_{}", before + index + 1),
                    name: call.name.clone(),
                    arguments: call.arguments.render(&request),
                };
                (text.render(&request), calls.iter().enumerate().map(called).collect(), Finish::ToolCalls)
            }
            Content::Error(error) => return Err(error.clone()),
        };
        let usage = rule.usage.unwrap_or_else(|| tokens::usage(&request, &text, &tool_calls));
        Ok(ModelReply { text, tool_calls, finish, usage })
    }

    fn knows(&self, _model: &str) -> bool {
        true
    }

    fn models(&self) -> Vec<String> {
        vec!["*".to_owned()]
    }
}

/// Ids of calls are unique within a conversation, and the same whenever it is played again.
pub(crate) fn calls_before(request: &ModelRequest) -> usize {
    use muster_shared::engine::Message;
    request
        .messages
        .iter()
        .map(|message| match message {
            Message::Assistant { tool_calls, .. } => tool_calls.len(),
            Message::System { .. } | Message::User { .. } | Message::Inputs { .. } | Message::Tool { .. } => 0,
        })
        .sum()
}

/// Takes as long as the script says a model takes, at most as long as the caller waits.
async fn simulate_latency(delay: Duration, timeout: Duration) -> Result<(), ModelError> {
    if delay.is_zero() {
        return Ok(());
    }
    tokio::time::sleep(delay.min(timeout)).await;
    if delay > timeout {
        return Err(errors::timeout(format!("no answer within {} ms", timeout.as_millis())));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
