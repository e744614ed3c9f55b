//! The one mapping from database rows to the domain, for both databases.
//!
//! Both speak the same dialect to Rust: timestamps are `i64` microseconds, ids [`Uuid`], hashes bytes, JSON its
//! text. What cannot be read is [`StoreError::Corrupt`] and names table, column and row. The functions here say
//! which columns they want; the statements that select them stand beside their callers. Nothing here does IO.

use std::{fmt::Display, sync::Arc};

use muster_shared::{
    MAX_INLINE_BYTES,
    catalog::TemplateVersion,
    engine::Usage,
    error::AgentError,
    event::{EventKind, WaitFor},
    fsm::{State, Status},
    hash::Hash32,
    ids::{GroupId, Incarnation, InstanceId, RunId, TemplateId},
    policy::TemplateRef,
    queue::Ready,
    reduce::{Place, Tree},
    store::{Claimed, GroupRow, Lease, Output, SpawnBatch, StoreError, StoredEvent, Then, Write},
    time::Timestamp,
    wire,
};
use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

/// A row that can be read column by column, by name.
pub(crate) trait Columns {
    fn uuid(&self, name: &str) -> Result<Uuid, sqlx::Error>;
    fn uuid_opt(&self, name: &str) -> Result<Option<Uuid>, sqlx::Error>;
    fn i64(&self, name: &str) -> Result<i64, sqlx::Error>;
    fn i64_opt(&self, name: &str) -> Result<Option<i64>, sqlx::Error>;
    /// Also for `smallint`.
    fn i32(&self, name: &str) -> Result<i32, sqlx::Error>;
    fn text(&self, name: &str) -> Result<String, sqlx::Error>;
    fn text_opt(&self, name: &str) -> Result<Option<String>, sqlx::Error>;
    fn bytes(&self, name: &str) -> Result<Vec<u8>, sqlx::Error>;
    fn bytes_opt(&self, name: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
    fn bool(&self, name: &str) -> Result<bool, sqlx::Error>;
    fn bool_opt(&self, name: &str) -> Result<Option<bool>, sqlx::Error>;
}

macro_rules! columns {
    ($row:ty) => {
        impl Columns for $row {
            fn uuid(&self, name: &str) -> Result<Uuid, sqlx::Error> {
                self.try_get(name)
            }
            fn uuid_opt(&self, name: &str) -> Result<Option<Uuid>, sqlx::Error> {
                self.try_get(name)
            }
            fn i64(&self, name: &str) -> Result<i64, sqlx::Error> {
                self.try_get(name)
            }
            fn i64_opt(&self, name: &str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(name)
            }
            fn i32(&self, name: &str) -> Result<i32, sqlx::Error> {
                self.try_get::<i32, _>(name).or_else(|_| self.try_get::<i16, _>(name).map(i32::from))
            }
            fn text(&self, name: &str) -> Result<String, sqlx::Error> {
                self.try_get(name)
            }
            fn text_opt(&self, name: &str) -> Result<Option<String>, sqlx::Error> {
                self.try_get(name)
            }
            fn bytes(&self, name: &str) -> Result<Vec<u8>, sqlx::Error> {
                self.try_get(name)
            }
            fn bytes_opt(&self, name: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
                self.try_get(name)
            }
            fn bool(&self, name: &str) -> Result<bool, sqlx::Error> {
                self.try_get(name)
            }
            fn bool_opt(&self, name: &str) -> Result<Option<bool>, sqlx::Error> {
                self.try_get(name)
            }
        }
    };
}

columns!(PgRow);
columns!(SqliteRow);

/// Reads one row of one table into domain values; every failure names table, column and row.
pub(crate) struct Reader<'r, R> {
    table: &'static str,
    row: &'r R,
}

impl<'r, R: Columns> Reader<'r, R> {
    /// A reader of `row`, which came from `table`.
    pub(crate) const fn new(table: &'static str, row: &'r R) -> Self {
        Self { table, row }
    }

