//! What a conversation gives to answer from.

use std::collections::BTreeMap;

use muster_shared::engine::{Input, Message, ModelRequest};
use serde_json::Value;

use super::{
    split::{self, Parsed},
    targets,
};
use crate::tokens;

/// The tool that reads artifacts.
pub(super) const ARTIFACT_READ: &str = "artifact_read";

/// Texts beyond this are not looked at.
const SOURCE_BYTES_MAX: usize = 512 * 1024;

/// One text with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// A path, or nothing for the task itself.
    pub(super) name: Option<String>,
    pub(super) parsed: Parsed,
}

/// Everything that was read, and what could not be.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Material<'a> {
    pub(super) task: &'a str,
    pub(super) sources: Vec<Source>,
    /// Artifacts that could not be read, and why.
    pub(super) failures: Vec<(String, String)>,
    /// Artifacts that were not asked for, or not in full.
    pub(super) notes: Vec<String>,
    /// What a reducer folds.
    pub(super) inputs: Option<&'a [Input]>,
    /// Whether any artifact was asked for.
    pub(super) read: bool,
    /// Named, and not asked for.
    pub(super) unread: Vec<String>,
    /// Tool calls so far.
    pub(super) calls: usize,
}

impl<'a> Material<'a> {
    pub(super) fn of(request: &'a ModelRequest) -> Self {
        let user = request.messages.iter().find_map(user_text).unwrap_or_default();
        let task = if request.caller.task.trim().is_empty() { user } else { &request.caller.task };
        let mut material = Material { task, ..Material::default() };
        let mut asked: BTreeMap<&str, String> = BTreeMap::new();
        for message in &request.messages {
            match message {
                Message::System { .. } | Message::User { .. } => {}
                Message::Inputs { inputs } => material.inputs = Some(inputs),
                Message::Assistant { tool_calls, .. } => {
                    material.calls += tool_calls.len();
                    for call in tool_calls.iter().filter(|call| call.name == ARTIFACT_READ) {
                        let path = call.arguments.get("path").and_then(Value::as_str).unwrap_or_default();
                        asked.insert(&call.id, path.to_owned());
                    }
                }
                Message::Tool { call_id, name, content, is_error } => match asked.get(call_id.as_str()) {
                    Some(path) if *is_error => material.failures.push((path.clone(), reason(content))),
                    Some(path) => material.take_artifact(path, content),
                    None => material.take(Some(name.clone()), &content.to_string()),
                },
            }
        }
        material.read = !asked.is_empty();
        material.unread = targets::named(task).into_iter().filter(|target| !asked.values().any(|path| path == target)).collect();
        material.take_context(user);
        material
    }

    fn take(&mut self, name: Option<String>, text: &str) {
        let text = if text.len() > SOURCE_BYTES_MAX { tokens::cut(text, SOURCE_BYTES_MAX) } else { text.to_owned() };
        let parsed = split::parse(name.as_deref().unwrap_or_default(), &text);
        self.sources.push(Source { name, parsed });
    }

    fn take_artifact(&mut self, path: &str, content: &Value) {
        let text = content.as_str().or_else(|| ["text", "content"].into_iter().find_map(|field| content.get(field)?.as_str()));
        match text {
            Some(text) => self.take(Some(path.to_owned()), text),
            None => self.take(Some(path.to_owned()), &content.to_string()),
        }
        if content.get("truncated").and_then(Value::as_bool) == Some(true) {
            self.notes.push(format!("Only the beginning of `{path}` was read."));
        }
    }

    /// The snapshots that follow the task in the first message of the user.
    fn take_context(&mut self, user: &str) {
        let context = user.strip_prefix(self.task).unwrap_or(user);
        let mut rest = context;
        while let Some((title, at)) =
            ["Shared context:\n", "Context:\n"].into_iter().filter_map(|title| Some((title, rest.find(title)?))).min_by_key(|(_, at)| *at)
        {
            let body = &rest[at + title.len()..];
            let end = body.find("\n\nContext:\n").unwrap_or(body.len());
            self.take(Some(title.trim_end_matches(":\n").to_lowercase()), body[..end].trim());
            rest = &body[end..];
        }
        if self.sources.is_empty() && !self.read && self.inputs.is_none() {
            let text = if context.trim().is_empty() { self.task } else { context };
            self.take(None, text);
        }
    }
}

fn user_text(message: &Message) -> Option<&str> {
    match message {
        Message::User { text } => Some(text),
        Message::System { .. } | Message::Inputs { .. } | Message::Assistant { .. } | Message::Tool { .. } => None,
    }
}

/// Code and message of a tool's error, shortly.
pub(super) fn reason(content: &Value) -> String {
    let field = |name: &str| content.get(name).and_then(Value::as_str);
    let text = match (field("code"), field("message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => content.get("error").map_or_else(|| content.as_str().map_or_else(|| content.to_string(), str::to_owned), reason),
    };
    tokens::cut(&split::plain(&text), 160)
}
