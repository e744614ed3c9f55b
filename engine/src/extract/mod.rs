//! `offline/extract`: answers without a model, a key or a network, and always the same for the same request.
//!
//! It reads every artifact that the task names, through the gated tool `artifact_read`; then it answers with the
//! most salient sentences of what was read, of the context, or of the task. A reducer's inputs are merged: equal
//! points become one, each with the names of its sources. For a JSON Schema it fills in the fields by their names.
//! It never invents: every sentence that it writes was read, or says what could not be read.

mod code;
mod facts;
mod json;
mod material;
mod merge;
mod rank;
mod render;
mod schema;
mod split;
mod targets;
mod tasks;
mod values;
mod words;

use async_trait::async_trait;
use muster_shared::engine::{Engine, Finish, ModelError, ModelReply, ModelRequest, OutputSpec, ToolCall};
use serde_json::json;

use crate::tokens;
use material::{ARTIFACT_READ, Material};
use render::Form;

/// Artifacts asked for in one turn.
const READS_PER_TURN: usize = 4;

/// Step limits that templates have: the default, and the highest. It is not known which one holds.
const STEP_LIMITS: [u32; 2] = [10, 20];

/// The engine behind `offline/extract`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract;

#[async_trait]
impl Engine for Extract {
    async fn complete(&self, request: ModelRequest) -> Result<ModelReply, ModelError> {
        Ok(reply(&request))
    }

    fn knows(&self, model: &str) -> bool {
        model == "extract"
    }

    fn models(&self) -> Vec<String> {
        vec!["extract".to_owned()]
    }
}

/// The answer: a pure function of the request.
fn reply(request: &ModelRequest) -> ModelReply {
    let material = Material::of(request);
    let tool_calls = reads(request, &material);
    if !tool_calls.is_empty() {
        let usage = tokens::usage(request, "", &tool_calls);
        return ModelReply { text: String::new(), tool_calls, finish: Finish::ToolCalls, usage };
    }
    let limit = tokens::bytes(request.max_output_tokens);
    let text = match &request.output {
        OutputSpec::Text => words_of(&material, Form::Text, limit),
        OutputSpec::Markdown => words_of(&material, Form::Markdown, limit),
        OutputSpec::Json { schema } => schema::answer(&facts::Facts::of(&material), schema.as_ref(), limit).to_string(),
    };
    let usage = tokens::usage(request, &text, &[]);
    ModelReply { text, tool_calls: Vec::new(), finish: Finish::Stop, usage }
}

fn words_of(material: &Material<'_>, form: Form, limit: usize) -> String {
    match material.inputs {
        Some(inputs) => merge::render(&merge::fold(inputs, material.task), form, limit),
        None => render::answer(material, form, limit),
    }
}

/// Calls for artifacts that the task names and nobody has asked for; none for a reducer, and none when the tool
/// is not offered.
fn reads(request: &ModelRequest, material: &Material<'_>) -> Vec<ToolCall> {
    let offered = request.tools.iter().any(|offer| offer.name == ARTIFACT_READ);
    if !offered || material.inputs.is_some() {
        return Vec::new();
    }
    // Every call is a step, and so is the answer: a batch must not run into a step limit.
    let step = request.caller.step;
    let room = STEP_LIMITS.iter().find(|limit| **limit > step).map_or(0, |limit| limit - step - 1);
    let most = READS_PER_TURN.min(usize::try_from(room).unwrap_or(READS_PER_TURN));
    let call = |(index, path): (usize, &String)| ToolCall {
        id: format!("call_{}", material.calls + index + 1),
        name: ARTIFACT_READ.to_owned(),
        arguments: json!({ "path": path }),
    };
    material.unread.iter().take(most).enumerate().map(call).collect()
}

#[cfg(test)]
mod tests;
