//! Single values of a JSON answer, by the name of their field.

use serde_json::{Map, Number, Value};

use super::{
    facts::Facts,
    schema::{At, Size},
    tasks, words,
};
use crate::tokens;

/// What a field asks for, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topic {
    Title,
    Summary,
    Points,
    Entities,
    Tasks,
    Issues,
    Sources,
    Confidence,
    Count,
    Other,
}

/// The first that a name contains decides.
const TOPICS: &[(Topic, &[&str])] = &[
    (Topic::Confidence, &["confidence", "probability", "certainty", "likelihood", "score", "relevance", "quality"]),
    (Topic::Tasks, &["task", "step", "todo", "action", "question", "recommendation", "next"]),
    (
        Topic::Issues,
        &["issue", "problem", "risk", "error", "warning", "concern", "contradiction", "weakness", "gap", "limitation", "bug", "missing"],
    ),
    (
        Topic::Entities,
        &["entit", "name", "keyword", "tag", "topic", "term", "people", "person", "organi", "identifier", "concept", "symbol", "label"],
    ),
    (Topic::Sources, &["source", "reference", "citation", "file", "path", "document", "url", "artifact", "provenance"]),
    (Topic::Title, &["title", "headline", "subject", "heading"]),
    (
        Topic::Points,
        &["point", "finding", "fact", "highlight", "insight", "claim", "evidence", "observation", "takeaway", "detail", "quote"],
    ),
    (
        Topic::Summary,
        &[
            "summary",
            "abstract",
            "overview",
            "answer",
            "report",
            "result",
            "conclusion",
            "description",
            "text",
            "content",
            "body",
            "analysis",
            "output",
        ],
    ),
    (Topic::Count, &["count", "total", "number", "amount", "length", "size"]),
];

fn topic(name: &str) -> Topic {
    let name = name.to_lowercase();
    TOPICS.iter().find(|(_, words)| words.iter().any(|word| name.contains(word))).map_or(Topic::Other, |(topic, _)| *topic)
}

/// Whether a field of this name holds statements, and not names, numbers or sources.
pub(super) fn is_statement(name: &str) -> bool {
    match topic(name) {
        Topic::Summary | Topic::Points | Topic::Tasks | Topic::Issues | Topic::Other => true,
        Topic::Title | Topic::Entities | Topic::Sources | Topic::Confidence | Topic::Count => false,
    }
}

/// Whether a field of this name lists points; those of a reducer come marked with their sources.
pub(super) fn says_points(name: &str) -> bool {
    matches!(topic(name), Topic::Points | Topic::Summary)
}

fn listed(facts: &Facts, topic: Topic) -> &[String] {
    match topic {
        Topic::Title | Topic::Summary | Topic::Points | Topic::Confidence | Topic::Count | Topic::Other => &facts.points,
        Topic::Entities => &facts.entities,
        Topic::Tasks => &facts.tasks,
        Topic::Issues => &facts.issues,
        Topic::Sources => &facts.sources,
    }
}

/// How many items a list of this name would have.
pub(super) fn list_length(facts: &Facts, at: &At<'_>) -> usize {
    let united = if says_points(at.name) { 0 } else { facts.fields.get(at.name).map_or(0, Vec::len) };
    listed(facts, topic(at.name)).len().max(united)
}

/// A text for a field: its own in a list item, a summary or the best point elsewhere.
pub(super) fn text(facts: &Facts, at: &At<'_>, size: Size) -> String {
    if let Some((list, number)) = at.item {
        return tokens::cut(&of_item(facts, topic(list), topic(at.name), number), size.bytes);
    }
    let topic = topic(at.name);
    match topic {
        Topic::Title => tokens::cut(&facts.title, size.bytes.min(120)),
        Topic::Summary => summary(facts, size, size.bytes * 2),
        Topic::Tasks => tokens::cut(facts.tasks.first().unwrap_or(&facts.task), size.bytes),
        Topic::Points | Topic::Confidence | Topic::Count | Topic::Other => {
            tokens::cut(facts.bare.first().unwrap_or(&facts.task), size.bytes)
        }
        Topic::Entities | Topic::Issues | Topic::Sources => tokens::cut(listed(facts, topic).first().unwrap_or(&facts.title), size.bytes),
    }
}

