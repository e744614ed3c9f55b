//! The instances that this process holds, and the signals that reach them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use muster_shared::{ids::InstanceId, store::Lease};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Everything that can interrupt a drive.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Somebody asked for this instance to be cancelled.
    pub(crate) cancel: CancellationToken,
    /// The process drains: give the instance back between steps.
    pub(crate) drain: CancellationToken,
    /// The grace period is over, or the process was declared dead: stop at once.
    pub(crate) abandon: CancellationToken,
}

/// The instances that are held, or about to be.
#[derive(Debug, Default)]
pub(crate) struct Held {
    table: Mutex<Table>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    leases: HashMap<InstanceId, (Lease, CancellationToken)>,
    /// How many claims of an instance are under way. Their outcome is not known here yet.
    claiming: HashMap<InstanceId, usize>,
    /// Drives that gave up a call which they had made.
    abandoned: usize,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing in here panics while it holds the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a claim is under way until the guard is dropped: what the store says of it is no news.
    pub(crate) fn claiming(&self, id: InstanceId) -> ClaimGuard<'_> {
        *self.lock().claiming.entry(id).or_default() += 1;
        ClaimGuard { held: self, id }
    }

    /// Notes a claimed instance until the guard is dropped.
    pub(crate) fn hold(&self, lease: Lease, cancel: CancellationToken) -> HoldGuard<'_> {
        self.lock().leases.insert(lease.instance, (lease, cancel));
        HoldGuard { held: self, lease, abandoned: false }
    }

    /// Passes a request to cancel on.
    pub(crate) fn cancel(&self, ids: &[InstanceId]) {
        let table = self.lock();
        ids.iter().filter_map(|id| table.leases.get(id)).for_each(|(_, cancel)| cancel.cancel());
    }

    /// Leases of `owned` that are not held here and whose claim is not under way either.
    pub(crate) fn missing(&self, owned: Vec<Lease>) -> Vec<Lease> {
        let table = self.lock();
        let here = |lease: &Lease| table.leases.get(&lease.instance).is_some_and(|(here, _)| here.epoch == lease.epoch);
        owned.into_iter().filter(|lease| !here(lease) && !table.claiming.contains_key(&lease.instance)).collect()
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.lock().leases.len()
    }

    /// Calls that were made and whose results are given up, if what is still held is left to itself now.
    pub(crate) fn given_up(&self) -> usize {
        let table = self.lock();
        table.abandoned + table.leases.len()
    }

    /// Waits until nothing is held and no claim is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Listens before it looks: what is let go in between is not missed.
            emptied.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn let_go(&self, change: impl FnOnce(&mut Table)) {
        let mut table = self.lock();
        change(&mut table);
        if table.is_empty() {
            self.emptied.notify_waiters();
        }
    }
}

impl Table {
    fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.claiming.is_empty()
    }
}

/// Keeps a claim noted as under way.
pub(crate) struct ClaimGuard<'a> {
    held: &'a Held,
    id: InstanceId,
}

impl Drop for ClaimGuard<'_> {
    fn drop(&mut self) {
        self.held.let_go(|table| {
            if let Some(count) = table.claiming.get_mut(&self.id) {
                *count -= 1;
                if *count == 0 {
                    table.claiming.remove(&self.id);
                }
            }
        });
    }
}

/// Keeps an instance noted as held.
pub(crate) struct HoldGuard<'a> {
    held: &'a Held,
    lease: Lease,
    abandoned: bool,
}

impl HoldGuard<'_> {
    /// Lets go, and counts a call that was made in vain.
    pub(crate) fn abandon(mut self) {
        self.abandoned = true;
    }
}

impl Drop for HoldGuard<'_> {
    fn drop(&mut self) {
        self.held.let_go(|table| {
            table.abandoned += usize::from(self.abandoned);
            if table.leases.get(&self.lease.instance).is_some_and(|(lease, _)| lease.epoch == self.lease.epoch) {
                table.leases.remove(&self.lease.instance);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use muster_shared::{
        ids::{Incarnation, RunId},
        time::{SeededRandom, SystemClock},
    };

    use super::*;

    fn lease(seed: u64, epoch: i64) -> Lease {
        let random = SeededRandom::new(seed);
        Lease {
            run: RunId::new(&SystemClock, &random),
            instance: InstanceId::new(&SystemClock, &random),
            epoch,
            worker: Incarnation::new(&SystemClock, &random),
        }
    }

    #[test]
    fn what_is_held_or_being_claimed_is_not_missing() {
        let (held, one, other) = (Held::default(), lease(1, 1), lease(2, 1));
        let claiming = (held.claiming(one.instance), held.claiming(one.instance));
        assert_eq!(held.missing(vec![one, other]), [other]);
        drop(claiming.0);
        assert_eq!(held.missing(vec![one]), [], "another claim of it is still under way");
        let hold = held.hold(one, CancellationToken::new());
        drop(claiming.1);
        assert_eq!(held.missing(vec![one]), []);
        assert_eq!(held.missing(vec![Lease { epoch: 2, ..one }]), [Lease { epoch: 2, ..one }], "held under another epoch");
        drop(hold);
        assert_eq!(held.missing(vec![one]), [one]);
    }

    #[test]
    fn an_older_guard_does_not_let_go_of_a_newer_hold() {
        let (held, one) = (Held::default(), lease(1, 1));
        let older = held.hold(one, CancellationToken::new());
        let newer = held.hold(Lease { epoch: 3, ..one }, CancellationToken::new());
        drop(older);
        assert_eq!(held.len(), 1);
        drop(newer);
        assert_eq!(held.len(), 0);
    }

    #[tokio::test]
    async fn it_is_idle_when_the_last_hold_is_dropped() {
        let (held, one) = (Held::default(), lease(1, 1));
        let hold = held.hold(one, CancellationToken::new());
        let (): () = tokio::select! {
            biased;
            () = held.idle() => panic!("something is held"),
            () = async { drop(hold) } => {}
        };
        held.idle().await;
    }
}
