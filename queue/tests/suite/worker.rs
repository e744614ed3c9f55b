//! apalis workers over both lists, and over sources that misbehave.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::support::{
    fixture::{Fixture, over_both_lists},
    leaf, leaves, limited, pop_all,
    redis_server::RedisServer,
};
use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    error::{BoxDynError, WorkerError},
    task::{Task, task_fn::TaskFn},
    worker::{builder::WorkerBuilder, context::WorkerContext, ext::parallelize::ParallelizeExt, lifecycle::LifecycleService},
};
use async_trait::async_trait;
use muster_queue::{FetcherEnded, Permit, ReadyBackend, Slots, Source};
use muster_shared::{
    ids::InstanceId,
    queue::{QueueError, Ready, ReadyQueue},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tower::{Layer, Service};

over_both_lists!(
    every_message_is_handled_once_and_never_more_at_a_time_than_slots,
    a_stopped_worker_gives_back_what_it_has_not_begun_and_lets_the_rest_end,
    a_worker_without_free_slots_takes_nothing,
    a_permit_that_outlives_its_handler_keeps_its_slot,
    a_panic_in_a_handler_harms_nobody_else,
    a_dropped_worker_gives_back_what_it_has_not_begun,
    a_worker_can_be_generic_over_the_backend,
);

/// A worker in a task of its own, and how to stop it.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    async fn stopped(self) {
        drop(self.stop);
        limited(self.task).await.expect("no panic").expect("no error");
    }
}

fn stop_signal() -> (oneshot::Sender<()>, impl Future<Output = Result<(), std::io::Error>> + Send + 'static) {
    let (stop, stopped) = oneshot::channel::<()>();
    (stop, async move {
        drop(stopped.await);
        Ok(())
    })
}

/// How a worker is built over any source.
fn start<S, H, F>(source: S, slots: &Slots, handler: H) -> Running
where
    S: Source,
    H: FnMut(Ready, Permit) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let worker = WorkerBuilder::new("worker-1").backend(ReadyBackend::new(source, slots.clone())).parallelize(tokio::spawn).build(handler);
    let (stop, signal) = stop_signal();
    Running { stop, task: tokio::spawn(worker.run_until(signal)) }
}

fn ids(ready: &[Ready]) -> BTreeSet<InstanceId> {
    ready.iter().map(|ready| ready.id).collect()
}

/// Handlers that report when they begin, then wait until they are let go.
struct Gate {
    begun: mpsc::UnboundedReceiver<Ready>,
    open: watch::Sender<bool>,
    ended: Arc<AtomicUsize>,
}

