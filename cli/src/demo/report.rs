//! The report of a run: its answer, and where each part of it came from.

use std::fmt::Write as _;

use muster_shared::{
    fsm::Status,
    ids::InstanceId,
    wire::{Provenance, RunResult, RunView},
};

use crate::output;

/// The answer and its provenance, in Markdown.
pub(crate) fn markdown(run: &RunView, result: &RunResult) -> String {
    let mut text = match result.output.as_str() {
        Some(answer) => format!("{}\n", answer.trim_end()),
        None => format!("```json\n{}\n```\n", output::answer(&result.output)),
    };
    let mut leaves = Vec::new();
    result.provenance.iter().for_each(|root| gather(root, &mut leaves));
    let without: Vec<&&Provenance> = leaves.iter().filter(|leaf| leaf.status != Status::Completed).collect();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\n---\n\n## Provenance\n\nRun `{}`: files read: {}, by `{}`; instances in all: {}; steps: {}.\n",
        run.id,
        leaves.len() - without.len(),
        run.agent,
        run.instances.total,
        run.steps
    );
    if !without.is_empty() {
        let names: Vec<String> = without.iter().map(|leaf| format!("`{}` ({})", name(leaf), output::word(&leaf.status))).collect();
        let _ = writeln!(text, "\nWithout an answer: {}.", names.join(", "));
    }
    text.push_str("\nWhich instance folded what:\n\n");
    result.provenance.iter().for_each(|root| tree(root, 0, &mut text));
    text
}

/// The first agent that read a file.
pub(crate) fn first_leaf(provenance: &[Provenance]) -> Option<InstanceId> {
    provenance.iter().find_map(|node| if node.level == 0 { Some(node.instance) } else { first_leaf(&node.inputs) })
}

fn gather<'a>(node: &'a Provenance, leaves: &mut Vec<&'a Provenance>) {
    if node.level == 0 {
        leaves.push(node);
    }
    node.inputs.iter().for_each(|input| gather(input, leaves));
}

fn name(node: &Provenance) -> String {
    node.name.clone().unwrap_or_else(|| format!("number {}", node.ordinal))
}

fn tree(node: &Provenance, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let what = if node.level == 0 { name(node) } else { format!("reducer {}.{}", node.level, node.ordinal) };
    let status = if node.status == Status::Completed { String::new() } else { format!(" ({})", output::word(&node.status)) };
    let _ = writeln!(text, "{indent}- {what}{status} `{}`", node.instance);
    node.inputs.iter().for_each(|input| tree(input, depth + 1, text));
}

#[cfg(test)]
mod tests {
    use muster_shared::{
        engine::Usage,
        ids::{GroupId, RunId, uuid_v7},
        time::{ManualClock, SeededRandom},
        wire::{Counts, RunStatus},
    };

    use super::*;

    #[test]
    fn a_report_names_every_file_and_who_folded_it() {
        let (clock, random) = (ManualClock::default(), SeededRandom::new(1));
        let node = |name: Option<&str>, level, ordinal, status, inputs| Provenance {
            instance: InstanceId::new(&clock, &random),
            name: name.map(str::to_owned),
            status,
            level,
            ordinal,
            inputs,
        };
        let leaves = vec![node(Some("a.md"), 0, 0, Status::Completed, vec![]), node(Some("b.md"), 0, 1, Status::Failed, vec![])];
        let (first, root) = (leaves[0].instance, node(None, 1, 0, Status::Completed, leaves));
        let run = RunView {
            id: RunId::new(&clock, &random),
            status: RunStatus::Completed,
            agent: "file-reader@1".to_owned(),
            group: GroupId(uuid_v7(&clock, &random)),
            tasks: 2,
            instances: Counts { total: 3, ..Counts::default() },
            steps: 7,
            usage: Usage::default(),
            priority: 5,
            max_parallel: 9,
            created_at: Default::default(),
            deadline_at: None,
            finished_at: None,
            result_instance: None,
            error: None,
        };
        let result = RunResult { run_id: run.id, status: run.status, output: "# Answer".into(), provenance: vec![root] };
        let text = markdown(&run, &result);
        assert!(text.starts_with("# Answer\n\n---\n\n## Provenance\n"), "{text}");
        assert!(text.contains(": files read: 1, by `file-reader@1`; instances in all: 3; steps: 7."), "{text}");
        assert!(text.contains("Without an answer: `b.md` (failed)."), "{text}");
        assert!(text.contains("- reducer 1.0 ") && text.contains("\n  - a.md ") && text.contains("\n  - b.md (failed) "), "{text}");
        assert_eq!(first_leaf(&result.provenance), Some(first));
    }
}
