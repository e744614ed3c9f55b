//! An agent as the fold of its log, and the one question asked of it: what next?
//!
//! Live execution and replay call the same [`Agent::apply`] and [`Agent::next`].

mod decide;
mod output;
mod prompt;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::{
    engine::{Finish, Message, ToolCall, Usage},
    error::AgentError,
    event::{Event, Retry, ToolOutcome, ToolTurn, WaitFor},
    fsm::{IllegalTransition, Move, State, transition},
    hash::Hash32,
    policy::Policy,
    template::{Mode, ToolFailure},
    time::Timestamp,
};

pub use decide::{Action, ModelCall, tool_result};
pub use output::OutputForm;
pub use prompt::Briefing;

/// What an instance has come to: `fold(events)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    state: State,
    step: u32,
    seq: i64,
    hash: Hash32,
    usage: Usage,
    tool_calls: u32,
    transcript: Vec<Message>,
    pending: VecDeque<ToolCall>,
    failing: Failing,
    answer: Option<Answer>,
    end: Option<Event>,
}

/// The attempts at the present call that have failed.
#[derive(Debug, Clone, PartialEq, Default)]
struct Failing {
    attempts: u32,
    model: usize,
    not_before: Option<Timestamp>,
    fatal: Option<AgentError>,
}

/// The model turn whose text is the output.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    seq: i64,
    text: String,
}

/// A log that the table does not allow. It was written by a broken or a newer core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLog {
    /// See [`IllegalTransition`].
    #[error("event {seq}: {why}")]
    Illegal {
        /// Position.
        seq: i64,
        /// What the table lacks.
        why: IllegalTransition,
    },
    /// A tool result that nobody waits for.
    #[error("event {seq}: a result for the tool call `{call}`, which is not the next one")]
    Unasked {
        /// Position.
        seq: i64,
        /// The call.
        call: String,
    },
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            state: State::Init,
            step: 0,
            seq: 0,
            hash: Hash32::ZERO,
            usage: Usage::default(),
            tool_calls: 0,
            transcript: Vec::new(),
            pending: VecDeque::new(),
            failing: Failing::default(),
            answer: None,
            end: None,
        }
    }
}

impl Agent {
    /// Its state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Steps journaled: model turns, tool calls and retries.
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// Position and hash of the last event.
    pub const fn tail(&self) -> (i64, Hash32) {
        (self.seq, self.hash)
    }

    /// Tokens and money used.
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// Tool calls made, refused ones too.
    pub const fn tool_calls(&self) -> u32 {
        self.tool_calls
    }

    /// The conversation after the briefing.
    pub fn transcript(&self) -> &[Message] {
        &self.transcript
    }

    /// Text of the answer, once there is one.
    pub fn answer(&self) -> Option<&str> {
        self.answer.as_ref().map(|answer| answer.text.as_str())
    }

    /// The terminal event, once there is one.
    pub const fn end(&self) -> Option<&Event> {
        self.end.as_ref()
    }

    /// Takes in the event at `seq`. Pure: the same log gives the same agent.
    pub fn apply(&mut self, policy: &Policy, event: &Event, at: Timestamp, seq: i64, hash: Hash32) -> Result<(), BadLog> {
        let by = self.classify(policy, event);
        self.state = transition(self.state, by, policy.mode).map_err(|why| BadLog::Illegal { seq, why })?;
        if event.kind().is_step() {
            self.step += 1;
        }
        match event {
            Event::Model(turn) => {
                self.usage += turn.usage;
                self.transcript.push(Message::Assistant { text: turn.text.clone(), tool_calls: turn.tool_calls.clone() });
                self.pending = turn.tool_calls.iter().cloned().collect();
                self.failing = Failing { model: self.failing.model, ..Failing::default() };
                if by == Move::ModelAnswers {
                    self.answer = Some(Answer { seq, text: turn.text.clone() });
                } else if turn.tool_calls.is_empty() {
                    self.transcript.push(Message::User { text: "Continue.".to_owned() });
                }
            }
            Event::Tool(turn) => self.take_result(policy, turn, seq)?,
            Event::Retry(retry) => self.take_retry(retry, at),
            Event::Waiting(WaitFor::Children | WaitFor::Timer { .. }) => {}
            Event::Completed(_) | Event::Failed(_) | Event::TimedOut(_) | Event::Cancelled(_) => self.end = Some(event.clone()),
        }
        (self.seq, self.hash) = (seq, hash);
        Ok(())
    }

    /// Which move of the table an event makes here.
    fn classify(&self, policy: &Policy, event: &Event) -> Move {
        match event {
            Event::Model(turn) => {
                let may_go_on = policy.mode != Mode::Single && self.step + 1 < policy.max_steps;
                let goes_on = !turn.tool_calls.is_empty() || (turn.finish == Finish::Continue && may_go_on);
                if goes_on { Move::ModelActs } else { Move::ModelAnswers }
            }
            Event::Tool(_) => Move::Tool,
            Event::Retry(_) => Move::Retry,
            Event::Waiting(_) => Move::Wait,
            Event::Completed(_) => Move::Complete,
            Event::Failed(_) | Event::Cancelled(_) => Move::Fail,
            Event::TimedOut(_) => Move::TimeOut,
        }
    }

    fn take_result(&mut self, policy: &Policy, turn: &ToolTurn, seq: i64) -> Result<(), BadLog> {
        let asked = self.pending.pop_front().filter(|call| call.id == turn.call_id);
        asked.ok_or_else(|| BadLog::Unasked { seq, call: turn.call_id.clone() })?;
        self.tool_calls += 1;
        self.failing = Failing { model: self.failing.model, ..Failing::default() };
        let (content, is_error) = match &turn.outcome {
            ToolOutcome::Ok(value) => (value.clone(), false),
            ToolOutcome::Error(error) => {
                if policy.tool_failure == ToolFailure::Closed {
                    self.failing.fatal = Some(error.clone());
                }
                (serde_json::json!({ "error": error.code, "message": error.message }), true)
            }
        };
        self.transcript.push(Message::Tool { call_id: turn.call_id.clone(), name: turn.tool.clone(), content, is_error });
        Ok(())
    }

    fn take_retry(&mut self, retry: &Retry, at: Timestamp) {
        // A change of model starts the count of attempts anew.
        let same_model = retry.next_model == self.failing.model;
        self.failing = Failing {
            attempts: if same_model { retry.attempt } else { 0 },
            model: retry.next_model,
            not_before: Some(at.plus(std::time::Duration::from_millis(retry.delay_ms))),
            fatal: None,
        };
    }
}
