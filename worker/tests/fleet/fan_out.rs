//! Many instances and their reduction: one answer, whatever the order in which they end.

use muster_shared::{fsm::Status, reduce::Tree, wire::RunStatus};
use serde_json::{Value, json};

use crate::support::{Fleet, folded, folding};

fn tasks(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("task {n:03}")).collect()
}

async fn fleet() -> Fleet {
    let fleet = Fleet::new(folding()).await;
    fleet.template("leaf", json!({ "output": { "format": "json" } })).await;
    fleet
}

fn reduced(tasks: &[String], chunk: usize) -> Value {
    json!({ "tasks": tasks, "reduce": { "agent": "reducer", "chunk_size": chunk } })
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_outputs_becomes_one_answer_in_the_order_of_the_tasks() {
    let fleet = fleet().await;
    let _worker = fleet.process();
    let mut runs = Vec::new();
    for (count, chunk) in [(1, 5), (2, 2), (3, 2), (5, 5), (6, 5), (11, 3), (26, 5), (70, 4)] {
        runs.push((count, chunk, fleet.spawn("leaf", reduced(&tasks(count), chunk)).await.run));
    }
    for (count, chunk, run) in runs {
        let answer = fleet.answer(run).await;
        assert_eq!(folded(&answer), tasks(count), "{count} by {chunk}");
        let tree = Tree { total: i64::try_from(count).unwrap(), chunk: i64::try_from(chunk).unwrap(), reduces: true };
        assert_eq!(fleet.run(run).await.instances.total, tree.total + tree.reducers(), "{count} by {chunk}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_the_same_with_one_slot_and_with_many_workers() {
    let mut answers = Vec::new();
    for slots in [vec![1], vec![16], vec![3, 5]] {
        let fleet = fleet().await;
        let _workers: Vec<_> = slots.into_iter().map(|slots| fleet.process_of(slots)).collect();
        let run = fleet.spawn("leaf", reduced(&tasks(23), 3)).await.run;
        answers.push(fleet.answer(run).await.to_string());
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_reducer_outputs_are_collected_in_order() {
    let fleet = fleet().await;
    let _worker = fleet.process();
    let run = fleet.spawn("leaf", json!({ "tasks": tasks(70) })).await.run;
    let expected: Vec<Value> = tasks(70).into_iter().map(|task| json!({ "did": task })).collect();
    assert_eq!(fleet.answer(run).await, Value::Array(expected));
    assert_eq!(fleet.result(run).await.provenance.len(), 70);
}

#[tokio::test(flavor = "multi_thread")]
async fn tolerated_failures_are_left_out_and_shown_in_the_provenance() {
    let fleet = fleet().await;
    let _worker = fleet.process();
    let mut given = tasks(12);
    // The whole second node of the first level fails, and one child of the first.
    for index in [1, 3, 4, 5] {
        given[index] = format!("fail {index}");
    }
    let mut request = reduced(&given, 3);
    request["reduce"]["on_failure"] = json!({ "tolerate": 0.34 });
    let run = fleet.spawn("leaf", request).await.run;
    let answer = fleet.answer(run).await;
    let expected: Vec<String> = given.iter().filter(|task| !task.starts_with("fail")).cloned().collect();
    assert_eq!(folded(&answer), expected);
    let result = fleet.result(run).await;
    let root = &result.provenance[0];
    let leaves = |status| {
        let mut found = Vec::new();
        let mut below: Vec<_> = root.inputs.iter().collect();
        while let Some(one) = below.pop() {
            below.extend(&one.inputs);
            found.extend((one.level == 0 && one.status == status).then_some(one.ordinal));
        }
        found.sort_unstable();
        found
    };
    assert_eq!(leaves(Status::Failed), [1, 3, 4, 5]);
    assert_eq!(leaves(Status::Completed).len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_tolerated_task_fails_the_answer_is_empty_and_nothing_is_reduced() {
    let fleet = fleet().await;
    let _worker = fleet.process();
    let mut request = reduced(&["fail a".to_owned(), "fail b".to_owned(), "fail c".to_owned()], 2);
    request["reduce"]["on_failure"] = json!({ "tolerate": 1.0 });
    let run = fleet.spawn("leaf", request).await.run;
    assert_eq!(fleet.answer(run).await, Value::Null);
    assert_eq!(fleet.run(run).await.instances.total, 3);
    assert_eq!(fleet.result(run).await.provenance.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failure_fails_a_run_that_tolerates_none_and_ends_the_rest() {
    let fleet = fleet().await;
    fleet.effects.hold(|task, _| task.starts_with("task"));
    let _worker = fleet.process_of(4);
    let mut given = tasks(40);
    given[2] = "fail at once".to_owned();
    let run = fleet.spawn("leaf", reduced(&given, 5)).await.run;
    let view = fleet.ended(run).await;
    assert_eq!(view.status, RunStatus::Failed);
    assert_eq!((view.instances.failed, view.instances.cancelled, view.instances.total), (1, 39, 40));
    assert_eq!(view.error.map(|error| error.code).as_deref(), Some("invalid_request"));
    assert_eq!(fleet.result(run).await.output, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_of_a_reducer_carry_the_names_of_their_tasks() {
    let fleet = fleet().await;
    let _worker = fleet.process();
    let request = json!({
        "tasks": [{ "task": "one", "name": "first", "role": "critic", "context": { "own": 1 } }, { "task": "two", "name": "second" }],
        "context": { "shared": true },
        "reduce": { "agent": "reducer" },
    });
    let run = fleet.spawn("leaf", request).await.run;
    let answer = fleet.answer(run).await;
    let names: Vec<&str> = answer["folded"].as_array().unwrap().iter().filter_map(|input| input["name"].as_str()).collect();
    assert_eq!(names, ["first", "second"]);
}
