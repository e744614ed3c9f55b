//! Every kind of fault, as data: what the author wrote, where the fault is, and a part of what it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{document, parse, pointers};
use crate::template::{Template, presets};

fn check(cases: Vec<(Value, &str, &str)>) {
    for (more, pointer, detail) in cases {
        let shown = more.to_string().chars().take(120).collect::<String>();
        let faults = parse(more).expect_err(&shown).0;
        assert_eq!(faults.iter().map(|fault| fault.pointer.as_str()).collect::<Vec<_>>(), [pointer], "{shown}: {faults:?}");
        assert!(faults[0].detail.contains(detail), "{shown}: {:?} lacks {detail:?}", faults[0].detail);
    }
}

#[test]
fn what_is_not_an_object_is_refused_as_a_whole() {
    for value in [json!(null), json!([]), json!("a"), json!(1), json!(true)] {
        let faults = Template::parse(&value).expect_err("it is no object").0;
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].pointer, "");
    }
}

#[test]
fn missing_fields_and_unknown_ones_are_named() {
    assert_eq!(pointers(Template::parse(&json!({}))), ["/models", "/name"]);
    check(vec![
        (json!({"modles": ["a"]}), "/modles", "did you mean `models`?"),
        (json!({"max-steps": 3}), "/max-steps", "did you mean `max_steps`?"),
        (json!({"max_parallel": 3}), "/max_parallel", "belongs into `limits`"),
        (json!({"zzzzzz": 3}), "/zzzzzz", "known: `name`"),
        (json!({"a/b~": 3}), "/a~1b~0", "unknown field"),
        (json!({"limits": {"max_paralel": 3}}), "/limits/max_paralel", "did you mean `max_parallel`?"),
        (json!({"retry": {"retries": 3}}), "/retry/retries", "`max_retries`"),
        (json!({"output": {"format": "json", "shema": {}}}), "/output/shema", "did you mean `schema`?"),
    ]);
}

#[test]
fn wrong_types_are_named() {
    check(vec![
        (json!({"name": 5}), "/name", "must be a string; it is a number"),
        (json!({"description": null}), "/description", "must be a string; it is null"),
        (json!({"models": 5}), "/models", "must be a list of strings"),
        (json!({"models": ["a", 5]}), "/models/1", "must be a string; it is a number"),
        (json!({"tools": {}}), "/tools", "must be a list of strings; it is an object"),
        (json!({"mode": 5}), "/mode", "one of `multi_step`, `single`"),
        (json!({"mode": "multi_stap"}), "/mode", "did you mean `multi_step`?"),
        (json!({"max_steps": "5"}), "/max_steps", "must be a whole number from 1 to 20; it is a string"),
        (json!({"limits": []}), "/limits", "must be an object; it is a list"),
        (json!({"limits": {"max_depth": 1.5}}), "/limits/max_depth", "must be a whole number from 0 to 16; it is 1.5"),
        (json!({"model_params": 3, "mode": "single"}), "/model_params", "must be an object"),
        (json!({"summarization": {"preserve_entities": "yes"}}), "/summarization/preserve_entities", "true or false"),
        (json!({"summarization": {"compression_ratio": "half"}}), "/summarization/compression_ratio", "must be a number"),
        (json!({"context": "lossy"}), "/context", "must be one of"),
        (json!({"tool_failure": "open "}), "/tool_failure", "did you mean `open`?"),
        (json!({"output": 5}), "/output", "must be an object"),
        (json!({"output": {}}), "/output/format", "is required"),
        (json!({"output": {"format": "xml"}}), "/output/format", "`text`, `markdown`, `json`"),
        (json!({"output": {"format": "text", "schema": {}}}), "/output/schema", "only the format `json` takes a schema"),
    ]);
}

