//! The exported JSON Schema, the parser's tables and the presets agree.

use serde_json::{Value, json};

use super::document;
use crate::{
    engine::OutputSpec,
    template::{
        Mode, Template,
        fields::{Field, Shape, TEMPLATE},
        presets, presets_for,
    },
};

/// The schema of a property, its reference followed.
fn property<'a>(root: &'a Value, object: &'a Value, name: &str) -> &'a Value {
    resolved(root, object["properties"].get(name).unwrap_or_else(|| panic!("the schema lacks {name}")))
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("references are local"),
        None => schema,
    }
}

fn compare(root: &Value, object: &Value, fields: &[Field]) {
    let mut names: Vec<&str> = object["properties"].as_object().expect("it has properties").keys().map(String::as_str).collect();
    let mut known: Vec<&str> = fields.iter().map(|field| field.name).collect();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known, "the parser knows exactly the fields of the schema");
    assert_eq!(object["additionalProperties"], json!(false));
    for field in fields {
        let is_required = object["required"].as_array().is_some_and(|names| names.contains(&json!(field.name)));
        assert_eq!(is_required, field.required, "{}", field.name);
        let schema = property(root, object, field.name);
        match field.shape {
            Shape::Whole(bounds) | Shape::WholeOrNull(bounds) => {
                assert_eq!((&schema["minimum"], &schema["maximum"]), (&json!(bounds.min), &json!(bounds.max)), "{}", field.name);
            }
            Shape::Choice(names) => {
                for name in names {
                    assert!(jsonschema::is_valid(&with_root(root, schema), &json!(name)), "{name}");
                }
                assert!(!jsonschema::is_valid(&with_root(root, schema), &json!("other")));
            }
            Shape::Object(inner) => compare(root, schema, inner),
            Shape::Text | Shape::Texts | Shape::Flag | Shape::Number | Shape::NumberOrNull | Shape::Output => {}
        }
    }
}

fn with_root(root: &Value, schema: &Value) -> Value {
    let mut schema = schema.clone();
    schema["$defs"] = root["$defs"].clone();
    schema
}

#[test]
fn the_exported_schema_has_every_field_with_the_bounds_of_the_parser() {
    let schema = Template::json_schema();
    compare(&schema, &schema, TEMPLATE);
}

#[test]
fn the_exported_schema_and_the_parser_refuse_the_same_numbers() {
    let schema = Template::json_schema();
    for more in [
        json!({"model_params": {"temperature": 2.5}}),
        json!({"summarization": {"compression_ratio": -0.5}}),
        json!({"cost_per_1k_tokens": -1}),
        json!({"max_steps": 21}),
        json!({"name": "A"}),
        json!({"models": []}),
    ] {
        let document = document(more);
        assert!(!jsonschema::is_valid(&schema, &document), "{document}");
        Template::parse(&document).expect_err("the parser refuses it too");
    }
}

#[test]
fn presets_take_the_same_path_as_custom_templates() {
    let schema = Template::json_schema();
    for preset in presets() {
        let value = serde_json::to_value(&preset).expect("it serialises");
        assert!(jsonschema::is_valid(&schema, &value), "{value}");
        assert_eq!(Template::parse(&value).expect("a preset is valid"), preset);
    }
}

#[test]
fn presets_are_what_they_promise() {
    let presets = presets_for("openai/some-model");
    let names: Vec<&str> = presets.iter().map(|preset| preset.name.as_str()).collect();
    assert_eq!(names, ["chat", "research", "analyst", "synthesizer", "verifier", "decomposer"]);
    for preset in &presets {
        assert_eq!(preset.models, ["openai/some-model"]);
        assert!(!preset.description.is_empty() && !preset.objective.is_empty() && !preset.system_prompt.is_empty());
        assert!(preset.max_steps() > preset.retry.max_retries, "{}: its retries fit into its steps", preset.name);
    }
    let synthesizer = &presets[3];
    assert!(synthesizer.tools.is_empty());
    assert_eq!((synthesizer.mode, synthesizer.max_steps, &synthesizer.output), (Mode::MultiStep, Some(4), &OutputSpec::Markdown));
    let answers = [
        (2, json!({"summary": "s", "key_points": ["k"], "entities": []})),
        (4, json!({"confidence": 0.5, "issues": []})),
        (5, json!({"tasks": ["t"]})),
    ];
    for (index, answer) in answers {
        let OutputSpec::Json { schema: Some(schema) } = &presets[index].output else { panic!("it answers with JSON") };
        assert!(jsonschema::is_valid(schema, &answer));
        assert!(!jsonschema::is_valid(schema, &json!({})));
    }
}
