//! Drives one instance: fold the log, ask the core what is next, do it, journal it; again, until it ends, is
//! given back, or the lease is lost.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    agent::{Action, Agent, Briefing},
    error::{AgentError, ErrorClass},
    event::{Entry, Event, Retry, WaitFor},
    store::{Claimed, StoredEvent, Then, Write, WriteError},
    time::Timestamp,
};
use tokio::time::Instant;

use crate::{
    Parts,
    briefing::{BriefingError, Library, Prepared},
    held::Signals,
    lease::LeaseClock,
    step::Scene,
};
/// A longer wait for a retry gives the slot back.
const KEEPS_SLOT: Duration = Duration::from_secs(2);

/// Why a drive came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The instance has its terminal event.
    Ended,
    /// It waits, without a slot.
    Waits,
    /// It was given back.
    Released,
    /// Somebody else owns it, or will.
    Lost,
    /// A call was in progress when the grace period ended.
    Abandoned,
}

impl Left {
    /// The name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Waits => "waits",
            Self::Released => "released",
            Self::Lost => "lost",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The parts of a drive that many share.
pub(crate) struct Driver {
    pub(crate) parts: Parts,
    pub(crate) library: Library,
    pub(crate) lease: LeaseClock,
}

/// One instance being driven.
struct Drive<'a> {
    driver: &'a Driver,
    claimed: &'a Claimed,
    prepared: Arc<Prepared>,
    briefing: Briefing,
    agent: Agent,
    signals: &'a Signals,
    deadline: Instant,
    cancel: bool,
}

/// What to do after a step.
enum Next {
    Go,
    Leave(Left),
}

impl Driver {
    /// Drives a claimed instance as far as it goes.
    pub(crate) async fn drive(&self, claimed: &Claimed, log: &[StoredEvent], signals: &Signals) -> Left {
        match self.prepare(claimed, log, signals).await {
            Ok(mut drive) => drive.run().await,
            Err(BriefingError::Later(error)) => {
                tracing::warn!(instance = %claimed.lease.instance, %error, "claimed, but its policy or context cannot be read now");
                Left::Lost
            }
            Err(BriefingError::Never(error)) => {
                tracing::error!(instance = %claimed.lease.instance, %error, "cannot be driven; it fails");
                self.fail_unread(claimed, error).await
            }
        }
    }

    async fn prepare<'a>(&'a self, claimed: &'a Claimed, log: &[StoredEvent], signals: &'a Signals) -> Result<Drive<'a>, BriefingError> {
        let store = &*self.parts.store;
        let prepared = self.library.policy(store, claimed.policy).await?;
        let briefing = self.library.briefing(store, claimed).await?;
        let agent = fold(&prepared, log).map_err(BriefingError::Never)?;
        let elapsed = Duration::from_micros(u64::try_from(claimed.elapsed_micros).unwrap_or(0));
        let left = Duration::from_millis(prepared.policy.limits.agent_timeout_ms).saturating_sub(elapsed);
        Ok(Drive { driver: self, claimed, prepared, briefing, agent, signals, deadline: Instant::now() + left, cancel: false })
    }

    /// Ends an instance whose policy or log cannot be read: its log gets the failure and nothing else.
    async fn fail_unread(&self, claimed: &Claimed, error: AgentError) -> Left {
        let event = Event::Failed(error.clone());
        let entry = Entry::following(claimed.lease.instance, (claimed.last_seq, claimed.last_hash), claimed.lease.epoch, &event, self.parts.clock.now());
        let write = Write {
            lease: claimed.lease,
            group: claimed.group.clone(),
            place: claimed.place,
            entries: vec![entry],
            state: muster_shared::fsm::State::Failed,
            step: 0,
            steps_added: 0,
            usage_added: Default::default(),
            then: Then::Fail { error },
        };
        match self.parts.journal.commit(vec![write]).await.pop() {
            Some(Ok(committed)) => {
                self.push(&committed.ready).await;
                Left::Ended
            }
            Some(Err(_)) | None => Left::Lost,
        }
    }

    /// Makes known what a write made runnable; a lost message is pushed again by age.
    async fn push(&self, ready: &[muster_shared::queue::Ready]) {
        if !ready.is_empty()
            && let Err(error) = self.parts.queue.push(ready).await
        {
            tracing::warn!(%error, "granted, but not pushed; old grants are pushed again");
        }
    }
}

