//! The worker: takes ids from the queue, claims instances, drives them step by step, journals each step.
//!
//! It owns nothing: an instance is its log in the store, and a worker that dies is replaced by another that
//! folds the log and goes on. It never decides what an agent may do (the pure core does) and never writes
//! without a lease.

mod briefing;
mod claimer;
mod drive;
mod held;
mod lease;
mod pulse;
mod session;
mod step;
mod write;

use std::{sync::Arc, time::Duration};

use muster_shared::{
    engine::Engine,
    gate::Gate,
    queue::ReadyQueue,
    store::{Journal, Store},
    time::{Clock, Random},
};

pub use session::{Drained, Worker};

/// What a worker is made of.
#[derive(Clone)]
pub struct Parts {
    /// Claims, heartbeats and reads.
    pub store: Arc<dyn Store>,
    /// Where steps are journaled: the group-committing front of the store.
    pub journal: Arc<dyn Journal>,
    /// Where reducers and released instances are made known.
    pub queue: Arc<dyn ReadyQueue>,
    /// The models.
    pub engine: Arc<dyn Engine>,
    /// The tools, behind the gate.
    pub gate: Gate,
    /// Time of events.
    pub clock: Arc<dyn Clock>,
    /// Randomness of ids.
    pub random: Arc<dyn Random>,
    /// Makes a span the child of a W3C trace context.
    pub set_parent: fn(&tracing::Span, &str),
}

/// Sizes and times of a worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// For people: host and process.
    pub name: String,
    /// Instances held at once.
    pub concurrency: usize,
    /// Its leases end this long after its last heartbeat.
    pub lease_ttl: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// How long calls in progress may take once it drains.
    pub grace: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            name: "worker".to_owned(),
            concurrency: 256,
            lease_ttl: Duration::from_secs(10),
            heartbeat: Duration::from_secs(2),
            grace: Duration::from_secs(30),
        }
    }
}
