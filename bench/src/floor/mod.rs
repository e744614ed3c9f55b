//! The floor: a minimal program that makes the same promise as the fleet (every step of an instance is on
//! disk before its next one starts) and does nothing else.
//!
//! No queue between processes, no API, no policy, no hashes, no JSON parsing, no recovery. FROZEN, like its
//! schema: two connections commit batches of up to 200 rows of one kind, each batch a transaction of one
//! prepared statement; an instance's next write enters a batch only after its previous one is committed;
//! reducers are instances with one step.

mod statements;
mod tree;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use sqlx::PgConnection;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use uuid::Uuid;

use self::{
    statements::Kind,
    tree::{Instance, Plan},
};
use crate::{database::Server, workload::Workload};

/// Rows of one transaction at most.
const BATCH: usize = 200;

/// Connections that commit.
const WRITERS: usize = 2;

/// Runs the workload once in a database of its own; the time from the first write until the root's finish is
/// committed.
pub(crate) async fn measure(server: &Server, workload: Workload) -> anyhow::Result<Duration> {
    let database = server.create("floor").await?;
    let measured = run(database.url(), workload).await.context("the floor");
    database.drop_it().await?;
    measured
}

async fn run(url: &str, workload: Workload) -> anyhow::Result<Duration> {
    let mut connections: Vec<PgConnection> = Vec::new();
    for _ in 0..WRITERS {
        connections.push(statements::connect(url).await?);
    }
    statements::create_schema(connections.first_mut().context("there are writers")?).await?;
    let floor = Arc::new(Floor::new(workload));
    let start = Instant::now();
    floor.spawn_leaves();
    let mut writers = JoinSet::new();
    for connection in connections {
        writers.spawn(write(Arc::clone(&floor), connection));
    }
    while let Some(writer) = writers.join_next().await {
        writer.context("a writer panicked")??;
    }
    let elapsed = start.elapsed();
    statements::verify(&mut statements::connect(url).await?, floor.run, workload).await?;
    Ok(elapsed)
}

/// Commits batches until the root is finished.
async fn write(floor: Arc<Floor>, mut connection: PgConnection) -> anyhow::Result<()> {
    while let Some((kind, batch)) = floor.next_batch().await {
        statements::commit(&mut connection, floor.run, kind, &batch).await?;
        floor.committed(kind, batch);
    }
    Ok(())
}

/// What waits to be written, by kind.
struct Floor {
    run: Uuid,
    workload: Workload,
    queues: Mutex<Queues>,
    changed: Notify,
}

struct Queues {
    waiting: [VecDeque<Instance>; Kind::ALL.len()],
    plan: Plan,
    done: bool,
}

impl Floor {
    fn new(workload: Workload) -> Self {
        let queues = Queues { waiting: Default::default(), plan: Plan::new(workload), done: false };
        Self { run: tree::new_id(), workload, queues: Mutex::new(queues), changed: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn_leaves(&self) {
        let leaves = (0..self.workload.n).map(|index| Instance::new(0, index, self.workload.k));
        self.lock().waiting[Kind::Insert as usize].extend(leaves);
        self.changed.notify_waiters();
    }

    /// The longest queue's first rows; waits while there are none. None when all is done.
    async fn next_batch(&self) -> Option<(Kind, Vec<Instance>)> {
        loop {
            // Registered before the look, so that no change is missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut queues = self.lock();
                if queues.done {
                    return None;
                }
                let longest = Kind::ALL.into_iter().max_by_key(|kind| queues.waiting[*kind as usize].len());
                if let Some(kind) = longest {
                    let queue = &mut queues.waiting[kind as usize];
                    let count = queue.len().min(BATCH);
                    if count > 0 {
                        return Some((kind, queue.drain(..count).collect()));
                    }
                }
            }
            changed.await;
        }
    }

    /// What is committed makes the next write of each instance possible.
    fn committed(self: &Arc<Self>, kind: Kind, batch: Vec<Instance>) {
        let mut thinking = Vec::new();
        {
            let mut queues = self.lock();
            for mut instance in batch {
                if kind == Kind::Step {
                    instance.steps_made += 1;
                }
                match kind {
                    Kind::Insert => queues.waiting[Kind::Grant as usize].push_back(instance),
                    Kind::Grant => queues.waiting[Kind::Claim as usize].push_back(instance),
                    Kind::Claim | Kind::Step if instance.steps_made < instance.steps => {
                        if self.workload.latency_ms == 0 {
                            queues.waiting[Kind::Step as usize].push_back(instance);
                        } else {
                            thinking.push(instance);
                        }
                    }
                    Kind::Claim | Kind::Step => queues.waiting[Kind::Finish as usize].push_back(instance),
                    Kind::Finish => {
                        let after = queues.plan.arrived(&instance);
                        queues.done |= after.all_done;
                        queues.waiting[Kind::Insert as usize].extend(after.reducer);
                    }
                }
            }
        }
        self.changed.notify_waiters();
        for instance in thinking {
            let floor = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(floor.workload.latency_ms)).await;
                floor.lock().waiting[Kind::Step as usize].push_back(instance);
                floor.changed.notify_waiters();
            });
        }
    }
}
