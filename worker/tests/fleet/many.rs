//! Several workers and control loops over one store.

use muster_shared::wire::RunStatus;
use serde_json::json;

use crate::support::{Fleet, folded, folding, process::Process};

#[tokio::test(flavor = "multi_thread")]
async fn max_parallel_is_never_exceeded_however_many_slots_there_are() {
    let mut rules = folding();
    rules[2]["answer"]["delay_ms"] = json!(3);
    rules[0]["answer"]["delay_ms"] = json!(3);
    let fleet = Fleet::new(rules).await;
    fleet.template("leaf", json!({ "output": { "format": "json" } })).await;
    let _workers = [fleet.process_of(8), fleet.process_of(8)];
    let tasks: Vec<String> = (1..=80).map(|n| format!("task {n:03}")).collect();
    let mut runs = Vec::new();
    for limit in [1, 3, 7] {
        let tasks = &tasks[..limit * 11];
        let request = json!({ "tasks": tasks, "max_parallel": limit, "reduce": { "agent": "reducer", "chunk_size": 4 } });
        runs.push((limit, tasks, fleet.spawn("leaf", request).await.run));
    }
    for (limit, tasks, run) in runs {
        assert_eq!(folded(&fleet.answer(run).await), tasks);
        let most = fleet.effects.most_in_flight(run);
        assert!((1..=limit).contains(&most), "{most} at once, {limit} allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_control_loops_and_workers_share_the_work_without_harm() {
    let fleet = Fleet::new(folding()).await;
    fleet.template("leaf", json!({ "output": { "format": "json" } })).await;
    let _controls = [Process::control(&fleet), Process::control(&fleet)];
    let mut workers = vec![fleet.process_of(4), fleet.process_of(2), fleet.process_of(6)];
    let mut runs = Vec::new();
    for run in 0..4 {
        let tasks: Vec<String> = (1..=70).map(|n| format!("task {run}.{n:03}")).collect();
        let request = json!({ "tasks": tasks, "priority": run, "reduce": { "agent": "reducer", "chunk_size": 5 } });
        let spawned = fleet.spawn("leaf", request).await;
        assert!(spawned.ready.is_empty(), "a large spawn is left to the dispatcher");
        runs.push((tasks, spawned.run));
    }
    fleet.effects.begun(40).await;
    workers.remove(0).crash().await;
    fleet.effects.begun(80).await;
    assert_eq!(workers.remove(0).drain().await.abandoned, 0);
    workers.push(fleet.process_of(3));
    for (tasks, run) in runs {
        assert_eq!(fleet.ended(run).await.status, RunStatus::Completed);
        assert_eq!(folded(&fleet.result(run).await.output), tasks);
    }
}
