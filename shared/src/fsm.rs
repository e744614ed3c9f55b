//! The state machine of an instance. The whole table is on this screen.

use serde::{Deserialize, Serialize};

use crate::{event::EventKind, template::Mode};

/// Where an instance is in its work (REQUIREMENTS B2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing has happened yet.
    Init,
    /// It makes a plan.
    Planning,
    /// It calls models and tools.
    Executing,
    /// No more actions: it puts its answer into form.
    Synthesizing,
    /// Terminal: the output is there.
    Completed,
    /// Terminal: it failed, or was cancelled.
    Failed,
    /// Terminal: a wall clock or deadline passed.
    Timeout,
}

/// What the owner of an instance sees from outside (REQUIREMENTS B2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for a slot.
    Queued,
    /// A worker holds it.
    Running,
    /// It waits for something, without a slot.
    Waiting,
    /// Somebody paused it (a flag underneath).
    Paused,
    /// It has its output.
    Completed,
    /// It failed.
    Failed,
    /// A wall clock or deadline passed.
    Timeout,
    /// Somebody cancelled it.
    Cancelled,
}

/// What moves the machine: a journaled event, and what the core decided about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// A model turn that leads to further actions.
    ModelActs,
    /// A model turn that is the answer.
    ModelAnswers,
    /// A tool call's result.
    Tool,
    /// A failed call that is tried again.
    Retry,
    /// It gives its slot back.
    Wait,
    /// It is done.
    Complete,
    /// It fails, or is cancelled.
    Fail,
    /// A wall clock passed.
    TimeOut,
}

/// A move that the table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("illegal transition: {by:?} in state {from:?}")]
pub struct IllegalTransition {
    /// The state.
    pub from: State,
    /// The move.
    pub by: Move,
}

impl State {
    /// Every state there is.
    pub const ALL: [Self; 7] =
        [Self::Init, Self::Planning, Self::Executing, Self::Synthesizing, Self::Completed, Self::Failed, Self::Timeout];

    /// The name in the `state` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Planning => "planning",
            Self::Executing => "executing",
            Self::Synthesizing => "synthesizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }

    /// From the `state` column.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Timeout => true,
            Self::Init | Self::Planning | Self::Executing | Self::Synthesizing => false,
        }
    }

    /// The state in which an instance of this mode does its first work.
    pub const fn first(mode: Mode) -> Self {
        match mode {
            Mode::Planner => Self::Planning,
            Mode::Single | Mode::MultiStep => Self::Executing,
        }
    }
}

impl Status {
    /// Every status there is.
    pub const ALL: [Self; 8] =
        [Self::Queued, Self::Running, Self::Waiting, Self::Paused, Self::Completed, Self::Failed, Self::Timeout, Self::Cancelled];

    /// The name in the `status` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    /// From the `status` column.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether nothing can follow (I5).
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Timeout | Self::Cancelled => true,
            Self::Queued | Self::Running | Self::Waiting | Self::Paused => false,
        }
    }
}

impl Move {
    /// Every move there is.
    pub const ALL: [Self; 8] =
        [Self::ModelActs, Self::ModelAnswers, Self::Tool, Self::Retry, Self::Wait, Self::Complete, Self::Fail, Self::TimeOut];

    /// The kind of event that records this move.
    pub const fn recorded_as(self) -> &'static [EventKind] {
        match self {
            Self::ModelActs | Self::ModelAnswers => &[EventKind::Model],
            Self::Tool => &[EventKind::Tool],
            Self::Retry => &[EventKind::Retry],
            Self::Wait => &[EventKind::Waiting],
            Self::Complete => &[EventKind::Completed],
            Self::Fail => &[EventKind::Failed, EventKind::Cancelled],
            Self::TimeOut => &[EventKind::TimedOut],
        }
    }
}

/// The table. An instance in `Init` first enters [`State::first`] of its mode; the rest is here.
#[rustfmt::skip]
pub const fn transition(from: State, by: Move, mode: Mode) -> Result<State, IllegalTransition> {
    use {Move as M, State as S};
    let at = if matches!(from, S::Init) { S::first(mode) } else { from };
    match (at, by) {
        (S::Planning,     M::ModelActs)                    => Ok(S::Executing),    // the validated plan
        (S::Executing,    M::ModelActs | M::Tool)          => Ok(S::Executing),    // steps remain
        (S::Executing,    M::ModelAnswers)                 => Ok(S::Synthesizing), // no more actions
        (S::Synthesizing, M::Complete)                     => Ok(S::Completed),
        (S::Planning | S::Executing | S::Synthesizing, M::Retry | M::Wait) => Ok(at),
        (S::Init | S::Planning | S::Executing | S::Synthesizing, M::Fail)    => Ok(S::Failed),
        (S::Init | S::Planning | S::Executing | S::Synthesizing, M::TimeOut) => Ok(S::Timeout),
        (S::Init, M::ModelActs | M::ModelAnswers | M::Tool | M::Retry | M::Wait | M::Complete)
        | (S::Planning, M::ModelAnswers | M::Tool | M::Complete)
        | (S::Executing, M::Complete)
        | (S::Synthesizing, M::ModelActs | M::ModelAnswers | M::Tool)
        | (S::Completed | S::Failed | S::Timeout, _)       => Err(IllegalTransition { from, by }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table once more, as data: every legal transition; all others are illegal.
    fn legal(mode: Mode) -> Vec<(State, Move, State)> {
        let first = State::first(mode);
        let mut table = vec![
            (State::Executing, Move::ModelActs, State::Executing),
            (State::Executing, Move::Tool, State::Executing),
            (State::Executing, Move::ModelAnswers, State::Synthesizing),
            (State::Synthesizing, Move::Complete, State::Completed),
            (State::Planning, Move::ModelActs, State::Executing),
        ];
        for state in [State::Planning, State::Executing, State::Synthesizing] {
            table.push((state, Move::Retry, state));
            table.push((state, Move::Wait, state));
        }
        for state in [State::Planning, State::Executing, State::Synthesizing] {
            table.push((state, Move::Fail, State::Failed));
            table.push((state, Move::TimeOut, State::Timeout));
        }
        let from_init: Vec<_> = table.iter().filter(|(from, ..)| *from == first).map(|(_, by, to)| (State::Init, *by, *to)).collect();
        table.extend(from_init);
        table
    }

    #[test]
    fn every_legal_transition_and_no_other_is_allowed_in_every_mode() {
        for mode in [Mode::Single, Mode::MultiStep, Mode::Planner] {
            let table = legal(mode);
            for from in State::ALL {
                for by in Move::ALL {
                    let expected = table.iter().find(|(f, b, _)| (*f, *b) == (from, by)).map(|(.., to)| *to);
                    assert_eq!(transition(from, by, mode).ok(), expected, "{by:?} in {from:?}, mode {mode:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_follows_a_terminal_state() {
        for from in State::ALL.into_iter().filter(|state| state.is_terminal()) {
            for by in Move::ALL {
                assert_eq!(transition(from, by, Mode::MultiStep), Err(IllegalTransition { from, by }));
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        assert!(State::ALL.into_iter().all(|state| State::parse(state.as_str()) == Some(state)));
        assert!(Status::ALL.into_iter().all(|status| Status::parse(status.as_str()) == Some(status)));
        assert!(EventKind::ALL.into_iter().all(|kind| EventKind::parse(kind.as_str()) == Some(kind)));
        assert_eq!(State::parse("gone"), None);
    }
}
