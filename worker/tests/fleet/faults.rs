//! Workers that are declared dead, answers that are lost, a store that is away: nothing is lost or done twice.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use muster_queue::{MemoryQueue, Source as _};
use muster_shared::{
    event::EventKind as K,
    fsm::Status,
    ids::Incarnation,
    queue::{Handler, Intake},
    reduce::Place,
    store::{Claims as _, Journal as _, Reads as _, Then, WorkerRow, Write, WriteError},
    time::{SystemClock, SystemRandom},
};
use serde_json::{Value, json};

use crate::support::{
    Fleet,
    effects::Effects,
    folded, folding,
    store::{Fault, Op},
};

fn talk() -> Value {
    json!([
        { "match": { "step": "1-3" }, "answer": { "text": "turn {{step}}", "continue": true } },
        { "answer": { "text": "finished" } },
    ])
}

async fn fleet() -> Fleet {
    let fleet = Fleet::new(talk()).await;
    fleet.template("agent", json!({ "mode": "multi_step" })).await;
    fleet
}

async fn folding_fleet() -> Fleet {
    let fleet = Fleet::new(folding()).await;
    fleet.template("leaf", json!({ "output": { "format": "json" } })).await;
    fleet
}

fn tasks() -> Vec<String> {
    (1..=20).map(|n| format!("task {n:03}")).collect()
}

