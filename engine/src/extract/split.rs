//! From text to points: sentences, list items, doc comments. Copes with Markdown, prose, JSON and source code.

use super::code;
use crate::tokens;

/// A longer sentence is cut.
const POINT_BYTES_MAX: usize = 320;

/// A shorter one says nothing.
const POINT_BYTES_MIN: usize = 8;

/// More points of one text are not looked at.
const POINTS_MAX: usize = 2_000;

/// What a point is; decides how much it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first words about the whole: the first paragraph, a module's documentation.
    Lead,
    /// Documentation of an item.
    Doc,
    /// A sentence or list item.
    Prose,
    /// The names that a source file defines, or the sections of a document.
    Names,
    /// A comment within code.
    Comment,
}

/// What was found in a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// The first heading.
    pub(super) title: Option<String>,
    /// Names of items, or headings.
    pub(super) names: Vec<String>,
    /// In order.
    pub(super) points: Vec<(Kind, String)>,
}

impl Parsed {
    /// Adds the sentences of a paragraph.
    pub(super) fn paragraph(&mut self, kind: Kind, text: &str) {
        for sentence in sentences(text) {
            self.point(kind, &sentence);
        }
    }

    /// Adds one point as it is.
    pub(super) fn point(&mut self, kind: Kind, text: &str) {
        let text = plain(text);
        let worth = text.len() >= POINT_BYTES_MIN && text.chars().filter(|c| c.is_alphabetic()).count() * 2 >= text.chars().count();
        if worth && self.points.len() < POINTS_MAX {
            self.points.push((kind, tokens::cut(&text, POINT_BYTES_MAX)));
        }
    }
}

/// Reads a text by what it seems to be: `name` may have a file extension.
pub(super) fn parse(name: &str, text: &str) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let trimmed = text.trim_start();
    if trimmed.starts_with(['{', '['])
        && let Ok(value) = serde_json::from_str::<serde_json::Value>(text)
    {
        let mut parsed = Parsed::default();
        super::json::flatten(&value, "", &mut parsed);
        return parsed;
    }
    let parsed = match code::Language::of(name, text) {
        Some(language) => code::parse(language, text),
        None => markdown(text),
    };
    if parsed.points.is_empty() { lines(text, parsed) } else { parsed }
}

/// The last resort: every line that says something.
fn lines(text: &str, mut parsed: Parsed) -> Parsed {
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        parsed.point(Kind::Prose, line);
    }
    parsed
}

/// Markdown and prose.
pub(super) fn markdown(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let (mut paragraph, mut fence, mut leads) = (String::new(), None, true);
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(mark) = fence {
            if trimmed.starts_with(mark) {
                fence = None;
            }
            continue;
        }
        let bullet = bullet(trimmed);
        let fenced = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        let heading = heading(trimmed);
        let breaks = trimmed.is_empty() || fenced.is_some() || heading.is_some() || bullet.is_some() || trimmed.starts_with(['|', '<']);
        if breaks && !paragraph.is_empty() {
            let kind = if std::mem::take(&mut leads) { Kind::Lead } else { Kind::Prose };
            parsed.paragraph(kind, &std::mem::take(&mut paragraph));
        }
        fence = fenced;
        if let Some(heading) = heading {
            parsed.title.get_or_insert_with(|| heading.clone());
            parsed.names.push(heading);
        } else if let Some(item) = bullet {
            // What follows on the next lines belongs to the item.
            paragraph.push_str(item);
            leads = false;
        } else if trimmed.starts_with('|') {
            table_row(trimmed, &mut parsed);
        } else if !breaks && !noise(trimmed) {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(trimmed);
        }
    }
    parsed.paragraph(if leads { Kind::Lead } else { Kind::Prose }, &paragraph);
    if parsed.names.len() > 2 {
        let sections: Vec<&str> = parsed.names.iter().skip(1).take(12).map(String::as_str).collect();
        parsed.point(Kind::Names, &format!("Sections: {}.", sections.join("; ")));
    }
    parsed
}

fn heading(line: &str) -> Option<String> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' '))
        .then(|| plain(text.trim().trim_end_matches('#').trim()))
        .filter(|text| !text.is_empty())
}

/// The text of a list item: `- x`, `* x`, `+ x`, `1. x`, `2) x`.
pub(super) fn bullet(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix(['-', '*', '+', '•']).and_then(|rest| rest.strip_prefix(' ')) {
        return Some(rest.trim_start_matches("[ ] ").trim_start_matches("[x] ").trim());
    }
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = line.len() - rest.len();
    (1..=3).contains(&digits).then(|| rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") ")).map(str::trim)).flatten()
}

