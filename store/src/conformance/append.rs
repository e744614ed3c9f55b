//! Appends: fenced, gapless, recognised when repeated; one bad write harms nobody else (rules 2 and 3).

use muster_shared::{
    MAX_INLINE_BYTES,
    fsm::{State, Status},
    ids::{Incarnation, InstanceId},
    store::{Then, Write, WriteError},
};
use uuid::Uuid;

use super::{
    Database,
    bed::{Bed, Plan, TEAM, model},
    check_invariants,
};

/// Log, row and run agree.
pub async fn an_append_lengthens_the_log_and_moves_the_projection(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, mut held) = bed.held(&Plan::tasks(1)).await;
    let write = held[0].write(&[model("one"), model("two")], State::Executing, Then::Continue);
    let committed = bed.commit(write.clone()).await;
    assert!(!committed.cancel && committed.ready.is_empty());
    held[0].follow(&write);
    bed.commit(held[0].turn("three")).await;
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.state, view.step, view.epoch), (Status::Running, State::Executing, 3, 1));
    assert_eq!((view.usage.input_tokens, view.usage.output_tokens, view.usage.cost_micros), (30, 15, 3));
    let run = bed.run(spawned.run).await;
    assert_eq!((run.steps, run.usage), (3, view.usage));
    let log = bed.store.events(TEAM, held[0].id(), 0, 10).await.expect("read");
    assert_eq!(log.iter().map(|event| event.payload.contains("two")).collect::<Vec<_>>(), [false, true, false]);
    check_invariants(&bed.store, spawned.run).await;
}

/// Every way to be late changes nothing, and the neighbours in the batch are stored.
pub async fn a_lost_lease_drops_out_and_harms_nobody_else(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(6)).await;
    let mut late: Vec<Write> = held.iter().map(|held| held.turn("late")).collect();
    late[0].lease.epoch = 0;
    late[0].entries[0].epoch = 0;
    late[1].lease.worker = Incarnation(Uuid::from_u128(1));
    // A gap: somebody wrote what this writer has not seen, or it skips.
    let mut ahead = held[2].clone();
    ahead.follow(&late[2].clone());
    late[2] = ahead.turn("gap");
    late[3].lease.instance = InstanceId(Uuid::from_u128(1));
    bed.commit(held[4].complete("1")).await;
    let answers = bed.commit_all(late).await;
    for lost in &answers[..5] {
        assert_eq!(*lost, Err(WriteError::LeaseLost));
    }
    assert!(answers[5].is_ok());
    let run = bed.run(spawned.run).await;
    assert_eq!(run.steps, 2);
    check_invariants(&bed.store, spawned.run).await;
}

/// The answer was lost: the same write again succeeds and is stored once; another one at the same place does not.
pub async fn a_write_whose_outcome_was_unknown_is_recognised(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, mut held) = bed.held(&Plan::tasks(1)).await;
    let first = held[0].turn("one");
    let other = held[0].turn("another");
    bed.commit(first.clone()).await;
    bed.commit(first.clone()).await;
    assert_eq!(bed.commit_all(vec![other]).await, [Err(WriteError::LeaseLost)]);
    held[0].follow(&first);
    let second = held[0].turn("two");
    let both = bed.commit_all(vec![first.clone(), second.clone()]).await;
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    let both = bed.commit_all(vec![first, second]).await;
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    assert_eq!(bed.run(spawned.run).await.steps, 2);
    check_invariants(&bed.store, spawned.run).await;
}

/// Its own transition raised the epoch; the repeated write is still known, and nothing is counted twice (I6).
pub async fn a_terminal_write_is_recognised_and_its_consequences_happen_once(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::reduced(3, 3)).await;
    let end = held[0].complete("0");
    for _ in 0..3 {
        bed.commit(end.clone()).await;
    }
    let wait = held[1].wait(muster_shared::event::WaitFor::Children);
    bed.commit(wait.clone()).await;
    bed.commit(wait).await;
    let run = bed.run(spawned.run).await;
    assert_eq!((run.instances.total, run.instances.completed, run.instances.waiting), (3, 1, 1));
    check_invariants(&bed.store, spawned.run).await;
}

/// What no database shall see is refused before it enters a batch.
pub async fn nul_and_oversize_are_refused_alone(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(5)).await;
    let large = "x".repeat(MAX_INLINE_BYTES + 1);
    let batch = vec![
        held[0].turn("good"),
        held[1].turn("a\0b"),
        held[2].turn(&large),
        held[3].complete(&format!("\"{large}\"")),
        held[4].complete(r#""a\u0000b""#),
    ];
    let answers = bed.commit_all(batch).await;
    assert!(answers[0].is_ok());
    for refused in &answers[1..] {
        assert!(matches!(refused, Err(WriteError::Refused(_))), "{refused:?}");
    }
    // Refused, not lost: the owner goes on and fails the instance.
    bed.commit(held[1].fail(muster_shared::error::ErrorClass::Validation)).await;
    check_invariants(&bed.store, spawned.run).await;
}

/// Whatever slips through and fails in the database fails alone.
pub async fn what_the_database_refuses_is_found_by_halving(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::tasks(7)).await;
    let mut batch: Vec<Write> = held.iter().map(|held| held.turn("step")).collect();
    batch[4].entries[0].payload = "{ this is not JSON".to_owned();
    let answers = bed.commit_all(batch).await;
    for (n, answer) in answers.iter().enumerate() {
        if n == 4 {
            assert!(matches!(answer, Err(WriteError::Refused(_))), "{answer:?}");
        } else {
            assert!(answer.is_ok(), "{n}: {answer:?}");
        }
    }
    check_invariants(&bed.store, spawned.run).await;
}

/// A fast instance may have its next step in the same batch.
pub async fn two_writes_to_one_instance_follow_each_other(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, mut held) = bed.held(&Plan::tasks(2)).await;
    let other = held[1].turn("beside");
    let first = held[0].turn("one");
    held[0].follow(&first);
    let second = held[0].turn("two");
    held[0].follow(&second);
    let answers = bed.commit_all(vec![first, other, second, held[0].complete("\"end\"")]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let view = bed.instance(held[0].id()).await;
    assert_eq!((view.status, view.step), (Status::Completed, 3));
    check_invariants(&bed.store, spawned.run).await;
}

/// A whole worker's steps commit together.
pub async fn two_hundred_appends_fit_into_one_batch(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(1000).await;
    let spawned = bed.spawn(&Plan::tasks(200)).await;
    let granted = bed.store.grant(super::bed::WIDE).await.expect("granted");
    let held = bed.claim(worker, &super::bed::ids(&granted)).await;
    assert_eq!(held.len(), 200);
    let answers = bed.commit_all(held.iter().map(|held| held.turn("step")).collect()).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bed.run(spawned.run).await.steps, 200);
    check_invariants(&bed.store, spawned.run).await;
}
