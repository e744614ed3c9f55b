//! Points in JSON: sentences in its strings, and small objects as `key: value`.

use serde_json::Value;

use super::split::{Kind, Parsed};

/// Deeper values are not looked at.
const DEPTH_MAX: usize = 16;

/// Adds what a value says.
pub(super) fn flatten(value: &Value, key: &str, parsed: &mut Parsed) {
    at_depth(value, key, parsed, 0);
}

fn at_depth(value: &Value, key: &str, parsed: &mut Parsed, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => parsed.point(Kind::Prose, &format!("{key}: {value}")),
        Value::String(text) if text.contains(char::is_whitespace) => {
            let inner = super::split::markdown(text);
            parsed.points.extend(
                inner.points.into_iter().map(|(kind, text)| (if kind == Kind::Lead && depth > 1 { Kind::Prose } else { kind }, text)),
            );
        }
        Value::String(text) => parsed.point(Kind::Prose, &labelled(key, text)),
        Value::Array(list) if list.iter().all(is_small) => {
            let shown: Vec<String> = list.iter().map(shown).collect();
            parsed.point(Kind::Prose, &labelled(key, &shown.join(", ")));
        }
        Value::Array(list) => list.iter().for_each(|value| at_depth(value, key, parsed, depth + 1)),
        Value::Object(map) if map.len() > 1 && map.len() <= 8 && map.values().all(is_small) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| labelled(key, &shown(value))).collect();
            parsed.point(Kind::Prose, &pairs.join(", "));
        }
        Value::Object(map) => map.iter().for_each(|(key, value)| at_depth(value, key, parsed, depth + 1)),
    }
}

/// A number, a flag, a word.
fn is_small(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) => text.len() <= 40,
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn labelled(key: &str, text: &str) -> String {
    if key.is_empty() { text.to_owned() } else { format!("{key}: {text}") }
}

/// Adds only the statements of an agent's answer: its texts and points, not its names, scores and sources.
pub(super) fn statements(value: &Value, parsed: &mut Parsed) {
    said(value, parsed, 0);
}

fn said(value: &Value, parsed: &mut Parsed, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) if text.contains('\n') => parsed.points.extend(super::split::markdown(text).points),
        Value::String(text) if text.contains(char::is_whitespace) => parsed.paragraph(Kind::Prose, text),
        Value::String(_) => {}
        Value::Array(list) => list.iter().for_each(|value| said(value, parsed, depth + 1)),
        Value::Object(map) => {
            map.iter().filter(|(key, _)| super::values::is_statement(key)).for_each(|(_, value)| said(value, parsed, depth + 1));
        }
    }
}
