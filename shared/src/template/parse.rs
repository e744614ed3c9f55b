//! JSON becomes a template, and every fault is reported at once.
//!
//! The document is walked along the tables in `fields`. What is faulty is reported and replaced by a harmless stand-in
//! in a copy, so that serde reads the rest and the bounds of everything else are checked in the same pass.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    Template,
    aliases::Normalised,
    fields::{ALIASES, Field, MAX_ENTRIES, Shape, TEMPLATE},
    text::{listed, member, nearest, quoted},
};
use crate::error::{Fault, Faults};

/// Unknown fields reported one by one; more of them would say nothing new.
const MAX_UNKNOWN: usize = 100;

impl Template {
    /// Reads a template. Aliases are accepted; every fault is reported, at the place where the author wrote it.
    pub fn parse(json: &Value) -> Result<Self, Faults> {
        let Value::Object(given) = json else {
            return Err(Faults(vec![Fault::new("", format!("a template is an object; this is {}", kind(json)))]));
        };
        let mut normalised = Normalised::of(given);
        let mut walk = Walk { faults: std::mem::take(&mut normalised.faults) };
        let mut document = std::mem::take(&mut normalised.document);
        walk.object(&mut document, TEMPLATE, "");
        let reported: BTreeSet<String> = walk.faults.iter().map(|fault| fault.pointer.clone()).collect();
        let mut faults = walk.faults;
        let template = match serde_json::from_value::<Self>(Value::Object(document)) {
            Ok(template) => {
                // What is reported at a stand-in has been reported, better, by the walk.
                let found = template.validate().err().map_or_else(Vec::new, |faults| faults.0);
                faults.extend(found.into_iter().filter(|fault| !reported.contains(&fault.pointer)));
                Some(template)
            }
            Err(error) => {
                faults.push(Fault::new("", error.to_string()));
                None
            }
        };
        for fault in &mut faults {
            fault.pointer = normalised.original(&fault.pointer);
        }
        faults.sort();
        faults.dedup();
        match template {
            Some(template) if faults.is_empty() => Ok(template),
            Some(_) | None => Err(Faults(faults)),
        }
    }
}

/// The walk over one document.
struct Walk {
    faults: Vec<Fault>,
}

impl Walk {
    fn fault(&mut self, at: &str, detail: String) {
        self.faults.push(Fault::new(at, detail));
    }

    /// Checks the members of an object; unknown ones are removed, missing ones get a stand-in.
    fn object(&mut self, members: &mut Map<String, Value>, fields: &[Field], at: &str) {
        self.unknown(members, fields, at);
        members.retain(|key, _| fields.iter().any(|field| field.name == key));
        for field in fields {
            let here = member(at, field.name);
            match members.get_mut(field.name) {
                Some(value) => self.value(value, field.shape, &here),
                None if field.required => {
                    self.fault(&here, "is required".to_owned());
                    members.insert(field.name.to_owned(), stand_in(field.shape));
                }
                None => {}
            }
        }
    }

    fn unknown(&mut self, members: &Map<String, Value>, fields: &[Field], at: &str) {
        let unknown: Vec<&String> = members.keys().filter(|key| fields.iter().all(|field| field.name != *key)).collect();
        for key in unknown.iter().take(MAX_UNKNOWN) {
            self.fault(&member(at, key), format!("unknown field {}{}", quoted(key), hint(key, fields, at)));
        }
        if unknown.len() > MAX_UNKNOWN {
            self.fault(at, format!("{} more unknown fields", unknown.len() - MAX_UNKNOWN));
        }
    }

    /// Checks one value; a faulty one is replaced by a stand-in.
    fn value(&mut self, value: &mut Value, shape: Shape, at: &str) {
        let refusal = match (shape, &mut *value) {
            (Shape::Text, Value::String(_)) | (Shape::Flag, Value::Bool(_)) | (Shape::Number | Shape::NumberOrNull, Value::Number(_)) => {
                return;
            }
            (Shape::WholeOrNull(_) | Shape::NumberOrNull, Value::Null) => return,
            (Shape::Texts, Value::Array(entries)) => return self.texts(entries, at),
            (Shape::Object(fields), Value::Object(members)) => return self.object(members, fields, at),
            (Shape::Output, Value::Object(members)) => return self.output(members, at),
            (Shape::Whole(bounds) | Shape::WholeOrNull(bounds), Value::Number(number)) => match number.as_u64() {
                Some(number) if bounds.contains(number) => return,
                Some(_) | None => bounds.refusal(number),
            },
            (Shape::Choice(names), Value::String(given)) if names.contains(&given.as_str()) => return,
            (Shape::Choice(names), Value::String(given)) => choice(given, names),
            (_, other) => format!("must be {}; it is {}", wanted(shape), kind(other)),
        };
        self.fault(at, refusal);
        *value = stand_in(shape);
    }

