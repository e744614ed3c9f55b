//! The consuming side: one apalis worker over a source of its own.

use std::{io, pin::Pin};

use apalis_core::{
    error::WorkerError,
    worker::{builder::WorkerBuilder, ext::parallelize::ParallelizeExt},
};
use async_trait::async_trait;
use muster_shared::queue::{Handler, Intake, Ready};
use tokio::task::JoinHandle;

use crate::{MemoryQueue, ReadyBackend, RedisQueue, Slots, Source};

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

#[async_trait]
impl Intake for RedisQueue {
    async fn run(&self, name: &str, slots: usize, handler: Handler, stop: Stop) {
        take_in(self.source(), name, slots, handler, stop).await;
    }
}

#[async_trait]
impl Intake for MemoryQueue {
    async fn run(&self, name: &str, slots: usize, handler: Handler, stop: Stop) {
        take_in(self.source(), name, slots, handler, stop).await;
    }
}

async fn take_in<S: Source>(source: S, name: &str, slots: usize, handler: Handler, stop: Stop) {
    match start(source, name, slots, handler, stop).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the apalis worker ended with an error"),
        Err(error) => tracing::error!(%error, "the apalis worker panicked"),
    }
}

/// Concurrency needs no layer: a message occupies its slot from the moment it is popped until its handler is
/// done. A task for each handler keeps a panic from ending the worker. (The worker's future is `Send` only
/// when it is spawned as it is, not from within another.)
fn start<S: Source>(source: S, name: &str, slots: usize, handler: Handler, stop: Stop) -> JoinHandle<Result<(), WorkerError>> {
    let worker = WorkerBuilder::new(name)
        .backend(ReadyBackend::new(source, Slots::new(slots)))
        .parallelize(tokio::spawn)
        .build(move |ready: Ready| handler(ready));
    let stop = async move {
        stop.await;
        Ok::<(), io::Error>(())
    };
    tokio::spawn(worker.run_until(stop))
}
