//! The reduction tree, counted in memory: the floor writes reducers, but no arrivals.

use std::collections::HashMap;

use muster_shared::{
    ids::uuid_v7,
    time::{SystemClock, SystemRandom},
};
use uuid::Uuid;

use crate::workload::{CHUNK, Workload};

/// A time-ordered identifier, as the fleet's are.
pub(super) fn new_id() -> Uuid {
    uuid_v7(&SystemClock, &SystemRandom)
}

/// An instance on its way.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: Uuid,
    pub(super) steps: u64,
    pub(super) steps_made: u64,
    level: u32,
    index: u64,
}

impl Instance {
    pub(super) fn new(level: u32, index: u64, steps: u64) -> Self {
        Self { id: new_id(), steps, steps_made: 0, level, index }
    }
}

/// What an arrival leads to.
#[derive(Debug, Default)]
pub(super) struct After {
    /// The reducer of the node that is full now.
    pub(super) reducer: Option<Instance>,
    /// Whether it was the root that arrived.
    pub(super) all_done: bool,
}

/// Which nodes wait for how many children.
#[derive(Debug)]
pub(super) struct Plan {
    leaves: u64,
    arrived: HashMap<(u32, u64), u64>,
}

impl Plan {
    pub(super) fn new(workload: Workload) -> Self {
        Self { leaves: workload.n, arrived: HashMap::new() }
    }

    fn width(&self, level: u32) -> u64 {
        (0..level).fold(self.leaves, |width, _| width.div_ceil(CHUNK))
    }

    /// An instance has finished: its node may be full; a node with one child passes it on.
    pub(super) fn arrived(&mut self, instance: &Instance) -> After {
        let (mut level, mut index) = (instance.level, instance.index);
        loop {
            let width = self.width(level);
            if width == 1 {
                return After { reducer: None, all_done: true };
            }
            (level, index) = (level + 1, index / CHUNK);
            let expected = (width - index * CHUNK).min(CHUNK);
            if expected == 1 {
                continue;
            }
            let arrived = self.arrived.entry((level, index)).or_default();
            *arrived += 1;
            let full = *arrived == expected;
            return After { reducer: full.then(|| Instance::new(level, index, 1)), all_done: false };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tree_fires_each_reducer_once_and_ends_with_the_root() {
        for n in 1..700 {
            let workload = Workload { n, k: 1, latency_ms: 0 };
            let mut plan = Plan::new(workload);
            let (mut reducers, mut ends) = (0, 0);
            let mut finished: Vec<Instance> = (0..n).rev().map(|index| Instance::new(0, index, 1)).collect();
            while let Some(instance) = finished.pop() {
                let after = plan.arrived(&instance);
                ends += u64::from(after.all_done);
                reducers += u64::from(after.reducer.is_some());
                finished.extend(after.reducer);
            }
            assert_eq!((reducers, ends), (workload.reducers(), 1), "{n}");
        }
    }
}
