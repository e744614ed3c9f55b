//! Rows that become what the engine works with: groups, leases, claims, logs, templates, outputs.

use std::sync::Arc;

use muster_shared::{
    catalog::TemplateVersion,
    event::EventKind,
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, RunId, TemplateId},
    policy::TemplateRef,
    queue::Ready,
    reduce::{Place, Tree},
    store::{Claimed, Entry, GroupRow, Lease, Output, StoreError},
};

use super::{Columns, Reader};

/// A group with what its reducers are made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupOf {
    /// What the domain knows of it.
    pub(crate) row: Arc<GroupRow>,
    /// Template, policy and task of its reducers.
    pub(crate) reducer: Option<(TemplateRef, Hash32, String)>,
}

/// `groups`: id, run_id, parent_id, total, chunk, reduces, tolerated, context_hash.
fn group<R: Columns>(row: &R) -> Result<GroupRow, StoreError> {
    let at = Reader::new("groups", row);
    Ok(GroupRow {
        id: GroupId(at.uuid("id")?),
        run: RunId(at.uuid("run_id")?),
        parent: at.uuid_opt("parent_id")?.map(InstanceId),
        tree: Tree { total: at.i64("total")?, chunk: i64::from(at.i32("chunk")?), reduces: at.bool("reduces")? },
        tolerated: at.i64("tolerated")?,
        context: at.hash_opt("context_hash")?,
    })
}

/// `groups`: as [`group`], and reducer_template_id, reducer_template_version, reducer_template_name,
/// reducer_policy_hash, reducer_task.
pub(crate) fn group_with_reducer<R: Columns>(row: &R) -> Result<GroupOf, StoreError> {
    let at = Reader::new("groups", row);
    let reducer = match at.hash_opt("reducer_policy_hash")? {
        None => None,
        Some(policy) => {
            let template = TemplateRef {
                id: TemplateId(at.uuid("reducer_template_id")?),
                name: at.text("reducer_template_name")?,
                version: at.i32("reducer_template_version")?,
            };
            Some((template, policy, at.text("reducer_task")?))
        }
    };
    Ok(GroupOf { row: Arc::new(group(row)?), reducer })
}

/// `agent_instances`: level, ordinal.
pub(crate) fn place<R: Columns>(row: &R) -> Result<Place, StoreError> {
    let at = Reader::new("agent_instances", row);
    Ok(Place { level: at.i32("level")?, index: at.i64("ordinal")? })
}

/// `agent_instances`: id, run_id, epoch, worker_incarnation.
pub(crate) fn lease<R: Columns>(row: &R) -> Result<Lease, StoreError> {
    let at = Reader::new("agent_instances", row);
    Ok(Lease {
        run: RunId(at.uuid("run_id")?),
        instance: InstanceId(at.uuid("id")?),
        epoch: at.i64("epoch")?,
        worker: Incarnation(at.uuid("worker_incarnation")?),
    })
}

/// `agent_instances`: as [`lease`] and [`place`], and name, role, task, policy_hash, context_hash, last_seq,
/// last_hash, wake_seq, elapsed_micros, traceparent.
pub(crate) fn claimed<R: Columns>(row: &R, group: Arc<GroupRow>) -> Result<Claimed, StoreError> {
    let at = Reader::new("agent_instances", row);
    Ok(Claimed {
        lease: lease(row)?,
        group,
        place: place(row)?,
        name: at.text_opt("name")?,
        role: at.text_opt("role")?,
        task: at.text("task")?,
        policy: at.hash("policy_hash")?,
        context: at.hash_opt("context_hash")?,
        last_seq: at.i64("last_seq")?,
        last_hash: at.hash("last_hash")?,
        wake_seq: at.i64("wake_seq")?,
        elapsed_micros: at.i64("elapsed_micros")?,
        traceparent: at.text_opt("traceparent")?,
    })
}

/// `agent_events`: seq, epoch, type, payload, at, hash.
pub(crate) fn stored_event<R: Columns>(row: &R) -> Result<Entry, StoreError> {
    let at = Reader::new("agent_events", row);
    Ok(Entry {
        seq: at.i64("seq")?,
        epoch: at.i64("epoch")?,
        kind: at.name_of("type", EventKind::parse)?,
        payload: at.text("payload")?,
        at: at.timestamp("at")?,
        hash: at.hash("hash")?,
    })
}

/// `agent_instances`: id, priority, level, traceparent.
pub(crate) fn ready<R: Columns>(row: &R) -> Result<Ready, StoreError> {
    let at = Reader::new("agent_instances", row);
    let priority = at.i32("priority")?;
    Ok(Ready {
        id: InstanceId(at.uuid("id")?),
        priority: u8::try_from(priority).map_err(|_| at.bad("priority", format_args!("{priority} is not a priority")))?,
        reducer: at.i32("level")? > 0,
        traceparent: at.text_opt("traceparent")?,
    })
}

/// `agent_templates`: id, version, spec_json, spec_hash, active, created_at.
pub(crate) fn template_version<R: Columns>(row: &R) -> Result<TemplateVersion, StoreError> {
    let at = Reader::new("agent_templates", row);
    Ok(TemplateVersion {
        id: TemplateId(at.uuid("id")?),
        version: at.i32("version")?,
        spec: at.json("spec_json")?,
        hash: at.hash("spec_hash")?,
        active: at.bool("active")?,
        created_at: at.timestamp("created_at")?,
    })
}

/// `agent_instances`: id, level, ordinal, name, output. One without a name is named after its place.
pub(crate) fn output<R: Columns>(row: &R) -> Result<Output, StoreError> {
    let at = Reader::new("agent_instances", row);
    let place = place(row)?;
    Ok(Output {
        place,
        instance: InstanceId(at.uuid("id")?),
        name: at.text_opt("name")?.unwrap_or_else(|| match place.level {
            0 => format!("task-{}", place.index),
            level => format!("reducer-{level}-{}", place.index),
        }),
        output: at.text("output")?,
    })
}