impl Gate {
    fn start<S: Source>(source: S, slots: &Slots) -> (Self, Running) {
        let ((begin, begun), (open, opened), ended) = (mpsc::unbounded_channel(), watch::channel(false), Arc::new(AtomicUsize::new(0)));
        let gate = Self { begun, open, ended: Arc::clone(&ended) };
        let handler = move |ready: Ready, _: Permit| {
            let (begin, mut opened, ended) = (begin.clone(), opened.clone(), Arc::clone(&ended));
            async move {
                drop(begin.send(ready));
                opened.wait_for(|open| *open).await.expect("the gate outlives its handlers");
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        (gate, start(source, slots, handler))
    }

    /// The next to begin. They run side by side, so their order says nothing.
    async fn begun(&mut self, count: usize) -> BTreeSet<InstanceId> {
        let mut got = BTreeSet::new();
        for _ in 0..count {
            got.insert(limited(self.begun.recv()).await.expect("the worker runs").id);
        }
        got
    }
}

async fn every_message_is_handled_once_and_never_more_at_a_time_than_slots(queue: impl Fixture) {
    const COUNT: usize = 2_000;
    let (slots, now, most) = (Slots::new(16), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (done, mut handled) = mpsc::unbounded_channel();
    let handler = {
        let most = Arc::clone(&most);
        move |ready: Ready, _: Permit| {
            let (now, most, done) = (Arc::clone(&now), Arc::clone(&most), done.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                done.send(ready.id).expect("the test listens");
            }
        }
    };
    let all = leaves(COUNT);
    let running = start(queue.source(), &slots, handler);
    for batch in all.chunks(300) {
        queue.push(batch).await.expect("pushed");
    }
    let mut seen = BTreeSet::new();
    for _ in 0..COUNT {
        assert!(seen.insert(limited(handled.recv()).await.expect("the worker runs")), "handled twice");
    }
    running.stopped().await;
    assert_eq!(seen, ids(&all));
    let most = most.load(Ordering::SeqCst);
    assert!((2..=16).contains(&most), "{most} at a time");
    assert_eq!(slots.free(), 16);
    assert_eq!(queue.depth().await.expect("counted"), 0);
}

async fn a_stopped_worker_gives_back_what_it_has_not_begun_and_lets_the_rest_end(queue: impl Fixture) {
    let (all, slots) = (leaves(50), Slots::new(4));
    queue.push(&all).await.expect("pushed");
    let (mut gate, running) = Gate::start(queue.source(), &slots);
    assert_eq!(gate.begun(4).await, ids(&all[..4]));
    drop(running.stop);
    gate.open.send_replace(true);
    limited(running.task).await.expect("no panic").expect("no error");
    gate.begun.close();
    let mut handled = ids(&all[..4]);
    while let Some(ready) = gate.begun.recv().await {
        handled.insert(ready.id);
    }
    // What began before the stop was seen has ended; all else is in the list, in its order.
    assert_eq!(gate.ended.load(Ordering::SeqCst), handled.len());
    let left = pop_all(&mut queue.source(), 100, all.len() - handled.len()).await;
    assert_eq!(left, all.into_iter().filter(|ready| !handled.contains(&ready.id)).collect::<Vec<_>>());
    assert_eq!(queue.depth().await.expect("counted"), 0);
}

async fn a_worker_without_free_slots_takes_nothing(queue: impl Fixture) {
    let (all, slots) = (leaves(10), Slots::new(3));
    queue.push(&all).await.expect("pushed");
    let (mut gate, running) = Gate::start(queue.source(), &slots);
    assert_eq!(gate.begun(3).await, ids(&all[..3]));
    assert_eq!(slots.free(), 0);
    assert_eq!(queue.depth().await.expect("counted"), 7);
    gate.open.send_replace(true);
    assert_eq!(gate.begun(7).await, ids(&all[3..]));
    running.stopped().await;
}

async fn a_permit_that_outlives_its_handler_keeps_its_slot(queue: impl Fixture) {
    let (slots, (keep, mut kept)) = (Slots::new(1), mpsc::unbounded_channel());
    let handler = move |_: Ready, slot: Permit| {
        let keep = keep.clone();
        async move { keep.send(slot).expect("the test listens") }
    };
    let running = start(queue.source(), &slots, handler);
    queue.push(&leaves(2)).await.expect("pushed");
    let first = limited(kept.recv()).await.expect("the worker runs");
    assert_eq!(slots.free(), 0);
    assert_eq!(queue.depth().await.expect("counted"), 1);
    drop(first);
    let second = limited(kept.recv()).await.expect("the worker runs");
    running.stopped().await;
    drop(second);
    assert_eq!(slots.free(), 1);
}

async fn a_panic_in_a_handler_harms_nobody_else(queue: impl Fixture) {
    let (slots, (done, mut handled)) = (Slots::new(2), mpsc::unbounded_channel());
    let handler = move |ready: Ready, _: Permit| {
        let done = done.clone();
        async move {
            assert!(ready.priority > 0, "a handler that panics");
            done.send(ready).expect("the test listens");
        }
    };
    let running = start(queue.source(), &slots, handler);
    let good = leaf(5);
    queue.push(&[leaf(0), leaf(0), leaf(0)]).await.expect("pushed");
    // One that waits behind the others, in the same list.
    queue.push(std::slice::from_ref(&good)).await.expect("pushed");
    assert_eq!(limited(handled.recv()).await, Some(good));
    while queue.depth().await.expect("counted") > 0 {
        tokio::task::yield_now().await;
    }
    running.stopped().await;
    assert_eq!(slots.free(), 2);
}

async fn a_dropped_worker_gives_back_what_it_has_not_begun(queue: impl Fixture) {
    let (all, slots) = (leaves(9), Slots::new(9));
    let mut backend = ReadyBackend::new(queue.source(), slots.clone());
    let worker = WorkerContext::new("worker-1");
    queue.push(&all).await.expect("pushed");
    let first = limited(std::future::poll_fn(|cx| backend.poll_next(cx, &worker))).await;
    let first = first.expect("it goes on").expect("it has no errors").args;
    drop(backend);
    let left = pop_all(&mut queue.source(), 100, 8).await;
    assert_eq!([vec![first], left].concat(), all);
    limited(async {
        while slots.free() < 9 {
            slots.wait_free().await;
            tokio::task::yield_now().await
        }
    })
    .await;
}

/// What apalis wraps around the handler of a worker without layers.
type Handled<H> = LifecycleService<TaskFn<H, Ready, ()>>;

/// How a crate runs a worker that does not know this one: over any backend of ready messages.
async fn run_over<B, H, F>(
    backend: B,
    handler: H,
    stop: impl Future<Output = Result<(), std::io::Error>> + Send + 'static,
) -> Result<(), WorkerError>
where
    B: Backend<Task = Task<Ready>> + BackendConfig<Args = Ready, Kind = Ephemeral> + Send + Unpin + 'static,
    H: FnMut(Ready) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
    B::Error: Into<BoxDynError> + Send,
    B::Layer: Layer<Handled<H>>,
    <B::Layer as Layer<Handled<H>>>::Service: Service<Task<Ready>, Response = (), Error = BoxDynError, Future: Send> + Send + 'static,
{
    WorkerBuilder::new("worker-1").backend(backend).build(handler).run_until(stop).await
}

async fn a_worker_can_be_generic_over_the_backend(queue: impl Fixture) {
    let ((done, mut handled), (stop, signal), one) = (mpsc::unbounded_channel(), stop_signal(), leaf(5));
    queue.push(std::slice::from_ref(&one)).await.expect("pushed");
    let handler = move |ready: Ready| {
        let done = done.clone();
        async move { done.send(ready).expect("the test listens") }
    };
    let running = tokio::spawn(run_over(ReadyBackend::new(queue.source(), Slots::new(2)), handler, signal));
    assert_eq!(limited(handled.recv()).await, Some(one));
    drop(stop);
    limited(running).await.expect("no panic").expect("no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_after_redis_was_away() {
    let mut server = RedisServer::start().await;
    let (queue, slots) = (server.queue(), Slots::new(4));
    let (mut gate, running) = Gate::start(queue.source(), &slots);
    gate.open.send_replace(true);
    let before = leaf(5);
    queue.push(std::slice::from_ref(&before)).await.expect("pushed");
    assert_eq!(gate.begun(1).await, ids(&[before]));
    server.kill().await;
    queue.depth().await.expect_err("nobody answers");
    server.start_again().await;
    let after = leaf(5);
    queue.push(std::slice::from_ref(&after)).await.expect("pushed");
    assert_eq!(gate.begun(1).await, ids(&[after]));
    running.stopped().await;
}

/// Fails a few times, then gives more than it was asked for, and remembers what came back.
struct Unruly {
    failures: usize,
    stock: Vec<Ready>,
    returned: mpsc::UnboundedSender<Vec<Ready>>,
}

#[async_trait]
impl Source for Unruly {
    async fn pop(&mut self, _: usize) -> Result<Vec<Ready>, QueueError> {
        if let Some(left) = self.failures.checked_sub(1) {
            self.failures = left;
            return Err(QueueError("down".to_owned()));
        }
        if self.stock.is_empty() {
            std::future::pending::<()>().await;
        }
        Ok(std::mem::take(&mut self.stock))
    }

    async fn give_back(&mut self, ready: Vec<Ready>) -> Result<(), QueueError> {
        self.returned.send(ready).map_err(|_| QueueError("nobody listens".to_owned()))
    }

    fn pop_can_be_dropped(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_never_reach_the_worker_and_a_surplus_goes_back() {
    let (all, (returned, mut back)) = (leaves(5), mpsc::unbounded_channel());
    let (mut gate, running) = Gate::start(Unruly { failures: 3, stock: all.clone(), returned }, &Slots::new(2));
    assert_eq!(gate.begun(2).await, ids(&all[..2]));
    assert_eq!(limited(back.recv()).await.expect("the fetcher runs"), all[2..]);
    gate.open.send_replace(true);
    running.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_buffered_is_given_back_at_a_stop_while_handlers_still_run() {
    let (all, (returned, mut back)) = (leaves(3), mpsc::unbounded_channel());
    let slots = Slots::new(3);
    let mut backend = ReadyBackend::new(Unruly { failures: 0, stock: all.clone(), returned }, slots.clone());
    let mut worker = WorkerContext::new("worker-1");
    worker.start().expect("it was not running");
    let first = limited(std::future::poll_fn(|cx| backend.poll_next(cx, &worker))).await.expect("it goes on").expect("no errors");
    assert_eq!(first.args, all[0]);
    // A handler has the first; apalis polls the backend no more, and has not closed it yet.
    worker.stop().expect("it was running");
    assert_eq!(limited(back.recv()).await.expect("the fetcher runs"), all[1..]);
    assert_eq!(slots.free(), 2);
    drop(first);
    limited(std::future::poll_fn(|cx| backend.poll_close(cx, &worker))).await.expect("no errors");
    assert_eq!(slots.free(), 3);
}

/// A source with a bug.
struct Broken;

#[async_trait]
impl Source for Broken {
    async fn pop(&mut self, _: usize) -> Result<Vec<Ready>, QueueError> {
        panic!("a source with a bug");
    }

    async fn give_back(&mut self, _: Vec<Ready>) -> Result<(), QueueError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_source_panics_ends_and_does_not_wait_for_ever() {
    let (_gate, running) = Gate::start(Broken, &Slots::new(2));
    let error = limited(running.task).await.expect("no panic").expect_err("nothing would ever come");
    assert!(matches!(error, WorkerError::BackendError(error) if error.is::<FetcherEnded>()));
}
