//! The loops that every API and worker process runs beside its own work.

use std::{sync::Arc, time::Duration};

use muster_shared::{
    ids::Incarnation,
    queue::ReadyQueue,
    store::{GrantWindow, Store, StoreError},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{Judge, dispatch};

/// Between two looks at whether the log has room for the months ahead.
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(3600);

/// Intervals and bounds of the control loops.
#[derive(Debug, Clone, Copy)]
pub struct ControlSettings {
    /// A worker is dead when its heartbeat is older.
    pub lease_ttl: Duration,
    /// Between two rounds of sweeping, timers, cancellation and re-pushing.
    pub tick: Duration,
    /// The dispatcher's lease.
    pub dispatcher_ttl: Duration,
    /// Between two rounds of dispatch while there is work.
    pub busy_poll: Duration,
    /// After a round of dispatch that found nothing, however many nudges come.
    pub empty_pause: Duration,
    /// Between two rounds of dispatch while there is none.
    pub idle_poll: Duration,
    /// How far one round of dispatch may go.
    pub window: GrantWindow,
    /// Grants that nobody claimed are pushed again after this time.
    pub stale_grant: Duration,
    /// Rows that one statement of the sweeper touches.
    pub batch: i64,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            tick: Duration::from_millis(500),
            dispatcher_ttl: Duration::from_secs(5),
            busy_poll: Duration::from_millis(5),
            empty_pause: Duration::from_millis(15),
            idle_poll: Duration::from_millis(1000),
            window: GrantWindow { slots_percent: 150, round: 2000, per_run: 2000 },
            stale_grant: Duration::from_secs(5),
            batch: 500,
        }
    }
}

/// Dispatch and housekeeping of one process.
pub struct Control {
    store: Arc<dyn Store>,
    queue: Arc<dyn ReadyQueue>,
    holder: Incarnation,
    settings: ControlSettings,
}

impl Control {
    /// Loops over these parts; `holder` names this process in leases.
    pub fn new(store: Arc<dyn Store>, queue: Arc<dyn ReadyQueue>, holder: Incarnation, settings: ControlSettings) -> Self {
        Self { store, queue, holder, settings }
    }

    /// Runs until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let dispatcher =
            dispatch::Dispatcher { store: self.store.clone(), queue: self.queue.clone(), holder: self.holder, settings: self.settings };
        tokio::join!(dispatcher.run(shutdown.clone()), shutdown.run_until_cancelled(self.keep_house()));
    }

    async fn keep_house(&self) {
        let mut judge = Judge::new(self.settings.lease_ttl);
        let mut ticks = interval(self.settings.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut made_room: Option<Instant> = None;
        loop {
            ticks.tick().await;
            if made_room.is_none_or(|at| at.elapsed() > MAKE_ROOM_EVERY) && part("make_room", self.store.make_room().await).is_ok() {
                made_room = Some(Instant::now());
            }
            if let Err(error) = self.tick(&mut judge).await {
                judge.outage();
                tracing::warn!(%error, "housekeeping cannot reach the store; it tries again");
            }
        }
    }

    /// One round. Every part is level-triggered: what it does not finish, or another process does, is no loss.
    /// What one part finds unreadable must not stop the others; only an unavailable store ends the round.
    async fn tick(&self, judge: &mut Judge) -> Result<(), StoreError> {
        let now = Duration::from_micros(u64::try_from(self.store.now().await?.micros()).unwrap_or(0));
        judge.contact(now);
        if judge.may_judge(now) {
            part("bury", self.bury().await)?;
        }
        let swept = part("sweep", self.sweep().await)?;
        let woken = part("wake_due", self.drain(|batch| self.store.wake_due(batch)).await)?;
        part("cascade", self.cascade().await)?;
        part("push_again", self.push_again().await)?;
        if swept > 0 || woken > 0 {
            // A lost nudge only delays the dispatcher until its next poll.
            let _ = self.queue.nudge().await;
        }
        Ok(())
    }

    async fn bury(&self) -> Result<(), StoreError> {
        for worker in self.store.bury(self.settings.lease_ttl).await? {
            tracing::warn!(%worker, "worker declared dead: its heartbeat is older than the lease TTL");
            metrics::counter!("muster_workers_buried_total").increment(1);
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<u64, StoreError> {
        let swept = self.drain(|batch| self.store.sweep(batch)).await?;
        if swept > 0 {
            tracing::info!(swept, "instances of dead workers are queued again");
            metrics::counter!("muster_recoveries_total").increment(swept);
        }
        Ok(swept)
    }

    /// Repeats a bounded operation until it finds less than a full batch.
    async fn drain<F: Future<Output = Result<u64, StoreError>>>(&self, operation: impl Fn(i64) -> F) -> Result<u64, StoreError> {
        let full = u64::try_from(self.settings.batch).unwrap_or(u64::MAX);
        let mut total = 0;
        loop {
            let done = operation(self.settings.batch).await?;
            total += done;
            if done < full {
                return Ok(total);
            }
        }
    }

    async fn cascade(&self) -> Result<(), StoreError> {
        while self.store.cascade(self.settings.batch).await?.ended >= u64::try_from(self.settings.batch).unwrap_or(u64::MAX) {}
        Ok(())
    }

    /// Grants are durable, messages are not: what is old is pushed again, and everything when the queue lost its data.
    async fn push_again(&self) -> Result<(), StoreError> {
        let age = match self.queue.lost_data().await {
            Ok(true) => Duration::ZERO,
            Ok(false) => self.settings.stale_grant,
            // Pushing would fail too, and would only make the grants look fresh.
            Err(_) => return Ok(()),
        };
        let stale = self.store.stale_grants(age, self.settings.batch * 20).await?;
        if age.is_zero() && !stale.is_empty() {
            tracing::warn!(grants = stale.len(), "the ready list is new or lost its data: unclaimed grants are pushed again");
        }
        metrics::counter!("muster_grants_pushed_again_total").increment(stale.len() as u64);
        dispatch::push(&*self.queue, &stale).await;
        Ok(())
    }
}

/// The outcome of one part of a round: the other parts go on unless the store is away.
fn part<T: Default>(name: &'static str, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    match outcome {
        Ok(done) => Ok(done),
        Err(StoreError::Unavailable(why)) => Err(StoreError::Unavailable(why)),
        Err(error) => {
            tracing::error!(part = name, %error, "a part of housekeeping failed");
            Ok(T::default())
        }
    }
}