    fn texts(&mut self, entries: &mut Vec<Value>, at: &str) {
        // One more is kept, so that the bound on the number of entries is seen to be passed.
        entries.truncate(MAX_ENTRIES + 1);
        for (index, entry) in entries.iter_mut().enumerate() {
            if !entry.is_string() {
                self.fault(&format!("{at}/{index}"), format!("must be a string; it is {}", kind(entry)));
                *entry = json!(format!("fault-{index}"));
            }
        }
    }

    /// `format` decides whether there may be a `schema`.
    fn output(&mut self, members: &mut Map<String, Value>, at: &str) {
        const FORMAT: Field = Field { name: "format", shape: Shape::Choice(super::fields::FORMATS), required: true };
        // The schema is any JSON here; the validator judges it.
        let schema = members.remove("schema").filter(|schema| !schema.is_null());
        self.object(members, &[FORMAT], at);
        let Some(schema) = schema else { return };
        let format_at = format!("{at}/format");
        let is_faulty = self.faults.iter().any(|fault| fault.pointer == format_at);
        if members.get("format").is_some_and(|format| format == "json") || is_faulty {
            members.insert("format".to_owned(), json!("json"));
            members.insert("schema".to_owned(), schema);
        } else {
            self.fault(&format!("{at}/schema"), "only the format `json` takes a schema".to_owned());
        }
    }
}

/// What the author of an unknown field may have meant.
fn hint(key: &str, fields: &[Field], at: &str) -> String {
    let names = || fields.iter().map(|field| field.name).chain((at == "/output").then_some("schema"));
    if at.is_empty() {
        if let Some(near) = nearest(key, names().chain(ALIASES.iter().map(|(alias, _)| *alias))) {
            return format!("; did you mean `{near}`?");
        }
        let inside = fields.iter().find(|field| match field.shape {
            Shape::Object(inner) => inner.iter().any(|inner| inner.name == key),
            Shape::Text | Shape::Texts | Shape::Flag | Shape::Whole(_) | Shape::WholeOrNull(_) => false,
            Shape::Number | Shape::NumberOrNull | Shape::Choice(_) | Shape::Output => false,
        });
        if let Some(field) = inside {
            return format!("; it belongs into `{}`", field.name);
        }
    } else if let Some(near) = nearest(key, names()) {
        return format!("; did you mean `{near}`?");
    }
    format!("; known: {}", listed(names()))
}

fn choice(given: &str, names: &[&'static str]) -> String {
    let near = nearest(given, names.iter().copied()).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    format!("must be one of {}; it is {}{near}", listed(names.iter().copied()), quoted(given))
}

/// What is wanted, in words.
fn wanted(shape: Shape) -> String {
    match shape {
        Shape::Text => "a string".to_owned(),
        Shape::Texts => "a list of strings".to_owned(),
        Shape::Flag => "true or false".to_owned(),
        Shape::Whole(bounds) | Shape::WholeOrNull(bounds) => format!("a whole number from {} to {}", bounds.min, bounds.max),
        Shape::Number | Shape::NumberOrNull => "a number".to_owned(),
        Shape::Choice(names) => format!("one of {}", listed(names.iter().copied())),
        Shape::Object(_) | Shape::Output => "an object".to_owned(),
    }
}

/// What was given, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value that deserialises and causes no fault elsewhere.
fn stand_in(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!("x"),
        Shape::Texts => json!([]),
        Shape::Flag => json!(false),
        Shape::Whole(bounds) => json!(bounds.min),
        Shape::Number => json!(0),
        Shape::WholeOrNull(_) | Shape::NumberOrNull => Value::Null,
        Shape::Choice(names) => json!(names[0]),
        Shape::Object(_) => json!({}),
        Shape::Output => json!({"format": "text"}),
    }
}