    /// The error for `column` of this row.
    pub(crate) fn bad(&self, column: &str, why: impl Display) -> StoreError {
        let keys: Vec<String> = ["id", "run_id", "instance_id", "group_id"]
            .into_iter()
            .filter_map(|key| self.row.uuid(key).ok().map(|id| format!("{key} {id}")))
            .chain(
                ["version", "level", "ordinal", "seq"].into_iter().filter_map(|key| self.row.i64(key).ok().map(|n| format!("{key} {n}"))),
            )
            .collect();
        StoreError::Corrupt(format!("{}.{column} of the row with {}: {why}", self.table, keys.join(", ")))
    }

    fn of<T>(&self, column: &str, read: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        read.map_err(|error| self.bad(column, error))
    }

    pub(crate) fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
        self.of(column, self.row.uuid(column))
    }

    pub(crate) fn uuid_opt(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
        self.of(column, self.row.uuid_opt(column))
    }

    pub(crate) fn i64(&self, column: &str) -> Result<i64, StoreError> {
        self.of(column, self.row.i64(column))
    }

    pub(crate) fn i64_opt(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.of(column, self.row.i64_opt(column))
    }

    pub(crate) fn i32(&self, column: &str) -> Result<i32, StoreError> {
        self.of(column, self.row.i32(column))
    }

    pub(crate) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.of(column, self.row.text(column))
    }

    pub(crate) fn text_opt(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.of(column, self.row.text_opt(column))
    }

    pub(crate) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        self.of(column, self.row.bytes(column))
    }

    pub(crate) fn bool(&self, column: &str) -> Result<bool, StoreError> {
        self.of(column, self.row.bool(column))
    }

    pub(crate) fn bool_opt(&self, column: &str) -> Result<Option<bool>, StoreError> {
        self.of(column, self.row.bool_opt(column))
    }

    pub(crate) fn timestamp(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.i64(column).map(Timestamp::from_micros)
    }

    pub(crate) fn timestamp_opt(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.i64_opt(column)?.map(Timestamp::from_micros))
    }

    pub(crate) fn hash(&self, column: &str) -> Result<Hash32, StoreError> {
        let bytes = self.bytes(column)?;
        Hash32::from_slice(&bytes).ok_or_else(|| self.bad(column, format_args!("a hash has 32 bytes, not {}", bytes.len())))
    }

    pub(crate) fn hash_opt(&self, column: &str) -> Result<Option<Hash32>, StoreError> {
        let bytes = self.of(column, self.row.bytes_opt(column))?;
        bytes
            .map(|bytes| {
                let wrong = || self.bad(column, format_args!("a hash has 32 bytes, not {}", bytes.len()));
                Hash32::from_slice(&bytes).ok_or_else(wrong)
            })
            .transpose()
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|error| self.bad(column, error))
    }

    pub(crate) fn json_opt<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text = self.text_opt(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.bad(column, error))).transpose()
    }

    fn name_of<T>(&self, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
        let name = self.text(column)?;
        parse(&name).ok_or_else(|| self.bad(column, format_args!("`{name}` is unknown to this binary")))
    }

    pub(crate) fn status(&self, column: &str) -> Result<Status, StoreError> {
        self.name_of(column, Status::parse)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage {
            input_tokens: self.i64("input_tokens")?,
            output_tokens: self.i64("output_tokens")?,
            cost_micros: self.i64("cost_micros")?,
        })
    }
}

/// A group with what its reducers are made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupOf {
    /// What the domain knows of it.
    pub(crate) row: Arc<GroupRow>,
    /// Template, policy and task of its reducers.
    pub(crate) reducer: Option<(TemplateRef, Hash32, String)>,
}

