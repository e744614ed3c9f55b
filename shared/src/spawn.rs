//! Admission of a spawn request: from the request and the compiled policies to the rows that it makes. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    error::{Fault, Faults},
    hash::Hash32,
    ids::{GroupId, InstanceId, ProjectId, RunId, TeamId, uuid_v7},
    policy::Policy,
    reduce::{COLLECT_FAN_IN, Tree},
    store::{NewGroup, NewInstance, NewRun, SpawnBatch},
    time::{Clock, Random},
    wire::{FullTask, OnFailure, SpawnRequest, TaskSpec},
};

/// A task is at most this long, in bytes.
pub const MAX_TASK_BYTES: usize = 32 * 1024;
/// A context is at most this long, in bytes of JSON.
pub const MAX_CONTEXT_BYTES: usize = 1024 * 1024;
/// A name or role is at most this long, in characters.
pub const MAX_NAME_CHARS: usize = 200;
/// Outputs per reducer unless the request says otherwise.
pub const DEFAULT_CHUNK_SIZE: u32 = 5;
/// Priority unless the request says otherwise.
pub const DEFAULT_PRIORITY: u8 = 5;

/// What a request is admitted under.
#[derive(Debug, Clone)]
pub struct Admission<'a> {
    /// Whose it is.
    pub team: TeamId,
    /// Policy of the leaves, compiled from the template and the request's overrides.
    pub policy: &'a Policy,
    /// Policy of the reducers, if the request asks for them.
    pub reducer: Option<&'a Policy>,
    /// Caller's key and the hash of the request.
    pub idempotency: Option<(String, Hash32)>,
    /// Trace context of the request.
    pub traceparent: Option<String>,
}

/// Plans the rows of a spawn, or reports every fault of the request.
pub fn plan(request: &SpawnRequest, under: Admission<'_>, clock: &dyn Clock, random: &dyn Random) -> Result<SpawnBatch, Faults> {
    let mut faults = Vec::new();
    let tasks = tasks(request, &mut faults);
    check_tasks(&tasks, &mut faults);
    check_context("/context", request.context.as_ref(), &mut faults);
    check_bounds(request, &under, tasks.len(), &mut faults);
    Faults::check(faults)?;

    let mut blobs = Blobs::default();
    let policy = blobs.put(under.policy.canonical_json().into_bytes());
    let (run, group) = (RunId::new(clock, random), GroupId(uuid_v7(clock, random)));
    let instances = (0_i64..)
        .zip(&tasks)
        .map(|(ordinal, task)| NewInstance {
            id: InstanceId::new(clock, random),
            ordinal,
            name: task.name.clone(),
            role: task.role.clone(),
            task: task.task.clone(),
            policy,
            context: task.context.as_ref().map(|context| blobs.put_json(context)),
        })
        .collect();
    let total = i64::try_from(tasks.len()).unwrap_or(i64::MAX);
    let reducer = request.reduce.as_ref().zip(under.reducer).map(|(reduce, reducer)| {
        let task = reduce.task.clone().unwrap_or_else(|| format!("Combine the outputs of {} into one answer.", under.policy.template.name));
        (reducer.template.clone(), blobs.put(reducer.canonical_json().into_bytes()), task)
    });
    let chunk = request.reduce.as_ref().map_or(COLLECT_FAN_IN, |reduce| i64::from(reduce.chunk_size.unwrap_or(DEFAULT_CHUNK_SIZE)));
    let group = NewGroup {
        id: group,
        tree: Tree { total, chunk, reduces: reducer.is_some() },
        tolerated: tolerated(on_failure(request), total),
        context: request.context.as_ref().map(|context| blobs.put_json(context)),
        reducer,
    };
    let limit = under.policy.limits.max_parallel;
    let run = NewRun {
        id: run,
        team: under.team,
        project: ProjectId::DEFAULT,
        spec: outline(request, tasks.len()).to_string(),
        template: under.policy.template.clone(),
        max_parallel: i32::try_from(request.max_parallel.unwrap_or(limit).min(limit)).unwrap_or(i32::MAX),
        priority: i16::from(request.priority.unwrap_or(DEFAULT_PRIORITY)),
        deadline_ms: request.deadline_ms.and_then(|ms| i64::try_from(ms).ok()),
        traceparent: under.traceparent,
    };
    Ok(SpawnBatch { idempotency: under.idempotency, run, group, instances, blobs: blobs.0 })
}

