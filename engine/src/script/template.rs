//! Texts with placeholders, cut into parts once.

use muster_shared::engine::{Message, ModelRequest};
use serde_json::Value;

/// Filler longer than this is a mistake.
const REPEAT_BYTES_MAX: usize = 1024 * 1024;

const KNOWN: &str = "{{task}}, {{name}}, {{agent}}, {{step}}, {{attempt}}, {{inputs}}, {{repeat:TEXT:BYTES}}";

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
    /// The text is JSON: what is put in stands within a string and is escaped.
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Task,
    Name,
    Agent,
    Step,
    Attempt,
    Inputs,
    /// In JSON: the value itself, not its text within a string.
    RawInputs,
    RawStep,
}

/// JSON with placeholders in its strings.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum JsonTemplate {
    /// Without any: parsed once.
    Fixed(Value),
    /// With some.
    Filled(Template),
}

impl Template {
    pub(super) const fn empty() -> Self {
        Self { parts: Vec::new(), json: false }
    }

    /// Cuts a text into parts; every placeholder that is not known is a fault.
    pub(super) fn text(text: &str) -> Result<Self, Vec<String>> {
        Self::cut(text, false)
    }

    /// The same for JSON.
    pub(super) fn json(value: &Value) -> Result<Self, Vec<String>> {
        // A quote before `{{` is the beginning of a string: an escaped one has a backslash after the braces.
        let text = value.to_string().replace("\"{{inputs}}\"", "{{inputs:raw}}").replace("\"{{step}}\"", "{{step:raw}}");
        Self::cut(&text, true)
    }

    fn cut(text: &str, json: bool) -> Result<Self, Vec<String>> {
        let (mut parts, mut faults, mut rest) = (Vec::new(), Vec::new(), text);
        while let Some(at) = rest.find("{{") {
            parts.push(Part::Literal(rest[..at].to_owned()));
            let Some(end) = rest[at..].find("}}") else {
                faults.push("`{{` without `}}`".to_owned());
                rest = "";
                break;
            };
            match placeholder(&rest[at + 2..at + end]) {
                Ok(part) => parts.push(part),
                Err(fault) => faults.push(fault),
            }
            rest = &rest[at + end + 2..];
        }
        parts.push(Part::Literal(rest.to_owned()));
        if faults.is_empty() { Ok(Self { parts: joined(parts), json }) } else { Err(faults) }
    }

    /// Whether it is the same for every request.
    fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    pub(super) fn render(&self, request: &ModelRequest) -> String {
        let caller = &request.caller;
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Task => self.put(&mut text, &caller.task),
                Part::Name => self.put(&mut text, caller.name.as_deref().unwrap_or_default()),
                Part::Agent => self.put(&mut text, &caller.agent),
                Part::Step | Part::RawStep => text.push_str(&caller.step.to_string()),
                Part::Attempt => text.push_str(&caller.attempt.to_string()),
                Part::Inputs => self.put(&mut text, &inputs(request).to_string()),
                Part::RawInputs => text.push_str(&inputs(request).to_string()),
            }
        }
        text
    }

    fn put(&self, text: &mut String, value: &str) {
        if self.json {
            let quoted = Value::from(value).to_string();
            text.push_str(&quoted[1..quoted.len() - 1]);
        } else {
            text.push_str(value);
        }
    }
}

impl JsonTemplate {
    pub(super) fn new(value: &Value) -> Result<Self, Vec<String>> {
        let template = Template::json(value)?;
        // Filler is already in place there.
        let fixed = match template.parts.as_slice() {
            [Part::Literal(text)] if template.is_fixed() => serde_json::from_str(text).ok(),
            _ => None,
        };
        Ok(fixed.map_or(Self::Filled(template), Self::Fixed))
    }

    pub(super) fn render(&self, request: &ModelRequest) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Filled(template) => serde_json::from_str(&template.render(request)).unwrap_or(Value::Null),
        }
    }
}

/// `{{repeat:x:200}}` and plain text become one literal.
fn joined(parts: Vec<Part>) -> Vec<Part> {
    let mut whole: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match (whole.last_mut(), part) {
            (Some(Part::Literal(before)), Part::Literal(literal)) => before.push_str(&literal),
            (_, part) => whole.push(part),
        }
    }
    whole
}

fn placeholder(name: &str) -> Result<Part, String> {
    match name.trim() {
        "task" => Ok(Part::Task),
        "name" => Ok(Part::Name),
        "agent" => Ok(Part::Agent),
        "step" => Ok(Part::Step),
        "attempt" => Ok(Part::Attempt),
        "inputs" => Ok(Part::Inputs),
        "inputs:raw" => Ok(Part::RawInputs),
        "step:raw" => Ok(Part::RawStep),
        other => filler(other).ok_or_else(|| format!("`{{{{{other}}}}}` is not known: {KNOWN}")),
    }
}

/// Exactly that many bytes of a repeated text; the end is filled up with `.` where a character would be cut.
fn filler(name: &str) -> Option<Part> {
    let (unit, bytes) = name.strip_prefix("repeat:")?.rsplit_once(':')?;
    let bytes: usize = bytes.trim().parse().ok().filter(|bytes| *bytes <= REPEAT_BYTES_MAX)?;
    // The filler may stand in JSON, where these would have to be escaped.
    if unit.is_empty() || unit.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
        return None;
    }
    let mut text = String::with_capacity(bytes);
    for character in unit.chars().cycle() {
        if text.len() + character.len_utf8() > bytes {
            break;
        }
        text.push(character);
    }
    text.push_str(&".".repeat(bytes - text.len()));
    Some(Part::Literal(text))
}

fn inputs(request: &ModelRequest) -> Value {
    let folded = request.messages.iter().find_map(|message| match message {
        Message::Inputs { inputs } => Some(inputs),
        Message::System { .. } | Message::User { .. } | Message::Assistant { .. } | Message::Tool { .. } => None,
    });
    // Ids differ between two runs of the same request; names and outputs do not.
    let shown = |input: &muster_shared::engine::Input| serde_json::json!({ "name": input.name, "output": input.output });
    folded.map_or_else(|| Value::Array(Vec::new()), |inputs| inputs.iter().map(shown).collect())
}
