//! What must hold of every run that has ended, whatever happened on its way (DESIGN §6).

use muster_shared::{
    agent::Agent,
    event::EventKind,
    hash::{Hash32, chain},
    policy::Policy,
    store::Reads as _,
    wire::{InstanceView, RunView},
};

use super::{Fleet, TEAM, store::Fault};

/// I3 the log is gapless and linked, and the row is its fold; I4 nothing journaled ran again; I5 one end; I6 one
/// instance at each place; and the run's counters are sums over its instances. Faults end here.
pub(crate) async fn audit(fleet: &Fleet, run: &RunView) {
    fleet.store.faults(|_| Fault::None);
    assert_eq!(fleet.effects.repeated(), Vec::<String>::new(), "calls began whose outcome was journaled");
    let instances = fleet.instances(run.id).await;
    for instance in &instances {
        audit_log(fleet, instance).await;
    }
    let steps: i64 = instances.iter().map(|instance| i64::from(instance.step)).sum();
    assert_eq!(run.steps, steps, "the run counts the steps of its instances");
    let tokens: i64 = instances.iter().map(|instance| instance.usage.input_tokens + instance.usage.output_tokens).sum();
    assert_eq!(run.usage.input_tokens + run.usage.output_tokens, tokens);
    assert_eq!(i64::try_from(instances.len()).ok(), Some(run.instances.total));
    let mut places: Vec<_> = instances.iter().map(|instance| (instance.level, instance.ordinal)).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), instances.len(), "two instances at one place");
    assert_eq!((run.instances.queued, run.instances.running, run.instances.waiting), (0, 0, 0));
}

async fn audit_log(fleet: &Fleet, instance: &InstanceView) {
    let log = fleet.store.events(TEAM, instance.id, 0, 1000).await.expect("it can be read");
    let blobs = fleet.store.blobs(&[instance.policy_hash]).await.expect("it can be read");
    let policy: Policy = serde_json::from_slice(&blobs[&instance.policy_hash]).expect("it is a policy");
    let (mut agent, mut before, mut epoch) = (Agent::default(), Hash32::ZERO, 0);
    for (place, stored) in (1..).zip(&log) {
        assert_eq!(stored.seq, place, "{}: a gap", instance.id);
        let hash = chain(before, instance.id.0, stored.seq, stored.epoch, stored.kind, stored.at.micros(), &stored.payload);
        assert_eq!(stored.hash, hash, "{}: a broken link at {place}", instance.id);
        assert!(stored.epoch >= epoch, "{}: an old epoch at {place}", instance.id);
        (before, epoch) = (hash, stored.epoch);
        let event = stored.event().expect("it can be decoded");
        agent.apply(&policy, &event, stored.at, stored.seq, stored.hash).expect("the table allows it");
    }
    let ends = log.iter().filter(|stored| is_end(stored.kind)).count();
    assert_eq!((ends, log.last().map(|stored| is_end(stored.kind))), (1, Some(true)), "{}: one end, at the end", instance.id);
    assert_eq!(agent.state(), instance.state, "{}", instance.id);
    assert_eq!(i64::from(agent.step()), i64::from(instance.step), "{}", instance.id);
    assert_eq!(agent.usage(), instance.usage, "{}", instance.id);
    assert!(agent.step() <= policy.max_steps, "{}", instance.id);
}

const fn is_end(kind: EventKind) -> bool {
    match kind {
        EventKind::Completed | EventKind::Failed | EventKind::TimedOut | EventKind::Cancelled => true,
        EventKind::Model | EventKind::Tool | EventKind::Retry | EventKind::Waiting => false,
    }
}
