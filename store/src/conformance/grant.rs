//! Dispatch: who is granted, in which order, how many; stale grants; the elected role (rule 9).

use std::{collections::BTreeMap, time::Duration};

use muster_shared::{
    error::ErrorClass,
    ids::{Incarnation, RunId},
    queue::Ready,
    store::GrantWindow,
};
use uuid::Uuid;

use super::{
    Database,
    bed::{Bed, LONG, Plan, WIDE, ids},
    check_invariants,
};

/// How many of what was granted belong to each run.
async fn by_run(bed: &Bed, granted: &[Ready]) -> BTreeMap<RunId, usize> {
    let mut counts = BTreeMap::new();
    for ready in granted {
        *counts.entry(bed.instance(ready.id).await.run_id).or_default() += 1;
    }
    counts
}

const fn window(round: i64) -> GrantWindow {
    GrantWindow { round, ..WIDE }
}

/// Whatever came first.
pub async fn a_higher_priority_goes_first(database: &impl Database) {
    let bed = Bed::new(database);
    bed.worker(100).await;
    let low = bed.spawn(&Plan { priority: 1, ..Plan::tasks(65) }).await;
    let high = bed.spawn(&Plan { priority: 9, ..Plan::tasks(65) }).await;
    let granted = bed.store.grant(window(1)).await.expect("granted");
    assert_eq!(granted[0].priority, 9);
    assert_eq!(by_run(&bed, &granted).await, [(high.run, 1)].into());
    check_invariants(&bed.store, low.run).await;
}

/// A large run does not shut out a later one.
pub async fn runs_of_one_priority_share_the_window(database: &impl Database) {
    let bed = Bed::new(database);
    bed.worker(100).await;
    let first = bed.spawn(&Plan::tasks(500)).await;
    let second = bed.spawn(&Plan::tasks(65)).await;
    for round in 1..=3 {
        let granted = bed.store.grant(window(10)).await.expect("granted");
        let shares = by_run(&bed, &granted).await;
        assert_eq!(shares, [(first.run, 5), (second.run, 5)].into(), "round {round}");
    }
}

/// I8, and nothing is wasted.
pub async fn max_parallel_holds_and_the_rest_goes_to_others(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    let narrow = bed.spawn(&Plan { max_parallel: 3, ..Plan::tasks(65) }).await;
    let wide = bed.spawn(&Plan::tasks(65)).await;
    let granted = bed.store.grant(window(10)).await.expect("granted");
    assert_eq!(by_run(&bed, &granted).await, [(narrow.run, 3), (wide.run, 7)].into());
    // Claimed ones count like granted ones, until they end.
    let held = bed.claim(worker, &ids(&granted)).await;
    let granted = bed.store.grant(window(10)).await.expect("granted");
    assert_eq!(by_run(&bed, &granted).await, [(wide.run, 10)].into());
    let ended = held.iter().find(|held| held.claimed.lease.run == narrow.run).expect("one of the narrow run");
    bed.commit(ended.complete("1")).await;
    let granted = bed.store.grant(WIDE).await.expect("granted");
    assert_eq!(by_run(&bed, &granted).await[&narrow.run], 1);
    assert_eq!(bed.run(narrow.run).await.instances.running, 2);
}

/// The ready list is kept short: a multiple of the slots, less what is in flight.
pub async fn the_window_follows_the_slots_of_live_workers(database: &impl Database) {
    let bed = Bed::new(database);
    bed.spawn(&Plan::tasks(100)).await;
    let narrow = GrantWindow { slots_percent: 150, round: 1000, per_run: 1000 };
    assert!(bed.store.grant(narrow).await.expect("answered").is_empty(), "nobody is there");
    let first = bed.worker(4).await;
    assert_eq!(bed.store.grant(narrow).await.expect("granted").len(), 6);
    assert!(bed.store.grant(narrow).await.expect("answered").is_empty(), "the window is full");
    bed.worker(4).await;
    assert_eq!(bed.store.grant(GrantWindow { round: 2, ..narrow }).await.expect("granted").len(), 2);
    assert_eq!(bed.store.grant(GrantWindow { per_run: 3, ..narrow }).await.expect("granted").len(), 3);
    bed.store.retire(first).await.expect("retired");
    assert!(bed.store.grant(narrow).await.expect("answered").is_empty(), "the dead have no slots");
}

