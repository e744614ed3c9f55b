//! How a drive journals: drafts of events, the write that carries them, and what becomes of it.

use std::time::Duration;

use muster_shared::{
    agent::{Action, Agent},
    error::{AgentError, ErrorClass},
    event::{Entry, Event, WaitFor},
    store::{Committed, Then, Write, WriteError},
};

use crate::drive::{Drive, Left, Next};

/// Between two attempts at storing the same step, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

impl Drive<'_> {
    /// Journals a step. When nothing but the end follows it, the end goes into the same write.
    pub(crate) async fn step(&mut self, event: Event) -> Next {
        let mut draft = self.draft();
        if let Err(error) = draft.add(self, &event) {
            return self.end(Event::Failed(error), None).await;
        }
        match draft.agent.next(&self.prepared.policy, &self.prepared.form) {
            Action::End { event: end, output } => match draft.add(self, &end) {
                Ok(()) => self.write(draft, 1, ending(&end, output), Left::Ended).await,
                Err(error) => self.illegal(&error),
            },
            Action::Model(_) | Action::Tool { .. } | Action::Nothing => self.write(draft, 1, Then::Continue, Left::Lost).await,
        }
    }

    pub(crate) async fn end(&mut self, event: Event, output: Option<String>) -> Next {
        let then = ending(&event, output);
        self.write_one(&event, then, Left::Ended).await
    }

    pub(crate) async fn wait_for(&mut self, what: WaitFor) -> Next {
        let then = Then::Wait { what, wake_seq: self.claimed.wake_seq };
        self.write_one(&Event::Waiting(what), then, Left::Waits).await
    }

    /// Journals one event that is not a step.
    pub(crate) async fn write_one(&mut self, event: &Event, then: Then, left: Left) -> Next {
        let mut draft = self.draft();
        match draft.add(self, event) {
            Ok(()) => self.write(draft, 0, then, left).await,
            Err(error) => self.illegal(&error),
        }
    }

    /// The core decided on what its own table forbids. Nothing is written, so that the log keeps its last legal
    /// state; reconciliation gives the instance back.
    fn illegal(&self, error: &AgentError) -> Next {
        tracing::error!(instance = %self.claimed.lease.instance, %error, "the core decided on an illegal transition");
        Next::Leave(Left::Lost)
    }

    pub(crate) fn draft(&self) -> Draft {
        Draft { agent: self.agent.clone(), entries: Vec::with_capacity(2) }
    }

    /// Journals a draft under the lease, for as long as it takes and the lease lasts.
    pub(crate) async fn write(&mut self, draft: Draft, steps: i64, then: Then, left: Left) -> Next {
        let Draft { agent: after, entries } = draft;
        let goes_on = then == Then::Continue;
        let write = Write {
            lease: self.claimed.lease,
            group: self.claimed.group.clone(),
            place: self.claimed.place,
            entries,
            state: after.state(),
            step: i32::try_from(after.step()).unwrap_or(i32::MAX),
            steps_added: steps,
            usage_added: after.usage() - self.agent.usage(),
            then,
        };
        match self.commit(write).await {
            Ok(committed) => {
                metrics::counter!("muster_steps_total").increment(u64::try_from(steps).unwrap_or(0));
                self.agent = after;
                self.cancel = committed.cancel;
                self.driver.push(&committed.ready).await;
                if goes_on { Next::Go } else { Next::Leave(left) }
            }
            Err(WriteError::Refused(why)) if self.refused => {
                tracing::error!(instance = %self.claimed.lease.instance, %why, "not even the failure can be stored");
                Next::Leave(Left::Lost)
            }
            Err(WriteError::Refused(why)) => {
                self.refused = true;
                let error = AgentError::new(ErrorClass::Validation, "not_storable", format!("the step cannot be stored: {why}"));
                Box::pin(self.end(Event::Failed(error), None)).await
            }
            Err(WriteError::LeaseLost) => Next::Leave(Left::Lost),
            // A call was made, and its result is given up.
            Err(WriteError::Unavailable(_)) => Next::Leave(if steps > 0 { Left::Abandoned } else { Left::Lost }),
        }
    }

    /// A finished step is kept in memory and sent again until the store takes it or says that the lease is lost.
    async fn commit(&self, write: Write) -> Result<Committed, WriteError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.driver.parts.journal.commit(vec![write.clone()]).await.pop();
            match outcome.unwrap_or_else(|| Err(WriteError::Unavailable("the journal is closed".to_owned()))) {
                Err(WriteError::Unavailable(why)) => {
                    tracing::warn!(instance = %self.claimed.lease.instance, %why, "the step is not stored yet; it is sent again");
                    tokio::select! {
                        () = self.signals.abandon.cancelled() => return Err(WriteError::Unavailable(why)),
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

/// Events about to be written, and the agent after them.
pub(crate) struct Draft {
    agent: Agent,
    entries: Vec<Entry>,
}

impl Draft {
    fn add(&mut self, drive: &Drive<'_>, event: &Event) -> Result<(), AgentError> {
        let (lease, at) = (drive.claimed.lease, drive.driver.parts.clock.now());
        let entry = Entry::following(lease.instance, self.agent.tail(), lease.epoch, event, at);
        self.agent
            .apply(&drive.prepared.policy, event, at, entry.seq, entry.hash)
            .map_err(|why| AgentError::new(ErrorClass::Internal, "illegal_transition", why.to_string()))?;
        self.entries.push(entry);
        Ok(())
    }
}

pub(crate) fn cancelled() -> Event {
    Event::Cancelled(AgentError::new(ErrorClass::Cancelled, "cancelled", "somebody cancelled it"))
}

/// The error of a terminal event that is not a success.
pub(crate) fn end_of(event: &Event) -> Option<AgentError> {
    match event {
        Event::Failed(error) | Event::TimedOut(error) | Event::Cancelled(error) => Some(error.clone()),
        Event::Model(_) | Event::Tool(_) | Event::Retry(_) | Event::Waiting(_) | Event::Completed(_) => None,
    }
}

fn ending(event: &Event, output: Option<String>) -> Then {
    match (end_of(event), output) {
        (Some(error), _) => Then::Fail { error },
        (None, Some(output)) => Then::Complete { output },
        (None, None) => Then::Fail { error: AgentError::new(ErrorClass::Internal, "no_output", "completed without an output") },
    }
}
