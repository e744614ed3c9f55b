//! Filling a JSON Schema: an answer that conforms to it, from what is known.

use std::cell::Cell;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::{facts::Facts, values};

/// Nesting beyond this is answered with the least; beyond twice as much with nothing. A schema may refer to itself.
const DEPTH_MAX: usize = 6;

/// Values beyond this are answered with the least; beyond ten times as many with nothing.
const VALUES_MAX: usize = 1_000;
const FIELDS_MAX: usize = 64;

/// How much an answer says. Tried from the largest, until one fits the token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Sentences of a summary.
    pub(super) sentences: usize,
    /// Items of a list.
    pub(super) items: usize,
    /// Bytes of one text.
    pub(super) bytes: usize,
}

const SIZES: [Size; 6] = [
    Size { sentences: 5, items: 10, bytes: 600 },
    Size { sentences: 4, items: 6, bytes: 400 },
    Size { sentences: 2, items: 4, bytes: 240 },
    Size { sentences: 1, items: 2, bytes: 120 },
    Size { sentences: 1, items: 1, bytes: 60 },
    Size { sentences: 1, items: 0, bytes: 30 },
];

/// The largest answer within `limit` bytes that conforms; the smallest that was made, if none does both.
pub(super) fn answer(facts: &Facts, schema: Option<&Value>, limit: usize) -> Value {
    let Some(schema) = schema else { return within(limit, |size| Some(free(facts, size))) };
    let validator = jsonschema::validator_for(schema).ok();
    let conforms = |value: &Value| validator.as_ref().is_none_or(|validator| validator.is_valid(value));
    within(limit, |size| {
        let fill = |only_required| Fill { root: schema, facts, size, only_required, made: Cell::new(0) }.value(schema, &At::default());
        [false, true].into_iter().map(fill).find(conforms)
    })
}

fn within(limit: usize, make: impl Fn(Size) -> Option<Value>) -> Value {
    let mut last = Value::Null;
    for made in SIZES.iter().filter_map(|size| make(*size)) {
        if made.to_string().len() <= limit {
            return made;
        }
        last = made;
    }
    last
}

/// Without a schema: what most readers look for.
fn free(facts: &Facts, size: Size) -> Value {
    let points: Vec<&String> = facts.points.iter().take(size.items).collect();
    json!({ "summary": values::summary(facts, size, size.bytes * 2), "key_points": points, "sources": facts.sources.iter().take(size.items).collect::<Vec<_>>() })
}

/// Where in the answer a value stands.
#[derive(Debug, Clone, Default)]
pub(super) struct At<'a> {
    /// Name of the property, or of the list around it.
    pub(super) name: &'a str,
    /// Name of the list and position in it, within an item: its properties speak of that item.
    pub(super) item: Option<(&'a str, usize)>,
    depth: usize,
}

impl<'a> At<'a> {
    const fn property(&self, name: &'a str) -> Self {
        Self { name, item: self.item, depth: self.depth + 1 }
    }

    const fn item(&self, number: usize) -> Self {
        Self { name: self.name, item: Some((self.name, number)), depth: self.depth + 1 }
    }
}

/// Makes values for schemas.
pub(super) struct Fill<'a> {
    root: &'a Value,
    pub(super) facts: &'a Facts,
    pub(super) size: Size,
    only_required: bool,
    made: Cell<usize>,
}