/// A property of the item with this number, or the item itself.
fn of_item(facts: &Facts, list: Topic, own: Topic, number: usize) -> String {
    let item = listed(facts, list).get(number);
    let point = || facts.bare.get(number % facts.bare.len().max(1)).cloned().unwrap_or_default();
    match (list, own, item) {
        (Topic::Entities, Topic::Entities | Topic::Title | Topic::Other, Some(entity)) => entity.clone(),
        // What was said about it.
        (Topic::Entities, _, Some(entity)) => facts.bare.iter().find(|text| text.contains(entity.as_str())).unwrap_or(entity).clone(),
        (Topic::Tasks, _, None) => tasks::further(&facts.task, number - facts.tasks.len()),
        (_, Topic::Sources, _) if list != Topic::Sources => {
            facts.sources.get(number % facts.sources.len().max(1)).cloned().unwrap_or_default()
        }
        (_, Topic::Title, Some(item)) => tokens::cut(item, 80),
        (_, _, Some(item)) => item.clone(),
        (_, _, None) => point(),
    }
}

/// The best sentences, one after the other.
pub(super) fn summary(facts: &Facts, size: Size, bytes: usize) -> String {
    let mut text = String::new();
    for point in facts.bare.iter().take(size.sentences) {
        if !text.is_empty() && text.len() + point.len() + 2 > bytes {
            break;
        }
        if !text.is_empty() {
            text.push_str(if text.ends_with(['.', '!', '?', '…', ':', '。']) { " " } else { ". " });
        }
        text.push_str(point);
    }
    tokens::cut(&text, bytes)
}

/// Cut or filled up to a number of characters.
pub(super) fn of_length(text: String, least: usize, most: usize) -> String {
    let count = text.chars().count();
    if count > most {
        return text.chars().take(most).collect();
    }
    let missing = least.saturating_sub(count).min(100_000);
    if missing == 0 { text } else { text + &".".repeat(missing) }
}

/// Texts that a pattern might accept: the value by name, words, and the usual forms.
pub(super) fn candidates(facts: &Facts, at: &At<'_>, size: Size) -> Vec<String> {
    const FORMS: &[&str] = &[
        "",
        "a",
        "A",
        "0",
        "1",
        "10",
        "100",
        "a1",
        "A1",
        "ab",
        "abc",
        "ABC",
        "abc-123",
        "ABC-123",
        "1.0.0",
        "v1",
        "2000-01-01",
        "00",
        "000",
        "0000",
        "00000",
        "aa",
        "aaa",
        "aaaa",
        "AA",
        "AAA",
        "#000000",
        "a-b",
        "a_b",
        "a.b",
        "+10000000000",
        "yes",
        "no",
    ];
    let text = text(facts, at, size);
    let lower = words::content_words(&text);
    let slug = lower.join("-");
    let upper: Vec<String> = lower.iter().map(|word| word.to_uppercase()).collect();
    let first: String = text.split_whitespace().next().unwrap_or_default().to_owned();
    [text, slug, first]
        .into_iter()
        .chain(lower)
        .chain(upper)
        .chain(facts.entities.iter().cloned())
        .chain(FORMS.iter().map(|form| (*form).to_owned()))
        .collect()
}

/// A neutral value of a format; the text itself would not conform.
pub(super) fn of_format(format: &str) -> Option<&'static str> {
    match format {
        "date-time" => Some("1970-01-01T00:00:00Z"),
        "date" => Some("1970-01-01"),
        "time" => Some("00:00:00Z"),
        "duration" => Some("PT0S"),
        "email" | "idn-email" => Some("nobody@example.com"),
        "uri" | "iri" | "url" => Some("https://example.com/"),
        "uri-reference" | "iri-reference" => Some("/"),
        "hostname" | "idn-hostname" => Some("example.com"),
        "ipv4" => Some("127.0.0.1"),
        "ipv6" => Some("::1"),
        "uuid" => Some("00000000-0000-0000-0000-000000000000"),
        "json-pointer" => Some("/a"),
        "regex" => Some(".*"),
        _ => None,
    }
}

