//! The answer of a run, and where it came from.

use std::collections::BTreeMap;

use muster_shared::{
    ids::{RunId, TeamId},
    reduce::{Place, Tree},
    store::{Page, Reads, StoreError},
    wire::{InstanceView, Provenance, RunResult, RunStatus, RunView},
};
use serde_json::Value;

/// Instances read at a time.
const PAGE: i64 = 1000;

/// The answer with its provenance, or `None` while the run has none.
pub(crate) async fn result(store: &(impl Reads + ?Sized), team: TeamId, run: RunId) -> Result<Option<RunResult>, StoreError> {
    let view = store.run(team, run).await?;
    if !view.status.is_terminal() {
        return Ok(None);
    }
    let group = store.group(view.group).await?;
    let instances = instances(store, team, &view).await?;
    let output = match view.status {
        RunStatus::Completed => output(&group.tree, &instances),
        RunStatus::Failed | RunStatus::Timeout | RunStatus::Cancelled | RunStatus::Running | RunStatus::Cancelling => Value::Null,
    };
    let provenance = match group.tree.answer() {
        Some(place) => down(&group.tree, &instances, place),
        None => (0..group.tree.total).flat_map(|index| down(&group.tree, &instances, Place::leaf(index))).collect(),
    };
    Ok(Some(RunResult { run_id: run, status: view.status, output, provenance }))
}

type Instances = BTreeMap<Place, InstanceView>;

async fn instances(store: &(impl Reads + ?Sized), team: TeamId, run: &RunView) -> Result<Instances, StoreError> {
    let mut found = Instances::new();
    let mut page = Page { limit: PAGE, after: None };
    loop {
        let listing = store.instances(team, run.id, &page).await?;
        found.extend(listing.items.into_iter().map(|view| (Place { level: view.level, index: view.ordinal }, view)));
        match listing.next {
            Some(next) => page.after = Some(next),
            None => break,
        }
    }
    Ok(found)
}

/// The output of the answering instance; without one, the list of outputs in order.
fn output(tree: &Tree, instances: &Instances) -> Value {
    let of = |place: Place| instances.get(&place).and_then(|view| view.output.clone()).unwrap_or(Value::Null);
    match tree.answer() {
        Some(place) => of(place),
        None => (0..tree.total).map(|index| of(Place::leaf(index))).collect(),
    }
}

fn provenance(tree: &Tree, instances: &Instances, place: Place) -> Option<Provenance> {
    let view = instances.get(&place)?;
    let inputs =
        if place.level == 0 { Vec::new() } else { tree.inputs(place).into_iter().flat_map(|input| down(tree, instances, input)).collect() };
    Some(Provenance { instance: view.id, name: view.name.clone(), status: view.status, level: view.level, ordinal: view.ordinal, inputs })
}

/// A node whose children all failed has no reducer: what is below it is shown in its place.
fn down(tree: &Tree, instances: &Instances, place: Place) -> Vec<Provenance> {
    match provenance(tree, instances, place) {
        Some(found) => vec![found],
        None if place.level > 0 => tree.inputs(place).into_iter().flat_map(|input| down(tree, instances, input)).collect(),
        None => Vec::new(),
    }
}
