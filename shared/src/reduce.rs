//! The reduction tree over a group: which node an output arrives at, when a node is full, what happens then.
//!
//! Pure arithmetic over `(total, chunk)`: the same tree for any arrival order. Level 0 are the leaves; the
//! outputs of level `l` are numbered from 0 and arrive, `chunk` at a time, at the nodes of level `l + 1`. A
//! node with one child passes its output through; a group that only collects has nodes without reducers.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A place in the tree: at level 0 a leaf, above it a node and the reducer that fires for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// 0 for leaves.
    pub level: i32,
    /// Ordinal within the level, from 0.
    pub index: i64,
}

impl Place {
    /// Leaf number `index`.
    pub const fn leaf(index: i64) -> Self {
        Self { level: 0, index }
    }
}

/// Fan-in of the counting nodes of a group that has no reducer: a compromise between rows and contention.
pub const COLLECT_FAN_IN: i64 = 64;

/// The shape of one group's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// Leaves in all.
    pub total: i64,
    /// Children of a full node: 2 or more.
    pub chunk: i64,
    /// Whether nodes have reducers.
    pub reduces: bool,
}

/// How many children of a node have arrived, and what they brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrivals {
    /// Children that arrived, failed ones too.
    pub arrived: i64,
    /// Children among them that brought nothing.
    pub empty: i64,
    /// Leaves below this node that failed.
    pub failed_leaves: i64,
}

impl std::ops::AddAssign for Arrivals {
    fn add_assign(&mut self, other: Self) {
        self.arrived += other.arrived;
        self.empty += other.empty;
        self.failed_leaves += other.failed_leaves;
    }
}

/// What becomes of a node after an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// It waits for more.
    Waits,
    /// It is full: spawn its reducer.
    Reducer,
    /// It is full and needs no reducer: its output (or, if `empty`, nothing) goes on to its parent.
    Passes {
        /// Whether there is no output at all below it.
        empty: bool,
    },
}

impl Tree {
    /// Outputs at `level`: leaves at 0, nodes above.
    pub const fn width(&self, level: i32) -> i64 {
        let mut width = self.total;
        let mut at = 0;
        while at < level {
            width = (width + self.chunk - 1) / self.chunk;
            at += 1;
        }
        width
    }

    /// The level of the single last node. At least 1, unless there is no leaf.
    pub fn root_level(&self) -> i32 {
        if self.total == 0 {
            return 0;
        }
        let mut level = 1;
        while self.width(level) > 1 {
            level += 1;
        }
        level
    }

    /// The node at which the output of `place` arrives; none above the root.
    pub fn parent(&self, place: Place) -> Option<Place> {
        (place.level < self.root_level()).then(|| Place { level: place.level + 1, index: place.index / self.chunk })
    }

    /// How many children `node` has.
    pub fn expected(&self, node: Place) -> i64 {
        (self.width(node.level - 1) - node.index * self.chunk).min(self.chunk)
    }

    /// Whether `place` is the last node, whose output is the answer.
    pub fn is_root(&self, place: Place) -> bool {
        place.level == self.root_level() && place.index == 0
    }

    /// Whether a terminal event at `place` can end the group: its arrival may fill the root without a reducer.
    /// A failure can make any chain of nodes pass up empty, so it always may.
    pub fn may_end_group(&self, place: Place, brings_output: bool) -> bool {
        !brings_output || !self.reduces || self.total <= 1 || self.is_root(place)
    }

    /// The leaves below `place`.
    pub fn leaves(&self, place: Place) -> Range<i64> {
        let span = (0..place.level).fold(1_i64, |span, _| span.saturating_mul(self.chunk));
        let first = place.index.saturating_mul(span);
        first..first.saturating_add(span).min(self.total)
    }

    /// What to do with `node` now that these have arrived. Called once for each change of the count.
    pub fn fired(&self, node: Place, before: i64, now: Arrivals) -> Fired {
        let expected = self.expected(node);
        if before >= expected || now.arrived < expected {
            return Fired::Waits;
        }
        let empty = now.empty >= expected;
        if self.reduces && expected > 1 && !empty { Fired::Reducer } else { Fired::Passes { empty } }
    }

    /// Where the inputs of the reducer at `node` come from, in order: for each child, the leaf or reducer
    /// whose output it brings, seen through nodes that pass through.
    pub fn inputs(&self, node: Place) -> Vec<Place> {
        let first = node.index * self.chunk;
        (first..first + self.expected(node)).map(|index| self.source(Place { level: node.level - 1, index })).collect()
    }

    /// The leaf or reducer that makes the output of `place`, when every child of it brings something.
    pub fn source(&self, place: Place) -> Place {
        let mut at = place;
        while at.level > 0 && self.expected(at) == 1 {
            at = Place { level: at.level - 1, index: at.index * self.chunk };
        }
        at
    }

    /// The place whose output is the answer; none without leaves or without reducers.
    pub fn answer(&self) -> Option<Place> {
        let root = Place { level: self.root_level(), index: 0 };
        (self.total > 0 && (self.reduces || self.total == 1)).then(|| self.source(root))
    }

