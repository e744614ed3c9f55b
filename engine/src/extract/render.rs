//! The answer of a leaf, as text or Markdown, within its token limit.

use super::{
    material::Material,
    rank::{self, Ranked},
};
use crate::tokens;

/// Points of one source, and points for each further one.
const POINTS_OF_ONE: usize = 8;
const POINTS_OF_EACH: usize = 4;

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Sentences.
    Text,
    /// A line about the whole and list items.
    Markdown,
}

/// The answer in at most `limit` bytes.
pub(super) fn answer(material: &Material<'_>, form: Form, limit: usize) -> String {
    let remarks = remarks(material);
    let points = rank::points(material);
    if points.is_empty() {
        let nothing = if remarks.is_empty() {
            format!("There is nothing to answer from. The task was: {}", material.task.trim())
        } else {
            String::new()
        };
        return tokens::cut(&joined(&nothing, &remarks, form), limit);
    }
    // Remarks must not push the content out.
    let remarks = tokens::cut(&remarks, limit / 3);
    let most = POINTS_OF_ONE + POINTS_OF_EACH * material.sources.len().saturating_sub(1);
    let names: usize = material.sources.iter().map(|source| source.name.as_deref().map_or(0, str::len) + 8).sum();
    let mut room = limit.saturating_sub(remarks.len() + names + 2);
    let chosen = rank::select(&points, most, |point| {
        let cost = point.text.len() + 3;
        let fits = cost <= room;
        if fits {
            room -= cost;
        }
        fits
    });
    let chosen = if chosen.is_empty() { vec![&points[0]] } else { chosen };
    let sections: Vec<String> = (0..material.sources.len()).filter_map(|number| section(material, number, &chosen, form)).collect();
    tokens::cut(&joined(&sections.join("\n\n"), &remarks, form), limit)
}

fn joined(body: &str, remarks: &str, form: Form) -> String {
    let between = match form {
        Form::Text => " ",
        Form::Markdown => "\n\n",
    };
    [body, remarks].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(between)
}

/// What was chosen of one source.
fn section(material: &Material<'_>, number: usize, chosen: &[&Ranked], form: Form) -> Option<String> {
    let mut texts = chosen.iter().filter(|point| point.source == number).map(|point| sentence(&point.text));
    let first = texts.next()?;
    let name = material.sources[number].name.as_deref();
    Some(match form {
        Form::Text => {
            let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
            format!("{name}{}", std::iter::once(first).chain(texts).collect::<Vec<_>>().join(" "))
        }
        Form::Markdown => {
            let name = name.map(|name| format!("**{name}**: ")).unwrap_or_default();
            let rest: Vec<String> = texts.map(|text| format!("- {text}")).collect();
            if rest.is_empty() { format!("{name}{first}") } else { format!("{name}{first}\n\n{}", rest.join("\n")) }
        }
    })
}

/// With a full stop, so that sentences can follow each other.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?', '…', '。', '"', ':']) { text.to_owned() } else { format!("{text}.") }
}

/// What could not be read, in words.
pub(super) fn remarks(material: &Material<'_>) -> String {
    let mut remarks = Vec::new();
    if !material.failures.is_empty() {
        let listed: Vec<String> = material.failures.iter().map(|(path, why)| format!("`{path}` ({why})")).collect();
        let all = if material.sources.is_empty() { "None of the artifacts could be read" } else { "Could not be read" };
        remarks.push(format!("{all}: {}.", listed.join(", ")));
    }
    if !material.unread.is_empty() {
        let listed: Vec<String> = material.unread.iter().map(|path| format!("`{path}`")).collect();
        remarks.push(format!("Not read: {}.", listed.join(", ")));
    }
    remarks.extend(material.notes.iter().cloned());
    remarks.join(" ")
}
