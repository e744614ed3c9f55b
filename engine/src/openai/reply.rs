//! From the JSON of a chat completion to our answer. A server's answer is not trusted to have any form.

use muster_shared::engine::{Finish, ModelError, ModelReply, ModelRequest, ToolCall, Usage};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::failure;
use crate::{errors, script::calls_before, tokens};

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Counted>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<Text>,
    refusal: Option<String>,
    tool_calls: Option<Vec<Asked>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Parts(Vec<TextPart>),
}

#[derive(Deserialize)]
struct TextPart {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Asked {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct Counted {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

pub(super) fn read(body: &[u8], request: &ModelRequest) -> Result<ModelReply, ModelError> {
    // The error of the parser would quote the answer; its place is enough.
    let completion: Completion = serde_json::from_slice(body).map_err(|error| {
        errors::bad_reply(format!("the provider's answer is not a chat completion (line {}, column {})", error.line(), error.column()))
    })?;
    if let Some(error) = completion.error.filter(|error| !error.is_null()) {
        return Err(failure::of_error_object(&error));
    }
    let choice = completion.choices.into_iter().next().ok_or_else(|| errors::bad_reply("the provider's answer holds no choice"))?;
    let Choice { message, finish_reason } = choice;
    let filtered = finish_reason.as_deref() == Some("content_filter");
    if filtered || message.refusal.as_deref().is_some_and(|refusal| !refusal.is_empty()) {
        return Err(errors::content_filtered("the provider's content filter or the model refused to answer"));
    }
    let text = message.content.map(Text::joined).unwrap_or_default();
    let cut_off = finish_reason.as_deref() == Some("length");
    let asked = message.tool_calls.unwrap_or_default();
    if cut_off && !asked.is_empty() {
        return Err(errors::bad_reply("the token limit cut the model's tool calls off; raise max_output_tokens"));
    }
    let before = calls_before(request);
    let tool_calls =
        asked.into_iter().enumerate().map(|(index, call)| tool_call(before + index + 1, call)).collect::<Result<Vec<_>, _>>()?;
    if text.is_empty() && tool_calls.is_empty() && !cut_off {
        return Err(errors::bad_reply("the model answered with neither text nor tool calls"));
    }
    let finish = match (tool_calls.is_empty(), cut_off) {
        (false, _) => Finish::ToolCalls,
        (true, true) => Finish::Length,
        (true, false) => Finish::Stop,
    };
    let usage = used(completion.usage, tokens::usage(request, &text, &tool_calls));
    Ok(ModelReply { text, tool_calls, finish, usage })
}

impl Text {
    fn joined(self) -> String {
        match self {
            Self::Plain(text) => text,
            Self::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
        }
    }
}

/// Arguments come as JSON in a string; some servers send the object itself, or nothing for none.
fn tool_call(number: usize, call: Asked) -> Result<ToolCall, ModelError> {
    let Function { name, arguments } = call.function;
    if name.is_empty() {
        return Err(errors::bad_reply("the model asked for a tool without a name"));
    }
    let arguments = match arguments {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|_| errors::bad_reply(format!("the model's arguments for the tool `{name}` are not JSON")))?,
        Some(value) => value,
    };
    if !arguments.is_object() {
        return Err(errors::bad_reply(format!("the model's arguments for the tool `{name}` are not an object")));
    }
    let id = call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{number}"));
    Ok(ToolCall { id, name, arguments })
}

/// What the provider counted; what it did not count is estimated, so that budgets hold.
fn used(counted: Option<Counted>, estimate: Usage) -> Usage {
    let or = |counted: Option<u64>, estimate: i64| counted.map_or(estimate, |count| i64::try_from(count).unwrap_or(i64::MAX));
    let (input, output) = counted.map_or((None, None), |counted| (counted.prompt_tokens, counted.completion_tokens));
    Usage { input_tokens: or(input, estimate.input_tokens), output_tokens: or(output, estimate.output_tokens), cost_micros: 0 }
}
