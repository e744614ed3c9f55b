//! Arrivals and reducers: the same tree for any order, each child counted once, each reducer spawned once (I6).

use std::collections::BTreeSet;

use muster_shared::{
    ids::{Incarnation, InstanceId, RunId},
    reduce::{Place, Tree},
    store::{Spawned, Write},
    wire::RunStatus,
};

use super::{
    Database,
    bed::{Bed, Held, Outputs, Plan, WIDE, ids, shuffle},
    check_invariants,
};

/// The sizes around every edge of a tree with chunks of five.
const SIZES: [i64; 8] = [1, 2, 5, 6, 7, 25, 26, 31];

/// What a held instance answers: leaves their ordinal, reducers what they fold.
async fn answer(bed: &Bed, held: &Held) -> Write {
    let (place, group) = (held.place(), &held.claimed.group);
    if place.level == 0 {
        return held.complete(&place.index.to_string());
    }
    let inputs = bed.store.outputs(group.run, group.id, &group.tree.inputs(place)).await.expect("the inputs are read");
    let folded: Vec<String> = inputs.into_iter().map(|input| input.output).collect();
    held.complete(&format!("[{}]", folded.join(",")))
}

/// Works everything off: in the order of the seed, in batches of one to four.
pub(super) async fn work_off(bed: &Bed, worker: Incarnation, spawned: &Spawned, seed: u64) -> Outputs {
    let mut due: Vec<InstanceId> = ids(&spawned.ready);
    let (mut outputs, mut round) = (Outputs::new(), seed);
    loop {
        if due.is_empty() {
            due = ids(&bed.store.grant(WIDE).await.expect("granted"));
        }
        if due.is_empty() {
            return outputs;
        }
        shuffle(&mut due, round);
        let size = usize::try_from(1 + round % 4).expect("small");
        round += 1;
        let batch = due.split_off(due.len().saturating_sub(size));
        let mut writes = Vec::new();
        for held in bed.claim(worker, &batch).await {
            let write = answer(bed, &held).await;
            if let muster_shared::store::Then::Complete { output } = &write.then {
                outputs.insert(held.place(), output.clone());
            }
            writes.push(write);
        }
        for committed in bed.commit_all(writes).await {
            due.extend(ids(&committed.expect("accepted").ready));
        }
    }
}

/// The places at which the plan has a reducer.
fn planned(tree: &Tree) -> BTreeSet<Place> {
    (1..=tree.root_level())
        .flat_map(|level| (0..tree.width(level)).map(move |index| Place { level, index }))
        .filter(|node| tree.expected(*node) > 1)
        .collect()
}

async fn reducers(bed: &Bed, run: RunId) -> Vec<Place> {
    let all = bed.instances(run).await;
    all.iter().filter(|view| view.level > 0).map(|view| Place { level: view.level, index: view.ordinal }).collect()
}

/// Shuffled completion gives the planned reducers, once each, and one answer.
pub async fn every_order_makes_the_same_tree_and_answer(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    for total in SIZES {
        let plan = Plan::reduced(total, 5);
        let mut answers = BTreeSet::new();
        for seed in 1..=3 {
            let spawned = bed.spawn(&plan).await;
            let outputs = work_off(&bed, worker, &spawned, seed * 1000 + total.unsigned_abs()).await;
            let tree = bed.store.group(bed.run(spawned.run).await.group).await.expect("the group is there").tree;
            let fired = reducers(&bed, spawned.run).await;
            assert_eq!(fired.iter().copied().collect::<BTreeSet<_>>(), planned(&tree), "total {total}, seed {seed}");
            assert_eq!(i64::try_from(fired.len()), Ok(tree.reducers()), "total {total}, seed {seed}");
            let run = bed.run(spawned.run).await;
            assert_eq!(run.status, RunStatus::Completed, "total {total}, seed {seed}");
            let place = tree.answer().expect("there is an answer");
            let result = bed.instance(run.result_instance.expect("there is a result")).await;
            assert_eq!(Place { level: result.level, index: result.ordinal }, place);
            answers.insert(outputs[&place].clone());
            check_invariants(&bed.store, spawned.run).await;
        }
        assert_eq!(answers.len(), 1, "one answer for any order: {answers:?}");
        let leaves: Vec<i64> = answers.first().expect("one").split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        assert_eq!(leaves, (0..total).collect::<Vec<_>>(), "every leaf is in it once, in order");
    }
}

