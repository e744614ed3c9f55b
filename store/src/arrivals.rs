//! The bottom-up walk of ended instances through their reduction trees: which nodes count how much, what fires,
//! which groups end. Pure planning for both databases; they apply each level and report the counts.
//!
//! Arrivals of one batch at one node are added up before the node is updated (rule 8), and levels are walked from
//! the leaves up, so that nodes are locked in one order everywhere.

use std::{collections::BTreeMap, sync::Arc};

use muster_shared::{
    ids::GroupId,
    reduce::{Arrivals, Fired, Place},
    store::GroupRow,
};

/// An instance that ended, as its tree sees it.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Whose doing it is: an index that comes back with everything that follows from it.
    pub(crate) cause: usize,
    /// Its group.
    pub(crate) group: Arc<GroupRow>,
    /// Its place.
    pub(crate) place: Place,
    /// Whether it brought an output.
    pub(crate) output: bool,
    /// For a reducer: leaves below it that were counted as failed before it fired. 0 for a leaf.
    pub(crate) failed_before: i64,
}

/// What arrives at one node in this batch.
#[derive(Debug, Clone)]
pub(crate) struct NodeUpdate {
    /// The group.
    pub(crate) group: Arc<GroupRow>,
    /// The node.
    pub(crate) node: Place,
    /// How much to add.
    pub(crate) add: Arrivals,
    /// Whose doing it is.
    pub(crate) cause: usize,
}

/// A reducer to spawn.
#[derive(Debug, Clone)]
pub(crate) struct Reducer {
    /// The group.
    pub(crate) group: Arc<GroupRow>,
    /// Its place.
    pub(crate) place: Place,
    /// Whose doing it is.
    pub(crate) cause: usize,
}

/// What happens to a group as a whole.
#[derive(Debug, Clone)]
pub(crate) struct GroupUpdate {
    /// The group.
    pub(crate) group: Arc<GroupRow>,
    /// Leaves that count as failed from now on.
    pub(crate) newly_failed: i64,
    /// The first failure among them.
    pub(crate) failed_by: Option<usize>,
    /// Who ended it, if its root is done.
    pub(crate) done_by: Option<usize>,
}

type NodeKey = (i32, GroupId, i64);

/// The walk. Take [`Walk::next_level`] until it is empty, apply each, and report with [`Walk::counted`].
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pending: BTreeMap<NodeKey, NodeUpdate>,
    /// Reducers to spawn.
    pub(crate) reducers: Vec<Reducer>,
    /// Groups that change, by id: the order in which they are locked.
    pub(crate) groups: BTreeMap<GroupId, GroupUpdate>,
}

impl Walk {
    /// Begins with what ended.
    pub(crate) fn new(ended: impl IntoIterator<Item = Ended>) -> Self {
        let mut walk = Self::default();
        for one in ended {
            walk.enter(&one);
        }
        walk
    }

    fn enter(&mut self, ended: &Ended) {
        let leaves = ended.group.tree.leaves(ended.place);
        let below = (leaves.end - leaves.start).max(0);
        let mut add = Arrivals { arrived: 1, empty: 0, failed_leaves: ended.failed_before };
        if !ended.output {
            add = Arrivals { arrived: 1, empty: 1, failed_leaves: below };
            let group = self.group(&ended.group);
            group.newly_failed += below - ended.failed_before;
            group.failed_by.get_or_insert(ended.cause);
        }
        self.arrive(&ended.group, ended.place, add, ended.cause);
    }

    /// The output of `place` (or its lack) goes to the node above, or ends the group.
    fn arrive(&mut self, group: &Arc<GroupRow>, place: Place, add: Arrivals, cause: usize) {
        let Some(node) = group.tree.parent(place) else {
            self.group(group).done_by = Some(cause);
            return;
        };
        let empty = || NodeUpdate { group: Arc::clone(group), node, add: Arrivals::default(), cause };
        self.pending.entry((node.level, group.id, node.index)).or_insert_with(empty).add += add;
    }

    fn group(&mut self, group: &Arc<GroupRow>) -> &mut GroupUpdate {
        let empty = || GroupUpdate { group: Arc::clone(group), newly_failed: 0, failed_by: None, done_by: None };
        self.groups.entry(group.id).or_insert_with(empty)
    }

