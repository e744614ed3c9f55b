//! Cutting a task into smaller ones, by how it is written.

use super::split;

/// What may stand before the list that a decomposer is given.
const ORDERS: &[&str] = &["decompose", "break", "split", "divide", "plan", "list the tasks", "turn", "make tasks", "create tasks"];

/// Words that begin a task of its own.
const VERBS: &[&str] = &[
    "add",
    "analyse",
    "analyze",
    "answer",
    "build",
    "calculate",
    "check",
    "choose",
    "collect",
    "compare",
    "compile",
    "compute",
    "count",
    "create",
    "describe",
    "design",
    "document",
    "draft",
    "estimate",
    "evaluate",
    "explain",
    "extract",
    "fetch",
    "find",
    "fix",
    "gather",
    "identify",
    "implement",
    "improve",
    "inspect",
    "install",
    "investigate",
    "list",
    "measure",
    "merge",
    "migrate",
    "note",
    "plan",
    "prepare",
    "propose",
    "publish",
    "rank",
    "read",
    "recommend",
    "remove",
    "report",
    "research",
    "review",
    "run",
    "search",
    "select",
    "send",
    "ship",
    "show",
    "study",
    "suggest",
    "summarise",
    "summarize",
    "survey",
    "synthesize",
    "test",
    "translate",
    "update",
    "validate",
    "verify",
    "write",
];

/// The tasks that `text` holds; itself, when it cannot be cut. Empty only for an empty text.
pub(super) fn split(text: &str) -> Vec<String> {
    let text = without_order(text.trim());
    let lists = [listed(text), numbered_inline(text), cut_at(text, ";"), sentences(text)];
    let found = lists.into_iter().find(|list| list.len() >= 2).unwrap_or_else(|| enumerated(text));
    let mut tasks: Vec<String> = Vec::new();
    for task in found {
        let task = tidy(&task);
        if !task.is_empty() && !tasks.contains(&task) {
            tasks.push(task);
        }
    }
    tasks
}

/// Further tasks that any task allows, for a schema that wants more than there are.
pub(super) fn further(text: &str, number: usize) -> String {
    let text = without_order(text.trim());
    let phases = ["Gather the facts for", "Work on the parts of", "Check the result of", "Write up the result of"];
    let again = number / phases.len();
    let suffix = if again == 0 { String::new() } else { format!(" (part {})", again + 1) };
    format!("{}: {}{suffix}", phases[number % phases.len()], tidy(text))
}

/// `Break this down: a, b and c` is about `a, b and c`.
fn without_order(text: &str) -> &str {
    let lower = text.to_lowercase();
    match text.split_once(':') {
        Some((order, rest)) if !rest.trim().is_empty() && order.len() < 120 && ORDERS.iter().any(|word| lower.starts_with(word)) => {
            rest.trim()
        }
        Some(_) | None => text,
    }
}

fn listed(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| split::bullet(line.trim())).map(str::to_owned).collect()
}

/// `1. a 2. b` and `(1) a (2) b`.
fn numbered_inline(text: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), text);
    for number in 1.. {
        let marks = [format!("({number}) "), format!("{number}. "), format!("{number}) ")];
        let begins = |at: usize| at == 0 || rest[..at].ends_with([' ', '\n', ':', ',']);
        let Some((at, mark)) =
            marks.iter().filter_map(|mark| rest.find(mark.as_str()).filter(|at| begins(*at)).map(|at| (at, mark.len()))).min()
        else {
            break;
        };
        if number > 1 {
            found.push(rest[..at].to_owned());
        }
        rest = &rest[at + mark..];
    }
    if !found.is_empty() {
        found.push(rest.to_owned());
    }
    found
}

fn cut_at(text: &str, mark: &str) -> Vec<String> {
    text.split(mark).map(str::to_owned).filter(|piece| !piece.trim().is_empty()).collect()
}

/// Several sentences are several tasks, if each begins like one.
fn sentences(text: &str) -> Vec<String> {
    let found: Vec<String> = split::sentences(&text.replace('\n', " "));
    if found.iter().all(|sentence| begins_with_verb(sentence)) { found } else { Vec::new() }
}

/// `Research solar, wind and hydro power` are three.
fn enumerated(text: &str) -> Vec<String> {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let then = flat
        .replace(", and then ", "\n")
        .replace(" and then ", "\n")
        .replace(", then ", "\n")
        .replace(", and ", "\n")
        .replace(" and ", "\n")
        .replace(", ", "\n");
    let pieces: Vec<&str> = then.lines().map(str::trim).filter(|piece| !piece.is_empty()).collect();
    let Some((first, others)) = pieces.split_first() else { return Vec::new() };
    let all_begin = others.iter().all(|piece| begins_with_verb(piece));
    let short = others.iter().all(|piece| piece.split_whitespace().count() <= 4);
    // `Compare A and B` is one task: its parts make no sense alone.
    let apart = begins_with_verb(first) && !first.to_lowercase().starts_with("compare") && !flat.contains(" between ");
    if others.is_empty() || !(all_begin || (short && apart)) {
        return vec![flat];
    }
    let verb = first.split_whitespace().next().unwrap_or_default();
    let whole = |piece: &&str| if begins_with_verb(piece) { (*piece).to_owned() } else { format!("{verb} {piece}") };
    std::iter::once((*first).to_owned()).chain(others.iter().map(whole)).collect()
}

fn begins_with_verb(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default().trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    VERBS.contains(&first.as_str())
}

/// One line, beginning with a capital, without the mark at its end.
fn tidy(text: &str) -> String {
    let text = split::plain(text);
    let text = text.trim_matches([' ', ',', ';']).trim_start_matches("and ").trim_end_matches('.');
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_cut_where_its_author_would_cut_it() {
        let cases: &[(&str, &[&str])] = &[
            ("Plan:\n1. find a\n2. build b\n", &["Find a", "Build b"]),
            ("- one thing\n- another thing", &["One thing", "Another thing"]),
            ("Do (1) the dishes, (2) the laundry and (3) nothing", &["The dishes", "The laundry and", "Nothing"]),
            ("find a; build b; ship c", &["Find a", "Build b", "Ship c"]),
            ("Break this down: Research solar, wind and hydro power", &["Research solar", "Research wind", "Research hydro power"]),
            ("Find the bug. Fix it. Write a test.", &["Find the bug", "Fix it", "Write a test"]),
            ("Read the report and then write a summary", &["Read the report", "Write a summary"]),
            ("Compare Rust and Go", &["Compare Rust and Go"]),
            ("Research the history of tea", &["Research the history of tea"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text), *expected, "{text}");
        }
        assert_eq!(further("make tea", 0), "Gather the facts for: Make tea");
        assert_ne!(further("make tea", 1), further("make tea", 5));
    }
}