/// The strings in a `default` or in `examples`.
pub(super) fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The choice that the texts mention, else one that admits ignorance if nothing is known, else the first.
pub(super) fn choice(facts: &Facts, at: &At<'_>, choices: &[Value]) -> Value {
    let texts: &[String] = match at.item {
        Some((list, number)) => listed(facts, topic(list)).get(number).map_or(&[], std::slice::from_ref),
        None => &facts.bare,
    };
    let words: Vec<String> = texts.iter().flat_map(|text| words::content_words(text)).collect();
    let mentioned = |choice: &&Value| {
        let own = choice.as_str().map(words::content_words).unwrap_or_default();
        !own.is_empty() && own.iter().all(|word| words.contains(word))
    };
    let ignorant = |choice: &&Value| {
        choice.as_str().is_some_and(|text| matches!(text.to_lowercase().as_str(), "unknown" | "none" | "other" | "unclear" | "n/a"))
    };
    let found = if facts.grounded { choices.iter().find(mentioned) } else { choices.iter().find(ignorant) };
    found.or(choices.first()).cloned().unwrap_or(Value::Null)
}

/// Whether something holds: what speaks of success is true if something was read, and all of it.
pub(super) fn flag(facts: &Facts, at: &At<'_>) -> bool {
    let name = at.name.to_lowercase();
    let about = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if about(&["issue", "problem", "error", "fail", "missing", "gap", "incomplete", "risk"]) {
        !facts.issues.is_empty()
    } else if about(&["valid", "ok", "success", "complete", "done", "pass", "support", "found", "ground", "consistent"]) {
        facts.grounded && !facts.gaps
    } else {
        false
    }
}

/// A number within its bounds: a count, or a measure of how well the answer is grounded.
pub(super) fn number(facts: &Facts, at: &At<'_>, map: &Map<String, Value>) -> Value {
    let bound = |name: &str| map.get(name).and_then(Value::as_f64);
    let whole = map.get("type").is_some_and(|kind| kind == "integer");
    let step = bound("multipleOf").filter(|step| *step > 0.0).unwrap_or(if whole { 1.0 } else { 0.0 });
    let nudge = if step > 0.0 { step } else { 1e-6 };
    let least = bound("minimum").into_iter().chain(bound("exclusiveMinimum").map(|least| least + nudge)).reduce(f64::max);
    let most = bound("maximum").into_iter().chain(bound("exclusiveMaximum").map(|most| most - nudge)).reduce(f64::min);
    let wished = match topic(at.name) {
        Topic::Confidence => {
            let share = if !facts.grounded {
                0.1
            } else if facts.gaps {
                0.5
            } else {
                0.8
            };
            let (low, high) = (least.unwrap_or(0.0), most.unwrap_or(1.0));
            low + share * (high - low)
        }
        Topic::Count => f64::from(u32::try_from(facts.count).unwrap_or(u32::MAX)),
        Topic::Title | Topic::Summary | Topic::Points | Topic::Entities | Topic::Tasks | Topic::Issues | Topic::Sources | Topic::Other => {
            at.item.map_or(0.0, |(_, number)| f64::from(u32::try_from(number + 1).unwrap_or(u32::MAX)))
        }
    };
    let mut value = wished.max(least.unwrap_or(f64::MIN)).min(most.unwrap_or(f64::MAX));
    if step > 0.0 {
        value = (value / step).round() * step;
        if most.is_some_and(|most| value > most) {
            value -= step;
        }
        if least.is_some_and(|least| value < least) {
            value += step;
        }
    }
    // Six digits are enough, and read better.
    let value = (value * 1e6).round() / 1e6;
    if whole || value.fract() == 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number; beyond 64 bits it saturates")]
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