#[test]
fn values_out_of_bounds_are_named() {
    check(vec![
        (json!({"name": ""}), "/name", "must be 1 to 64"),
        (json!({"name": "-a"}), "/name", "must be 1 to 64"),
        (json!({"name": "Researcher"}), "/name", "it is `Researcher`"),
        (json!({"name": "a".repeat(65)}), "/name", "must be 1 to 64"),
        (json!({"name": "tpl_a"}), "/name", "must not begin with `tpl_`"),
        (json!({"models": []}), "/models", "at least one model"),
        (json!({"models": ["a", " "]}), "/models/1", "must not be empty"),
        (json!({"models": ["a", "b", "a"]}), "/models/2", "`a` is named twice"),
        (json!({"tools": ["kv_get", "kv_get"]}), "/tools/1", "named twice"),
        (json!({"tools": ["x".repeat(201)]}), "/tools/0", "longer than 200 characters"),
        (json!({"capabilities": vec!["x"; 101]}), "/capabilities", "more than 100 entries"),
        (json!({"child_templates": ["b", "b"]}), "/child_templates/1", "named twice"),
        (json!({"child_templates": ["b@0"]}), "/child_templates/0", "`name@version`"),
        (json!({"child_templates": ["B"]}), "/child_templates/0", "`name@version`"),
        (json!({"mode": "multi_step", "max_steps": 0}), "/max_steps", "from 1 to 20; it is 0"),
        (json!({"mode": "multi_step", "max_steps": 21}), "/max_steps", "it is 21"),
        (json!({"mode": "multi_step", "max_steps": -1}), "/max_steps", "it is -1"),
        (json!({"mode": "multi_step", "max_steps": 18_446_744_073_709_551_615_u64}), "/max_steps", "from 1 to 20"),
        (json!({"max_steps": 2}), "/max_steps", "mode `single` (the default) has exactly one step"),
        (json!({"mode": "single", "max_steps": 5}), "/max_steps", "mode `single`"),
        (json!({"model_params": {"temperature": 2.1}}), "/model_params/temperature", "from 0 to 2; it is 2.1"),
        (json!({"model_params": {"temperature": -0.1}}), "/model_params/temperature", "it is -0.1"),
        (json!({"model_params": {"max_output_tokens": 128_001}}), "/model_params/max_output_tokens", "from 1 to 128000"),
        (json!({"summarization": {"compression_ratio": 1.01}}), "/summarization/compression_ratio", "from 0 to 1"),
        (json!({"summarization": {"trigger_tokens": 0}}), "/summarization/trigger_tokens", "from 1"),
        (json!({"limits": {"max_instances": 0}}), "/limits/max_instances", "from 1 to 1000000"),
        (json!({"limits": {"max_depth": 17}}), "/limits/max_depth", "from 0 to 16"),
        (json!({"limits": {"max_parallel": 100_001}}), "/limits/max_parallel", "from 1 to 100000"),
        (json!({"limits": {"max_tool_calls": 1_001}}), "/limits/max_tool_calls", "from 0 to 1000"),
        (json!({"limits": {"max_tokens": 0}}), "/limits/max_tokens", "from 1"),
        (json!({"limits": {"thinking_ms": 3_600_001}}), "/limits/thinking_ms", "from 1 to 3600000"),
        (json!({"limits": {"executing_ms": 0}}), "/limits/executing_ms", "from 1 to 3600000"),
        (json!({"limits": {"blocked_ms": 0}}), "/limits/blocked_ms", "from 1 to 31536000000"),
        (json!({"limits": {"agent_timeout_ms": 31_536_000_001_u64}}), "/limits/agent_timeout_ms", "from 1 to 31536000000"),
        (json!({"retry": {"max_retries": 4}}), "/retry/max_retries", "from 0 to 3"),
        (
            json!({"retry": {"initial_delay_ms": 900, "max_delay_ms": 800}}),
            "/retry/max_delay_ms",
            "at least initial_delay_ms, which is 900",
        ),
        (json!({"cost_per_1k_tokens": -1}), "/cost_per_1k_tokens", "from 0"),
        (json!({"observed_latency_ms": -1}), "/observed_latency_ms", "from 0"),
        (json!({"system_prompt": "x".repeat(65_537)}), "/system_prompt", "at most 65536"),
        (json!({"objective": "x".repeat(65_537)}), "/objective", "at most 65536"),
        (json!({"description": "x".repeat(4_097)}), "/description", "at most 4096"),
    ]);
}

#[test]
fn nul_is_refused_wherever_it_stands() {
    check(vec![
        (json!({"objective": "a\0"}), "/objective", "NUL"),
        (json!({"models": ["a", "b\0"]}), "/models/1", "NUL"),
        (json!({"capabilities": ["b\0"]}), "/capabilities/0", "NUL"),
        (json!({"output": {"format": "json", "schema": {"title": "\0"}}}), "/output/schema/title", "NUL"),
        (json!({"output": {"format": "json", "schema": {"a\0": 1}}}), "/output/schema/a\u{FFFD}", "NUL"),
    ]);
    let faults = parse(json!({"a\0b": "\0", "mode": "x\0"})).expect_err("it is faulty");
    assert!(!format!("{faults:?}{faults}").contains('\0'), "no answer carries a NUL");
}

#[test]
fn what_cannot_be_enforced_yet_is_refused() {
    let text = "is not supported by this version of Muster";
    check(vec![
        (json!({"mode": "planner"}), "/mode", text),
        (json!({"planning": {"allow_replan": true}}), "/planning/allow_replan", text),
        (json!({"guardrails": {"blocked_topics": ["a"]}}), "/guardrails/blocked_topics", text),
        (json!({"guardrails": {"output_constraints": ["a"]}}), "/guardrails/output_constraints", text),
        (json!({"mcp_servers": ["a"]}), "/mcp_servers", text),
        (json!({"collections": ["a"]}), "/collections", text),
    ]);
}

