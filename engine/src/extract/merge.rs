//! Folding outputs into one: the best points of each, equal ones once, each with the names of its sources.
//!
//! A merged output is a list of `- point [name] [name]` under a line that counts the sources; so merging it
//! again keeps the names of the leaves and counts them.

use std::collections::BTreeSet;

use muster_shared::engine::Input;
use serde_json::Value;

use super::{
    json, material,
    rank::{self, Ranked},
    render::Form,
    split::{self, Kind, Parsed},
    words,
};
use crate::tokens;

const SOURCES_SHOWN_MAX: usize = 6;
/// Points that are compared with each other; more would take long and would not fit into an answer anyway.
const POINTS_MAX: usize = 1_000;
const POINTS_KEPT_MAX: usize = 400;
const UNAVAILABLE: &str = "Not available: ";

/// One point and who said it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Merged {
    pub(super) text: String,
    pub(super) words: Vec<String>,
    /// In order, each once.
    pub(super) sources: Vec<String>,
}

/// What the inputs say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Folded {
    /// In order of worth, inputs taking turns.
    pub(super) points: Vec<Merged>,
    /// How many leaves the inputs stand for.
    pub(super) count: usize,
    /// Inputs without a usable output, and why.
    pub(super) unavailable: Vec<(String, String)>,
}

impl Merged {
    /// `text [name] [name]`; many names are counted.
    pub(super) fn marked(&self) -> String {
        let mut marked = self.text.clone();
        // A bracket of the text itself must not look like a name when this is merged again.
        if marked.ends_with(']') {
            marked.push('.');
        }
        for name in self.sources.iter().take(SOURCES_SHOWN_MAX) {
            marked.push_str(&format!(" [{name}]"));
        }
        if self.sources.len() > SOURCES_SHOWN_MAX {
            marked.push_str(&format!(" [+{} more]", self.sources.len() - SOURCES_SHOWN_MAX));
        }
        marked
    }
}

impl Folded {
    /// Adds a point, or its sources to the point that says the same.
    fn take(&mut self, point: Merged, equal: bool) {
        let normalized = words::normalized(&point.text);
        let same = |known: &Merged| words::alike(&known.words, &point.words) || (equal && words::normalized(&known.text) == normalized);
        match self.points.iter().position(same) {
            Some(at) => {
                let known = &mut self.points[at].sources;
                let new: Vec<String> = point.sources.into_iter().filter(|name| !known.contains(name)).collect();
                known.extend(new);
            }
            None if self.points.len() < POINTS_KEPT_MAX => self.points.push(point),
            None => {}
        }
    }
}

/// Folds the inputs; points that say the same become one.
pub(super) fn fold(inputs: &[Input], task: &str) -> Folded {
    let mut folded = Folded::default();
    let mut queues: Vec<std::vec::IntoIter<Merged>> = Vec::new();
    let of_each = (POINTS_MAX / inputs.len().max(1)).clamp(8, 200);
    for input in inputs {
        let name = clean(&input.name);
        match unusable(&input.output) {
            Some(why) => folded.unavailable.push((name, why)),
            None => queues.push(points(&name, &input.output, task, of_each, &mut folded).into_iter()),
        }
    }
    // Inputs take turns, so that each is heard within the limit.
    let mut seen = BTreeSet::new();
    loop {
        let round: Vec<Merged> = queues.iter_mut().filter_map(Iterator::next).collect();
        if round.is_empty() {
            break;
        }
        for point in round {
            let equal = !seen.insert(words::normalized(&point.text));
            folded.take(point, equal);
        }
    }
    folded
}