/// Arrivals are added up before the node is updated (rule 8).
pub async fn children_of_one_node_in_one_batch_are_counted_each(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, worker, held) = bed.held(&Plan::reduced(12, 5)).await;
    let answers = bed.commit_all(held.iter().map(|held| held.complete(&held.place().index.to_string())).collect()).await;
    let ready: Vec<_> = answers.into_iter().flat_map(|answer| answer.expect("accepted").ready).collect();
    assert_eq!(ready.len(), 3, "three nodes are full");
    assert!(ready.iter().all(|ready| ready.reducer && ready.priority == 5 && ready.traceparent.is_some()));
    let folding = bed.claim(worker, &ids(&ready)).await;
    assert_eq!(folding.len(), 3, "reducers are granted when they are made");
    assert!(folding.iter().all(|held| held.claimed.task == "fold" && held.claimed.lease.epoch == 1));
    check_invariants(&bed.store, spawned.run).await;
}

/// Two connections, one node: nobody overlooks the other.
pub async fn concurrent_arrivals_fire_every_reducer_once(database: &impl Database) {
    let bed = Bed::new(database);
    let (spawned, _, held) = bed.held(&Plan::reduced(30, 5)).await;
    let writers: Vec<_> = held
        .iter()
        .map(|held| {
            let (store, write) = (bed.store.clone(), held.complete("0"));
            tokio::spawn(async move { store.commit(vec![write]).await.remove(0).expect("accepted").ready })
        })
        .collect();
    let mut ready = Vec::new();
    for writer in writers {
        ready.extend(writer.await.expect("no panic"));
    }
    assert_eq!(ready.len(), 6);
    assert_eq!(reducers(&bed, spawned.run).await.len(), 6);
    check_invariants(&bed.store, spawned.run).await;
}

/// What is in flight never exceeds `max_parallel` (I8).
pub async fn a_reducer_takes_over_the_grant_of_the_child_that_filled_its_node(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(100).await;
    let spawned = bed.spawn(&Plan { max_parallel: 3, ..Plan::reduced(9, 2) }).await;
    let mut due = ids(&spawned.ready);
    loop {
        due.extend(ids(&bed.store.grant(WIDE).await.expect("granted")));
        assert!(bed.in_flight().await <= 3);
        let Some(next) = due.pop() else { break };
        for held in bed.claim(worker, &[next]).await {
            let write = answer(&bed, &held).await;
            due.extend(ids(&bed.commit(write).await.ready));
            assert!(bed.in_flight().await <= 3);
        }
    }
    assert_eq!(bed.run(spawned.run).await.status, RunStatus::Completed);
    check_invariants(&bed.store, spawned.run).await;
}

/// Without a reducer nodes only count; several levels of them end the run as well.
pub async fn a_group_without_a_reducer_only_collects(database: &impl Database) {
    let bed = Bed::new(database);
    let worker = bed.worker(200).await;
    for plan in [Plan::tasks(7), Plan::tasks(70), Plan { chunk: 2, ..Plan::tasks(9) }] {
        let spawned = bed.spawn(&plan).await;
        let outputs = work_off(&bed, worker, &spawned, 7).await;
        assert_eq!(i64::try_from(outputs.len()), Ok(plan.total));
        let run = bed.run(spawned.run).await;
        assert_eq!((run.status, run.result_instance, run.instances.total), (RunStatus::Completed, None, plan.total));
        check_invariants(&bed.store, spawned.run).await;
    }
}