    /// How many reducers fire when nothing fails.
    pub fn reducers(&self) -> i64 {
        if !self.reduces {
            return 0;
        }
        (1..=self.root_level())
            .map(|level| {
                let width = self.width(level);
                let last = Place { level, index: width - 1 };
                if width > 0 && self.expected(last) == 1 { width - 1 } else { width }
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::time::mix64;

    /// A reference that lets outputs arrive one by one and does what a store does.
    struct Model {
        tree: Tree,
        nodes: BTreeMap<Place, Arrivals>,
        reducers: BTreeSet<Place>,
        /// Reducers that fired and have not finished.
        running: Vec<Place>,
        ended: Option<bool>,
    }

    impl Model {
        fn new(tree: Tree) -> Self {
            Self { tree, nodes: BTreeMap::new(), reducers: BTreeSet::new(), running: Vec::new(), ended: None }
        }

        fn finish(&mut self, place: Place, brings: bool) {
            let before_end = self.ended;
            self.arrive(place, !brings);
            if self.ended.is_some() && before_end.is_none() {
                assert!(self.tree.may_end_group(place, brings), "{place:?} ended the group and was not expected to");
            }
        }

        fn arrive(&mut self, place: Place, empty: bool) {
            let Some(node) = self.tree.parent(place) else {
                assert_eq!(self.ended.replace(empty), None, "the group ended twice");
                return;
            };
            let counts = self.nodes.entry(node).or_default();
            let before = counts.arrived;
            *counts += Arrivals { arrived: 1, empty: i64::from(empty), failed_leaves: 0 };
            match self.tree.fired(node, before, *counts) {
                Fired::Waits => {}
                Fired::Reducer => {
                    assert!(self.reducers.insert(node), "{node:?} fired twice");
                    self.running.push(node);
                }
                Fired::Passes { empty } => self.arrive(node, empty),
            }
        }

        /// Runs to the end in an order drawn from `seed`; `fails` says which leaves bring nothing.
        fn run(mut self, seed: u64, fails: impl Fn(i64) -> bool) -> (BTreeSet<Place>, Option<bool>) {
            let mut ready: Vec<Place> = (0..self.tree.total).map(Place::leaf).collect();
            let mut draw = seed;
            while !ready.is_empty() {
                draw = mix64(draw.wrapping_add(1));
                let at = usize::try_from(draw % ready.len() as u64).unwrap();
                let place = ready.swap_remove(at);
                self.finish(place, place.level > 0 || !fails(place.index));
                ready.append(&mut self.running);
            }
            (self.reducers, self.ended)
        }
    }

    fn reduces(total: i64, chunk: i64) -> Tree {
        Tree { total, chunk, reduces: true }
    }

    #[test]
    fn every_size_up_to_ten_thousand_fires_each_reducer_once_and_ends_once() {
        for total in (0..200).chain([250, 624, 625, 626, 999, 3125, 3126, 9999, 10_000]) {
            let tree = reduces(total, 5);
            let (fired, ended) = Model::new(tree).run(total.unsigned_abs(), |_| false);
            assert_eq!(i64::try_from(fired.len()).unwrap(), tree.reducers(), "{total} leaves");
            assert_eq!(ended, (total > 0).then_some(false), "{total} leaves");
            if let Some(answer) = tree.answer() {
                assert!(answer.level == 0 || fired.contains(&answer), "{total} leaves: {answer:?}");
            }
        }
    }

    #[test]
    fn the_small_cases_are_defined() {
        assert_eq!(reduces(0, 5).answer(), None);
        assert_eq!(reduces(1, 5).answer(), Some(Place::leaf(0)));
        assert_eq!(reduces(1, 5).reducers(), 0);
        let six = reduces(6, 5);
        assert_eq!(six.reducers(), 2, "one of five leaves, one root; the sixth leaf passes through");
        assert_eq!(six.inputs(Place { level: 2, index: 0 }), [Place { level: 1, index: 0 }, Place::leaf(5)]);
        assert_eq!(reduces(10_000, 5).reducers(), 2000 + 400 + 80 + 16 + 3 + 1, "the sixteenth node of level 4 passes through");
        assert_eq!(Tree { total: 3, chunk: COLLECT_FAN_IN, reduces: false }.answer(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_tree_is_the_same_for_any_order_of_arrival(total in 0_i64..400, chunk in 2_i64..9, one: u64, other: u64) {
            let tree = reduces(total, chunk);
            prop_assert_eq!(Model::new(tree).run(one, |_| false), Model::new(tree).run(other, |_| false));
        }

        #[test]
        fn the_inputs_of_all_reducers_cover_every_leaf_once(total in 2_i64..400, chunk in 2_i64..9) {
            let tree = reduces(total, chunk);
            let (fired, _) = Model::new(tree).run(1, |_| false);
            let mut inputs: Vec<Place> = fired.iter().flat_map(|node| tree.inputs(*node)).collect();
            inputs.extend(tree.answer());
            inputs.sort();
            let mut expected: Vec<Place> = (0..total).map(Place::leaf).chain(fired.iter().copied()).collect();
            expected.sort();
            prop_assert_eq!(inputs, expected);
        }

        #[test]
        fn failures_in_any_order_still_end_the_group_once(total in 1_i64..200, chunk in 2_i64..9, seed: u64, pattern: u64) {
            let fails = |leaf: i64| !mix64(pattern ^ leaf.unsigned_abs()).is_multiple_of(3);
            let all = (0..total).all(fails);
            for reduces in [true, false] {
                let tree = Tree { total, chunk, reduces };
                let (_, ended) = Model::new(tree).run(seed, fails);
                prop_assert_eq!(ended, Some(all));
            }
        }

        #[test]
        fn nodes_partition_the_leaves(total in 1_i64..5000, chunk in 2_i64..12) {
            let tree = reduces(total, chunk);
            for level in 0..=tree.root_level() {
                let mut next = 0;
                for index in 0..tree.width(level) {
                    let leaves = tree.leaves(Place { level, index });
                    prop_assert_eq!(leaves.start, next);
                    next = leaves.end;
                }
                prop_assert_eq!(next, total);
            }
        }
    }
}
