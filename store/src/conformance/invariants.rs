//! What holds after every case, read through the public traits: I3 (logs), I5, and counters that equal a recount.

use std::sync::Arc;

use muster_shared::{
    fsm::Status,
    hash::{Hash32, chain},
    ids::RunId,
    store::{Page, Store},
    wire::{Counts, InstanceView},
};

use super::bed::TEAM;

/// Asserts the invariants of one run: its logs are gapless and chained, its rows agree with their logs, and its
/// counters with its rows.
pub async fn check_invariants(store: &Arc<dyn Store>, run: RunId) {
    let (mut counts, mut steps, mut after) = (Counts::default(), 0, None);
    loop {
        // A small page, so that cursors are walked too.
        let page = store.instances(TEAM, run, &Page { limit: 50, after }).await.expect("the instances are listed");
        for view in &page.items {
            steps += check_log(store, view).await;
            count(&mut counts, view.status);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let view = store.run(TEAM, run).await.expect("the run is there");
    assert_eq!(view.instances, counts, "the counters of {run} equal a recount of its rows");
    assert_eq!(view.steps, steps, "the steps of {run} are those in its logs");
}

/// Checks one log against its row; answers its steps.
async fn check_log(store: &Arc<dyn Store>, view: &InstanceView) -> i64 {
    let log = store.events(TEAM, view.id, 0, 10_000).await.expect("the log is read");
    let (mut previous, mut epoch, mut steps) = (Hash32::ZERO, 0, 0);
    for (event, seq) in log.iter().zip(1..) {
        assert_eq!(event.seq, seq, "the log of {} has no gap", view.id);
        assert!(event.epoch >= epoch, "epochs only rise in the log of {}", view.id);
        epoch = event.epoch;
        let hash = chain(previous, view.id.0, event.seq, event.epoch, event.kind, event.at.micros(), &event.payload);
        assert_eq!(event.hash, hash, "event {seq} of {} is linked to everything before it", view.id);
        previous = hash;
        event.event().expect("every stored event can be decoded");
        steps += i64::from(event.kind.is_step());
    }
    assert!(epoch <= view.epoch, "no event of {} is from the future", view.id);
    assert_eq!(i64::from(view.step), steps, "the row of {} counts the steps of its log", view.id);
    assert_eq!(view.status == Status::Completed, view.output.is_some(), "{} is completed with its output", view.id);
    if view.status.is_terminal() {
        assert!(!log.is_empty(), "the end of {} is in its log", view.id);
    }
    steps
}

fn count(counts: &mut Counts, status: Status) {
    counts.total += 1;
    *match status {
        Status::Queued | Status::Paused => &mut counts.queued,
        Status::Running => &mut counts.running,
        Status::Waiting => &mut counts.waiting,
        Status::Completed => &mut counts.completed,
        Status::Failed => &mut counts.failed,
        Status::Timeout => &mut counts.timeout,
        Status::Cancelled => &mut counts.cancelled,
    } += 1;
}