    /// The nodes of the lowest level that something arrives at, in lock order. Empty at the end.
    pub(crate) fn next_level(&mut self) -> Vec<NodeUpdate> {
        let Some((&(level, ..), _)) = self.pending.first_key_value() else { return Vec::new() };
        let mut nodes = Vec::new();
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 != level {
                break;
            }
            nodes.push(entry.remove());
        }
        nodes
    }

    /// The update was applied, and the node now counts `now`.
    pub(crate) fn counted(&mut self, update: &NodeUpdate, now: Arrivals) {
        let before = now.arrived - update.add.arrived;
        match update.group.tree.fired(update.node, before, now) {
            Fired::Waits => {}
            Fired::Reducer => {
                self.reducers.push(Reducer { group: Arc::clone(&update.group), place: update.node, cause: update.cause });
            }
            Fired::Passes { empty } => {
                let add = Arrivals { arrived: 1, empty: i64::from(empty), failed_leaves: now.failed_leaves };
                self.arrive(&update.group, update.node, add, update.cause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_shared::{ids::RunId, reduce::Tree};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// A store in memory: the counts of the nodes, and how the group stands.
    #[derive(Default)]
    struct Counted {
        nodes: BTreeMap<Place, Arrivals>,
        fired: Vec<Place>,
        failed: i64,
        done: bool,
    }

    fn group(total: i64, chunk: i64, reduces: bool) -> Arc<GroupRow> {
        let tree = Tree { total, chunk, reduces };
        Arc::new(GroupRow {
            id: GroupId(Uuid::from_u128(1)),
            run: RunId(Uuid::from_u128(2)),
            parent: None,
            tree,
            tolerated: 0,
            context: None,
        })
    }

    impl Counted {
        /// Applies a batch and answers the reducers that it fired.
        fn apply(&mut self, group: &Arc<GroupRow>, ended: &[(Place, bool)]) -> Vec<Place> {
            let failed_before = |place: Place| self.nodes.get(&place).map_or(0, |node| node.failed_leaves);
            let ended: Vec<Ended> = ended
                .iter()
                .enumerate()
                .map(|(cause, &(place, output))| Ended {
                    cause,
                    group: Arc::clone(group),
                    place,
                    output,
                    failed_before: failed_before(place),
                })
                .collect();
            let mut walk = Walk::new(ended);
            loop {
                let level = walk.next_level();
                if level.is_empty() {
                    break;
                }
                for update in level {
                    let node = self.nodes.entry(update.node).or_default();
                    *node += update.add;
                    let now = *node;
                    walk.counted(&update, now);
                }
            }
            for group in walk.groups.values() {
                self.failed += group.newly_failed;
                assert!(!(self.done && group.done_by.is_some()), "a group ends once");
                self.done |= group.done_by.is_some();
            }
            let fired: Vec<Place> = walk.reducers.iter().map(|reducer| reducer.place).collect();
            self.fired.extend(&fired);
            fired
        }
    }

    #[test]
    fn two_children_of_one_node_in_one_batch_count_twice() {
        let (group, mut counted) = (group(2, 5, true), Counted::default());
        let fired = counted.apply(&group, &[(Place::leaf(0), true), (Place::leaf(1), true)]);
        assert_eq!(fired, [Place { level: 1, index: 0 }]);
        assert!(!counted.done);
    }

    #[test]
    fn a_failed_reducer_counts_only_the_leaves_that_had_not_failed_before() {
        let (group, mut counted) = (group(4, 5, true), Counted::default());
        let leaves: Vec<(Place, bool)> = (0..4).map(|index| (Place::leaf(index), index != 2)).collect();
        let root = Place { level: 1, index: 0 };
        assert_eq!(counted.apply(&group, &leaves), [root]);
        assert_eq!(counted.failed, 1);
        counted.apply(&group, &[(root, false)]);
        assert_eq!((counted.failed, counted.done), (4, true));
    }

    #[test]
    fn a_group_of_one_ends_with_its_leaf_and_without_a_reducer() {
        let (group, mut counted) = (group(1, 5, true), Counted::default());
        assert_eq!(counted.apply(&group, &[(Place::leaf(0), true)]), []);
        assert!(counted.done);
    }

    proptest! {
        #[test]
        fn any_order_and_batching_fires_every_reducer_once_and_ends_the_group_once(
            total in 1_i64..200,
            chunk in 2_i64..7,
            reduces: bool,
            order in proptest::collection::vec((any::<u64>(), 0_u8..10), 200),
            batch in 1_usize..20,
        ) {
            let (group, mut counted) = (group(total, chunk, reduces), Counted::default());
            let mut leaves: Vec<(u64, Place, bool)> =
                (0..total).zip(&order).map(|(index, (key, luck))| (*key, Place::leaf(index), *luck > 0)).collect();
            leaves.sort_by_key(|(key, place, _)| (*key, *place));
            let mut due: Vec<(Place, bool)> = leaves.into_iter().map(|(_, place, output)| (place, output)).collect();
            let failed = i64::try_from(due.iter().filter(|(_, output)| !output).count()).expect("few");
            while !due.is_empty() {
                let rest = due.split_off(batch.min(due.len()));
                let fired = counted.apply(&group, &due);
                due = fired.into_iter().map(|place| (place, true)).chain(rest).collect();
            }
            prop_assert!(counted.done);
            prop_assert_eq!(counted.failed, failed);
            let mut once = counted.fired.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), counted.fired.len());
            if failed == 0 {
                prop_assert_eq!(i64::try_from(once.len()).expect("few"), group.tree.reducers());
            }
        }
    }
}