fn reduced() -> Value {
    json!({ "tasks": tasks(), "reduce": { "agent": "reducer", "chunk_size": 3 } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_declared_dead_starts_again_and_its_old_writes_change_nothing() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let worker = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.effects.held(1).await;
    let old = fleet.store.registered()[0];
    let leases = fleet.store.owned(old).await.unwrap();
    assert_eq!(leases.len(), 1);
    fleet.bury_all().await;
    // The call is given up, the incarnation replaced, the instance swept and claimed again.
    fleet.until(async || (fleet.store.registered().len() == 2).then_some(())).await;
    fleet.until(async || (fleet.instance(instance).await.epoch > leases[0].epoch + 1).then_some(())).await;
    fleet.effects.held(1).await;
    let before = fleet.instance(instance).await;
    let group = Arc::new(fleet.store.group(fleet.run(run).await.group).await.unwrap());
    let write = Write {
        lease: leases[0],
        group,
        place: Place::leaf(0),
        entries: Vec::new(),
        state: before.state,
        step: 1,
        steps_added: 0,
        usage_added: Default::default(),
        then: Then::Release,
    };
    assert_eq!(fleet.store.commit(vec![write]).await, [Err(WriteError::LeaseLost)]);
    assert_eq!(fleet.store.give_back(&leases).await, Ok(0));
    assert_eq!(fleet.instance(instance).await, before);
    fleet.effects.release();
    assert_eq!(fleet.answer(run).await, json!("finished"));
    assert_eq!((1..=4).map(|seq| fleet.effects.calls_of(instance, seq)).collect::<Vec<_>>(), [1, 2, 1, 1]);
    assert_eq!(worker.drain().await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_nothing_is_lost_and_afterwards_everything_goes_on() {
    let fleet = folding_fleet().await;
    let _worker = fleet.process_of(4);
    let run = fleet.spawn("leaf", reduced()).await.run;
    for after in [5, 15, 30] {
        fleet.effects.begun(after).await;
        let mut left = 25;
        fleet.store.faults(move |_| {
            left -= i32::from(left > 0);
            if left > 0 { Fault::Unreached } else { Fault::None }
        });
    }
    assert_eq!(folded(&fleet.answer(run).await), tasks());
    // Nobody died: every call was made once.
    assert!(fleet.effects.calls().values().all(|calls| *calls == 1), "{:?}", fleet.effects.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_whose_answers_are_lost_are_recognised() {
    let fleet = folding_fleet().await;
    let _worker = fleet.process_of(4);
    let mut commits = 0;
    fleet.store.faults(move |op| {
        commits += u32::from(op == Op::Commit);
        if op == Op::Commit && commits % 3 == 1 { Fault::AnswerLost } else { Fault::None }
    });
    let run = fleet.spawn("leaf", reduced()).await.run;
    assert_eq!(folded(&fleet.answer(run).await), tasks());
    assert!(fleet.effects.calls().values().all(|calls| *calls == 1), "{:?}", fleet.effects.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_was_lost_is_given_back_by_reconciliation() {
    let fleet = fleet().await;
    fleet.store.fail_next(Op::Claim, 1, Fault::AnswerLost);
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.stands(instance, Status::Running).await;
    assert_eq!(fleet.answer(run).await, json!("finished"));
    let log = fleet.store_log(instance).await;
    assert_eq!(log[0].epoch, 3, "claimed, given back, claimed again");
    assert_eq!(fleet.store.registered().len(), 1, "without anybody being declared dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_still_on_its_way_is_not_given_back() {
    let fleet = fleet().await;
    let looks = Arc::new(AtomicUsize::new(0));
    let (counted, mut claims) = (looks.clone(), 0);
    fleet.store.faults(move |op| {
        claims += u32::from(op == Op::Claim);
        counted.fetch_add(usize::from(op == Op::Owned), Ordering::Relaxed);
        if op == Op::Claim && claims == 1 { Fault::AnswerLate } else { Fault::None }
    });
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.stands(instance, Status::Running).await;
    let already = looks.load(Ordering::Relaxed);
    fleet.until(async || (looks.load(Ordering::Relaxed) >= already + 4).then_some(())).await;
    fleet.store.let_go();
    assert_eq!(fleet.answer(run).await, json!("finished"));
    assert!(fleet.store_log(instance).await.iter().all(|stored| stored.epoch == 1), "it was claimed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_after_a_claim_is_given_back_or_waited_for() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 3);
    let first = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.effects.held(1).await;
    first.crash().await;
    fleet.bury_all().await;
    fleet.effects.release();
    let (mut logs, mut blobs) = (2, 3);
    fleet.store.faults(move |op| match op {
        Op::Logs if logs > 0 => {
            logs -= 1;
            Fault::Unreached
        }
        Op::Blobs if blobs > 0 => {
            blobs -= 1;
            Fault::Unreached
        }
        _ => Fault::None,
    });
    let _second = fleet.process();
    assert_eq!(fleet.answer(run).await, json!("finished"));
    assert_eq!(fleet.kinds(instance).await, [K::Model, K::Model, K::Model, K::Model, K::Completed]);
    let log = fleet.store_log(instance).await;
    assert_eq!((log[1].epoch, log[2].epoch), (1, 7), "swept once, given back twice, then kept until its policy could be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_fails_its_instance_and_nobody_beside_it() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let first = fleet.process();
    let run = fleet.spawn("agent", json!({ "tasks": ["a", "b", "c"], "on_failure": { "tolerate": 0.5 } })).await.run;
    fleet.effects.held(3).await;
    first.crash().await;
    fleet.bury_all().await;
    let damaged = fleet.instances(run).await[1].id;
    fleet.store.damage(damaged);
    fleet.effects.release();
    let _second = fleet.process();
    fleet.until(async || fleet.run(run).await.status.is_terminal().then_some(())).await;
    assert_eq!(fleet.result(run).await.output, json!(["finished", null, "finished"]));
    assert_eq!(fleet.instance(damaged).await.error.map(|error| error.code).as_deref(), Some("unreadable"));
    assert_eq!(fleet.kinds(damaged).await, [K::Model, K::Failed], "its past is kept");
}

/// Takes one message and ends while its handler runs; after that it is the queue itself.
struct FailsOnce {
    queue: MemoryQueue,
    effects: Arc<Effects>,
    failed: AtomicBool,
}

#[async_trait]
impl Intake for FailsOnce {
    async fn run(&self, name: &str, slots: usize, handler: Handler, stop: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if self.failed.swap(true, Ordering::SeqCst) {
            return self.queue.run(name, slots, handler, stop).await;
        }
        let mut source = self.queue.source();
        let ready = loop {
            if let Some(ready) = source.pop(1).await.unwrap().pop() {
                break ready;
            }
        };
        tokio::spawn(handler(ready));
        self.effects.held(1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_intake_fails_what_it_began_is_given_up_and_the_worker_starts_again() {
    let mut fleet = fleet().await;
    fleet.intake = Arc::new(FailsOnce { queue: fleet.queue.clone(), effects: fleet.effects.clone(), failed: AtomicBool::new(false) });
    fleet.effects.hold(|_, step| step == 2);
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.until(async || (fleet.store.registered().len() == 2).then_some(())).await;
    // Nothing goes on under the incarnation that has retired: the call that is held now is the new one's.
    fleet.until(async || (fleet.effects.calls_of(instance, 2) == 2).then_some(())).await;
    fleet.effects.held(1).await;
    fleet.effects.release();
    assert_eq!(fleet.answer(run).await, json!("finished"));
    assert_eq!((1..=4).map(|seq| fleet.effects.calls_of(instance, seq)).collect::<Vec<_>>(), [1, 2, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_answer_was_lost_is_followed_by_another() {
    let fleet = fleet().await;
    fleet.store.fail_next(Op::Register, 2, Fault::AnswerLost);
    let _worker = fleet.process();
    let (run, _) = fleet.one("agent", "talk").await;
    assert_eq!(fleet.answer(run).await, json!("finished"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_acknowledged_heartbeats_no_effect_starts() {
    let fleet = fleet().await;
    fleet.effects.hold(|_, step| step == 2);
    let _worker = fleet.process();
    let (run, instance) = fleet.one("agent", "talk").await;
    fleet.effects.held(1).await;
    // Only heartbeats are lost: the worker could still claim and write, but may not believe in its leases.
    let claims = Arc::new(AtomicUsize::new(0));
    let counted = claims.clone();
    fleet.store.faults(move |op| {
        counted.fetch_add(usize::from(op == Op::Claim), Ordering::Relaxed);
        if op == Op::Heartbeat { Fault::Unreached } else { Fault::None }
    });
    let epoch = fleet.instance(instance).await.epoch;
    fleet.until(async || (fleet.instance(instance).await.epoch > epoch).then_some(())).await;
    let calls = fleet.effects.calls_in(run);
    fleet.effects.release();
    // Somebody else's slots make the dispatcher go on, and the forgotten worker takes what is meant for them.
    let (incarnation, already) = (Incarnation::new(&SystemClock, &SystemRandom), claims.load(Ordering::Relaxed));
    fleet.store.register(&WorkerRow { incarnation, name: "other".to_owned(), slots: 4, version: "0".to_owned() }).await.unwrap();
    fleet.until(async || (claims.load(Ordering::Relaxed) >= already + 2).then_some(())).await;
    assert_eq!(fleet.effects.calls_in(run), calls, "it claims, and makes no call");
    fleet.store.faults(|_| Fault::None);
    assert_eq!(fleet.answer(run).await, json!("finished"));
}
