//! Common spellings become the canonical ones, on a copy; faults still point at what the author wrote.

use serde_json::{Map, Value, json};

use super::{
    fields::ALIASES,
    text::{member, quoted},
};
use crate::error::Fault;

/// A document in canonical spelling, and the way back from its pointers to those of the original.
pub(super) struct Normalised {
    /// The canonical document.
    pub(super) document: Map<String, Value>,
    /// Aliases that contradict something.
    pub(super) faults: Vec<Fault>,
    /// Canonical pointer, original pointer.
    origins: Vec<(String, String)>,
}

impl Normalised {
    /// Replaces every alias of `given`.
    pub(super) fn of(given: &Map<String, Value>) -> Self {
        let mut this = Self { document: given.clone(), faults: Vec::new(), origins: Vec::new() };
        for (alias, canonical) in ALIASES {
            if let Some(value) = this.document.remove(*alias) {
                this.adopt(alias, canonical, value);
            }
        }
        this.models();
        this.mode();
        this.output();
        this.summarization();
        this
    }

    /// Where the author wrote what the canonical document has at `pointer`.
    pub(super) fn original(&self, pointer: &str) -> String {
        let is_inside = |canonical: &str| pointer.strip_prefix(canonical).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match self.origins.iter().filter(|(canonical, _)| is_inside(canonical)).max_by_key(|(canonical, _)| canonical.len()) {
            Some((canonical, original)) => format!("{original}{}", &pointer[canonical.len()..]),
            None => pointer.to_owned(),
        }
    }

    /// Puts the value of an alias where it belongs.
    fn adopt(&mut self, alias: &str, canonical: &str, value: Value) {
        let original = member("", alias);
        let (parent, name) = canonical.rsplit_once('/').expect("canonical pointers begin with a slash");
        let target = match parent.strip_prefix('/') {
            None => Some(&mut self.document),
            // A member of `output` that is still a format name moves into the object that it stands for.
            Some("output") => self.output_object(),
            Some(parent) => self.document.entry(parent).or_insert_with(|| json!({})).as_object_mut(),
        };
        match target {
            Some(target) if !target.contains_key(name) => {
                target.insert(name.to_owned(), value);
                self.origin(canonical, &original);
            }
            Some(_) => {
                let other = self.original(canonical);
                self.faults.push(Fault::new(
                    original,
                    format!("means the same as {}, which is given too: give one of them", quoted(other.trim_start_matches('/'))),
                ));
            }
            // The parent is not an object: that is a fault of its own.
            None => {}
        }
    }

    /// `output` as an object, made from a format name or, for a schema alone, from nothing.
    fn output_object(&mut self) -> Option<&mut Map<String, Value>> {
        self.output();
        self.document.entry("output").or_insert_with(|| json!({"format": "json"})).as_object_mut()
    }

    /// `"output": "json"`
    fn output(&mut self) {
        if let Some(output @ Value::String(_)) = self.document.get_mut("output") {
            let format = output.take();
            *output = json!({ "format": format });
            let original = self.original("/output");
            self.origin("/output/format", &original);
        }
    }

    /// `"models": "offline/extract"`
    fn models(&mut self) {
        if let Some(models @ Value::String(_)) = self.document.get_mut("models") {
            *models = json!([models.take()]);
            let original = self.original("/models");
            self.origin("/models/0", &original);
        }
    }

    /// `"mode": "multi-step"`
    fn mode(&mut self) {
        if let Some(mode) = self.document.get_mut("mode").filter(|mode| *mode == "multi-step") {
            *mode = json!("multi_step");
        }
    }

    /// `"summarization": "aggressive"`, or the name of a strategy.
    fn summarization(&mut self) {
        const AGGRESSIVE: &str = "aggressive_summarization";
        let Some(Value::String(word)) = self.document.get("summarization") else { return };
        let strategy = if word == "aggressive" {
            match self.document.get("context") {
                None => {
                    self.document.insert("context".to_owned(), json!(AGGRESSIVE));
                    self.origin("/context", "/summarization");
                }
                Some(context) if context == AGGRESSIVE => {}
                Some(_) => self.faults.push(Fault::new(
                    "/summarization",
                    format!("`aggressive` means the context policy `{AGGRESSIVE}`, but another one is given too: give one of them"),
                )),
            }
            "hierarchical".to_owned()
        } else {
            word.clone()
        };
        self.document.insert("summarization".to_owned(), json!({ "strategy": strategy }));
        self.origin("/summarization/strategy", "/summarization");
    }

    fn origin(&mut self, canonical: &str, original: &str) {
        self.origins.push((canonical.to_owned(), original.to_owned()));
    }
}
