//! The ready list of an embedded fleet: lists in this process. They are empty after a restart, like a Redis
//! that was flushed; old grants are pushed again from the store.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use muster_shared::queue::{QueueError, Ready, ReadyQueue};
use tokio::{sync::Notify, time::timeout};

use crate::{PRIORITIES, list_of, source::Source};

/// How long a pop waits for the first message.
const POP_WAIT: Duration = Duration::from_secs(1);

type Lists = [VecDeque<Ready>; PRIORITIES];

/// Ready lists in this process. A clone is the same lists.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lists: Mutex<Lists>,
    pushed: Notify,
    nudged: Notify,
    /// Whether somebody was told that these lists began empty.
    canary: AtomicBool,
}

impl MemoryQueue {
    /// Empty lists.
    pub fn new() -> Self {
        Self::default()
    }

    /// A taking end of these lists.
    pub fn source(&self) -> MemorySource {
        MemorySource(self.clone())
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_now(&self, ready: &[Ready]) {
        let mut lists = self.lists();
        for leaf in ready.iter().filter(|ready| !ready.reducer) {
            lists[list_of(leaf.priority)].push_back(leaf.clone());
        }
        for reducer in ready.iter().rev().filter(|ready| ready.reducer) {
            lists[list_of(reducer.priority)].push_front(reducer.clone());
        }
        drop(lists);
        self.0.pushed.notify_waiters();
    }

    fn take(&self, max: usize) -> Vec<Ready> {
        let mut taken = Vec::new();
        for list in self.lists().iter_mut().rev() {
            let count = list.len().min(max - taken.len());
            taken.extend(list.drain(..count));
        }
        taken
    }
}

#[async_trait]
impl ReadyQueue for MemoryQueue {
    async fn push(&self, ready: &[Ready]) -> Result<(), QueueError> {
        self.push_now(ready);
        Ok(())
    }

    async fn depth(&self) -> Result<u64, QueueError> {
        Ok(self.lists().iter().map(|list| list.len() as u64).sum())
    }

    /// At the first call, and never again: these lists begin empty, whatever was granted before this process began,
    /// and live as long as the process that reads them.
    async fn lost_data(&self) -> Result<bool, QueueError> {
        Ok(!self.0.canary.swap(true, Ordering::Relaxed))
    }

    async fn nudge(&self) -> Result<(), QueueError> {
        self.0.nudged.notify_one();
        Ok(())
    }

    async fn nudged(&self, limit: Duration) -> Result<(), QueueError> {
        // Both ends of the wait mean the same to the caller: look again.
        drop(timeout(limit, self.0.nudged.notified()).await);
        Ok(())
    }
}

/// A taking end of a [`MemoryQueue`].
#[derive(Debug)]
pub struct MemorySource(MemoryQueue);

#[async_trait]
impl Source for MemorySource {
    async fn pop(&mut self, max: usize) -> Result<Vec<Ready>, QueueError> {
        let first = async {
            loop {
                let pushed = self.0.0.pushed.notified();
                tokio::pin!(pushed);
                // Listens before it looks: what is pushed in between is not missed.
                pushed.as_mut().enable();
                let taken = self.0.take(max);
                if !taken.is_empty() || max == 0 {
                    return taken;
                }
                pushed.await;
            }
        };
        Ok(timeout(POP_WAIT, first).await.unwrap_or_default())
    }

    async fn give_back(&mut self, ready: Vec<Ready>) -> Result<(), QueueError> {
        let mut lists = self.0.lists();
        for job in ready.into_iter().rev() {
            lists[list_of(job.priority)].push_front(job);
        }
        drop(lists);
        self.0.0.pushed.notify_waiters();
        Ok(())
    }

    /// Messages are taken by the last thing that a pop does, without a wait after it.
    fn pop_can_be_dropped(&self) -> bool {
        true
    }
}
