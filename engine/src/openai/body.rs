//! From our request to the JSON of a chat completion.

use muster_shared::engine::{Message, ModelRequest, OutputSpec, ToolCall, ToolOffer};
use serde_json::{Map, Value, json};

use crate::config::Structured;

pub(super) fn of(request: &ModelRequest, structured: Structured, openai: bool) -> Value {
    let limit = if openai { "max_completion_tokens" } else { "max_tokens" };
    let messages: Vec<Value> = request.messages.iter().map(message).collect();
    let mut body = Map::new();
    body.insert("model".to_owned(), request.model.as_str().into());
    body.insert("messages".to_owned(), messages.into());
    body.insert("stream".to_owned(), false.into());
    body.insert(limit.to_owned(), request.max_output_tokens.into());
    if let Some(temperature) = request.temperature {
        body.insert("temperature".to_owned(), temperature.into());
    }
    if !request.tools.is_empty() {
        body.insert("tools".to_owned(), request.tools.iter().map(tool).collect());
        body.insert("tool_choice".to_owned(), "auto".into());
    }
    if let Some(format) = response_format(request, structured) {
        body.insert("response_format".to_owned(), format);
    }
    Value::Object(body)
}

fn message(message: &Message) -> Value {
    match message {
        Message::System { text } => json!({ "role": "system", "content": text }),
        Message::User { text } => json!({ "role": "user", "content": text }),
        Message::Inputs { inputs } => {
            let shown: Vec<Value> = inputs.iter().map(|input| json!({ "name": input.name, "output": input.output })).collect();
            json!({ "role": "user", "content": json!({ "inputs": shown }).to_string() })
        }
        Message::Assistant { text, tool_calls } if tool_calls.is_empty() => json!({ "role": "assistant", "content": text }),
        Message::Assistant { text, tool_calls } => {
            let content = if text.is_empty() { Value::Null } else { text.as_str().into() };
            json!({ "role": "assistant", "content": content, "tool_calls": tool_calls.iter().map(call).collect::<Value>() })
        }
        Message::Tool { call_id, content, is_error, name: _ } => {
            let shown = if *is_error { json!({ "error": content }) } else { content.clone() };
            let text = shown.as_str().map_or_else(|| shown.to_string(), str::to_owned);
            json!({ "role": "tool", "tool_call_id": call_id, "content": text })
        }
    }
}

fn call(call: &ToolCall) -> Value {
    json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments.to_string() } })
}

fn tool(offer: &ToolOffer) -> Value {
    json!({
        "type": "function",
        "function": { "name": offer.name, "description": offer.description, "parameters": offer.input_schema },
    })
}

/// `strict` stays off: it allows only a part of JSON Schema, and the answer is validated anyway.
fn response_format(request: &ModelRequest, structured: Structured) -> Option<Value> {
    let OutputSpec::Json { schema } = &request.output else { return None };
    let object = || json!({ "type": "json_object" });
    match (structured, schema) {
        (Structured::JsonSchema, Some(schema)) => {
            Some(json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema, "strict": false } }))
        }
        (Structured::JsonSchema, None) => Some(object()),
        (Structured::JsonObject, Some(_) | None) => request.tools.is_empty().then(object),
        (Structured::Prompt, Some(_) | None) => None,
    }
}
