//! Every alias, as data: what the author wrote, and the same in canonical spelling.

use serde_json::{Value, json};

use super::{parse, pointers};
use crate::template::{Template, fields::ALIASES};

#[test]
fn every_alias_means_its_canonical_spelling() {
    let cases = [
        (json!({"mode": "multi-step"}), json!({"mode": "multi_step"})),
        (json!({"execution_mode": "multi-step"}), json!({"mode": "multi_step"})),
        (json!({"execution_mode": "single"}), json!({"mode": "single"})),
        (json!({"models": "m"}), json!({"models": ["m"]})),
        (json!({"allowed_tools": ["kv_get"]}), json!({"tools": ["kv_get"]})),
        (json!({"output": "markdown"}), json!({"output": {"format": "markdown"}})),
        (json!({"output_format": "text"}), json!({"output": {"format": "text"}})),
        (json!({"output_format": "markdown"}), json!({"output": {"format": "markdown"}})),
        (json!({"output_format": "json"}), json!({"output": {"format": "json"}})),
        (json!({"output_format": {"format": "json", "schema": {}}}), json!({"output": {"format": "json", "schema": {}}})),
        (
            json!({"output_format": "json", "output_schema": {"type": "object"}}),
            json!({"output": {"format": "json", "schema": {"type": "object"}}}),
        ),
        (
            json!({"output": "json", "output_schema": {"type": "object"}}),
            json!({"output": {"format": "json", "schema": {"type": "object"}}}),
        ),
        (json!({"output": {"format": "json"}, "output_schema": {}}), json!({"output": {"format": "json", "schema": {}}})),
        (json!({"output_schema": {"type": "object"}}), json!({"output": {"format": "json", "schema": {"type": "object"}}})),
        (
            json!({"summarization": "aggressive"}),
            json!({"summarization": {"strategy": "hierarchical"}, "context": "aggressive_summarization"}),
        ),
        (
            json!({"summarization": "aggressive", "context_policy": "aggressive_summarization"}),
            json!({"summarization": {"strategy": "hierarchical"}, "context": "aggressive_summarization"}),
        ),
        (json!({"summarization": "none"}), json!({"summarization": {"strategy": "none"}})),
        (json!({"summarization": "hierarchical"}), json!({"summarization": {"strategy": "hierarchical"}})),
        (json!({"summarization": "lossless"}), json!({"summarization": {"strategy": "lossless"}})),
        (json!({"context_policy": "lossless"}), json!({"context": "lossless"})),
        (json!({"temperature": 0.5}), json!({"model_params": {"temperature": 0.5}})),
        (json!({"max_output_tokens": 9}), json!({"model_params": {"max_output_tokens": 9}})),
        (json!({"max_tokens": 9}), json!({"model_params": {"max_output_tokens": 9}})),
        (
            json!({"temperature": 1, "model_params": {"max_output_tokens": 9}}),
            json!({"model_params": {"temperature": 1, "max_output_tokens": 9}}),
        ),
        (json!({"prompt": "p"}), json!({"system_prompt": "p"})),
        (json!({"max_steps": null, "temperature": null}), json!({})),
    ];
    for (given, canonical) in cases {
        let shown = given.to_string();
        assert_eq!(parse(given).expect(&shown).hash(), parse(canonical).expect(&shown).hash(), "{shown}");
    }
    for model in [json!({"allowed_models": ["m"]}), json!({"allowed_models": "m"}), json!({"model": "m"}), json!({"model": ["m"]})] {
        let mut document = json!({"template_id": "a"});
        document.as_object_mut().expect("it is an object").extend(model.as_object().expect("it is an object").clone());
        let template = Template::parse(&document).expect("it is valid");
        assert_eq!((template.name.as_str(), template.models.as_slice()), ("a", ["m".to_owned()].as_slice()));
    }
}

#[test]
fn an_alias_beside_its_canonical_name_is_a_fault_at_the_alias() {
    let value = |canonical: &str| match canonical {
        "/name" => json!("a"),
        "/models" | "/tools" => json!(["a"]),
        "/output/schema" => json!({}),
        "/model_params/temperature" | "/model_params/max_output_tokens" => json!(1),
        _ => json!("single"),
    };
    for (alias, canonical) in ALIASES {
        let mut document = json!({"name": "a", "models": ["m"], "output": {"format": "json"}});
        let mut target = &mut document;
        let mut names = canonical.split('/').skip(1).peekable();
        while let Some(name) = names.next() {
            let members = target.as_object_mut().expect("it is an object");
            let fresh = if names.peek().is_some() { json!({}) } else { value(canonical) };
            target = members.entry(name).or_insert(fresh);
        }
        document[*alias] = value(canonical);
        let faults = Template::parse(&document).expect_err(alias).0;
        let found = faults.iter().find(|fault| fault.pointer == format!("/{alias}")).unwrap_or_else(|| panic!("{alias}: {faults:?}"));
        assert!(found.detail.contains(canonical.trim_start_matches('/')), "{found:?}");
    }
    assert_eq!(pointers(parse(json!({"max_tokens": 5, "max_output_tokens": 5}))), ["/max_tokens"]);
    assert_eq!(pointers(parse(json!({"summarization": "aggressive", "context": "lossless"}))), ["/summarization"]);
}

#[test]
fn faults_point_at_what_the_author_wrote() {
    let cases: [(Value, &[&str]); 12] = [
        (json!({"template_id": "A", "allowed_models": "m"}), &["/template_id"]),
        (json!({"template_id": "a", "model": ""}), &["/model"]),
        (json!({"template_id": "a", "model": 5}), &["/model"]),
        (json!({"template_id": "a", "allowed_models": ["m", 5]}), &["/allowed_models/1"]),
        (json!({"name": "a", "models": ""}), &["/models"]),
        (json!({"name": "a", "model": "m", "temperature": 3, "max_tokens": 0}), &["/max_tokens", "/temperature"]),
        (json!({"name": "a", "model": "m", "output_format": "xml"}), &["/output_format"]),
        (json!({"name": "a", "model": "m", "output_format": "json", "output_schema": {"type": 5}}), &["/output_schema/type"]),
        (json!({"name": "a", "model": "m", "output_format": "text", "output_schema": {}}), &["/output_schema"]),
        (json!({"name": "a", "model": "m", "summarization": "brutal"}), &["/summarization"]),
        (json!({"name": "a", "model": "m", "context_policy": 5, "prompt": "\0"}), &["/context_policy", "/prompt"]),
        (json!({"name": "a", "model": "m", "execution_mode": "planner", "allowed_tools": [1]}), &["/allowed_tools/0", "/execution_mode"]),
    ];
    for (document, wanted) in cases {
        assert_eq!(pointers(Template::parse(&document)), wanted, "{document}");
    }
}
