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
