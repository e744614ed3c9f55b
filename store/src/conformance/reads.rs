//! Polling: listings with cursors, logs, outputs, demand.

use muster_shared::{
    ids::{GroupId, InstanceId, RunId, TeamId},
    reduce::Place,
    store::{Page, StoreError},
};
use uuid::Uuid;

use super::{
    Database,
    bed::{Bed, Plan, TEAM, model},
    check_invariants,
    trees::work_off,
};

fn page(limit: i64, after: Option<String>) -> Page {
    Page { limit, after }
}

/// Every run once, whatever the size of the page.
pub async fn runs_are_listed_newest_first_page_by_page(database: &impl Database) {
    let bed = Bed::new(database);
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(bed.spawn(&Plan::tasks(1)).await.run);
    }
    // Ids are ordered by time; within one millisecond by chance.
    made.sort_unstable();
    made.reverse();
    for limit in [1, 2, 5, 10] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let listed = bed.store.runs(TEAM, &page(limit, after)).await.expect("listed");
            assert!(i64::try_from(listed.items.len()).is_ok_and(|n| n <= limit));
            seen.extend(listed.items.iter().map(|view| view.id));
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, made, "pages of {limit}");
    }
    let bad = bed.store.runs(TEAM, &page(1, Some("nonsense".to_owned()))).await;
    assert!(matches!(bad, Err(StoreError::Refused(_))), "{bad:?}");
}

/// Leaves, then reducers level by level.
pub async fn instances_are_listed_leaves_first_page_by_page(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    let spawned = bed.spawn(&Plan::reduced(7, 2)).await;
    work_off(&bed, worker, &spawned, 5).await;
    let wanted: Vec<(i32, i64)> =
        [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0)].into();
    for limit in [1, 4, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let listed = bed.store.instances(TEAM, spawned.run, &page(limit, after)).await.expect("listed");
            seen.extend(listed.items.iter().map(|view| (view.level, view.ordinal)));
            after = listed.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, wanted, "pages of {limit}");
    }
    let bad = bed.store.instances(TEAM, spawned.run, &page(1, Some("nonsense".to_owned()))).await;
    assert!(matches!(bad, Err(StoreError::Refused(_))), "{bad:?}");
    check_invariants(&bed.store, spawned.run).await;
}

/// After a position, so many at most.
pub async fn a_log_is_read_page_by_page(database: &impl Database) {
    let bed = Bed::new(database);
    let (_, _, held) = bed.held(&Plan::tasks(1)).await;
    let events: Vec<_> = (0..7).map(|n| model(&n.to_string())).collect();
    let write = held[0].write(&events, muster_shared::fsm::State::Executing, muster_shared::store::Then::Continue);
    bed.commit(write.clone()).await;
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let log = bed.store.events(TEAM, held[0].id(), after, 3).await.expect("read");
        let Some(last) = log.last() else { break };
        after = last.seq;
        seen.extend(log);
    }
    assert_eq!(seen.len(), 7);
    for (stored, entry) in seen.iter().zip(&write.entries) {
        assert_eq!((stored.seq, stored.epoch, stored.kind), (entry.seq, entry.epoch, entry.kind));
        assert_eq!((&stored.payload, stored.at, stored.hash), (&entry.payload, entry.at, entry.hash), "byte for byte");
    }
}

/// Places without an output are left out; one without a name is named after its place.
pub async fn outputs_come_in_the_order_asked_without_the_missing(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan { tolerated: 4, ..Plan::tasks(4) }).await;
    bed.commit(held[0].complete("\"zero\"")).await;
    bed.commit(held[1].complete("[1,   2]")).await;
    bed.commit(held[2].fail(muster_shared::error::ErrorClass::Model)).await;
    let group = bed.run(spawned.run).await.group;
    let places = [Place::leaf(3), Place::leaf(1), Place::leaf(2), Place::leaf(0), Place { level: 1, index: 0 }];
    let outputs = bed.store.outputs(spawned.run, group, &places).await.expect("read");
    let shown: Vec<_> =
        outputs.iter().map(|output| (output.place, output.instance, output.name.as_str(), output.output.as_str())).collect();
    let (zero, one) = (held[0].id(), held[1].id());
    assert_eq!(shown, [(Place::leaf(1), one, "task-1", "[1,   2]"), (Place::leaf(0), zero, "doc-0", "\"zero\"")]);
    assert!(bed.store.outputs(spawned.run, group, &[]).await.expect("read").is_empty());
}

/// Nothing is found through another team's id.
pub async fn another_team_sees_nothing(database: &impl Database) {
    let bed = Bed::new(database);
    let spawned = bed.spawn(&Plan::tasks(1)).await;
    let (other, instance) = (TeamId(Uuid::from_u128(77)), spawned.instance.expect("one"));
    assert!(matches!(bed.store.run(other, spawned.run).await, Err(StoreError::NotFound(_))));
    assert!(matches!(bed.store.instance(other, instance).await, Err(StoreError::NotFound(_))));
    assert!(matches!(bed.store.instances(other, spawned.run, &page(5, None)).await, Err(StoreError::NotFound(_))));
    assert!(matches!(bed.store.events(other, instance, 0, 5).await, Err(StoreError::NotFound(_))));
    assert!(bed.store.runs(other, &page(5, None)).await.expect("listed").items.is_empty());
    assert!(matches!(bed.store.run(TEAM, RunId(Uuid::from_u128(1))).await, Err(StoreError::NotFound(_))));
    assert!(matches!(bed.store.instance(TEAM, InstanceId(Uuid::from_u128(1))).await, Err(StoreError::NotFound(_))));
    assert!(matches!(bed.store.group(GroupId(Uuid::from_u128(1))).await, Err(StoreError::NotFound(_))));
}

/// What an autoscaler sees.
pub async fn demand_counts_what_is_due_held_and_waiting(database: &impl Database) {
    let bed = Bed::new(database);
    let empty = bed.store.demand().await.expect("answered");
    assert_eq!((empty.due, empty.in_flight, empty.waiting, empty.workers, empty.slots, empty.demand), (0, 0, 0, 0, 0, 0));
    let worker = bed.worker(5).await;
    bed.worker(3).await;
    let spawned = bed.spawn(&Plan { max_parallel: 4, ..Plan::tasks(10) }).await;
    let held = bed.claim(worker, &super::bed::ids(&spawned.ready[..2])).await;
    bed.commit(held[0].wait(muster_shared::event::WaitFor::Children)).await;
    let demand = bed.store.demand().await.expect("answered");
    assert_eq!((demand.due, demand.in_flight, demand.waiting), (6, 3, 1));
    assert_eq!((demand.workers, demand.slots, demand.demand), (2, 8, 9));
    bed.store.check().await.expect("the schema is known");
}