/// `groups`: id, run_id, parent_id, total, chunk, reduces, tolerated, context_hash.
pub(crate) fn group<R: Columns>(row: &R) -> Result<GroupRow, StoreError> {
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
pub(crate) fn stored_event<R: Columns>(row: &R) -> Result<StoredEvent, StoreError> {
    let at = Reader::new("agent_events", row);
    Ok(StoredEvent {
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

/// `agent_instances`: id, run_id, template_name, template_version, level, ordinal, name, role, task, status,
/// state, waiting_for, run_after, step, epoch, input_tokens, output_tokens, cost_micros, output, error,
/// policy_hash, created_at, updated_at.
pub(crate) fn instance_view<R: Columns>(row: &R) -> Result<wire::InstanceView, StoreError> {
    let at = Reader::new("agent_instances", row);
    let waiting_for = match at.text_opt("waiting_for")?.as_deref() {
        None => None,
        Some("children") => Some(WaitFor::Children),
        Some("timer") => Some(WaitFor::Timer { until: at.timestamp("run_after")? }),
        Some(other) => return Err(at.bad("waiting_for", format_args!("`{other}` is unknown to this binary"))),
    };
    Ok(wire::InstanceView {
        id: InstanceId(at.uuid("id")?),
        run_id: RunId(at.uuid("run_id")?),
        agent: format!("{}@{}", at.text("template_name")?, at.i32("template_version")?),
        level: at.i32("level")?,
        ordinal: at.i64("ordinal")?,
        name: at.text_opt("name")?,
        role: at.text_opt("role")?,
        task: at.text("task")?,
        status: at.status("status")?,
        state: at.name_of("state", State::parse)?,
        waiting_for,
        step: at.i32("step")?,
        epoch: at.i64("epoch")?,
        usage: at.usage()?,
        output: at.json_opt("output")?,
        error: at.json_opt("error")?,
        policy_hash: at.hash("policy_hash")?,
        created_at: at.timestamp("created_at")?,
        updated_at: at.timestamp("updated_at")?,
    })
}

/// How a run stands: its outcome shows at once, but `cancelled` only when nothing of it runs any more.
pub(crate) const fn visible_status(outcome: Option<wire::RunStatus>, closed: bool, cancel_requested: bool) -> wire::RunStatus {
    use wire::RunStatus as S;
    match outcome {
        Some(S::Cancelled) if !closed => S::Cancelling,
        Some(status) => status,
        None if cancel_requested => S::Cancelling,
        None => S::Running,
    }
}

/// `runs` with its outcome and counters: id, root_group, template_name, template_version, tasks, total, running,
/// waiting, completed, failed, timeout, cancelled, steps, input_tokens, output_tokens, cost_micros, priority,
/// max_parallel, created_at, deadline_at, cancel_requested, and (null without an outcome) outcome, closed,
/// finished_at, result_instance, error. All of one snapshot.
pub(crate) fn run_view<R: Columns>(row: &R) -> Result<wire::RunView, StoreError> {
    let at = Reader::new("runs", row);
    let outcome = match at.text_opt("outcome")? {
        None => None,
        Some(name) => {
            let unknown = || at.bad("outcome", format_args!("`{name}` is unknown to this binary"));
            Some(wire::RunStatus::parse(&name).ok_or_else(unknown)?)
        }
    };
    let status = visible_status(outcome, at.bool_opt("closed")?.unwrap_or(false), at.bool("cancel_requested")?);
    let (finished_at, result_instance) = (at.timestamp_opt("finished_at")?, at.uuid_opt("result_instance")?);
    let priority = at.i32("priority")?;
    Ok(wire::RunView {
        id: RunId(at.uuid("id")?),
        status,
        agent: format!("{}@{}", at.text("template_name")?, at.i32("template_version")?),
        group: GroupId(at.uuid("root_group")?),
        tasks: at.i64("tasks")?,
        instances: counts(&at)?,
        steps: at.i64("steps")?,
        usage: at.usage()?,
        priority: i16::try_from(priority).map_err(|_| at.bad("priority", format_args!("{priority} is not a priority")))?,
        max_parallel: at.i32("max_parallel")?,
        created_at: at.timestamp("created_at")?,
        deadline_at: at.timestamp_opt("deadline_at")?,
        finished_at: finished_at.filter(|_| status.is_terminal()),
        result_instance: result_instance.map(InstanceId),
        error: at.json_opt::<AgentError>("error")?,
    })
}

/// Queued is what is left of the total: everything else is counted where it happens.
fn counts<R: Columns>(at: &Reader<'_, R>) -> Result<wire::Counts, StoreError> {
    let mut counts = wire::Counts {
        total: at.i64("total")?,
        queued: 0,
        running: at.i64("running")?,
        waiting: at.i64("waiting")?,
        completed: at.i64("completed")?,
        failed: at.i64("failed")?,
        timeout: at.i64("timeout")?,
        cancelled: at.i64("cancelled")?,
    };
    let others = counts.running + counts.waiting + counts.completed + counts.failed + counts.timeout + counts.cancelled;
    counts.queued = counts.total - others;
    if counts.queued < 0 {
        return Err(at.bad("total", format_args!("{} instances, but {others} by status", counts.total)));
    }
    Ok(counts)
}

/// The fleet: due, in_flight, waiting, workers, slots.
pub(crate) fn demand<R: Columns>(row: &R) -> Result<wire::Demand, StoreError> {
    let at = Reader::new("agent_instances", row);
    let (due, in_flight) = (at.i64("due")?, at.i64("in_flight")?);
    Ok(wire::Demand {
        due,
        in_flight,
        waiting: at.i64("waiting")?,
        workers: at.i64("workers")?,
        slots: at.i64("slots")?,
        demand: due + in_flight,
    })
}

/// Where a listing of a run's instances continues: after this place of this group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceCursor {
    pub(crate) group: GroupId,
    pub(crate) place: Place,
}

impl InstanceCursor {
    /// The opaque text.
    pub(crate) fn print(self) -> String {
        format!("{}.{}.{}", self.group.0.simple(), self.place.level, self.place.index)
    }

    /// From the opaque text.
    pub(crate) fn parse(text: &str) -> Result<Self, StoreError> {
        let mut parts = text.splitn(3, '.');
        let (group, level, index) = (parts.next(), parts.next(), parts.next());
        let read = || {
            let place = Place { level: level?.parse().ok()?, index: index?.parse().ok()? };
            Some(Self { group: GroupId(Uuid::try_parse(group?).ok()?), place })
        };
        read().ok_or_else(|| bad_cursor(text))
    }
}

/// From the opaque text of a listing of runs: the last run shown.
pub(crate) fn run_cursor(text: &str) -> Result<RunId, StoreError> {
    text.parse().map_err(|_| bad_cursor(text))
}

fn bad_cursor(text: &str) -> StoreError {
    let shown: String = text.chars().take(80).collect();
    StoreError::Refused(format!("`{shown}` is not a cursor of this listing"))
}

/// Whether text holds a NUL, raw or as the JSON escape `\u0000`: Postgres stores neither.
pub(crate) fn has_nul(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.contains(&0) {
        return true;
    }
    let mut from = 0;
    while let Some(found) = text[from..].find("\\u0000") {
        let at = from + found;
        // An even number of backslashes before it: this one begins an escape.
        if bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0 {
            return true;
        }
        from = at + 1;
    }
    false
}

/// The stored form of an error.
pub(crate) fn error_json(error: &AgentError) -> String {
    serde_json::to_string(error).expect("an error holds only strings")
}

/// The error of a run that failed because too many of its instances did: that of the last straw, by name.
pub(crate) fn run_error(error: &AgentError, instance: InstanceId) -> String {
    error_json(&AgentError { message: format!("{} (instance {instance})", error.message), ..error.clone() })
}

/// Why this JSON or text cannot enter a row, if it cannot.
pub(crate) fn refused_text(what: &str, text: &str) -> Option<String> {
    if text.len() > MAX_INLINE_BYTES {
        return Some(format!("{what} has {} bytes; at most {MAX_INLINE_BYTES} fit into a row", text.len()));
    }
    has_nul(text).then(|| format!("{what} contains a NUL character"))
}

/// Why this write cannot be stored, whatever the database says, if it cannot (rule 3).
pub(crate) fn refused_write(write: &Write) -> Option<String> {
    let first = write.entries.first().map_or(0, |entry| entry.seq);
    let consecutive = write.entries.iter().zip(first..).all(|(entry, seq)| entry.seq == seq && entry.epoch == write.lease.epoch);
    if !consecutive || write.entries.first().is_some_and(|entry| entry.seq < 1) {
        return Some("its entries are not consecutive under the lease's epoch".to_owned());
    }
    if write.entries.is_empty() && !matches!(write.then, Then::Release) {
        return Some("it has no entries".to_owned());
    }
    if let Some(why) = write.entries.iter().find_map(|entry| refused_text(&format!("event {}", entry.seq), &entry.payload)) {
        return Some(why);
    }
    match &write.then {
        Then::Complete { output } => refused_text("the output", output),
        Then::Fail { error } => refused_text("the error", &error_json(error)),
        Then::Continue | Then::Wait { .. } | Then::Release => None,
    }
}

/// Why this spawn cannot be stored, if it cannot.
pub(crate) fn refused_spawn(batch: &SpawnBatch) -> Option<String> {
    let nul = |what: &str, text: &str| text.contains('\0').then(|| format!("{what} contains a NUL character"));
    let made = i64::try_from(batch.instances.len()).unwrap_or(i64::MAX);
    if made != batch.group.tree.total {
        return Some(format!("the group has {} leaves, but {made} instances are given", batch.group.tree.total));
    }
    let of_run = [Some(&batch.run.spec), batch.run.traceparent.as_ref(), batch.idempotency.as_ref().map(|(key, _)| key)];
    if let Some(why) = of_run.into_iter().flatten().find_map(|text| nul("the request", text)) {
        return Some(why);
    }
    batch.instances.iter().find_map(|instance| {
        let texts = [Some(&instance.task), instance.name.as_ref(), instance.role.as_ref()];
        texts.into_iter().flatten().find_map(|text| nul(&format!("task {}", instance.ordinal), text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_found_raw_and_escaped_but_not_where_the_backslash_is_itself_escaped() {
        assert!(has_nul("a\0b"));
        assert!(has_nul(r#"{"a":"x\u0000y"}"#));
        assert!(has_nul(r#"{"a":"x\\\u0000y"}"#));
        assert!(!has_nul(r#"{"a":"x\\u0000y"}"#));
        assert!(!has_nul(r#"{"a":"x\u0001y"}"#));
    }

    #[test]
    fn a_cursor_prints_and_parses_back_and_anything_else_is_refused() {
        let cursor = InstanceCursor { group: GroupId(Uuid::from_u128(9)), place: Place { level: 2, index: 7 } };
        assert_eq!(InstanceCursor::parse(&cursor.print()), Ok(cursor));
        for bad in ["", "x", "1.2", "00000000000000000000000000000009.a.1"] {
            assert!(matches!(InstanceCursor::parse(bad), Err(StoreError::Refused(_))), "{bad}");
        }
    }

    #[test]
    fn a_cancelled_run_is_cancelling_until_nothing_of_it_runs() {
        use wire::RunStatus as S;
        assert_eq!(visible_status(None, false, false), S::Running);
        assert_eq!(visible_status(None, false, true), S::Cancelling);
        assert_eq!(visible_status(Some(S::Cancelled), false, true), S::Cancelling);
        assert_eq!(visible_status(Some(S::Cancelled), true, true), S::Cancelled);
        assert_eq!(visible_status(Some(S::Failed), false, true), S::Failed);
        assert_eq!(visible_status(Some(S::Completed), true, false), S::Completed);
    }
}
