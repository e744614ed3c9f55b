//! What the fleet is told: the script of its models, and the two templates.

use serde_json::{Value, json};

use crate::workload::Workload;

/// The template of the leaves.
pub(super) const WORKER: &str = "bench-worker";

/// The template of the reducers.
pub(super) const REDUCER: &str = "bench-reducer";

/// 200 bytes.
fn text_200() -> String {
    "x".repeat(200)
}

/// The rules of `offline/script`. JSON is YAML.
pub(super) fn text(workload: Workload) -> String {
    let Workload { k, latency_ms, .. } = workload;
    let mut rules = Vec::new();
    if k > 1 {
        let steps = format!("1-{}", k - 1);
        rules.push(json!({
            "match": {"agent": WORKER, "step": steps},
            "answer": {"text": text_200(), "continue": true, "delay_ms": latency_ms},
        }));
    }
    for agent in [WORKER, REDUCER] {
        rules.push(json!({"match": {"agent": agent}, "answer": {"text": text_200(), "delay_ms": latency_ms}}));
    }
    Value::Array(rules).to_string()
}

/// Bodies of `POST /v1/agents`.
pub(super) fn templates(workload: Workload) -> [Value; 2] {
    let template = |name: &str, max_steps: u64| {
        json!({
            "name": name,
            "models": ["offline/script"],
            "mode": "multi_step",
            "max_steps": max_steps,
            "limits": {"max_instances": workload.n.max(1), "max_parallel": workload.n.clamp(1, 100_000), "agent_timeout_ms": 3_600_000},
        })
    };
    [template(REDUCER, 1), template(WORKER, workload.k.max(1))]
}

#[cfg(test)]
mod tests {
    use muster_shared::template::Template;

    use super::*;

    #[test]
    fn the_templates_are_templates() {
        for template in templates(Workload { n: 1000, k: 5, latency_ms: 0 }) {
            assert!(serde_json::from_value::<Template>(template.clone()).is_ok(), "{template}");
        }
    }

    #[test]
    fn all_steps_of_a_worker_but_the_last_want_another_turn() {
        let rules: Value = serde_json::from_str(&text(Workload { n: 1, k: 5, latency_ms: 7 })).expect("JSON");
        assert_eq!(rules[0]["match"]["step"], json!("1-4"));
        assert_eq!(rules[0]["answer"]["delay_ms"], json!(7));
        assert_eq!(rules[1]["answer"].get("continue"), None);
        let one: Value = serde_json::from_str(&text(Workload { n: 1, k: 1, latency_ms: 0 })).expect("JSON");
        assert_eq!(one.as_array().map(Vec::len), Some(2));
    }
}
