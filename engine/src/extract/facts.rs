//! What is known, in the shapes that fields of a JSON answer want.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    material::Material,
    merge::{self, Folded},
    rank, render, tasks, words,
};

const POINTS_MAX: usize = 48;
const ENTITIES_MAX: usize = 48;

/// Words by which a sentence admits a problem.
const TROUBLE: &[&str] = &[
    "bug",
    "broken",
    "careful",
    "contradict",
    "danger",
    "deprecated",
    "error",
    "fail",
    "fixme",
    "inconsistent",
    "incorrect",
    "issue",
    "limitation",
    "missing",
    "outdated",
    "problem",
    "risk",
    "todo",
    "unclear",
    "unsafe",
    "unsupported",
    "vulnerab",
    "warning",
    "wrong",
];

/// Everything that a JSON answer is filled from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) task: String,
    pub(super) title: String,
    /// The best first; with the names of their sources when they come from several agents.
    pub(super) points: Vec<String>,
    /// The same without the names.
    pub(super) bare: Vec<String>,
    pub(super) entities: Vec<String>,
    pub(super) tasks: Vec<String>,
    pub(super) issues: Vec<String>,
    pub(super) sources: Vec<String>,
    /// Values of the inputs' fields, by name: a reducer of objects unites them.
    pub(super) fields: BTreeMap<String, Vec<Value>>,
    /// How many texts were read.
    pub(super) count: usize,
    /// Whether there is anything to say at all.
    pub(super) grounded: bool,
    /// Whether something could not be read.
    pub(super) gaps: bool,
}

impl Facts {
    pub(super) fn of(material: &Material<'_>) -> Self {
        let mut facts = Self { task: material.task.trim().to_owned(), tasks: tasks::split(material.task), ..Self::default() };
        match material.inputs {
            Some(inputs) => {
                facts.take_folded(&merge::fold(inputs, material.task));
                for input in inputs {
                    facts.take_fields(&input.output);
                }
            }
            None => facts.take_sources(material),
        }
        let trouble = |text: &&String| {
            let lower = text.to_lowercase();
            TROUBLE.iter().any(|word| lower.contains(word))
        };
        facts.issues.extend(facts.points.iter().filter(trouble).cloned());
        if facts.title.is_empty() {
            facts.title = facts.bare.first().unwrap_or(&facts.task).clone();
        }
        if facts.points.is_empty() {
            let remarks = render::remarks(material);
            let nothing =
                if remarks.is_empty() { format!("There is nothing to answer from. The task was: {}", facts.task) } else { remarks };
            facts.points.push(nothing.clone());
            facts.bare.push(nothing);
        }
        facts
    }

    fn take_sources(&mut self, material: &Material<'_>) {
        let ranked = rank::points(material);
        let chosen = rank::select(&ranked, POINTS_MAX, |_| true);
        let mut best = chosen.clone();
        best.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.source, a.order).cmp(&(b.source, b.order))));
        self.bare = best.iter().map(|point| point.text.clone()).collect();
        self.points.clone_from(&self.bare);
        self.sources = material.sources.iter().filter_map(|source| source.name.clone()).collect();
        self.count = material.sources.len();
        self.title =
            material.sources.iter().find_map(|source| source.parsed.title.clone().or_else(|| source.name.clone())).unwrap_or_default();
        let names = material.sources.iter().flat_map(|source| source.parsed.names.iter().cloned());
        self.entities = entities(names, &self.bare);
        self.issues = material.failures.iter().map(|(path, why)| format!("`{path}` could not be read ({why})")).collect();
        self.gaps = !material.failures.is_empty() || !material.unread.is_empty();
        self.grounded = !self.bare.is_empty();
    }

    fn take_folded(&mut self, folded: &Folded) {
        self.points = folded.points.iter().map(merge::Merged::marked).collect();
        self.bare = folded.points.iter().map(|point| point.text.clone()).collect();
        for name in folded.points.iter().flat_map(|point| &point.sources) {
            if !self.sources.contains(name) {
                self.sources.push(name.clone());
            }
        }
        self.count = folded.count;
        self.entities = entities(std::iter::empty(), &self.bare);
        self.issues = folded.unavailable.iter().map(|(name, why)| format!("[{name}] is not available ({why})")).collect();
        self.gaps = !folded.unavailable.is_empty();
        self.grounded = !self.bare.is_empty();
    }

    /// Unites the fields of an input: lists are joined, equal values kept once.
    fn take_fields(&mut self, output: &Value) {
        for (name, value) in output.as_object().into_iter().flatten() {
            let known = self.fields.entry(name.clone()).or_default();
            let list = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            for item in list.iter().filter(|item| !item.is_null()) {
                let same = |other: &Value| match (other.as_str(), item.as_str()) {
                    (Some(a), Some(b)) => words::normalized(a) == words::normalized(b),
                    (Some(_) | None, _) => other == item,
                };
                if !known.iter().any(same) {
                    known.push(item.clone());
                }
            }
        }
    }
}

/// Names between backticks, capitalised words within a sentence, identifiers; then what a file defines; the most
/// frequent first.
fn entities(names: impl Iterator<Item = String>, texts: &[String]) -> Vec<String> {
    let mut found: Vec<(String, usize)> = Vec::new();
    let mut count = |name: &str| match found.iter().position(|(known, _)| known == name) {
        Some(at) => found[at].1 += 1,
        None if found.len() < ENTITIES_MAX * 4 => found.push((name.to_owned(), 1)),
        None => {}
    };
    for text in texts {
        for (index, piece) in text.split('`').enumerate() {
            if index % 2 == 1 {
                count(piece.trim());
            } else {
                capitalised(piece, index == 0, &mut count);
            }
        }
    }
    names.for_each(|name| count(&name));
    found.retain(|(name, _)| (2..=80).contains(&name.len()));
    found.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    found.into_iter().map(|(name, _)| name).take(ENTITIES_MAX).collect()
}

/// Runs of capitalised words: `Postgres`, `New York`. The first word of a sentence says nothing.
fn capitalised(text: &str, begins: bool, count: &mut impl FnMut(&str)) {
    let mut run: Vec<&str> = Vec::new();
    let mut first = begins;
    for raw in text.split_whitespace() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric());
        let capital = word.chars().next().is_some_and(char::is_uppercase) && word.chars().count() > 1;
        let inner = word.chars().skip(1).any(char::is_uppercase) || word.contains('_') || word.chars().any(|c| c.is_ascii_digit());
        if capital && (!first || inner) {
            run.push(word);
        }
        let ends = !capital || first || raw.ends_with([',', ';', ':', '.', '!', '?', ')']);
        if ends && !run.is_empty() {
            count(&run.join(" "));
            run.clear();
        }
        first = raw.ends_with(['.', '!', '?', ':']);
    }
    if !run.is_empty() {
        count(&run.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_names_and_not_the_beginnings_of_sentences() {
        let texts = [
            "The store keeps rows in Postgres, with `muster-store` behind it. Redis in New York is a hint.".to_owned(),
            "It needs Postgres.".to_owned(),
        ];
        assert_eq!(entities(["claim".to_owned()].into_iter(), &texts), ["Postgres", "muster-store", "New York", "claim"]);
    }
}
