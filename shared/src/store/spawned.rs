//! What a spawn inserts, planned by the pure core ([`crate::spawn`]).

use std::collections::BTreeMap;

use crate::{
    hash::Hash32,
    ids::{GroupId, InstanceId, ProjectId, RunId, TeamId},
    policy::TemplateRef,
    queue::Ready,
    reduce::Tree,
};

/// One admitted request.
#[derive(Debug, Clone, PartialEq)]
pub struct SpawnBatch {
    /// Caller's key and the hash of the request, if it gave one.
    pub idempotency: Option<(String, Hash32)>,
    /// The run.
    pub run: NewRun,
    /// Its root group.
    pub group: NewGroup,
    /// The leaves, by ordinal.
    pub instances: Vec<NewInstance>,
    /// Policies and contexts, by content hash.
    pub blobs: BTreeMap<Hash32, Vec<u8>>,
}

impl SpawnBatch {
    /// Up to this many instances are granted in the spawning transaction.
    pub const GRANT_AT_ONCE: usize = 64;

    /// How many instances are granted in the spawning transaction: all of a small spawn, within `max_parallel`;
    /// none of a large one, which the dispatcher shares out.
    pub fn grant_at_once(&self) -> usize {
        if self.instances.len() > Self::GRANT_AT_ONCE {
            return 0;
        }
        self.instances.len().min(usize::try_from(self.run.max_parallel).unwrap_or(usize::MAX))
    }
}

/// A row of `runs`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// The run.
    pub id: RunId,
    /// Its owner.
    pub team: TeamId,
    /// Its project.
    pub project: ProjectId,
    /// The request, as JSON text, without contexts: for people.
    pub spec: String,
    /// Template of the leaves.
    pub template: TemplateRef,
    /// Instances of it that execute at once.
    pub max_parallel: i32,
    /// 0 to 9, 9 first.
    pub priority: i16,
    /// From its creation, by the database's clock.
    pub deadline_ms: Option<i64>,
    /// Trace context of the request.
    pub traceparent: Option<String>,
}

/// A row of `groups`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewGroup {
    /// The group.
    pub id: GroupId,
    /// Its tree.
    pub tree: Tree,
    /// Leaves that may fail.
    pub tolerated: i64,
    /// Context shared by all its instances.
    pub context: Option<Hash32>,
    /// Template and policy of its reducers, and the task that they are given.
    pub reducer: Option<(TemplateRef, Hash32, String)>,
}

/// A row of `agent_instances`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewInstance {
    /// The instance.
    pub id: InstanceId,
    /// Position in the group, from 0.
    pub ordinal: i64,
    /// Name among its siblings.
    pub name: Option<String>,
    /// Role among its siblings.
    pub role: Option<String>,
    /// What it is to do.
    pub task: String,
    /// Its policy.
    pub policy: Hash32,
    /// Its own context.
    pub context: Option<Hash32>,
}

/// What a spawn made.
#[derive(Debug, Clone, PartialEq)]
pub struct Spawned {
    /// The run.
    pub run: RunId,
    /// The instance, when there is exactly one leaf.
    pub instance: Option<InstanceId>,
    /// Leaves.
    pub instances: i64,
    /// Whether the idempotency key found an earlier spawn: nothing was made now.
    pub replayed: bool,
    /// Granted in the same transaction: push them.
    pub ready: Vec<Ready>,
}
