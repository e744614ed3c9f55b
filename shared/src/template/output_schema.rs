//! The JSON Schema that a template demands of its output must itself be sound, small, and complete in itself.

use serde_json::Value;

use super::fields::{MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH};
use crate::error::Fault;

/// Violations of the meta-schema that are reported; more of them have the same cause.
const MAX_SHOWN: usize = 20;

/// What is wrong with `schema`, which stands at `at`.
pub(super) fn check(schema: &Value, at: &str) -> Vec<Fault> {
    let one = |detail: String| vec![Fault::new(at, detail)];
    if !schema.is_object() {
        return one("must be a JSON Schema, which is an object".to_owned());
    }
    if depth_exceeds(schema, MAX_SCHEMA_DEPTH) {
        return one(format!("is nested deeper than {MAX_SCHEMA_DEPTH} levels"));
    }
    let bytes = schema.to_string().len();
    if bytes > MAX_SCHEMA_BYTES {
        return one(format!("is {bytes} bytes long; at most {MAX_SCHEMA_BYTES} are allowed"));
    }
    let meta = match jsonschema::meta::validator_for(schema) {
        Ok(meta) => meta,
        Err(error) => return one(format!("is not a valid JSON Schema: {error}")),
    };
    let violations: Vec<Fault> = meta
        .iter_errors(schema)
        .take(MAX_SHOWN)
        .map(|error| Fault::new(format!("{at}{}", error.instance_path()), format!("is not valid in a JSON Schema: {error}")))
        .collect();
    if !violations.is_empty() {
        return violations;
    }
    // Building also resolves references and compiles patterns, which the meta-schema does not see. Nothing is fetched.
    match jsonschema::options().offline().build(schema) {
        Ok(_) => Vec::new(),
        Err(error) => one(format!("cannot be used: {error} (references outside the schema are never fetched)")),
    }
}

fn depth_exceeds(value: &Value, levels: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        Value::Array(items) => levels == 0 || items.iter().any(|item| depth_exceeds(item, levels - 1)),
        Value::Object(members) => levels == 0 || members.values().any(|member| depth_exceeds(member, levels - 1)),
    }
}
