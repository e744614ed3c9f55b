//! Drives one instance: fold the log, ask the core what is next, do it, journal it; again, until it ends, is
//! given back, or the lease is lost.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    agent::{Action, Agent, Briefing},
    error::{AgentError, ErrorClass},
    event::{Entry, Event, Retry, WaitFor},
    fsm::State,
    queue::Ready,
    store::{Claimed, StoreError, Then, Write},
    time::Timestamp,
};
use tokio::time::Instant;

use crate::{
    Parts,
    briefing::{BriefingError, Library, Prepared},
    claimer::Owned,
    held::Signals,
    lease::{LeaseClock, boot_clock},
    step::Scene,
    write::{cancelled, end_of},
};

/// A longer wait for a retry gives the slot back.
const KEEPS_SLOT: Duration = Duration::from_secs(2);
/// Between two attempts at reading what a claimed instance needs, doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

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
pub(crate) struct Drive<'a> {
    pub(crate) driver: &'a Driver,
    pub(crate) claimed: &'a Claimed,
    pub(crate) prepared: Arc<Prepared>,
    briefing: Briefing,
    pub(crate) agent: Agent,
    pub(crate) signals: &'a Signals,
    deadline: Instant,
    /// The store has found this moment to be past.
    waited_until: Option<Timestamp>,
    pub(crate) cancel: bool,
    /// A step was refused: if its replacement is refused too, there is no third.
    pub(crate) refused: bool,
}

/// What to do after a step.
pub(crate) enum Next {
    Go,
    Leave(Left),
}

impl Driver {
    /// Drives a claimed instance as far as it goes.
    pub(crate) async fn drive(&self, owned: Owned, signals: &Signals) -> Left {
        let (claimed_at, mut pause) = (Instant::now(), FIRST_PAUSE);
        let Owned { claimed, log } = owned;
        let log = match log {
            Ok(log) => log,
            Err(StoreError::Unavailable(_)) => return self.give_back(&claimed).await,
            Err(unreadable) => return self.fail_unread(&claimed, &[], unreadable_log(&unreadable)).await,
        };
        loop {
            match self.prepare(&claimed, &log, signals, claimed_at).await {
                Ok(mut drive) => return drive.run().await,
                Err(BriefingError::Never(error)) => return self.fail_unread(&claimed, &log, error).await,
                Err(BriefingError::Later(error)) => {
                    tracing::warn!(instance = %claimed.lease.instance, %error, "claimed, but its policy or context cannot be read yet");
                }
            }
            tokio::select! {
                biased;
                () = signals.abandon.cancelled() => return Left::Lost,
                () = signals.drain.cancelled() => return self.give_back(&claimed).await,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
            }
        }
    }

