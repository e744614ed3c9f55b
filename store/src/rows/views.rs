//! Rows that become what a caller sees: runs, instances, demand; and the cursors of their listings.

use muster_shared::{
    error::AgentError,
    event::WaitFor,
    fsm::State,
    ids::{GroupId, InstanceId, RunId},
    reduce::Place,
    store::StoreError,
    wire,
};
use uuid::Uuid;

use super::{Columns, Reader};

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
const fn visible_status(outcome: Option<wire::RunStatus>, closed: bool, cancel_requested: bool) -> wire::RunStatus {
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

#[cfg(test)]
mod tests {
    use super::*;

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
