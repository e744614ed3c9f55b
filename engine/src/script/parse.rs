//! From JSON to compiled rules, reporting every fault at once.

use std::time::Duration;

use muster_shared::{
    engine::{ModelError, Usage},
    error::{Fault, Faults},
};
use serde_json::{Map, Value};

use super::{
    rule::{Call, Content, Range, Rule, Task},
    template::{JsonTemplate, Template},
};
use crate::{errors, glob::Glob};

const DELAY_MS_MAX: u64 = 3_600_000;

pub(super) fn rules(value: &Value) -> Result<Vec<Rule>, Faults> {
    let mut found = Found(Vec::new());
    let (at, list) = match value {
        Value::Array(list) => ("", Some(list)),
        Value::Object(map) => {
            found.unknown_fields("", map, &["rules"]);
            ("/rules", map.get("rules").and_then(Value::as_array))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => ("", None),
    };
    let rules = match list {
        Some(list) if !list.is_empty() => {
            list.iter().enumerate().filter_map(|(index, rule)| found.rule(&format!("{at}/{index}"), rule)).collect()
        }
        Some(_) => found.say(at, "a script has at least one rule"),
        None => found.say(at, "a script is a list of rules: `- match: {…}` with `answer: {…}`"),
    };
    Faults::check(found.0)?;
    Ok(rules)
}

/// The faults so far.
struct Found(Vec<Fault>);

impl Found {
    /// Notes a fault; the value that goes on in its place is never used.
    fn say<T: Default>(&mut self, at: &str, detail: impl Into<String>) -> T {
        self.0.push(Fault::new(at, detail));
        T::default()
    }

    fn unknown_fields(&mut self, at: &str, map: &Map<String, Value>, known: &[&str]) {
        for field in map.keys().filter(|field| !known.contains(&field.as_str())) {
            let pointer = format!("{at}/{}", field.replace('~', "~0").replace('/', "~1"));
            self.say::<()>(&pointer, format!("is not known here; known: {}", known.join(", ")));
        }
    }

    fn map<'a>(&mut self, at: &str, value: &'a Value) -> Option<&'a Map<String, Value>> {
        let map = value.as_object();
        if map.is_none() {
            self.say::<()>(at, "must be a map");
        }
        map
    }

    fn text<'a>(&mut self, at: &str, value: &'a Value) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.say::<()>(at, "must be a text; put it between quotes");
        }
        text
    }

    fn number(&mut self, at: &str, value: &Value, most: u64) -> u64 {
        match value.as_u64().filter(|number| *number <= most) {
            Some(number) => number,
            None => self.say(at, format!("must be a whole number from 0 to {most}")),
        }
    }

    fn rule(&mut self, at: &str, value: &Value) -> Option<Rule> {
        let map = self.map(at, value)?;
        self.unknown_fields(at, map, &["match", "answer"]);
        let Some(answer) = map.get("answer") else {
            return self.say(at, "`answer` is missing");
        };
        let mut rule = self.answer(&format!("{at}/answer"), answer);
        if let Some(matches) = map.get("match") {
            self.matches(&format!("{at}/match"), matches, rule.as_mut());
        }
        rule
    }

    /// Fills in when `rule` matches. Without a rule (its answer is faulty) the faults are still found.
    fn matches(&mut self, at: &str, value: &Value, rule: Option<&mut Rule>) {
        let Some(map) = self.map(at, value) else { return };
        self.unknown_fields(at, map, &["agent", "name", "task", "step", "attempt"]);
        let text =
            |found: &mut Self, field: &str| map.get(field).and_then(|value| found.text(&format!("{at}/{field}"), value)).map(str::to_owned);
        let (agent, name, task) = (text(self, "agent"), text(self, "name"), text(self, "task"));
        let (step, attempt) = (self.range(at, map, "step"), self.range(at, map, "attempt"));
        if let Some(rule) = rule {
            rule.agent = agent.as_deref().map(Glob::new);
            rule.name = name.as_deref().map(Glob::new);
            rule.task = task.as_deref().map(Task::new);
            (rule.step, rule.attempt) = (step, attempt);
        }
    }

    fn range(&mut self, at: &str, map: &Map<String, Value>, field: &str) -> Range {
        let Some(value) = map.get(field) else { return Range::ANY };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Range::parse(&text).unwrap_or_else(|| {
            self.say::<()>(&format!("{at}/{field}"), "must be a number, \"1-3\", \">=2\" or \"<=4\"");
            Range::ANY
        })
    }

    fn answer(&mut self, at: &str, value: &Value) -> Option<Rule> {
        let map = self.map(at, value)?;
        self.unknown_fields(at, map, &["text", "json", "plan", "tool_calls", "error", "continue", "delay_ms", "usage"]);
        let delay_ms = map.get("delay_ms").map_or(0, |value| self.number(&format!("{at}/delay_ms"), value, DELAY_MS_MAX));
        let usage = map.get("usage").map(|value| self.usage(&format!("{at}/usage"), value));
        let more = match map.get("continue") {
            None => false,
            Some(Value::Bool(more)) => *more,
            Some(_) => self.say(&format!("{at}/continue"), "must be true or false"),
        };
        let content = self.content(at, map)?;
        if more && !matches!(content, Content::Text(_)) {
            self.say::<()>(&format!("{at}/continue"), "goes with a text or JSON: tool calls continue by themselves, errors do not");
        }
        let (step, attempt, delay) = (Range::ANY, Range::ANY, Duration::from_millis(delay_ms));
        Some(Rule { agent: None, name: None, task: None, step, attempt, content, more, delay, usage })
    }

    fn content(&mut self, at: &str, map: &Map<String, Value>) -> Option<Content> {
        let given: Vec<&str> =
            ["text", "json", "plan", "tool_calls", "error"].into_iter().filter(|field| map.contains_key(*field)).collect();
        let field = |name: &str| (format!("{at}/{name}"), map.get(name).unwrap_or(&Value::Null));
        match given.as_slice() {
            ["text"] => self.template(&field("text")).map(Content::Text),
            [form @ ("json" | "plan")] => {
                let (at, value) = field(form);
                self.placeholders(&at, Template::json(value)).map(Content::Text)
            }
            ["tool_calls"] => self.calls(&field("tool_calls")).map(|calls| Content::Tools { text: Template::empty(), calls }),
            ["text", "tool_calls"] => {
                let (text, calls) = (self.template(&field("text")), self.calls(&field("tool_calls")));
                Some(Content::Tools { text: text?, calls: calls? })
            }
            ["error"] => self.error(&field("error")).map(Content::Error),
            [] => self.say(at, "says nothing: give it one of text, json, plan, tool_calls, error"),
            several => self.say(at, format!("{} exclude each other (only text goes with tool_calls)", several.join(" and "))),
        }
    }

    fn template(&mut self, (at, value): &(String, &Value)) -> Option<Template> {
        let text = self.text(at, value)?;
        self.placeholders(at, Template::text(text))
    }

    fn placeholders<T>(&mut self, at: &str, made: Result<T, Vec<String>>) -> Option<T> {
        made.map_err(|faults| faults.into_iter().for_each(|fault| self.say::<()>(at, fault))).ok()
    }

    fn calls(&mut self, (at, value): &(String, &Value)) -> Option<Vec<Call>> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            return self.say(at, "must be a list of {name, arguments}");
        };
        let calls: Vec<Option<Call>> = list.iter().enumerate().map(|(index, call)| self.call(&format!("{at}/{index}"), call)).collect();
        calls.into_iter().collect()
    }

    fn call(&mut self, at: &str, value: &Value) -> Option<Call> {
        let map = self.map(at, value)?;
        self.unknown_fields(at, map, &["name", "arguments"]);
        let empty = Value::Object(Map::new());
        let arguments = map.get("arguments").unwrap_or(&empty);
        let at_arguments = format!("{at}/arguments");
        self.map(&at_arguments, arguments);
        let arguments = self.placeholders(&at_arguments, JsonTemplate::new(arguments));
        let name = match map.get("name") {
            Some(name) => self.text(&format!("{at}/name"), name)?.to_owned(),
            None => return self.say(at, "`name` is missing"),
        };
        Some(Call { name, arguments: arguments? })
    }

    fn error(&mut self, (at, value): &(String, &Value)) -> Option<ModelError> {
        let map = self.map(at, value)?;
        self.unknown_fields(at, map, &["code", "message", "retry_after_ms"]);
        let message = map.get("message").map_or(Some("the script says so"), |value| self.text(&format!("{at}/message"), value))?;
        let after = map.get("retry_after_ms").map(|value| self.number(&format!("{at}/retry_after_ms"), value, DELAY_MS_MAX));
        let after = after.map(Duration::from_millis);
        let code = map.get("code").and_then(Value::as_str).unwrap_or_default();
        if after.is_some() && !matches!(code, "rate_limited" | "overloaded") {
            self.say::<()>(&format!("{at}/retry_after_ms"), "goes with rate_limited and overloaded only");
        }
        match code {
            "rate_limited" => Some(errors::rate_limited(message, after)),
            "overloaded" => Some(errors::overloaded(message, after)),
            "timeout" => Some(errors::timeout(message)),
            "unreachable" => Some(errors::unreachable(message)),
            "invalid_request" => Some(errors::invalid_request(message)),
            "auth" => Some(errors::auth(message)),
            "content_filtered" => Some(errors::content_filtered(message)),
            "bad_reply" => Some(errors::bad_reply(message)),
            _ => self.say(
                &format!("{at}/code"),
                "must be one of rate_limited, overloaded, timeout, unreachable, invalid_request, auth, content_filtered, bad_reply",
            ),
        }
    }

    fn usage(&mut self, at: &str, value: &Value) -> Usage {
        let Some(map) = self.map(at, value) else { return Usage::default() };
        self.unknown_fields(at, map, &["input_tokens", "output_tokens", "cost_micros"]);
        let mut count = |field: &str| {
            let number = map.get(field).map_or(0, |value| self.number(&format!("{at}/{field}"), value, 1_000_000_000_000));
            i64::try_from(number).unwrap_or(i64::MAX)
        };
        Usage { input_tokens: count("input_tokens"), output_tokens: count("output_tokens"), cost_micros: count("cost_micros") }
    }
}
