//! What passes in and out of tools: form by JSON Schema, and what can be stored at all.

use std::io;

use jsonschema::Validator;
use muster_shared::error::Fault;
use serde_json::Value;

/// Deeper values could not be read back from the log: JSON readers stop at 128, and events wrap them.
const MAX_DEPTH: usize = 96;

/// More faults than this help nobody; the rest is counted.
const MAX_FAULTS: usize = 50;

/// Everything that is wrong with `value`, for a person; `None` when nothing is. Values are not repeated: they
/// may be long, and they are content.
pub(crate) fn faults(validator: &Validator, value: &Value) -> Option<String> {
    // What cannot be stored is looked for first, so that nothing recurses into a value that is too deep.
    let found = match unstorable(value) {
        Some(fault) => vec![fault],
        None => validator.iter_errors(value).map(|error| Fault::new(error.instance_path().as_str(), error.masked().to_string())).collect(),
    };
    if found.is_empty() {
        return None;
    }
    let more = found.len().saturating_sub(MAX_FAULTS);
    let shown = muster_shared::error::Faults(found.into_iter().take(MAX_FAULTS).collect());
    Some(if more == 0 { shown.to_string() } else { format!("{shown}; and {more} more") })
}

/// A NUL character (Postgres refuses it in JSON) or too much nesting. Explicit stack: depth is the caller's.
fn unstorable(value: &Value) -> Option<Fault> {
    let mut todo = vec![(value, String::new(), 1)];
    while let Some((value, pointer, depth)) = todo.pop() {
        if depth > MAX_DEPTH {
            return Some(Fault::new(pointer, format!("nested deeper than {MAX_DEPTH}")));
        }
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) if text.contains('\0') => return Some(Fault::new(pointer, "contains a NUL character")),
            Value::String(_) => {}
            Value::Array(items) => {
                todo.extend(items.iter().enumerate().map(|(index, item)| (item, format!("{pointer}/{index}"), depth + 1)));
            }
            Value::Object(fields) => {
                if fields.keys().any(|key| key.contains('\0')) {
                    return Some(Fault::new(pointer, "a key contains a NUL character"));
                }
                todo.extend(fields.iter().map(|(key, item)| (item, format!("{pointer}/{}", escape(key)), depth + 1)));
            }
        }
    }
    None
}

/// RFC 6901, section 3.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The length of `value` as JSON text, without making the text.
pub(crate) fn serialized_len(value: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("JSON values can be written, and counting never fails");
    count.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nul_is_found_wherever_it_hides_and_its_place_is_named() {
        let validator = jsonschema::validator_for(&json!(true)).expect("a schema");
        let shown = |value: Value| faults(&validator, &value).unwrap_or_default();
        assert!(shown(json!({"a": [1, {"b/c": "x\0y"}]})).starts_with("/a/1/b~1c: "));
        assert!(shown(json!({"a\0": 1})).contains("a key contains a NUL"));
        assert_eq!(shown(json!({"a": "\\u0000"})), "");
    }

    #[test]
    fn a_value_that_no_reader_would_read_back_is_refused() {
        let validator = jsonschema::validator_for(&json!(true)).expect("a schema");
        let deep = |depth: usize| (1..depth).fold(json!(1), |value, _| json!([value]));
        assert_eq!(faults(&validator, &deep(MAX_DEPTH)), None);
        assert!(faults(&validator, &deep(MAX_DEPTH + 1)).is_some_and(|text| text.contains("nested deeper")));
    }

    #[test]
    fn the_length_is_that_of_the_text() {
        let value = json!({"a": ["ü\u{1}\"", 1.5, null]});
        assert_eq!(serialized_len(&value), value.to_string().len());
    }
}