#[test]
fn an_output_schema_must_be_a_sound_json_schema_that_needs_nothing_from_outside() {
    let json_output = |schema: Value| json!({"output": {"format": "json", "schema": schema}});
    let mut deep = json!({});
    for _ in 0..70 {
        deep = json!({ "not": deep });
    }
    check(vec![
        (json_output(json!("string")), "/output/schema", "which is an object"),
        (json_output(json!({"type": "strin"})), "/output/schema/type", "not valid in a JSON Schema"),
        (
            json_output(json!({"properties": {"a": {"minLength": -1}}})),
            "/output/schema/properties/a/minLength",
            "not valid in a JSON Schema",
        ),
        (json_output(json!({"pattern": "("})), "/output/schema", "cannot be used"),
        (json_output(json!({"$ref": "#/$defs/missing"})), "/output/schema", "cannot be used"),
        (json_output(json!({"$ref": "https://example.com/schema.json"})), "/output/schema", "never fetched"),
        (json_output(json!({"$ref": "file:///etc/passwd"})), "/output/schema", "never fetched"),
        (json_output(json!({"$schema": "https://example.com/meta"})), "/output/schema", "not a valid JSON Schema"),
        (json_output(deep), "/output/schema", "deeper than 64"),
        (json_output(json!({"description": "x".repeat(70_000)})), "/output/schema", "at most 65536"),
    ]);
    let own = json!({"$defs": {"t": {"type": "string"}}, "type": "object", "properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/$defs/t"}}});
    parse(json_output(own)).expect("references within the schema are fine");
    let both = pointers(parse(json_output(json!({"type": "strin", "required": "a"}))));
    assert_eq!(both, ["/output/schema/required", "/output/schema/type"]);
}

#[test]
fn all_faults_are_reported_at_once_and_a_fault_causes_no_other() {
    let document = json!({
        "name": 7, "mode": "x", "max_steps": 5, "toolz": [], "models": ["a", 3, "a"], "tools": 5,
        "limits": {"max_depth": 99, "max_parallel": "many", "colour": 1}, "retry": {"max_delay_ms": "x"},
        "output": {"format": "yaml", "schema": {"type": 3}}, "description": "\0", "mcp_servers": ["a"],
    });
    let wanted = [
        "/description",
        "/limits/colour",
        "/limits/max_depth",
        "/limits/max_parallel",
        "/mcp_servers",
        "/mode",
        "/models/1",
        "/models/2",
        "/name",
        "/output/format",
        "/output/schema/type",
        "/retry/max_delay_ms",
        "/tools",
        "/toolz",
    ];
    assert_eq!(pointers(Template::parse(&document)), wanted);
}

#[test]
fn thousands_of_unknown_fields_give_a_bounded_answer() {
    let many: serde_json::Map<String, Value> = (0..5_000).map(|n| (format!("field{n}"), json!(n))).collect();
    let faults = parse(Value::Object(many)).expect_err("none of them is known").0;
    assert_eq!(faults.len(), 101);
    assert!(faults[0].detail.contains("4900 more unknown fields"), "{:?}", faults[0]);
    assert_eq!(pointers(parse(json!({"tools": vec![1; 5_000]}))).len(), 102);
}

#[test]
fn unknown_models_and_tools_are_named_with_what_is_known() {
    let mut template =
        Template::parse(&document(json!({"models": ["offline/extract", "gpt"], "tools": ["calculater", "kv_get"]}))).expect("it is valid");
    let tools = BTreeSet::from(["calculator".to_owned(), "kv_get".to_owned()]);
    let hint = ["offline/*".to_owned()];
    let knows = |model: &str| model.starts_with("offline/");
    let faults = template.validate_known(&knows, &tools, &hint).expect_err("two are unknown").0;
    let shown: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).collect();
    assert_eq!(
        shown,
        [
            "/models/1: unknown model `gpt`; known: `offline/*`",
            "/tools/0: unknown tool `calculater`; did you mean `calculator`?; known: `calculator`, `kv_get`",
        ]
    );
    template.models.pop();
    template.tools.remove(0);
    template.validate_known(&knows, &tools, &hint).expect("all are known");
}

#[test]
fn a_template_made_in_code_is_held_to_the_same_bounds() {
    let mut template = presets().remove(0);
    template.model_params.temperature = Some(f64::NAN);
    template.limits.max_depth = 17;
    let faults = template.validate().expect_err("it is faulty").0;
    assert_eq!(faults.iter().map(|fault| fault.pointer.as_str()).collect::<Vec<_>>(), ["/limits/max_depth", "/model_params/temperature"]);
}
