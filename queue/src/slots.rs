//! How many jobs a worker may hold: popped and waiting for their handler, or in their handler.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apalis_core::task::{Task, data::MissingDataError, from_request::FromRequest};
use muster_shared::queue::Ready;
use tokio::sync::Notify;

/// A shared counter of slots. A clone counts the same slots.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: usize,
    counts: Mutex<Counts>,
    freed: Notify,
}

/// Kept apart, so that a worker which only waits for jobs shows its slots as free.
#[derive(Debug, Default)]
struct Counts {
    /// Slots with a job in them.
    held: usize,
    /// Slots that a pop under way may fill.
    reserved: usize,
}

impl Slots {
    /// So many slots, but at least one: a worker without any would wait for ever.
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Shared { total: total.max(1), counts: Mutex::default(), freed: Notify::new() }))
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// How many have no job in them.
    pub fn free(&self) -> usize {
        self.0.total - self.counts().held
    }

    /// A slot, if one is free and not promised to a pop under way.
    pub fn try_acquire(&self) -> Option<Permit> {
        let mut counts = self.counts();
        (counts.held + counts.reserved < self.0.total).then(|| {
            counts.held += 1;
            self.permit()
        })
    }

    /// Waits until at least one slot has no job in it.
    pub async fn wait_free(&self) {
        self.until(|| (self.free() > 0).then_some(())).await;
    }

    /// Waits until a slot can be promised, then promises up to `max` of them.
    pub(crate) async fn reserve(&self, max: usize) -> Reservation {
        self.until(|| self.try_reserve(max)).await
    }

    fn try_reserve(&self, max: usize) -> Option<Reservation> {
        let mut counts = self.counts();
        let left = (self.0.total - counts.held - counts.reserved).min(max);
        (left > 0).then(|| {
            counts.reserved += left;
            Reservation { slots: self.clone(), left }
        })
    }

    /// Tries now and whenever a slot was freed. Dropping this future leaves nothing behind.
    async fn until<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Listens before it looks: a slot freed in between is not missed.
            freed.as_mut().enable();
            if let Some(got) = attempt() {
                return got;
            }
            freed.await;
        }
    }

    fn permit(&self) -> Permit {
        Permit { _held: Arc::new(Held(self.clone())) }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An occupied slot. It is free again when the last clone is dropped.
///
/// A handler may take it as an argument (`async fn handle(ready: Ready, slot: Permit)`) to keep the slot
/// for work that outlives the handler.
#[derive(Debug, Clone)]
pub struct Permit {
    _held: Arc<Held>,
}

impl FromRequest<Task<Ready>> for Permit {
    type Error = MissingDataError;

    async fn from_request(task: &Task<Ready>) -> Result<Self, Self::Error> {
        task.data().get_checked().cloned()
    }
}

#[derive(Debug)]
struct Held(Slots);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.counts().held -= 1;
        self.0.0.freed.notify_waiters();
    }
}

/// Slots promised to a pop. What it does not fill is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    slots: Slots,
    left: usize,
}

impl Reservation {
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Turns one promised slot into an occupied one.
    pub(crate) fn fill(&mut self) -> Option<Permit> {
        self.left = self.left.checked_sub(1)?;
        let mut counts = self.slots.counts();
        counts.reserved -= 1;
        counts.held += 1;
        drop(counts);
        Some(self.slots.permit())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.left > 0 {
            self.slots.counts().reserved -= self.left;
            self.slots.0.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_last_permit_is_dropped() {
        let slots = Slots::new(1);
        let permit = slots.try_acquire().expect("one is free");
        let clone = permit.clone();
        assert!(slots.try_acquire().is_none());
        drop(permit);
        assert_eq!(slots.free(), 0);
        drop(clone);
        assert_eq!(slots.free(), 1);
    }

    #[test]
    fn promised_slots_show_as_free_but_cannot_be_taken() {
        let slots = Slots::new(3);
        let mut reservation = slots.try_reserve(2).expect("three are free");
        assert_eq!((reservation.left(), slots.free()), (2, 3));
        let outside = slots.try_acquire().expect("the third");
        assert!(slots.try_acquire().is_none());
        assert!(slots.try_reserve(1).is_none());
        let filled = reservation.fill().expect("two were promised");
        assert_eq!(slots.free(), 1);
        drop((reservation, outside, filled));
        assert_eq!(slots.try_reserve(9).map(|all| all.left()), Some(3));
    }

    #[test]
    fn there_is_at_least_one_slot() {
        assert_eq!(Slots::new(0).total(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_ends_when_a_slot_is_freed() {
        let slots = Slots::new(1);
        let permit = slots.try_acquire().expect("one is free");
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move {
                slots.wait_free().await;
                slots.reserve(5).await.left()
            }
        });
        drop(permit);
        let left = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.expect("no hang").expect("no panic");
        assert_eq!(left, 1);
    }
}
