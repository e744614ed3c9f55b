//! The journal of a worker: the writes of many instances commit together, with no added wait.
//!
//! Writers take what has gathered and commit it at once; while one commit is in flight the next batch gathers. There
//! is no timer. Memory is bounded by the queue: who would overfill it waits.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use muster_shared::{
    ids::{InstanceId, RunId},
    store::{Cascade, Committed, Journal, SpawnBatch, Spawned, StoreError, Write, WriteError},
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

type Answer = Result<Committed, WriteError>;

/// How a [`GroupCommit`] gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupCommitOptions {
    /// Commits in flight at once.
    pub writers: usize,
    /// Log entries in one commit; beyond that latency grows and throughput hardly. One write may exceed it.
    pub max_rows: usize,
    /// Writes that wait at most.
    pub queue: usize,
}

impl Default for GroupCommitOptions {
    fn default() -> Self {
        Self { writers: 2, max_rows: 200, queue: 4096 }
    }
}

/// A write on its way, and who waits for it.
struct Item {
    write: Write,
    reply: oneshot::Sender<Answer>,
}

/// A [`Journal`] whose commits are shared. Everything else goes straight to the journal beneath it.
///
/// A crash leaves what the journal beneath leaves: a write that was not answered may or may not be stored, and may be
/// sent again. Callers have at most one write of an instance in flight.
pub struct GroupCommit {
    journal: Arc<dyn Journal>,
    queue: Mutex<Option<mpsc::Sender<Item>>>,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

impl GroupCommit {
    /// Starts the writers, on the current runtime.
    pub fn new(journal: Arc<dyn Journal>, options: GroupCommitOptions) -> Self {
        let (queue, items) = mpsc::channel(options.queue.max(1));
        let items = Arc::new(AsyncMutex::new(items));
        let writer = |_| tokio::spawn(write_until_closed(Arc::clone(&journal), Arc::clone(&items), options.max_rows.max(1)));
        let writers = (0..options.writers.max(1)).map(writer).collect();
        Self { journal, queue: Mutex::new(Some(queue)), writers: Mutex::new(writers) }
    }

    /// Takes no more writes, commits those that wait, and returns when the last is answered.
    pub async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            if let Err(error) = writer.await {
                tracing::error!(%error, "a journal writer ended badly");
            }
        }
    }

    fn sender(&self) -> Option<mpsc::Sender<Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts writes of different instances into the queue and waits for their answers.
    async fn commit_wave(&self, wave: Vec<Write>) -> Vec<Answer> {
        let closed = || Err(WriteError::Unavailable("the journal is closed".to_owned()));
        let Some(queue) = self.sender() else { return wave.iter().map(|_| closed()).collect() };
        let mut replies = Vec::with_capacity(wave.len());
        for write in wave {
            let (reply, answer) = oneshot::channel();
            // When nobody receives any more, the reply is dropped and its receiver says so.
            let _ = queue.send(Item { write, reply }).await;
            replies.push(answer);
        }
        drop(queue);
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            answers.push(reply.await.unwrap_or_else(|_| closed()));
        }
        answers
    }
}

/// One writer: takes what is there, commits, answers, until the queue is closed and empty.
async fn write_until_closed(journal: Arc<dyn Journal>, items: Arc<AsyncMutex<mpsc::Receiver<Item>>>, max_rows: usize) {
    loop {
        // The lock is held while this writer waits: the others have nothing to do then.
        let batch = gather(&mut *items.lock().await, max_rows).await;
        if batch.is_empty() {
            return;
        }
        commit_batch(journal.as_ref(), batch).await;
    }
}

/// Waits for the first write, then takes those that are there already.
async fn gather(items: &mut mpsc::Receiver<Item>, max_rows: usize) -> Vec<Item> {
    let mut batch = Vec::new();
    let mut rows = 0;
    let Some(first) = items.recv().await else { return batch };
    let mut next = Some(first);
    while let Some(item) = next {
        rows += item.write.entries.len().max(1);
        batch.push(item);
        next = if rows < max_rows { items.try_recv().ok() } else { None };
    }
    batch
}

async fn commit_batch(journal: &dyn Journal, batch: Vec<Item>) {
    let (writes, replies): (Vec<Write>, Vec<oneshot::Sender<Answer>>) = batch.into_iter().map(|item| (item.write, item.reply)).unzip();
    let rows: usize = writes.iter().map(|write| write.entries.len()).sum();
    let begun = Instant::now();
    let answers = journal.commit(writes).await;
    metrics::histogram!("muster_journal_commit_seconds").record(begun.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a batch has some hundreds of rows")]
    metrics::histogram!("muster_journal_batch_rows").record(rows as f64);
    for (reply, answer) in replies.into_iter().zip(answers) {
        // Whoever asked may have gone meanwhile; the write stands.
        let _ = reply.send(answer);
    }
}

#[async_trait]
impl Journal for GroupCommit {
    async fn spawn(&self, batch: SpawnBatch) -> Result<Spawned, StoreError> {
        self.journal.spawn(batch).await
    }

    async fn commit(&self, batch: Vec<Write>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = batch.iter().map(|_| None).collect();
        let mut left: Vec<(usize, Write)> = batch.into_iter().enumerate().collect();
        let mut failed: BTreeMap<InstanceId, WriteError> = BTreeMap::new();
        // A second write of an instance waits for the first: two writers could commit them in the wrong order.
        while !left.is_empty() {
            let mut wave: BTreeMap<InstanceId, (usize, Write)> = BTreeMap::new();
            let mut later = Vec::new();
            for (which, write) in left {
                let instance = write.lease.instance;
                if let Some(error) = failed.get(&instance) {
                    answers[which] = Some(Err(error.clone()));
                } else {
                    match wave.entry(instance) {
                        Entry::Occupied(_) => later.push((which, write)),
                        Entry::Vacant(free) => {
                            free.insert((which, write));
                        }
                    }
                }
            }
            left = later;
            let (order, writes): (Vec<(InstanceId, usize)>, Vec<Write>) =
                wave.into_iter().map(|(instance, (which, write))| ((instance, which), write)).unzip();
            for ((instance, which), answer) in order.into_iter().zip(self.commit_wave(writes).await) {
                if let Err(error) = &answer {
                    failed.insert(instance, error.clone());
                }
                answers[which] = Some(answer);
            }
        }
        let lost = || Err(WriteError::Unavailable("the write was not reached".to_owned()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }

    async fn cancel_run(&self, run: RunId, why: &str) -> Result<(), StoreError> {
        self.journal.cancel_run(run, why).await
    }

    async fn cancel_instance(&self, instance: InstanceId, why: &str) -> Result<Cascade, StoreError> {
        self.journal.cancel_instance(instance, why).await
    }

    async fn cascade(&self, limit: i64) -> Result<Cascade, StoreError> {
        self.journal.cascade(limit).await
    }
}