/// The agent that a log makes.
pub(crate) fn fold(prepared: &Prepared, log: &[StoredEvent]) -> Result<Agent, AgentError> {
    let unreadable = |why: String| AgentError::new(ErrorClass::Internal, "unreadable", format!("its log cannot be folded: {why}"));
    let mut agent = Agent::default();
    for stored in log {
        let event = stored.event().map_err(|why| unreadable(why.to_string()))?;
        agent.apply(&prepared.policy, &event, stored.at, stored.seq, stored.hash).map_err(|why| unreadable(why.to_string()))?;
    }
    Ok(agent)
}

impl Drive<'_> {
    async fn run(&mut self) -> Left {
        loop {
            match self.advance().await {
                Next::Go => {}
                Next::Leave(left) => return left,
            }
        }
    }

    /// One action and its journaling. Between two of them is the only place where an instance is given back.
    async fn advance(&mut self) -> Next {
        if self.signals.abandon.is_cancelled() {
            return Next::Leave(Left::Lost);
        }
        if self.cancel || self.signals.cancel.is_cancelled() {
            return self.end(cancelled(), None).await;
        }
        if Instant::now() >= self.deadline {
            let event = self.scene().timed_out();
            return self.end(event, None).await;
        }
        if self.signals.drain.is_cancelled() {
            return self.write(self.draft(), 0, Then::Release, Left::Released).await;
        }
        match self.agent.next(&self.prepared.policy, &self.prepared.form) {
            Action::Nothing => Next::Leave(Left::Ended),
            Action::End { event, output } => self.end(event, output).await,
            Action::Model(call) => match self.ready_for_effect(call.not_before).await {
                Some(next) => next,
                None => {
                    let (scene, engine) = (self.scene(), &*self.driver.parts.engine);
                    let event = self.interruptible(scene.model(engine, &call)).await;
                    self.record(event).await
                }
            },
            Action::Tool { call, not_before } => match self.ready_for_effect(not_before).await {
                Some(next) => next,
                None => {
                    let (scene, gate) = (self.scene(), &self.driver.parts.gate);
                    let event = self.interruptible(scene.tool(gate, &call)).await;
                    self.record(event).await
                }
            },
        }
    }

    fn scene(&self) -> Scene<'_> {
        Scene { claimed: self.claimed, prepared: &*self.prepared, briefing: &self.briefing, agent: &self.agent }
    }

    /// Waits for a retry's moment and for a lease that is believed in. Answers what to do instead of the
    /// effect, if anything came between.
    async fn ready_for_effect(&mut self, not_before: Option<Timestamp>) -> Option<Next> {
        let wait = not_before.map_or(Duration::ZERO, |at| at.since(self.driver.parts.clock.now()));
        if wait > KEEPS_SLOT {
            let until = self.driver.parts.clock.now().plus(wait);
            return Some(self.wait_for(WaitFor::Timer { until }).await);
        }
        if wait.is_zero() && self.driver.lease.is_live(crate::lease::boot_clock()) {
            return None;
        }
        tokio::select! {
            biased;
            () = self.signals.abandon.cancelled() => Some(Next::Go),
            () = self.signals.cancel.cancelled() => Some(Next::Go),
            () = self.signals.drain.cancelled(), if !wait.is_zero() => Some(Next::Go),
            () = tokio::time::sleep_until(self.deadline) => Some(Next::Go),
            () = async { tokio::time::sleep(wait).await; self.driver.lease.live().await } => None,
        }
    }

    /// A call in progress ends early only for good reasons; then nothing of it is journaled.
    async fn interruptible(&self, call: impl Future<Output = Event>) -> Result<Event, Interrupted> {
        tokio::select! {
            biased;
            () = self.signals.abandon.cancelled() => Err(Interrupted::Abandoned),
            () = self.signals.cancel.cancelled() => Err(Interrupted::Cancelled),
            event = call => Ok(event),
            () = tokio::time::sleep_until(self.deadline) => Err(Interrupted::TimedOut),
        }
    }

    async fn record(&mut self, event: Result<Event, Interrupted>) -> Next {
        let event = match event {
            Ok(event) => event,
            Err(Interrupted::Abandoned) => return Next::Leave(Left::Abandoned),
            Err(Interrupted::Cancelled) => cancelled(),
            Err(Interrupted::TimedOut) => self.scene().timed_out(),
        };
        if let Event::Retry(Retry { error, attempt, delay_ms, .. }) = &event {
            tracing::debug!(instance = %self.claimed.lease.instance, %error, attempt, delay_ms, "will try again");
            metrics::counter!("muster_retries_total", "class" => error.class.as_str()).increment(1);
        }
        match end_of(&event) {
            Some(error) => self.write_one(&event, Then::Fail { error }, Left::Ended).await,
            None => self.step(event).await,
        }
    }

    /// Journals a step. When nothing but the end follows it, the end goes into the same write.
    async fn step(&mut self, event: Event) -> Next {
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

    async fn end(&mut self, event: Event, output: Option<String>) -> Next {
        let then = ending(&event, output);
        self.write_one(&event, then, Left::Ended).await
    }

    async fn wait_for(&mut self, what: WaitFor) -> Next {
        let then = Then::Wait { what, wake_seq: self.claimed.wake_seq };
        self.write_one(&Event::Waiting(what), then, Left::Waits).await
    }

    /// Journals one event that is not a step.
    async fn write_one(&mut self, event: &Event, then: Then, left: Left) -> Next {
        let mut draft = self.draft();
        match draft.add(self, event) {
            Ok(()) => self.write(draft, 0, then, left).await,
            Err(error) => self.illegal(&error),
        }
    }

    /// The core decided on what its own table forbids. Nothing is written; the lease runs out and the
    /// instance is swept, so that the log keeps its last legal state.
    fn illegal(&self, error: &AgentError) -> Next {
        tracing::error!(instance = %self.claimed.lease.instance, %error, "the core decided on an illegal transition");
        Next::Leave(Left::Lost)
    }

    fn draft(&self) -> Draft {
        Draft { agent: self.agent.clone(), entries: Vec::with_capacity(2) }
    }

    /// Journals a draft under the lease, for as long as it takes and the lease lasts.
    async fn write(&mut self, draft: Draft, steps: i64, then: Then, left: Left) -> Next {
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
            Err(WriteError::Refused(why)) => {
                let error = AgentError::new(ErrorClass::Validation, "not_storable", format!("the step cannot be stored: {why}"));
                Box::pin(self.end(Event::Failed(error), None)).await
            }
            Err(WriteError::LeaseLost | WriteError::Unavailable(_)) => Next::Leave(Left::Lost),
        }
    }

    /// A finished step is kept in memory and sent again until the store takes it or says that the lease is lost.
    async fn commit(&self, write: Write) -> Result<muster_shared::store::Committed, WriteError> {
        let mut pause = Duration::from_millis(50);
        loop {
            let outcome = self.driver.parts.journal.commit(vec![write.clone()]).await.pop();
            match outcome.unwrap_or_else(|| Err(WriteError::Unavailable("the journal is closed".to_owned()))) {
                Err(WriteError::Unavailable(why)) => {
                    tracing::warn!(instance = %self.claimed.lease.instance, %why, "the step is not stored yet; it is sent again");
                    tokio::select! {
                        () = self.signals.abandon.cancelled() => return Err(WriteError::Unavailable(why)),
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(2)),
                    }
                }
                outcome => return outcome,
            }
        }
    }
}

/// Events about to be written, and the agent after them.
struct Draft {
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

/// Why a call in progress was given up.
enum Interrupted {
    Abandoned,
    Cancelled,
    TimedOut,
}

fn cancelled() -> Event {
    Event::Cancelled(AgentError::new(ErrorClass::Cancelled, "cancelled", "somebody cancelled it"))
}

/// The error of a terminal event that is not a success.
fn end_of(event: &Event) -> Option<AgentError> {
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