/// A tree that is folded as it grows needs few rows and ends early.
pub async fn reducers_are_granted_before_leaves(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    let spawned = bed.spawn(&Plan::reduced(70, 2)).await;
    let granted = bed.store.grant(window(2)).await.expect("granted");
    assert!(granted.iter().all(|ready| !ready.reducer));
    let mut ready = Vec::new();
    for held in bed.claim(worker, &ids(&granted)).await {
        assert!(held.place().index < 2, "leaves go in order");
        ready.extend(bed.commit(held.complete("0")).await.ready);
    }
    // The reducer's owner dies, and its grant with it.
    assert_eq!(bed.claim(worker, &ids(&ready)).await.len(), 1);
    bed.store.retire(worker).await.expect("retired");
    assert_eq!(bed.store.sweep(10).await, Ok(1));
    bed.worker(100).await;
    let granted = bed.store.grant(window(1)).await.expect("granted");
    assert_eq!(ids(&granted), ids(&ready));
    assert!(granted[0].reducer);
    check_invariants(&bed.store, spawned.run).await;
}

/// Cancelled or failed: nothing starts any more.
pub async fn nothing_is_granted_to_a_run_that_is_over(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    let cancelled = bed.spawn(&Plan::tasks(65)).await;
    let failed = bed.spawn(&Plan { max_parallel: 1, ..Plan::tasks(10) }).await;
    bed.store.cancel_run(cancelled.run, "enough").await.expect("flagged");
    let held = bed.claim(worker, &ids(&failed.ready)).await;
    bed.commit(held[0].fail(ErrorClass::Model)).await;
    assert!(bed.store.grant(WIDE).await.expect("answered").is_empty());
}

/// Messages may be lost: a grant is durable and comes again.
pub async fn old_grants_are_pushed_again_and_stamped_anew(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(10).await;
    let spawned = bed.spawn(&Plan::tasks(3)).await;
    let again = |limit| bed.store.stale_grants(LONG, limit);
    assert!(again(10).await.expect("answered").is_empty(), "they are young");
    let backdate = format!("UPDATE agent_instances SET granted_at = {}", database.earlier("granted_at", 2 * LONG));
    assert_eq!(database.execute(&backdate).await, 3);
    let mut found = ids(&again(2).await.expect("answered"));
    assert_eq!(found.len(), 2);
    found.extend(ids(&again(2).await.expect("answered")));
    found.sort_unstable();
    let mut all = ids(&spawned.ready);
    all.sort_unstable();
    assert_eq!(found, all, "each once");
    assert!(again(10).await.expect("answered").is_empty(), "they are young again");
    let claimed = bed.claim(worker, &all[..1]).await;
    database.execute(&backdate).await;
    assert_eq!(again(10).await.expect("answered").len(), 2, "what is claimed is not pushed");
    bed.commit(claimed[0].complete("1")).await;
}

/// By the database's clock; whoever holds it may renew it.
pub async fn one_holder_at_a_time_is_elected(database: &impl Database) {
    let bed = Bed::new(database);
    let (one, other) = (Incarnation(Uuid::from_u128(1)), Incarnation(Uuid::from_u128(2)));
    assert_eq!(bed.store.elect("dispatcher", one, LONG).await, Ok(true));
    assert_eq!(bed.store.elect("dispatcher", other, LONG).await, Ok(false));
    assert_eq!(bed.store.elect("another role", other, LONG).await, Ok(true));
    assert_eq!(bed.store.elect("dispatcher", one, Duration::ZERO).await, Ok(true));
    assert_eq!(bed.store.elect("dispatcher", other, LONG).await, Ok(true), "it had expired");
    assert_eq!(bed.store.elect("dispatcher", one, LONG).await, Ok(false));
}