/// How many of `total` leaves may fail.
pub fn tolerated(on_failure: OnFailure, total: i64) -> i64 {
    match on_failure {
        OnFailure::FailFast => 0,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "totals are far below 2^52, the fraction is in 0..=1"
        )]
        OnFailure::Tolerate(fraction) => (fraction * total as f64).floor() as i64,
    }
}

fn on_failure(request: &SpawnRequest) -> OnFailure {
    request.reduce.as_ref().and_then(|reduce| reduce.on_failure).or(request.on_failure).unwrap_or(OnFailure::FailFast)
}

#[derive(Default)]
struct Blobs(BTreeMap<Hash32, Vec<u8>>);

impl Blobs {
    fn put(&mut self, bytes: Vec<u8>) -> Hash32 {
        let hash = Hash32::of(&bytes);
        self.0.entry(hash).or_insert(bytes);
        hash
    }

    fn put_json(&mut self, value: &Value) -> Hash32 {
        self.put(value.to_string().into_bytes())
    }
}

/// The request without its bulk, for people who look at the run.
fn outline(request: &SpawnRequest, tasks: usize) -> Value {
    serde_json::json!({
        "tasks": tasks,
        "reduce": request.reduce,
        "on_failure": on_failure(request),
        "overrides": request.overrides,
        "deadline_ms": request.deadline_ms,
    })
}

fn tasks(request: &SpawnRequest, faults: &mut Vec<Fault>) -> Vec<FullTask> {
    let plain = |task: &String| FullTask { task: task.clone(), name: None, role: None, context: None };
    match (&request.task, &request.tasks) {
        (Some(task), None) => vec![plain(task)],
        (None, Some(tasks)) => tasks
            .iter()
            .map(|task| match task {
                TaskSpec::Text(text) => plain(text),
                TaskSpec::Full(full) => (**full).clone(),
            })
            .collect(),
        (Some(_), Some(_)) => {
            faults.push(Fault::new("/tasks", "give either `task` or `tasks`, not both"));
            Vec::new()
        }
        (None, None) => {
            faults.push(Fault::new("/task", "give `task` (one instance) or `tasks` (one instance for each)"));
            Vec::new()
        }
    }
}

fn check_tasks(tasks: &[FullTask], faults: &mut Vec<Fault>) {
    // A million broken tasks need not all be named.
    const REPORTED: usize = 20;
    let single = tasks.len() == 1;
    for (n, task) in tasks.iter().enumerate() {
        if faults.len() > REPORTED {
            faults.push(Fault::new("/tasks", "further faults are not listed"));
            return;
        }
        let at = if single { "/task".to_owned() } else { format!("/tasks/{n}") };
        if task.task.trim().is_empty() {
            faults.push(Fault::new(&at, "a task must not be empty"));
        }
        if task.task.len() > MAX_TASK_BYTES {
            let detail =
                format!("a task has at most {MAX_TASK_BYTES} bytes, this one has {}; put long material into `context`", task.task.len());
            faults.push(Fault::new(&at, detail));
        }
        check_nul(&at, &task.task, faults);
        for (field, value) in [("name", &task.name), ("role", &task.role)] {
            let Some(value) = value else { continue };
            let at = format!("{at}/{field}");
            if value.is_empty() || value.chars().count() > MAX_NAME_CHARS {
                faults.push(Fault::new(&at, format!("a {field} has 1 to {MAX_NAME_CHARS} characters")));
            }
            check_nul(&at, value, faults);
        }
        check_context(&format!("{at}/context"), task.context.as_ref(), faults);
    }
}

fn check_nul(at: &str, text: &str, faults: &mut Vec<Fault>) {
    if text.contains('\0') {
        faults.push(Fault::new(at, "the character NUL (U+0000) cannot be stored"));
    }
}