fn table_row(line: &str, parsed: &mut Parsed) {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    if !cells.iter().all(|cell| cell.chars().all(|c| matches!(c, '-' | ':'))) {
        parsed.point(Kind::Prose, &cells.join(": "));
    }
}

/// Badges, rules and references.
fn noise(line: &str) -> bool {
    line.starts_with("![")
        || line.starts_with("[![")
        || line.starts_with("[//]")
        || line.chars().all(|c| matches!(c, '-' | '=' | '*' | '_' | ' '))
}

/// Without the marks of emphasis and links, on one line.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("](") {
        let target_end = rest[at..].find(')').map(|end| at + end);
        match (rest[..at].rfind('['), target_end) {
            (Some(open), Some(end)) => {
                plain.push_str(rest[..open].trim_end_matches('!'));
                plain.push_str(&rest[open + 1..at]);
                rest = &rest[end + 1..];
            }
            (None, _) | (_, None) => {
                plain.push_str(&rest[..at + 2]);
                rest = &rest[at + 2..];
            }
        }
    }
    plain.push_str(rest);
    // Rust's documentation links to items this way.
    let plain = plain.replace("[`", "`").replace("`]", "`");
    plain.replace("**", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Words before a full stop that does not end a sentence.
const ABBREVIATIONS: [&str; 16] =
    ["e.g", "i.e", "etc", "vs", "cf", "mr", "mrs", "ms", "dr", "prof", "no", "fig", "approx", "resp", "incl", "st"];

/// Cuts a paragraph into sentences.
pub(super) fn sentences(text: &str) -> Vec<String> {
    let (mut found, mut from, mut quoted) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == '`' {
            quoted = !quoted;
        }
        let end = at + c.len_utf8();
        let wide = matches!(c, '。' | '！' | '？');
        let stop = wide || (matches!(c, '.' | '!' | '?') && !quoted && ends_here(&text[from..at], &text[end..], c));
        if stop {
            found.push(text[from..end].trim().to_owned());
            from = end;
            // A stray backtick must not swallow the rest of the paragraph.
            quoted = false;
        }
    }
    found.push(text[from..].trim().to_owned());
    found.retain(|sentence| !sentence.is_empty());
    found
}

fn ends_here(before: &str, after: &str, mark: char) -> bool {
    let Some(next) = after.trim_start_matches(['"', '\'', ')', ']', '*', '_']).chars().next() else { return true };
    if !next.is_whitespace() {
        return false;
    }
    let begins =
        after.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '(' | '[' | '*' | '_' | '`')).chars().next();
    if begins.is_some_and(char::is_lowercase) && mark == '.' {
        return false;
    }
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default().to_lowercase();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_alphabetic);
    mark != '.' || !(initial || ABBREVIATIONS.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_reader_would_end_them() {
        let text = "It runs, e.g. on Linux. Version 3.5 is `a. B` now! Is J. Doe here? \"Yes.\" 水很湿。火很热。last";
        let expected =
            ["It runs, e.g. on Linux.", "Version 3.5 is `a. B` now!", "Is J. Doe here?", "\"Yes.", "\" 水很湿。", "火很热。", "last"];
        assert_eq!(sentences(text), expected);
        assert_eq!(sentences("  "), Vec::<String>::new());
    }

    #[test]
    fn markdown_becomes_its_headings_sentences_and_items() {
        let text = "# The *plan*\n\n[![badge](x)](y)\nFirst words about\nthe whole. More of them.\n\n## Parts\n- the first item\n  goes on here\n- [a link](http://x/y) inside an item\n\n```rust\nfn no() {}\n```\n| name | meaning |\n|---|---|\n| epoch | counts the owners |\n";
        let parsed = markdown(text);
        assert_eq!(parsed.title.as_deref(), Some("The *plan*"));
        let points: Vec<_> = parsed.points.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
        let expected = [
            (Kind::Lead, "First words about the whole."),
            (Kind::Lead, "More of them."),
            (Kind::Prose, "the first item goes on here"),
            (Kind::Prose, "a link inside an item"),
            (Kind::Prose, "name: meaning"),
            (Kind::Prose, "epoch: counts the owners"),
        ];
        assert_eq!(points, expected);
    }
}
