//! Commits whose outcome is unknown, batches with bad company, and spawns that race.

use std::sync::Arc;

use muster_shared::{
    hash::Hash32,
    ids::TeamId,
    store::{Journal as _, Reads as _, StoreError, WriteError},
};
use muster_store::{GroupCommit, GroupCommitOptions};

use crate::support::{Fleet, batch, complete, step, stop_before};

#[tokio::test]
async fn an_append_that_is_sent_again_succeeds_and_is_counted_once() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let mut held = fleet.claim_leaves().await.remove(0);
    let (one, two) = (step(&mut held, "one"), step(&mut held, "two"));
    for write in [&one, &one, &two, &two] {
        assert!(fleet.store().commit(vec![write.clone()]).await[0].is_ok());
    }
    // An entry that is not the last any more is not taken for the tail, nor stored again.
    assert!(fleet.store().commit(vec![one]).await[0].is_ok());
    let run = fleet.run().await;
    assert_eq!((run.steps, run.usage.input_tokens), (2, 6));
    assert_eq!(fleet.count("SELECT count(*) FROM agent_events").await, 2);
}

#[tokio::test]
async fn an_end_that_is_sent_again_after_the_row_moved_on_succeeds_without_repeating_its_consequences() {
    let fleet = Fleet::of(batch(2, 2, 2)).await;
    let leaves = fleet.claim_leaves().await;
    let writes: Vec<_> = leaves.iter().map(complete).collect();
    assert!(fleet.store().commit(writes.clone()).await.iter().all(Result::is_ok));
    for answer in fleet.store().commit(writes).await {
        assert!(answer.unwrap().ready.is_empty());
    }
    assert_eq!(fleet.count("SELECT count(*) FROM agent_instances").await, 3);
    assert_eq!(fleet.count("SELECT arrived FROM reductions").await, 2);
    assert_eq!(fleet.run().await.instances.completed, 2);
}

#[tokio::test]
async fn the_same_write_under_another_hash_is_a_lost_lease() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let held = fleet.claim_leaves().await.remove(0);
    let (one, other) = (step(&mut held.clone(), "one"), step(&mut held.clone(), "another"));
    assert!(fleet.store().commit(vec![one]).await[0].is_ok());
    assert_eq!(fleet.store().commit(vec![other]).await, [Err(WriteError::LeaseLost)]);
}

#[tokio::test]
async fn rule_3_a_lost_lease_and_refused_data_harm_nobody_else_in_the_batch() {
    let fleet = Fleet::of(batch(8, 2, 8)).await;
    let mut held = fleet.claim_leaves().await;
    let mut writes: Vec<_> = held.iter_mut().map(|one| step(one, "fine")).collect();
    writes[1].lease.epoch += 1;
    writes[1].entries[0].epoch += 1;
    "{\"text\":\"\\u0000\"}".clone_into(&mut writes[3].entries[0].payload);
    // Only the database notices this one: the batch is halved until it is alone.
    "no JSON".clone_into(&mut writes[5].entries[0].payload);
    let answers = fleet.store().commit(writes).await;
    for (which, answer) in answers.iter().enumerate() {
        match which {
            1 => assert_eq!(*answer, Err(WriteError::LeaseLost)),
            3 | 5 => assert!(matches!(answer, Err(WriteError::Refused(_))), "{answer:?}"),
            _ => assert!(answer.is_ok(), "{answer:?}"),
        }
    }
    assert_eq!(fleet.count("SELECT count(*) FROM agent_events").await, 5);
    assert_eq!(fleet.run().await.steps, 5);
}

#[tokio::test]
async fn two_writes_of_one_instance_in_one_batch_are_stored_in_order() {
    let fleet = Fleet::of(batch(2, 2, 2)).await;
    let mut held = fleet.claim_leaves().await;
    let first = step(&mut held[0], "one");
    let batch = vec![first, complete(&held[1]), complete(&held[0])];
    let answers = fleet.store().commit(batch).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fleet.run().await.instances.completed, 2);
}

