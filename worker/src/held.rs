//! The instances that this process holds, and the signals that reach them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use muster_shared::{ids::InstanceId, store::Lease};
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

/// The held instances by id.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<HashMap<InstanceId, (Lease, CancellationToken)>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, (Lease, CancellationToken)>> {
        // Nothing in here panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a claimed instance until the guard is dropped.
    pub(crate) fn hold(&self, lease: Lease, cancel: CancellationToken) -> HoldGuard<'_> {
        self.lock().insert(lease.instance, (lease, cancel));
        HoldGuard { held: self, lease }
    }

    /// Passes a request to cancel on.
    pub(crate) fn cancel(&self, ids: &[InstanceId]) {
        let held = self.lock();
        ids.iter().filter_map(|id| held.get(id)).for_each(|(_, cancel)| cancel.cancel());
    }

    /// Leases of `owned` that are not held here.
    pub(crate) fn missing(&self, owned: Vec<Lease>) -> Vec<Lease> {
        let held = self.lock();
        owned.into_iter().filter(|lease| held.get(&lease.instance).is_none_or(|(here, _)| here.epoch != lease.epoch)).collect()
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// Keeps an instance noted as held.
pub(crate) struct HoldGuard<'a> {
    held: &'a Held,
    lease: Lease,
}

impl Drop for HoldGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if held.get(&self.lease.instance).is_some_and(|(lease, _)| lease.epoch == self.lease.epoch) {
            held.remove(&self.lease.instance);
        }
    }
}
