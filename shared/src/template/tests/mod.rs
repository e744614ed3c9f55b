//! Tests of parsing, validation, presets and the exported schema.

mod aliases;
pub(crate) mod arbitrary;
mod faults;
mod properties;
mod schema;

use serde_json::{Value, json};

use super::Template;
use crate::error::Faults;

/// The least that parses, with the members of `more` on top.
fn document(more: Value) -> Value {
    let mut document = json!({"name": "a", "models": ["offline/extract"]});
    let (Value::Object(members), Value::Object(more)) = (&mut document, more) else { panic!("cases are objects") };
    members.extend(more);
    document
}

fn parse(more: Value) -> Result<Template, Faults> {
    Template::parse(&document(more))
}

/// Pointers of the faults, in order.
fn pointers(result: Result<Template, Faults>) -> Vec<String> {
    result.expect_err("it is faulty").0.into_iter().map(|fault| fault.pointer).collect()
}