    async fn prepare<'a>(
        &'a self,
        claimed: &'a Claimed,
        log: &[Entry],
        signals: &'a Signals,
        claimed_at: Instant,
    ) -> Result<Drive<'a>, BriefingError> {
        let store = &*self.parts.store;
        let prepared = self.library.policy(store, claimed.policy).await?;
        let briefing = self.library.briefing(store, claimed).await?;
        let agent = fold(&prepared, log).map_err(BriefingError::Never)?;
        let elapsed = Duration::from_micros(u64::try_from(claimed.elapsed_micros).unwrap_or(0));
        let left = Duration::from_millis(prepared.policy.limits.agent_timeout_ms).saturating_sub(elapsed);
        Ok(Drive {
            driver: self,
            claimed,
            prepared,
            briefing,
            agent,
            signals,
            deadline: claimed_at + left,
            waited_until: log.last().and_then(waited_until),
            cancel: false,
            refused: false,
        })
    }

    /// Lets go of an instance that was never driven.
    async fn give_back(&self, claimed: &Claimed) -> Left {
        match self.parts.store.give_back(&[claimed.lease]).await {
            Ok(_) => Left::Released,
            Err(error) => {
                tracing::warn!(instance = %claimed.lease.instance, %error, "not given back; reconciliation or the sweeper does it");
                Left::Lost
            }
        }
    }

    /// Ends an instance whose policy or log cannot be read: its log gets the failure and nothing else.
    async fn fail_unread(&self, claimed: &Claimed, log: &[Entry], error: AgentError) -> Left {
        tracing::error!(instance = %claimed.lease.instance, %error, "cannot be driven; it fails");
        let event = Event::Failed(error.clone());
        let tail = (claimed.last_seq, claimed.last_hash);
        let entry = Entry::following(claimed.lease.instance, tail, claimed.lease.epoch, &event, self.parts.clock.now());
        let steps = log.iter().filter(|stored| stored.kind.is_step()).count();
        let write = Write {
            lease: claimed.lease,
            group: claimed.group.clone(),
            place: claimed.place,
            entries: vec![entry],
            state: State::Failed,
            step: i32::try_from(steps).unwrap_or(i32::MAX),
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
    pub(crate) async fn push(&self, ready: &[Ready]) {
        if !ready.is_empty()
            && let Err(error) = self.parts.queue.push(ready).await
        {
            tracing::warn!(%error, "granted, but not pushed; old grants are pushed again");
        }
    }
}

fn unreadable_log(why: &StoreError) -> AgentError {
    AgentError::new(ErrorClass::Internal, "unreadable", format!("its log cannot be read: {why}"))
}

/// Until when the instance waited, if that is the last thing that it did: whoever is claimed after it is due by
/// the store's clock, and must not wait again by another.
fn waited_until(last: &Entry) -> Option<Timestamp> {
    match last.event() {
        Ok(Event::Waiting(WaitFor::Timer { until })) => Some(until),
        Ok(
            Event::Waiting(WaitFor::Children)
            | Event::Model(_)
            | Event::Tool(_)
            | Event::Retry(_)
            | Event::Completed(_)
            | Event::Failed(_)
            | Event::TimedOut(_)
            | Event::Cancelled(_),
        )
        | Err(_) => None,
    }
}

/// The agent that a log makes.
fn fold(prepared: &Prepared, log: &[Entry]) -> Result<Agent, AgentError> {
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
        Scene { claimed: self.claimed, prepared: &self.prepared, briefing: &self.briefing, agent: &self.agent }
    }

    /// Waits for a retry's moment and for a lease that is believed in. Answers what to do instead of the
    /// effect, if anything came between.
    async fn ready_for_effect(&mut self, not_before: Option<Timestamp>) -> Option<Next> {
        let now = self.driver.parts.clock.now();
        let not_before = not_before.filter(|at| self.waited_until.is_none_or(|until| until < *at));
        let wait = not_before.map_or(Duration::ZERO, |at| at.since(now)).min(self.deadline.saturating_duration_since(Instant::now()));
        if wait > KEEPS_SLOT {
            return Some(self.wait_for(WaitFor::Timer { until: now.plus(wait) }).await);
        }
        if wait.is_zero() && self.driver.lease.is_live(boot_clock()) {
            return None;
        }
        tokio::select! {
            biased;
            () = self.signals.abandon.cancelled() => Some(Next::Go),
            () = self.signals.cancel.cancelled() => Some(Next::Go),
            () = self.signals.drain.cancelled() => Some(Next::Go),
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
            // Not its message: that may repeat what a model or a tool said.
            tracing::debug!(instance = %self.claimed.lease.instance, class = error.class.as_str(), code = error.code, attempt, delay_ms, "will try again");
            metrics::counter!("muster_retries_total", "class" => error.class.as_str()).increment(1);
        }
        match end_of(&event) {
            Some(error) => self.write_one(&event, Then::Fail { error }, Left::Ended).await,
            None => self.step(event).await,
        }
    }
}

/// Why a call in progress was given up.
enum Interrupted {
    Abandoned,
    Cancelled,
    TimedOut,
}
