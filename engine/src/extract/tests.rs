use muster_shared::engine::{Input, Message};
use serde_json::{Value, json};

use super::*;
use crate::testing::{answered, artifact_read, input, request};

const DOC: &str = include_str!("../router.rs");
const PROSE: &str = "# Leases\n\nA worker holds an instance under a lease. The lease has an epoch, and every write names the epoch. \
A worker that lost its lease stops at once.\n\n## Recovery\n\n- The sweeper returns instances of dead workers to the queue.\n\
- Known issue: a suspended machine may miss its deadline.\n- Nothing is lost when Redis forgets everything.\n";

fn artifact(path: &str, text: &str) -> (Value, bool) {
    (json!({ "path": path, "text": text, "bytes": text.len(), "truncated": false }), false)
}

/// A reading agent with one artifact, ready to answer.
fn has_read(path: &str, text: &str) -> ModelRequest {
    let mut request = request("extract", &format!("Summarize `{path}`."));
    request.tools = vec![artifact_read()];
    let asked = reply(&request);
    assert_eq!((asked.finish, asked.tool_calls.len()), (Finish::ToolCalls, 1));
    answered(request, &asked, &[artifact(path, text)])
}

fn reducer(inputs: Vec<Input>, output: OutputSpec) -> ModelRequest {
    let mut request = request("extract", "Combine the outputs of research into one answer.");
    request.messages.push(Message::Inputs { inputs });
    request.output = output;
    request
}

#[test]
fn every_named_artifact_is_read_a_few_at_a_time_and_then_answered_from() {
    let mut request = request("extract", "Compare a.md, b.md, c.md, d.md and e.md with `a.md`.");
    request.tools = vec![artifact_read()];
    let first = reply(&request);
    let asked: Vec<_> = first.tool_calls.iter().map(|call| (call.id.as_str(), call.arguments["path"].as_str().unwrap())).collect();
    assert_eq!(asked, [("call_1", "a.md"), ("call_2", "b.md"), ("call_3", "c.md"), ("call_4", "d.md")]);
    let missing = (json!({ "code": "not_found", "message": "there is no such artifact" }), true);
    let request =
        answered(request, &first, &[artifact("a.md", PROSE), missing, artifact("c.md", "Tea is hot."), artifact("d.md", "Ice is cold.")]);
    let second = reply(&request);
    assert_eq!(second.tool_calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["call_5"]);
    let request = answered(request, &second, &[artifact("e.md", "Water is wet.")]);
    let last = reply(&request);
    assert_eq!(last.finish, Finish::Stop);
    for part in [
        "a.md: A worker holds an instance under a lease.",
        "Tea is hot.",
        "e.md: Water is wet.",
        "Could not be read: `b.md` (not_found: there is no such artifact).",
    ] {
        assert!(last.text.contains(part), "{part} in {}", last.text);
    }
}

#[test]
fn reads_leave_a_step_for_the_answer() {
    let mut request = request("extract", &(1..=12).map(|n| format!("f{n}.md ")).collect::<String>());
    request.tools = vec![artifact_read()];
    let counts: Vec<usize> = [1, 6, 8, 9, 10, 18, 19]
        .into_iter()
        .map(|step| {
            request.caller.step = step;
            reply(&request).tool_calls.len()
        })
        .collect();
    assert_eq!(counts, [4, 3, 1, 0, 4, 1, 0]);
}

#[test]
fn without_the_tool_it_answers_with_what_it_has() {
    let mut request = request("extract", "Summarize `a.md`.");
    request.messages[1] = Message::User {
        text: format!("Summarize `a.md`.\n\nShared context:\n{{\"note\": \"The harbour opens at nine.\"}}\n\nContext:\n{PROSE}"),
    };
    let reply = reply(&request);
    assert!(reply.tool_calls.is_empty());
    for part in ["shared context: The harbour opens at nine.", "context: A worker holds", "Not read: `a.md`."] {
        assert!(reply.text.contains(part), "{part} in {}", reply.text);
    }
}

#[test]
fn an_agent_that_could_read_nothing_says_so() {
    let mut request = request("extract", "Summarize `a.md`.");
    request.tools = vec![artifact_read()];
    let asked = reply(&request);
    let refused = (json!({ "code": "outside_root", "message": "no" }), true);
    let mut request = answered(request, &asked, &[refused]);
    assert_eq!(reply(&request).text, "None of the artifacts could be read: `a.md` (outside_root: no).");
    request.output = OutputSpec::Json {
        schema: Some(json!({ "type": "object", "properties": { "summary": { "type": "string" }, "confidence": { "type": "number" } } })),
    };
    let value: Value = serde_json::from_str(&reply(&request).text).unwrap();
    assert!(value["summary"].as_str().unwrap().starts_with("None of the artifacts"), "{value}");
    assert_eq!(value["confidence"], 0.1);
}

