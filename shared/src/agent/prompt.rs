//! What the model is told: the briefing before the transcript.

use std::sync::Arc;

use serde_json::Value;

use super::Agent;
use crate::{
    engine::{Input, Message, OutputSpec},
    policy::Policy,
};

/// The immutable beginning of an instance's conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Briefing {
    /// What it is to do.
    pub task: String,
    /// Its role among its siblings.
    pub role: Option<String>,
    /// The snapshot that all its siblings share.
    pub shared_context: Option<Arc<Value>>,
    /// Its own snapshot.
    pub context: Option<Arc<Value>>,
    /// What it has to fold, for a reducer.
    pub inputs: Option<Vec<Input>>,
}

impl Briefing {
    /// The whole conversation of `agent` so far.
    pub fn messages(&self, policy: &Policy, agent: &Agent) -> Vec<Message> {
        let mut messages = Vec::with_capacity(3 + agent.transcript().len());
        messages.push(Message::System { text: system(policy, self.role.as_deref()) });
        messages.push(Message::User { text: self.user() });
        if let Some(inputs) = &self.inputs {
            messages.push(Message::Inputs { inputs: inputs.clone() });
        }
        messages.extend_from_slice(agent.transcript());
        messages
    }

    fn user(&self) -> String {
        let mut text = self.task.clone();
        for (title, context) in [("Shared context", &self.shared_context), ("Context", &self.context)] {
            if let Some(context) = context {
                let shown = context.as_str().map_or_else(|| context.to_string(), str::to_owned);
                text.push_str(&format!("\n\n{title}:\n{shown}"));
            }
        }
        text
    }
}

fn system(policy: &Policy, role: Option<&str>) -> String {
    let form = match &policy.output {
        OutputSpec::Text => "Answer in plain text.".to_owned(),
        OutputSpec::Markdown => "Answer in Markdown.".to_owned(),
        OutputSpec::Json { schema: None } => "Answer with one JSON value and nothing else.".to_owned(),
        OutputSpec::Json { schema: Some(schema) } => {
            format!("Answer with one JSON value that conforms to this JSON Schema, and nothing else: {schema}")
        }
    };
    let role = role.map(|role| format!("Your role: {role}."));
    let parts = [policy.system_prompt.as_str(), policy.objective.as_str(), role.as_deref().unwrap_or_default(), &form];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}