#[tokio::test]
async fn spawns_that_race_with_one_key_make_one_run() {
    let request = Hash32::of(b"request");
    let with_key = |hash| {
        let mut batch = batch(1, 2, 1);
        batch.idempotency = Some(("key".to_owned(), hash));
        batch
    };
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    // The first is stopped after it took the key; the second waits for its end.
    let mut beside = fleet.beside().await;
    beside.run("BEGIN; LOCK TABLE blobs IN SHARE MODE").await;
    let spawn = |hash| {
        let (store, batch) = (Arc::clone(fleet.store()), with_key(hash));
        tokio::spawn(async move { store.spawn(batch).await })
    };
    let first = spawn(request);
    beside.until_blocked("insert_blobs").await;
    let second = spawn(request);
    beside.until_blocked("take_idempotency_key").await;
    beside.run("COMMIT").await;
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!((first.replayed, first.ready.len()), (false, 1));
    assert_eq!((second.replayed, second.ready.len()), (true, 0));
    assert_eq!((first.run, first.instance, first.instances), (second.run, second.instance, second.instances));
    let other = spawn(Hash32::of(b"another request")).await.unwrap();
    assert_eq!(other, Err(StoreError::KeyReused("key".to_owned())));
}

#[tokio::test]
async fn the_group_committing_journal_answers_everybody_and_flushes_when_it_closes() {
    let fleet = Fleet::of(batch(50, 5, 50)).await;
    let held = fleet.claim_leaves().await;
    let journal = Arc::new(GroupCommit::new(Arc::clone(fleet.store()) as _, GroupCommitOptions::default()));
    let drivers: Vec<_> = held
        .into_iter()
        .map(|mut one| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                for turn in 0..5 {
                    journal.commit(vec![step(&mut one, &format!("turn {turn}"))]).await.remove(0).unwrap();
                }
                journal.commit(vec![complete(&one)]).await.remove(0).unwrap().ready.len()
            })
        })
        .collect();
    let mut reducers = 0;
    for driver in drivers {
        reducers += driver.await.unwrap();
    }
    assert_eq!(reducers, 10);
    journal.close().await;
    assert!(matches!(journal.commit(vec![complete(&fleet_claim_again(&fleet).await)]).await.remove(0), Err(WriteError::Unavailable(_))));
    let run = fleet.store().run(TeamId::DEFAULT, fleet.spawned.run).await.unwrap();
    assert_eq!((run.steps, run.instances.completed), (50 * 6, 50));
    assert_eq!(fleet.count("SELECT count(*) FROM agent_events").await, 50 * 7);
}

/// Some lease to write under.
async fn fleet_claim_again(fleet: &Fleet) -> muster_shared::store::Claimed {
    use muster_shared::store::Claims as _;
    let ready = fleet.store().stale_grants(std::time::Duration::ZERO, 1).await.unwrap();
    fleet.claim(&[ready[0].id]).await.remove(0)
}

#[tokio::test]
async fn a_spawn_that_takes_long_holds_up_no_other_with_the_same_contents() {
    let fleet = Fleet::of(batch(1, 2, 1)).await;
    let with_contents = || {
        let mut batch = batch(3, 2, 3);
        batch.blobs.insert(Hash32::of(b"shared"), b"shared".to_vec());
        batch
    };
    let (slow, quick) = (with_contents(), with_contents());
    let mut beside = fleet.beside().await;
    beside.run(&stop_before("INSERT", &format!("NEW.run_id = '{}'", slow.run.id.0))).await;
    let store = Arc::clone(fleet.store());
    let slow = tokio::spawn(async move { store.spawn(slow).await });
    beside.until_blocked("insert_instances").await;
    assert_eq!(fleet.store().spawn(quick).await.unwrap().instances, 3);
    beside.run("SELECT pg_advisory_unlock(1)").await;
    assert_eq!(slow.await.unwrap().unwrap().instances, 3);
    assert_eq!(fleet.count("SELECT count(*) FROM blobs").await, 2);
}
