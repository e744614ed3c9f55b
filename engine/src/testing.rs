//! Requests for the tests of this crate.

use std::time::Duration;

use muster_shared::{
    engine::{Caller, Input, Message, ModelReply, ModelRequest, OutputSpec, ToolOffer},
    ids::{InstanceId, RunId},
};
use serde_json::{Value, json};
use uuid::Uuid;

/// A request with this task, and nothing else.
pub(crate) fn request(model: &str, task: &str) -> ModelRequest {
    ModelRequest {
        model: model.to_owned(),
        messages: vec![Message::System { text: "You help.".to_owned() }, Message::User { text: task.to_owned() }],
        tools: Vec::new(),
        output: OutputSpec::Text,
        temperature: None,
        max_output_tokens: 1024,
        timeout: Duration::from_secs(30),
        idempotency_key: "ins_1-1".to_owned(),
        caller: Caller {
            run: RunId(Uuid::from_u128(1)),
            instance: InstanceId(Uuid::from_u128(2)),
            agent: "tester".to_owned(),
            task: task.to_owned(),
            name: Some("doc-1".to_owned()),
            step: 1,
            attempt: 0,
        },
    }
}

/// The tool that reads artifacts.
pub(crate) fn artifact_read() -> ToolOffer {
    ToolOffer {
        name: "artifact_read".to_owned(),
        description: "Reads an artifact.".to_owned(),
        input_schema: json!({ "type": "object", "properties": { "path": { "type": "string" } }, "required": ["path"] }),
    }
}

/// One output for a reducer.
pub(crate) fn input(number: u128, name: &str, output: Value) -> Input {
    Input { from: InstanceId(Uuid::from_u128(100 + number)), name: name.to_owned(), output }
}

/// The conversation after `reply`, with these results of its calls, one step for each.
pub(crate) fn answered(mut request: ModelRequest, reply: &ModelReply, results: &[(Value, bool)]) -> ModelRequest {
    request.messages.push(Message::Assistant { text: reply.text.clone(), tool_calls: reply.tool_calls.clone() });
    for (call, (content, is_error)) in reply.tool_calls.iter().zip(results) {
        request.messages.push(Message::Tool {
            call_id: call.id.clone(),
            name: call.name.clone(),
            content: content.clone(),
            is_error: *is_error,
        });
    }
    request.caller.step += 1 + u32::try_from(results.len()).expect("few");
    request
}