impl Fill<'_> {
    /// Whether the answer must come to its end.
    fn is_deep(&self, at: &At<'_>) -> bool {
        self.only_required || at.depth > DEPTH_MAX || self.made.get() > VALUES_MAX
    }

    fn value(&self, schema: &Value, at: &At<'_>) -> Value {
        self.made.set(self.made.get() + 1);
        if at.depth > 2 * DEPTH_MAX || self.made.get() > 10 * VALUES_MAX {
            return Value::Null;
        }
        // `true` allows anything.
        let Some(map) = self.resolved(schema, 0) else { return Value::Null };
        if let Some(constant) = map.get("const") {
            return constant.clone();
        }
        if let Some(choices) = map.get("enum").and_then(Value::as_array) {
            return values::choice(self.facts, at, choices);
        }
        if let Some(chosen) = self.alternative(&map, at) {
            return chosen;
        }
        match kind(&map) {
            "object" => self.object(&map, at),
            "array" => self.array(&map, at),
            "number" | "integer" => values::number(self.facts, at, &map),
            "boolean" => Value::Bool(values::flag(self.facts, at)),
            "null" => Value::Null,
            _ => self.string(&map, at),
        }
    }

    /// The schema with its `$ref` followed and its `allOf` merged in.
    fn resolved(&self, schema: &Value, depth: usize) -> Option<Map<String, Value>> {
        let mut map = schema.as_object()?.clone();
        self.made.set(self.made.get() + 1);
        if depth > 2 * DEPTH_MAX || self.made.get() > 10 * VALUES_MAX {
            return Some(map);
        }
        if let Some(target) = map.remove("$ref").as_ref().and_then(Value::as_str).and_then(|target| self.target(target)) {
            merge(&mut map, self.resolved(target, depth + 1)?);
        }
        if let Some(Value::Array(all)) = map.remove("allOf") {
            for part in &all {
                merge(&mut map, self.resolved(part, depth + 1).unwrap_or_default());
            }
        }
        Some(map)
    }

    /// `#/$defs/x` and every other place within the schema.
    fn target(&self, reference: &str) -> Option<&Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// The first alternative of `anyOf` or `oneOf` that gives something valid. `null` comes last, or first when
    /// the answer must come to its end.
    fn alternative(&self, map: &Map<String, Value>, at: &At<'_>) -> Option<Value> {
        let (word, branches) = ["oneOf", "anyOf"].into_iter().find_map(|word| Some((word, map.get(word)?.as_array()?)))?;
        let mut rest = map.clone();
        rest.remove(word);
        let whole = |branch: &Value| {
            let mut whole = rest.clone();
            merge(&mut whole, self.resolved(branch, 0).unwrap_or_default());
            whole
        };
        let mut wholes: Vec<Map<String, Value>> = branches.iter().map(whole).collect();
        let nested = |whole: &Map<String, Value>| matches!(kind(whole), "object" | "array");
        let deep = self.is_deep(at);
        wholes.sort_by_key(|whole| if deep { nested(whole) } else { kind(whole) == "null" });
        let validator = self.validator(map);
        let below = At { depth: at.depth + 1, ..at.clone() };
        let mut made = wholes.into_iter().map(|whole| self.value(&Value::Object(whole), &below));
        let first = made.next()?;
        let valid = |value: &Value| validator.as_ref().is_none_or(|validator| validator.is_valid(value));
        if valid(&first) { Some(first) } else { made.find(valid).or(Some(first)) }
    }

    /// For a part of the schema. References within it mean places in the whole, so it is put into the whole.
    fn validator(&self, part: &Map<String, Value>) -> Option<Validator> {
        const HERE: &str = "urn:muster:answer";
        let mut root = self.root.as_object()?.clone();
        root.insert("$id".to_owned(), HERE.into());
        if let Value::Object(definitions) = root.entry("$defs").or_insert_with(|| json!({})) {
            definitions.insert("muster-part".to_owned(), Value::Object(part.clone()));
        }
        jsonschema::validator_for(&json!({ "$ref": format!("{HERE}#/$defs/muster-part"), "$defs": { "whole": root } })).ok()
    }

    fn object(&self, map: &Map<String, Value>, at: &At<'_>) -> Value {
        let empty = Map::new();
        let properties = map.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required: Vec<&str> = map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let most = map.get("maxProperties").and_then(Value::as_u64).map_or(FIELDS_MAX, |most| usize::try_from(most).unwrap_or(FIELDS_MAX));
        let least = map.get("minProperties").and_then(Value::as_u64).map_or(0, |least| usize::try_from(least).unwrap_or(0));
        let mut object = Map::new();
        let open = |found: Option<&Value>| match found {
            Some(Value::Object(_)) => found.cloned(),
            Some(_) | None => None,
        };
        let anything = open(map.get("additionalProperties")).unwrap_or_else(|| json!({}));
        for name in &required {
            let schema = properties.get(*name).unwrap_or(&anything);
            object.insert((*name).to_owned(), self.value(schema, &at.property(name)));
        }
        for (name, schema) in properties {
            let wanted = object.len() < least || !self.is_deep(at);
            if wanted && object.len() < most && !object.contains_key(name) && *schema != Value::Bool(false) {
                object.insert(name.clone(), self.value(schema, &at.property(name)));
            }
        }
        for number in 1..=least {
            if object.len() >= least {
                break;
            }
            object.insert(format!("field_{number}"), self.value(&anything, &at.property("field")));
        }
        Value::Object(object)
    }

    fn array(&self, map: &Map<String, Value>, at: &At<'_>) -> Value {
        let bound = |name: &str| map.get(name).and_then(Value::as_u64).map(|bound| usize::try_from(bound).unwrap_or(usize::MAX));
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems").unwrap_or(usize::MAX));
        let unique = map.get("uniqueItems").and_then(Value::as_bool) == Some(true);
        let first = map.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let open = json!({ "type": "string" });
        let rest = map.get("items").filter(|items| items.is_object()).unwrap_or(&open);
        let closed = map.get("items") == Some(&Value::Bool(false));
        let known = values::list_length(self.facts, at);
        let wanted = if self.is_deep(at) { least.max(first.len()) } else { known.min(self.size.items).max(least).max(first.len()) };
        let count = wanted.min(most).min(if closed { first.len() } else { usize::MAX }).min(10_000);
        let united = self.united(rest, at);
        let mut items: Vec<Value> = Vec::with_capacity(count);
        // Twice as many tries as items: what is unique may take a while to come.
        for number in 0..count.saturating_mul(2).saturating_add(8) {
            if items.len() >= count {
                break;
            }
            let schema = first.get(number).unwrap_or(rest);
            let item = united.get(number).cloned().unwrap_or_else(|| self.value(schema, &at.item(number)));
            let known = items.contains(&item);
            // A list that says the same twice is only made when it has to be that long.
            if !known || (!unique && items.len() < least) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    /// Items of the same field in what a reducer folds, as far as they conform.
    fn united(&self, items: &Value, at: &At<'_>) -> Vec<Value> {
        let Some(found) = self.facts.fields.get(at.name).filter(|_| !values::says_points(at.name)) else { return Vec::new() };
        let Some(validator) = items.as_object().and_then(|items| self.validator(items)) else { return Vec::new() };
        found.iter().filter(|item| validator.is_valid(item)).cloned().collect()
    }

    fn string(&self, map: &Map<String, Value>, at: &At<'_>) -> Value {
        let bound = |name: &str| map.get(name).and_then(Value::as_u64).map(|bound| usize::try_from(bound).unwrap_or(usize::MAX));
        if map.contains_key("pattern") || map.contains_key("format") {
            let validator = self.validator(map);
            let fits = |text: &String| validator.as_ref().is_none_or(|validator| validator.is_valid(&Value::String(text.clone())));
            let given = ["default", "examples"].into_iter().filter_map(|word| map.get(word)).flat_map(values::texts);
            let format = map.get("format").and_then(Value::as_str).and_then(values::of_format).map(str::to_owned);
            let found = given.chain(format).chain(values::candidates(self.facts, at, self.size)).find(fits);
            return Value::String(found.unwrap_or_default());
        }
        let (least, most) = (bound("minLength").unwrap_or(0), bound("maxLength").unwrap_or(usize::MAX));
        Value::String(values::of_length(values::text(self.facts, at, self.size), least, most))
    }
}

/// The type of a schema: as said, or as its keywords mean it.
fn kind(map: &Map<String, Value>) -> &str {
    const ORDER: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
    match map.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => ORDER.into_iter().find(|kind| kinds.iter().any(|one| one == kind)).unwrap_or("null"),
        Some(_) | None => {
            let has = |words: &[&str]| words.iter().any(|word| map.contains_key(*word));
            if has(&["properties", "required", "additionalProperties", "minProperties"]) {
                "object"
            } else if has(&["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]) {
                "array"
            } else if has(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
                "number"
            } else {
                "string"
            }
        }
    }
}

/// Adds what `other` demands: properties and required fields are united, the narrower bound wins.
fn merge(map: &mut Map<String, Value>, other: Map<String, Value>) {
    for (word, value) in other {
        match (map.get_mut(&word), word.as_str()) {
            (Some(Value::Object(known)), "properties" | "$defs") => {
                let Value::Object(more) = value else { continue };
                for (name, schema) in more {
                    match known.get_mut(&name) {
                        Some(both) => *both = json!({ "allOf": [both.take(), schema] }),
                        None => {
                            known.insert(name, schema);
                        }
                    }
                }
            }
            (Some(Value::Array(known)), "required") => {
                known.extend(value.as_array().into_iter().flatten().cloned());
            }
            (Some(known), "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties") => {
                if value.as_f64() > known.as_f64() {
                    *known = value;
                }
            }
            (Some(known), "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties") => {
                if value.as_f64() < known.as_f64() {
                    *known = value;
                }
            }
            (Some(Value::Array(known)), "enum") => {
                let allowed = value.as_array().cloned().unwrap_or_default();
                known.retain(|one| allowed.contains(one));
            }
            (Some(_), _) => {}
            (None, _) => {
                map.insert(word, value);
            }
        }
    }
}
