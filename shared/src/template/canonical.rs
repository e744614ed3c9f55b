//! Canonical JSON: what is stored and hashed.

use serde::Serialize;
use serde_json::Value;

/// JSON with sorted keys and no white space. Sorted here, and not left to `serde_json`, so that hashes hold when some
/// dependency turns on its `preserve_order`, and when a database gives members back in another order.
pub(crate) fn canonical(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("only strings, numbers, lists and maps with string keys come here");
    sorted(value).to_string()
}

/// The same value, its members in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members.into_iter().collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_at_every_depth() {
        let value: Value = serde_json::from_str(r#"{"b": [{"z": 1, "a": 0.5}], "a": null}"#).expect("it is JSON");
        assert_eq!(canonical(&value), r#"{"a":null,"b":[{"a":0.5,"z":1}]}"#);
    }
}
