//! What is read from, and written to, the rows of instances and their logs.

use std::sync::Arc;

use crate::{
    engine::Usage,
    error::AgentError,
    event::{Entry, WaitFor},
    fsm::State,
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, RunId},
    reduce::{Place, Tree},
};

/// The right to write to one instance. Whoever holds an older epoch, or is another process, changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run: RunId,
    /// The instance.
    pub instance: InstanceId,
    /// Raised by every change of ownership.
    pub epoch: i64,
    /// The process that holds it.
    pub worker: Incarnation,
}

/// A claimed instance: everything that is needed to drive it, but for its log and the contents by hash.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The right to write.
    pub lease: Lease,
    /// Its group's tree and its place in it.
    pub group: Arc<GroupRow>,
    /// Where it stands in that tree.
    pub place: Place,
    /// Name among its siblings.
    pub name: Option<String>,
    /// Role among its siblings.
    pub role: Option<String>,
    /// What it is to do.
    pub task: String,
    /// Content hash of its policy.
    pub policy: Hash32,
    /// Content hash of its own context, if it has one. The group's shared context is in `group`.
    pub context: Option<Hash32>,
    /// Last position of its log; 0 when there is none.
    pub last_seq: i64,
    /// Hash of that entry.
    pub last_hash: Hash32,
    /// Wakes that it has had.
    pub wake_seq: i64,
    /// Since its first claim, in microseconds, by the database's clock.
    pub elapsed_micros: i64,
    /// Trace context of the spawn.
    pub traceparent: Option<String>,
}

/// A group: siblings spawned together, and the tree over them. Immutable once sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRow {
    /// The group.
    pub id: GroupId,
    /// Its run.
    pub run: RunId,
    /// The instance that waits for it; none for the root group of a run.
    pub parent: Option<InstanceId>,
    /// Its tree.
    pub tree: Tree,
    /// Leaves that may fail.
    pub tolerated: i64,
    /// Content hash of the context that all its instances share.
    pub context: Option<Hash32>,
}

/// A fenced write: entries for the log of one instance, the projection after them, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The right to write.
    pub lease: Lease,
    /// Its group.
    pub group: Arc<GroupRow>,
    /// Its place in the tree.
    pub place: Place,
    /// Consecutive, following what is stored. Empty only with [`Then::Release`].
    pub entries: Vec<Entry>,
    /// FSM state after them.
    pub state: State,
    /// Steps after them.
    pub step: i32,
    /// Steps among them.
    pub steps_added: i64,
    /// What they used.
    pub usage_added: Usage,
    /// What becomes of the instance.
    pub then: Then,
}

/// What becomes of an instance after a write, in the same transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Then {
    /// It goes on under the same lease.
    Continue,
    /// It gives up its lease and waits. If it was woken since it saw `wake_seq`, it is due at once (rule 7).
    Wait {
        /// For what.
        what: WaitFor,
        /// The wakes that it knew of.
        wake_seq: i64,
    },
    /// Terminal, with this output (JSON text): counts in its node, may spawn the next reducer, may end the group.
    Complete {
        /// JSON text.
        output: String,
    },
    /// Terminal, without output. The status follows from the class: `timeout`, `cancelled`, else `failed`.
    Fail {
        /// Why.
        error: AgentError,
    },
    /// It gives up its lease between steps and is queued again, keeping its grant (drain).
    Release,
}

impl Then {
    /// Whether the instance ends.
    pub const fn is_terminal(&self) -> bool {
        match self {
            Self::Complete { .. } | Self::Fail { .. } => true,
            Self::Continue | Self::Wait { .. } | Self::Release => false,
        }
    }
}
