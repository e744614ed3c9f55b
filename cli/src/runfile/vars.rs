//! `{{key}}` in run files.
//!
//! Every text of a run file may hold placeholders. Those of `set` and `--set` are filled everywhere; those of a
//! file (`{{path}}`, `{{name}}`, `{{stem}}`, `{{folder}}`) only below `for_each`, once for each file.

use std::collections::{BTreeMap, BTreeSet};

use muster_shared::error::Fault;
use serde_json::Value;

/// What is known of each file that `for_each` goes through.
pub(crate) const OF_A_FILE: [&str; 4] = ["path", "name", "stem", "folder"];

/// Where the placeholders of a file are allowed.
const FOR_EACH: &str = "/for_each/";

/// The values of the placeholders.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Vars(BTreeMap<String, Value>);

impl Vars {
    /// The defaults of the run file's `set`, and over them what the command line gives as `key=value`.
    pub(crate) fn new(defaults: Option<&Value>, given: &[String]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut vars = BTreeMap::new();
        match defaults {
            None | Some(Value::Null) => {}
            Some(Value::Object(fields)) => {
                for (key, value) in fields {
                    let at = format!("/set/{key}");
                    if OF_A_FILE.contains(&key.as_str()) || !is_key(key) {
                        faults.push(Fault::new(
                            &at,
                            format!("a key has letters, digits, `_` and `-`, and is none of {}", OF_A_FILE.join(", ")),
                        ));
                    } else if value.is_object() || value.is_array() {
                        faults.push(Fault::new(&at, "a value is a text, a number, true or false"));
                    } else {
                        vars.insert(key.clone(), value.clone());
                    }
                }
            }
            Some(_) => faults.push(Fault::new("/set", "must be a mapping of keys to their default values")),
        }
        for assignment in given {
            match assign(&vars, assignment) {
                Ok((key, value)) => drop(vars.insert(key, value)),
                Err(detail) => faults.push(Fault::new("--set", detail)),
            }
        }
        if faults.is_empty() { Ok(Self(vars)) } else { Err(faults) }
    }

    /// Fills the placeholders of a document. Unknown ones are faults; so are keys that nothing uses.
    pub(crate) fn fill(&self, document: &mut Value, given: &[String]) -> Vec<Fault> {
        let mut filling = Filling { vars: self, used: BTreeSet::new(), faults: Vec::new() };
        filling.value(document, "");
        let Filling { used, mut faults, .. } = filling;
        for key in given.iter().filter_map(|assignment| assignment.split_once('=')).map(|(key, _)| key.trim()) {
            if !used.contains(key) {
                faults.push(Fault::new("--set", format!("the run file has no {{{{{key}}}}}")));
            }
        }
        faults
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// `key=value`. Where the default is a number or a truth value, so must be the value.
fn assign(defaults: &BTreeMap<String, Value>, assignment: &str) -> Result<(String, Value), String> {
    let Some((key, text)) = assignment.split_once('=') else { return Err(format!("`{assignment}` must be key=value")) };
    let key = key.trim();
    if !is_key(key) || OF_A_FILE.contains(&key) {
        return Err(format!("`{key}` is no key that can be set"));
    }
    let typed = |wanted: &str, is: fn(&Value) -> bool| {
        serde_json::from_str(text.trim()).ok().filter(is).ok_or_else(|| format!("`{key}` must be {wanted}, as its default is"))
    };
    let value = match defaults.get(key) {
        Some(Value::Number(_)) => typed("a number", Value::is_number)?,
        Some(Value::Bool(_)) => typed("true or false", Value::is_boolean)?,
        Some(Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_)) | None => Value::String(text.to_owned()),
    };
    Ok((key.to_owned(), value))
}

struct Filling<'a> {
    vars: &'a Vars,
    used: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Filling<'_> {
    fn value(&mut self, value: &mut Value, at: &str) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => {
                if let Some(filled) = self.text(text, at) {
                    *value = filled;
                }
            }
            Value::Array(items) => items.iter_mut().enumerate().for_each(|(n, item)| self.value(item, &format!("{at}/{n}"))),
            Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| self.value(field, &format!("{at}/{key}"))),
        }
    }

    /// The text with its placeholders filled; a text that is one placeholder becomes its value, whatever its kind.
    fn text(&mut self, text: &str, at: &str) -> Option<Value> {
        if let Some(key) = sole(text)
            && let Some(value) = self.vars.0.get(key)
        {
            self.used.insert(key.to_owned());
            return Some(value.clone());
        }
        let filled = replace(text, |key| self.one(key, at));
        (filled != text).then_some(Value::String(filled))
    }

    fn one(&mut self, key: &str, at: &str) -> Option<String> {
        if let Some(value) = self.vars.0.get(key) {
            self.used.insert(key.to_owned());
            return Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        let of_a_file = OF_A_FILE.contains(&key);
        if !(of_a_file && at.starts_with(FOR_EACH)) {
            let detail = if of_a_file {
                format!("{{{{{key}}}}} is only known below `for_each`")
            } else {
                format!("{{{{{key}}}}} has no value: give --set {key}=…, or a default in `set`")
            };
            self.faults.push(Fault::new(at, detail));
        }
        None
    }
}