#[test]
fn a_source_file_is_told_by_its_documentation() {
    let mut request = has_read("src/router.rs", DOC);
    request.output = OutputSpec::Markdown;
    let text = reply(&request).text;
    assert!(text.starts_with("**src/router.rs**: One engine before all providers: finds the provider by the prefix"), "{text}");
    assert!(text.contains("- Defines `OFFLINE`, `OFFLINE_EXTRACT`, `Router`, `RouterBuilder`"), "{text}");
    assert!(!text.contains("let mut"), "{text}");
}

#[test]
fn answers_keep_the_token_limit_and_are_the_same_every_time() {
    for (path, text) in
        [("src/router.rs", DOC), ("leases.md", PROSE), ("data.json", r#"{"a": {"b": "A long enough sentence about ships."}, "c": [1, 2]}"#)]
    {
        for output in [OutputSpec::Text, OutputSpec::Markdown] {
            let mut request = has_read(path, text);
            request.output = output;
            for limit in [1, 10, 30, 100, 1024] {
                request.max_output_tokens = limit;
                let answer = reply(&request);
                assert!(!answer.text.is_empty() && answer.usage.output_tokens <= i64::from(limit), "{limit}: {}", answer.text);
                assert_eq!(answer, reply(&request));
            }
        }
    }
}

#[test]
fn texts_without_any_sentence_are_no_reason_to_fail() {
    for text in [
        "",
        "\n\n",
        "{",
        "}{",
        "a",
        "```",
        "`",
        "# ",
        "|",
        "- ",
        "1. ",
        "\u{feff}",
        "ÄÖÜ. ß",
        "/*",
        "\"\"\"",
        "[]",
        "{}",
        "null",
        "....",
        "[a](",
        "](",
    ] {
        for path in ["a.md", "a.rs", "a.py", "a.sql", "a.json"] {
            for output in [OutputSpec::Text, OutputSpec::Markdown, OutputSpec::Json { schema: None }] {
                let mut request = has_read(path, text);
                request.output = output;
                assert!(!reply(&request).text.is_empty(), "{path}: {text:?}");
            }
        }
    }
}

#[test]
fn equal_points_are_merged_and_keep_the_names_of_their_sources() {
    let inputs = vec![
        input(1, "doc-1", json!("Workers hold leases on instances.\n\n- Redis may lose everything at any time.")),
        input(2, "src/lib.rs", json!("**src/lib.rs**: Redis may lose everything, at any time!\n\n- The store is the truth.")),
        input(3, "doc-3", Value::Null),
        input(4, "doc-4", json!({ "error": { "code": "max_steps", "message": "used up" } })),
        input(5, "doc-[5]", json!({ "summary": "Reducers fold outputs in a tree.", "key_points": ["The store is the truth."] })),
    ];
    let text = reply(&reducer(inputs, OutputSpec::Markdown)).text;
    assert!(text.starts_with("## Summary of 3 sources\n\n- "), "{text}");
    for line in [
        "- Redis may lose everything, at any time! [src/lib.rs] [doc-1]",
        "- The store is the truth. [src/lib.rs] [doc-(5)]",
        "- Workers hold leases on instances. [doc-1]",
        "- Reducers fold outputs in a tree. [doc-(5)]",
        "Not available: [doc-3] (no output); [doc-4] (max_steps: used up).",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
}

#[test]
fn merging_merged_outputs_keeps_counts_names_and_form() {
    for output in [OutputSpec::Markdown, OutputSpec::Text] {
        let leaf = |n: u128| {
            let words = ["tides", "ferries", "cranes", "ropes", "anchors", "pilots", "buoys", "lamps", "charts"];
            let said = if n == 9 {
                Value::Null
            } else {
                json!(format!("The {} of the harbour were counted {n} times.", words[usize::try_from(n).unwrap() - 1]))
            };
            input(n, &format!("doc-{n}"), said)
        };
        let lower: Vec<Input> = (0..3)
            .map(|node| {
                let merged = reply(&reducer((1..=3).map(|n| leaf(node * 3 + n)).collect(), output.clone())).text;
                input(50 + node, &format!("reduce-1-{node}"), Value::String(merged))
            })
            .collect();
        let root = reply(&reducer(lower.clone(), output.clone())).text;
        let first = root.lines().next().unwrap();
        assert!(matches!(first, "## Summary of 8 sources" | "Summary of 8 sources:"), "{root}");
        for n in 1..=8 {
            assert!(root.contains(&format!("{n} times. [doc-{n}]\n")), "doc-{n} in\n{root}");
        }
        assert!(root.ends_with("Not available: [doc-9] (no output).") && !root.contains("reduce-1"), "{root}");
        let mut small = reducer(lower, output);
        for limit in [1, 8, 20, 60, 100] {
            small.max_output_tokens = limit;
            let text = reply(&small).text;
            assert!(!text.is_empty() && text.len() <= tokens::bytes(limit), "{limit}: {text}");
        }
    }
}

#[test]
fn a_reducer_without_anything_usable_says_so() {
    let text = reply(&reducer(vec![input(1, "a", Value::Null), input(2, "b", json!(""))], OutputSpec::Text)).text;
    assert_eq!(text, "None of the 2 outputs could be used.\n\nNot available: [a] (no output); [b] (empty output).");
    assert!(!reply(&reducer(Vec::new(), OutputSpec::Markdown)).text.is_empty());
}

#[test]
fn many_large_inputs_are_folded_within_the_limit() {
    let inputs: Vec<Input> = (0..100).map(|n| input(n, &format!("doc-{n}"), Value::String(DOC.repeat(4)))).collect();
    let text = reply(&reducer(inputs, OutputSpec::Markdown)).text;
    assert!(text.len() <= 4096 && text.starts_with("## Summary of 100 sources"), "{text}");
    assert!(text.contains(" [+94 more]"), "{text}");
}

#[test]
fn the_fields_of_an_analysis_are_filled_by_their_names() {
    let schema = json!({
        "type": "object",
        "required": ["summary", "key_points", "entities"],
        "properties": {
            "summary": { "type": "string" },
            "key_points": { "type": "array", "items": { "type": "string" }, "maxItems": 3 },
            "entities": { "type": "array", "items": { "type": "string" } },
            "title": { "type": "string" },
            "issues": { "type": "array", "items": { "type": "object", "required": ["description", "severity"], "properties": {
                "description": { "type": "string" }, "severity": { "enum": ["low", "high"] } } } },
            "confidence": { "type": "number", "minimum": 0, "maximum": 1 },
            "sources": { "type": "array", "items": { "type": "string" } },
        },
    });
    let mut request = has_read("leases.md", PROSE);
    request.output = OutputSpec::Json { schema: Some(schema) };
    let value: Value = serde_json::from_str(&reply(&request).text).unwrap();
    assert_eq!(value["title"], "Leases");
    assert_eq!(value["confidence"], 0.8);
    assert_eq!(value["sources"], json!(["leases.md"]));
    assert_eq!(value["key_points"].as_array().unwrap().len(), 3);
    assert!(value["summary"].as_str().unwrap().contains("under a lease"), "{value}");
    assert_eq!(value["issues"], json!([{ "description": "Known issue: a suspended machine may miss its deadline.", "severity": "low" }]));
    assert!(value["entities"].as_array().unwrap().contains(&json!("Redis")), "{value}");
}

#[test]
fn a_decomposer_gets_the_tasks_that_the_text_holds() {
    let schema = |least: usize| {
        json!({ "type": "object", "required": ["tasks"], "additionalProperties": false,
        "properties": { "tasks": { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": least, "uniqueItems": true } } })
    };
    let tasks = |task: &str, least: usize| {
        let mut request = request("extract", task);
        request.output = OutputSpec::Json { schema: Some(schema(least)) };
        serde_json::from_str::<Value>(&reply(&request).text).unwrap()["tasks"].clone()
    };
    assert_eq!(tasks("Find the cause; fix it; write a test", 1), json!(["Find the cause", "Fix it", "Write a test"]));
    assert_eq!(tasks("Research solar, wind and hydro power", 2), json!(["Research solar", "Research wind", "Research hydro power"]));
    assert_eq!(tasks("Make tea", 3), json!(["Make tea", "Gather the facts for: Make tea", "Work on the parts of: Make tea"]));
}

#[test]
fn reducers_of_objects_unite_their_fields() {
    let schema = json!({ "type": "object", "required": ["summary", "key_points", "entities"], "properties": {
        "summary": { "type": "string" },
        "key_points": { "type": "array", "items": { "type": "string" } },
        "entities": { "type": "array", "items": { "type": "string" } } } });
    let one = json!({ "summary": "Ships carry grain to the city.", "key_points": ["Grain comes by ship from the south."], "entities": ["Grain", "Rome"] });
    let two = json!({ "summary": "Roads carry wine to the city.", "key_points": ["Grain comes by ship from the south!"], "entities": ["rome", "Wine"] });
    let answer = reply(&reducer(vec![input(1, "a", one), input(2, "b", two)], OutputSpec::Json { schema: Some(schema) }));
    let value: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(value["entities"], json!(["Grain", "Rome", "Wine"]));
    assert!(value["key_points"].as_array().unwrap().contains(&json!("Grain comes by ship from the south. [a] [b]")), "{value}");
    assert!(!value["summary"].as_str().unwrap().contains('['), "{value}");
}

#[test]
fn answers_conform_to_every_schema_that_can_be_met() {
    let schemas = [
        json!(true),
        json!({}),
        json!({ "type": "string", "minLength": 5, "maxLength": 20 }),
        json!({ "type": ["null", "integer"], "minimum": 3, "exclusiveMaximum": 5 }),
        json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 0.5 }),
        json!({ "type": "integer", "multipleOf": 7, "minimum": 10 }),
        json!({ "type": "boolean" }),
        json!({ "type": "null" }),
        json!({ "const": { "a": 1 } }),
        json!({ "enum": ["x", 5, null] }),
        json!({ "type": "array", "minItems": 60, "items": { "type": "string" } }),
        json!({ "type": "array", "minItems": 12, "uniqueItems": true, "items": { "type": "integer" } }),
        json!({ "type": "array", "prefixItems": [{ "type": "string" }, { "type": "integer" }], "items": false, "minItems": 2 }),
        json!({ "type": "object", "required": ["anything"], "minProperties": 3 }),
        json!({ "type": "object", "additionalProperties": { "type": "integer" }, "required": ["a", "b"] }),
        json!({ "type": "object", "maxProperties": 1, "required": ["b"], "properties": { "a": { "type": "string" }, "b": { "type": "boolean" } } }),
        json!({ "$ref": "#/$defs/node", "$defs": { "node": { "type": "object", "required": ["name"],
            "properties": { "name": { "type": "string" }, "children": { "type": "array", "items": { "$ref": "#/$defs/node" } } } } } }),
        json!({ "type": "object", "required": ["next"], "properties": { "next": { "anyOf": [{ "type": "null" }, { "$ref": "#" }] } } }),
        json!({ "oneOf": [{ "type": "object", "required": ["kind"], "properties": { "kind": { "const": "a" } } },
            { "type": "object", "required": ["kind"], "properties": { "kind": { "const": "b" } } }] }),
        json!({ "allOf": [{ "type": "object", "required": ["a"], "properties": { "a": { "type": "string", "maxLength": 9 } } },
            { "required": ["b"], "properties": { "b": { "type": "integer" }, "a": { "minLength": 9 } } }] }),
        json!({ "type": "object", "required": ["day", "mail", "slug", "code"], "properties": {
            "day": { "type": "string", "format": "date" }, "mail": { "type": "string", "format": "email" },
            "slug": { "type": "string", "pattern": "^[a-z]+(-[a-z]+)*$" }, "code": { "type": "string", "pattern": "^[A-Z]{3}$" } } }),
        json!({ "type": "object", "additionalProperties": false, "required": ["verdict", "confidence", "issues"], "properties": {
            "verdict": { "enum": ["supported", "refuted", "unknown"] }, "confidence": { "type": "integer", "minimum": 1, "maximum": 5 },
            "issues": { "type": "array", "minItems": 1, "items": { "type": "object", "required": ["text", "line"],
                "properties": { "text": { "type": "string" }, "line": { "type": ["integer", "null"] } } } } } }),
    ];
    for schema in schemas {
        let validator = jsonschema::validator_for(&schema).unwrap();
        for request in [
            has_read("leases.md", PROSE),
            has_read("e.txt", ""),
            request("extract", "Say hello."),
            reducer(vec![input(1, "a", Value::Null)], OutputSpec::Text),
        ] {
            let mut request = request;
            request.output = OutputSpec::Json { schema: Some(schema.clone()) };
            for limit in [1, 40, 1024] {
                request.max_output_tokens = limit;
                let text = reply(&request).text;
                let value: Value = serde_json::from_str(&text).unwrap();
                assert!(validator.is_valid(&value), "{schema}\n{text}");
                assert_eq!(text, reply(&request).text);
            }
        }
    }
}

#[test]
fn a_schema_that_cannot_be_met_or_read_still_gets_json() {
    for schema in [
        json!(false),
        json!({ "type": "string", "pattern": "^q{77}$" }),
        json!({ "$ref": "#/nowhere" }),
        json!({ "$ref": "#" }),
        json!({ "type": 5 }),
        json!({ "type": "object", "required": ["a", "b", "c"], "additionalProperties": { "$ref": "#" } }),
        json!({ "allOf": [{ "$ref": "#" }, { "$ref": "#" }, { "$ref": "#" }] }),
        json!({ "type": "array", "minItems": 9, "items": { "anyOf": [{ "$ref": "#" }, { "$ref": "#" }] } }),
        json!([]),
    ] {
        let mut request = request("extract", "Say hello.");
        request.output = OutputSpec::Json { schema: Some(schema.clone()) };
        assert!(serde_json::from_str::<Value>(&reply(&request).text).is_ok(), "{schema}");
    }
}