/// Why an output cannot be used, if so.
fn unusable(output: &Value) -> Option<String> {
    match output {
        Value::Null => Some("no output".to_owned()),
        Value::String(text) if text.trim().is_empty() => Some("empty output".to_owned()),
        Value::Object(map) if map.is_empty() => Some("empty output".to_owned()),
        Value::Array(list) if list.is_empty() => Some("empty output".to_owned()),
        Value::Object(map) => {
            let failed = map.get("error").filter(|error| !error.is_null()).is_some_and(|_| map.len() <= 3);
            let coded = map.contains_key("code") && map.contains_key("message") && map.len() <= 3;
            (failed || coded).then(|| material::reason(map.get("error").unwrap_or(output)))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// The points of one output, the best first.
fn points(name: &str, output: &Value, task: &str, most: usize, folded: &mut Folded) -> Vec<Merged> {
    let mut parsed = Parsed::default();
    let text = output.as_str();
    let merged_before = text.and_then(header).map(|(count, body)| {
        folded.count += count;
        for line in body.lines() {
            if let Some(listed) = line.strip_prefix(UNAVAILABLE) {
                folded.unavailable.extend(listed.trim_end_matches('.').split("; ").filter_map(unavailable));
            } else if let Some(point) = split::bullet(line.trim()) {
                parsed.points.push((Kind::Prose, point.to_owned()));
            }
        }
    });
    if merged_before.is_none() {
        folded.count += 1;
        match output {
            Value::String(text) => parsed = split::parse("", text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => json::statements(output, &mut parsed),
        }
    }
    if parsed.points.is_empty() {
        json::flatten(output, "", &mut parsed);
    }
    // Texts of leaves may end with brackets of their own.
    let marks = merged_before.is_some() || text.is_none();
    let mut merged: Vec<Merged> = parsed
        .points
        .iter()
        .take(most)
        .map(|(_, text)| if marks { marked(text, name) } else { unmarked(text, name, Vec::new()) })
        .collect();
    if merged_before.is_none() {
        by_worth(&mut merged, &parsed, task);
    }
    merged
}

/// Sorts new points by their worth; those of a merged output are in their order already.
fn by_worth(merged: &mut Vec<Merged>, parsed: &Parsed, task: &str) {
    let kinds = parsed.points.iter().map(|(kind, _)| *kind);
    let mut ranked: Vec<Ranked> = merged
        .iter()
        .zip(kinds)
        .enumerate()
        .map(|(order, (point, kind))| Ranked { text: point.text.clone(), kind, source: 0, order, words: point.words.clone(), score: 0.0 })
        .collect();
    rank::score(&mut ranked, &words::content_words(task));
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.order.cmp(&b.order)));
    *merged = ranked.iter().map(|ranked| merged[ranked.order].clone()).collect();
}

/// A point without its marks, and the names in them; else the name of the input.
fn marked(text: &str, name: &str) -> Merged {
    let (mut rest, mut sources) = (text.trim(), Vec::new());
    while let Some((before, mark)) = rest.strip_suffix(']').and_then(|rest| rest.rsplit_once(" [")) {
        // A number alone is a footnote of the text.
        if mark.is_empty() || mark.contains(']') || mark.chars().all(|c| c.is_ascii_digit()) {
            break;
        }
        if !mark.starts_with('+') {
            sources.insert(0, mark.to_owned());
        }
        rest = before.trim_end();
    }
    unmarked(rest, name, sources)
}

fn unmarked(text: &str, name: &str, mut sources: Vec<String>) -> Merged {
    if sources.is_empty() {
        sources.push(name.to_owned());
    }
    let own = format!("{name}: ");
    let text = text.strip_prefix(own.as_str()).unwrap_or(text).to_owned();
    Merged { words: words::content_words(&text), text, sources }
}

/// The count in the first line of a merged output, and what follows.
fn header(text: &str) -> Option<(usize, &str)> {
    let (first, body) = text.trim_start().split_once('\n')?;
    let count = first.trim_start_matches("## ").strip_prefix("Summary of ")?.trim().trim_end_matches(':').strip_suffix(" sources")?;
    Some((count.parse().ok()?, body))
}

fn unavailable(listed: &str) -> Option<(String, String)> {
    let (name, why) = listed.trim().strip_prefix('[')?.split_once("] (")?;
    Some((name.to_owned(), why.trim_end_matches(')').to_owned()))
}

/// A name that can stand between brackets.
fn clean(name: &str) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).map(|c| if c == '[' { '(' } else { c }).collect();
    tokens::cut(name.replace(']', ")").trim(), 120)
}

/// The folded outputs in at most `limit` bytes.
pub(super) fn render(folded: &Folded, form: Form, limit: usize) -> String {
    let listed: Vec<String> = folded.unavailable.iter().map(|(name, why)| format!("[{name}] ({})", why.replace("; ", ", "))).collect();
    let missing = if listed.is_empty() { String::new() } else { format!("{UNAVAILABLE}{}.", listed.join("; ")) };
    if folded.points.is_empty() {
        let none = format!("None of the {} outputs could be used.", folded.unavailable.len());
        return tokens::cut(&[none, missing].join("\n\n"), limit);
    }
    let mark = match form {
        Form::Text => ("", ":"),
        Form::Markdown => ("## ", ""),
    };
    let header = format!("{}Summary of {} sources{}\n", mark.0, folded.count, mark.1);
    let missing = tokens::cut(&missing, limit / 4);
    let mut room = limit.saturating_sub(header.len() + missing.len() + 2);
    let mut body = String::new();
    for point in &folded.points {
        let line = format!("\n- {}", point.marked());
        if line.len() <= room {
            room -= line.len();
            body.push_str(&line);
        }
    }
    if body.is_empty() {
        body = tokens::cut(&format!("\n- {}", folded.points[0].marked()), room);
    }
    let end = if missing.is_empty() { String::new() } else { format!("\n\n{missing}") };
    tokens::cut(&format!("{header}{body}{end}"), limit)
}