/// The key of a text that is one placeholder and nothing else.
fn sole(text: &str) -> Option<&str> {
    let key = text.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
    is_key(key).then_some(key)
}

/// Replaces the placeholders for which there is a value; what only looks like one is left alone.
pub(crate) fn replace(text: &str, mut value: impl FnMut(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let placeholder = after.split_once("}}").map(|(key, after)| (key.trim(), after)).filter(|(key, _)| is_key(key));
        match placeholder.and_then(|(key, after)| Some((value(key)?, after))) {
            Some((value, after)) => {
                filled.push_str(&value);
                rest = after;
            }
            None => {
                filled.push_str("{{");
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(mut document: Value, defaults: Value, given: &[&str]) -> Result<Value, String> {
        let given: Vec<String> = given.iter().map(|one| (*one).to_owned()).collect();
        let show =
            |faults: Vec<Fault>| faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.detail)).collect::<Vec<_>>().join("; ");
        let faults = Vars::new(Some(&defaults), &given).map_err(show)?.fill(&mut document, &given);
        if faults.is_empty() { Ok(document) } else { Err(show(faults)) }
    }

    #[test]
    fn the_command_line_wins_over_the_defaults_and_kinds_are_kept() {
        let document = json!({"task": "On {{topic}}: {{ n }} points", "max_parallel": "{{n}}", "list": ["{{topic}}"]});
        let defaults = json!({"topic": "bees", "n": 3});
        assert_eq!(
            filled(document.clone(), defaults.clone(), &[]).unwrap(),
            json!({"task": "On bees: 3 points", "max_parallel": 3, "list": ["bees"]})
        );
        assert_eq!(filled(document.clone(), defaults.clone(), &["n=8", "topic=a=b"]).unwrap()["task"], "On a=b: 8 points");
        assert!(filled(document, defaults, &["n=many"]).unwrap_err().contains("`n` must be a number"));
    }

    #[test]
    fn unknown_placeholders_and_unused_keys_are_faults() {
        let error = filled(json!({"a": ["x {{what}}"]}), json!({}), &["other=1"]).unwrap_err();
        assert!(error.contains("/a/0 {{what}} has no value") && error.contains("no {{other}}"), "{error}");
        assert!(filled(json!({}), json!({}), &["nothing"]).unwrap_err().contains("must be key=value"));
        assert!(filled(json!({}), json!({"path": 1}), &[]).unwrap_err().contains("/set/path"));
    }

    #[test]
    fn placeholders_of_a_file_stay_below_for_each_and_are_faults_elsewhere() {
        let document = json!({"for_each": {"task": "Read `{{path}}` on {{t}}"}});
        assert_eq!(filled(document, json!({"t": "x"}), &[]).unwrap()["for_each"]["task"], "Read `{{path}}` on x");
        assert!(filled(json!({"task": "{{path}}"}), json!({}), &[]).unwrap_err().contains("only known below `for_each`"));
    }

    #[test]
    fn what_only_looks_like_a_placeholder_is_left_alone() {
        for text in ["{{", "{{}}", "{{ a b }}", "}}", "a {{x", "{\"a\": {\"b\": 1}}"] {
            assert_eq!(replace(text, |_| Some("!".to_owned())), text);
        }
        assert_eq!(replace("{{a}}{{b}} {{", |key| Some(key.to_uppercase())), "AB {{");
        assert_eq!(replace("{{ x {{a}} {{b}}", |key| (key == "a").then(|| "1".to_owned())), "{{ x 1 {{b}}");
    }
}
