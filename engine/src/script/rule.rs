//! A rule: when it matches, and what it answers.

use std::time::Duration;

use muster_shared::engine::{Caller, ModelError, Usage};

use super::template::{JsonTemplate, Template};
use crate::glob::Glob;

/// A compiled rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) agent: Option<Glob>,
    pub(super) name: Option<Glob>,
    pub(super) task: Option<Task>,
    pub(super) step: Range,
    pub(super) attempt: Range,
    pub(super) content: Content,
    /// Another turn is wanted.
    pub(super) more: bool,
    pub(super) delay: Duration,
    /// Estimated when absent.
    pub(super) usage: Option<Usage>,
}

/// What a task must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    Part(String),
    Whole(Glob),
}

impl Task {
    pub(super) fn new(pattern: &str) -> Self {
        if pattern.contains('*') { Self::Whole(Glob::new(pattern)) } else { Self::Part(pattern.to_owned()) }
    }

    fn matches(&self, task: &str) -> bool {
        match self {
            Self::Part(part) => task.contains(part.as_str()),
            Self::Whole(glob) => glob.matches(task),
        }
    }
}

/// A range of numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Range {
    pub(super) const ANY: Self = Self { from: 0, to: u32::MAX };

    /// `3`, `1-3`, `>=2`, `<=4`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let text = text.trim();
        let range = if let Some(from) = text.strip_prefix(">=") {
            Self { from: number(from)?, to: u32::MAX }
        } else if let Some(to) = text.strip_prefix("<=") {
            Self { from: 0, to: number(to)? }
        } else if let Some((from, to)) = text.split_once('-') {
            Self { from: number(from)?, to: number(to)? }
        } else {
            let only = number(text)?;
            Self { from: only, to: only }
        };
        (range.from <= range.to).then_some(range)
    }

    const fn holds(self, number: u32) -> bool {
        self.from <= number && number <= self.to
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A text, or JSON as text.
    Text(Template),
    /// Tool calls, and a text beside them.
    Tools { text: Template, calls: Vec<Call> },
    /// No answer.
    Error(ModelError),
}

/// One tool call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: JsonTemplate,
}

impl Rule {
    pub(super) fn matches(&self, caller: &Caller) -> bool {
        self.step.holds(caller.step)
            && self.attempt.holds(caller.attempt)
            && self.agent.as_ref().is_none_or(|glob| glob.matches(&caller.agent))
            && self.name.as_ref().is_none_or(|glob| glob.matches(caller.name.as_deref().unwrap_or_default()))
            && self.task.as_ref().is_none_or(|task| task.matches(&caller.task))
    }
}