fn check_context(at: &str, context: Option<&Value>, faults: &mut Vec<Fault>) {
    let Some(context) = context else { return };
    let json = context.to_string();
    if json.len() > MAX_CONTEXT_BYTES {
        faults.push(Fault::new(at, format!("a context has at most {MAX_CONTEXT_BYTES} bytes of JSON, this one has {}", json.len())));
    }
}

fn check_bounds(request: &SpawnRequest, under: &Admission<'_>, tasks: usize, faults: &mut Vec<Fault>) {
    let limits = &under.policy.limits;
    let owner = &under.policy.template;
    if request.tasks.as_ref().is_some_and(Vec::is_empty) {
        faults.push(Fault::new("/tasks", "give at least one task"));
    }
    if u32::try_from(tasks).map_or(true, |tasks| tasks > limits.max_instances) {
        faults.push(Fault::new(
            "/tasks",
            format!("limit max_instances = {}, set by {owner}: {tasks} tasks were given", limits.max_instances),
        ));
    }
    if let Some(parallel) = request.max_parallel.filter(|parallel| *parallel == 0 || *parallel > limits.max_parallel) {
        faults.push(Fault::new(
            "/max_parallel",
            format!("limit max_parallel = {}, set by {owner}: {parallel} is not within 1 to it", limits.max_parallel),
        ));
    }
    if let Some(priority) = request.priority.filter(|priority| *priority > 9) {
        faults.push(Fault::new("/priority", format!("{priority} is not within 0 to 9")));
    }
    if request.deadline_ms == Some(0) {
        faults.push(Fault::new("/deadline_ms", "a deadline is at least 1 millisecond away"));
    }
    let tolerances =
        [("/on_failure", request.on_failure), ("/reduce/on_failure", request.reduce.as_ref().and_then(|reduce| reduce.on_failure))];
    for (at, on_failure) in tolerances {
        if let Some(OnFailure::Tolerate(fraction)) = on_failure
            && !(0.0..=1.0).contains(&fraction)
        {
            faults.push(Fault::new(format!("{at}/tolerate"), format!("{fraction} is not a fraction within 0 to 1")));
        }
    }
    if tolerances.iter().all(|(_, on_failure)| on_failure.is_some()) {
        faults.push(Fault::new("/on_failure", "give it here or in `reduce`, not in both"));
    }
    let Some(reduce) = &request.reduce else { return };
    if let Some(chunk) = reduce.chunk_size.filter(|chunk| !(2..=100).contains(chunk)) {
        faults.push(Fault::new("/reduce/chunk_size", format!("{chunk} is not within 2 to 100")));
    }
    if let Some(task) = &reduce.task {
        if task.trim().is_empty() || task.len() > MAX_TASK_BYTES {
            faults.push(Fault::new("/reduce/task", format!("a task has 1 to {MAX_TASK_BYTES} bytes")));
        }
        check_nul("/reduce/task", task, faults);
    }
    if let Some(reducer) = under.reducer.filter(|reducer| !reducer.tools.is_empty()) {
        let detail = format!("a reducer has no tools, but {} may use {}", reducer.template, reducer.tools.join(", "));
        faults.push(Fault::new("/reduce/agent", detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        catalog::TemplateVersion,
        ids::TemplateId,
        policy::{Overrides, compile},
        template::Template,
        time::{ManualClock, SeededRandom, Timestamp},
    };

    fn policy(name: &str, extra: &Value) -> Policy {
        let mut json = json!({ "name": name, "models": ["m"] });
        json.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let spec = Template::parse(&json).unwrap();
        let version = TemplateVersion {
            id: TemplateId(uuid::Uuid::from_u128(9)),
            version: 1,
            hash: spec.hash(),
            spec,
            active: true,
            created_at: Timestamp::default(),
        };
        compile(&version, &Overrides::default()).unwrap()
    }

    fn planned(request: &Value, reducer: Option<&Policy>) -> Result<SpawnBatch, Faults> {
        let leaf = policy("leaf", &json!({ "limits": { "max_instances": 10, "max_parallel": 4 } }));
        let request = serde_json::from_value(request.clone()).unwrap();
        let under = Admission { team: TeamId::DEFAULT, policy: &leaf, reducer, idempotency: None, traceparent: None };
        plan(&request, under, &ManualClock::default(), &SeededRandom::new(1))
    }

    fn pointers(request: &Value, reducer: Option<&Policy>) -> Vec<String> {
        planned(request, reducer).unwrap_err().0.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn a_context_is_stored_once_for_all_who_share_it() {
        let batch = planned(&json!({ "tasks": ["a", "b", { "task": "c", "context": [1] }], "context": { "k": "v" } }), None).unwrap();
        assert_eq!(batch.blobs.len(), 3, "the policy, the shared context, and one of its own");
        assert_eq!(batch.group.context, Some(Hash32::of(br#"{"k":"v"}"#)));
        assert_eq!(batch.instances.iter().filter(|instance| instance.context.is_some()).count(), 1);
        assert_eq!(batch.instances.iter().map(|instance| instance.ordinal).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_small_spawn_is_granted_at_once_within_max_parallel_and_a_large_one_is_not() {
        let batch = planned(&json!({ "tasks": ["a", "b", "c"], "max_parallel": 2 }), None).unwrap();
        assert_eq!(batch.grant_at_once(), 2);
        let mut large = batch.clone();
        large.instances = vec![batch.instances[0].clone(); SpawnBatch::GRANT_AT_ONCE + 1];
        assert_eq!(large.grant_at_once(), 0);
    }

    #[test]
    fn without_a_reducer_outputs_are_collected() {
        let batch = planned(&json!({ "tasks": ["a", "b"] }), None).unwrap();
        assert_eq!(batch.group.tree, Tree { total: 2, chunk: COLLECT_FAN_IN, reduces: false });
        let reducer = policy("reducer", &json!({}));
        let batch = planned(&json!({ "tasks": ["a", "b"], "reduce": { "agent": "reducer" } }), Some(&reducer)).unwrap();
        assert_eq!(batch.group.tree, Tree { total: 2, chunk: 5, reduces: true });
    }

    #[test]
    fn tolerance_is_a_fraction_of_the_tasks_rounded_down() {
        assert_eq!(tolerated(OnFailure::Tolerate(0.1), 25), 2);
        assert_eq!(tolerated(OnFailure::Tolerate(1.0), 25), 25);
        assert_eq!(tolerated(OnFailure::FailFast, 25), 0);
    }

    #[test]
    fn every_fault_of_a_request_is_named() {
        let tools = policy("armed", &json!({ "mode": "multi_step", "tools": ["calculator"] }));
        let long = "x".repeat(MAX_TASK_BYTES + 1);
        for (request, expected) in [
            (json!({}), vec!["/task"]),
            (json!({ "task": "a", "tasks": ["b"] }), vec!["/tasks"]),
            (json!({ "tasks": [] }), vec!["/tasks"]),
            (json!({ "task": "  " }), vec!["/task"]),
            (json!({ "task": long }), vec!["/task"]),
            (json!({ "task": "a\u{0}b" }), vec!["/task"]),
            (json!({ "tasks": ["a", "", { "task": "b", "name": "" }] }), vec!["/tasks/1", "/tasks/2/name"]),
            (json!({ "tasks": vec!["a"; 11] }), vec!["/tasks"]),
            (json!({ "task": "a", "max_parallel": 5 }), vec!["/max_parallel"]),
            (
                json!({ "task": "a", "max_parallel": 0, "priority": 10, "deadline_ms": 0 }),
                vec!["/max_parallel", "/priority", "/deadline_ms"],
            ),
            (json!({ "task": "a", "on_failure": { "tolerate": 1.5 } }), vec!["/on_failure/tolerate"]),
            (json!({ "task": "a", "reduce": { "agent": "armed" } }), vec!["/reduce/agent"]),
            (
                json!({ "task": "a", "reduce": { "agent": "armed", "chunk_size": 1, "task": "" } }),
                vec!["/reduce/chunk_size", "/reduce/task", "/reduce/agent"],
            ),
        ] {
            assert_eq!(pointers(&request, Some(&tools)), expected, "{request}");
        }
    }

    #[test]
    fn thousands_of_broken_tasks_give_a_bounded_answer() {
        assert!(pointers(&json!({ "tasks": vec![""; 5000] }), None).len() < 30);
    }
}
