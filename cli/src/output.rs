//! The only place that writes to standard output. Messages for people go to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use muster_shared::{
    engine::Usage,
    fsm::Status,
    wire::{AgentView, Counts, EventView, InstanceView, RunView},
};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// The form of what a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Prints a line on standard output. A reader that went away (`| head`) is no error.
pub(crate) fn say(line: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    // Nothing is left to be told to a closed pipe.
    let _ = writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush());
}

/// Prints a line for people on standard error.
pub(crate) fn note(line: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
}

/// Whether a person watches.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether a person reads what is printed.
pub(crate) fn read_by_person() -> bool {
    io::stdout().is_terminal()
}

/// Prints a document in a form; `table` makes the one for people.
pub(crate) fn show<T: Serialize>(format: Format, document: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(document),
        Format::Json => {
            serde_json::to_string_pretty(document).map_err(|error| Failure::failed(format!("cannot be shown as JSON: {error}")))?
        }
        Format::Yaml => serde_norway::to_string(document).map_err(|error| Failure::failed(format!("cannot be shown as YAML: {error}")))?,
    };
    say(text.trim_end());
    Ok(())
}

/// A table without lines, as wide as it needs to be.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header.iter().copied());
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Key and value, one pair a line.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    rows.iter().map(|(key, value)| format!("{key:width$}  {value}")).collect::<Vec<_>>().join("\n")
}

/// The first line of a text, at most `max` characters.
pub(crate) fn short(text: &str, max: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut cut: String = line.chars().take(max).collect();
    if cut.len() < text.trim_end().len() {
        cut.push('…');
    }
    cut
}

/// The name of a status as in JSON.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Templates, one a line.
pub(crate) fn agents(views: &[AgentView]) -> String {
    table(
        &["NAME", "VERSION", "ACTIVE", "MODELS", "TOOLS", "DESCRIPTION"],
        views.iter().map(|view| {
            let spec = &view.spec;
            let active = if view.active { "yes" } else { "no" };
            let row = [
                &spec.name,
                &view.version.to_string(),
                active,
                &spec.models.join(","),
                &spec.tools.join(","),
                &short(&spec.description, 60),
            ];
            row.map(str::to_owned).to_vec()
        }),
    )
}

/// Runs, one a line.
pub(crate) fn runs(views: &[RunView]) -> String {
    table(
        &["RUN", "STATUS", "AGENT", "TASKS", "DONE", "FAILED", "STEPS", "CREATED"],
        views.iter().map(|run| {
            let counts = &run.instances;
            let done = format!("{}/{}", ended(counts), counts.total);
            vec![
                run.id.to_string(),
                run.status.as_str().to_owned(),
                run.agent.clone(),
                run.tasks.to_string(),
                done,
                (counts.failed + counts.timeout).to_string(),
                run.steps.to_string(),
                run.created_at.to_string(),
            ]
        }),
    )
}

/// One run.
pub(crate) fn run(run: &RunView) -> String {
    let mut rows = vec![
        ("run", run.id.to_string()),
        ("status", run.status.as_str().to_owned()),
        ("agent", run.agent.clone()),
        ("tasks", run.tasks.to_string()),
        ("instances", counts(&run.instances)),
        ("steps", run.steps.to_string()),
        ("usage", usage(&run.usage)),
        ("priority", run.priority.to_string()),
        ("max_parallel", run.max_parallel.to_string()),
        ("created", run.created_at.to_string()),
    ];
    rows.extend(run.deadline_at.map(|at| ("deadline", at.to_string())));
    rows.extend(run.finished_at.map(|at| ("finished", format!("{at} (after {:.1} s)", at.since(run.created_at).as_secs_f64()))));
    rows.extend(run.result_instance.map(|id| ("answered by", id.to_string())));
    rows.extend(run.error.as_ref().map(|error| ("error", error.to_string())));
    pairs(&rows)
}

/// Instances that need nothing more.
pub(crate) const fn ended(counts: &Counts) -> i64 {
    counts.completed + counts.failed + counts.timeout + counts.cancelled
}

/// Instances by status: those that there are.
pub(crate) fn counts(counts: &Counts) -> String {
    let kinds = [
        ("completed", counts.completed),
        ("running", counts.running),
        ("queued", counts.queued),
        ("waiting", counts.waiting),
        ("failed", counts.failed),
        ("timeout", counts.timeout),
        ("cancelled", counts.cancelled),
    ];
    let shown: Vec<String> = kinds.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
    if shown.is_empty() { format!("{} in all", counts.total) } else { format!("{} in all: {}", counts.total, shown.join(", ")) }
}

/// Tokens, and money if any was spent.
pub(crate) fn usage(usage: &Usage) -> String {
    let cost = if usage.cost_micros > 0 {
        format!(", ${}.{:06}", usage.cost_micros / 1_000_000, usage.cost_micros % 1_000_000)
    } else {
        String::new()
    };
    format!("{} tokens in, {} out{cost}", usage.input_tokens, usage.output_tokens)
}

/// Instances, one a line.
pub(crate) fn instances(views: &[InstanceView]) -> String {
    table(
        &["INSTANCE", "LEVEL", "ORDINAL", "STATUS", "STEPS", "AGENT", "NAME OR TASK"],
        views.iter().map(|view| {
            vec![
                view.id.to_string(),
                view.level.to_string(),
                view.ordinal.to_string(),
                word(&view.status),
                view.step.to_string(),
                view.agent.clone(),
                short(view.name.as_deref().unwrap_or(&view.task), 60),
            ]
        }),
    )
}

/// One instance.
pub(crate) fn instance(view: &InstanceView) -> String {
    let mut rows = vec![
        ("instance", view.id.to_string()),
        ("run", view.run_id.to_string()),
        ("agent", view.agent.clone()),
        ("status", word(&view.status)),
        ("state", word(&view.state)),
        ("place", format!("level {}, number {}", view.level, view.ordinal)),
    ];
    rows.extend(view.name.clone().map(|name| ("name", name)));
    rows.extend(view.role.clone().map(|role| ("role", role)));
    rows.push(("task", short(&view.task, 200)));
    rows.extend(view.waiting_for.as_ref().map(|what| ("waits for", json(what))));
    rows.push(("steps", view.step.to_string()));
    rows.push(("epoch", view.epoch.to_string()));
    rows.push(("usage", usage(&view.usage)));
    rows.push(("policy", view.policy_hash.to_string()));
    rows.push(("created", view.created_at.to_string()));
    rows.push(("updated", view.updated_at.to_string()));
    rows.extend(view.error.as_ref().map(|error| ("error", error.to_string())));
    let mut text = pairs(&rows);
    if let Some(output) = view.output.as_ref().filter(|_| view.status == Status::Completed) {
        text.push_str("\n\n");
        text.push_str(&answer(output));
    }
    text
}

/// A log, one event a line.
pub(crate) fn events(views: &[EventView]) -> String {
    table(
        &["SEQ", "EPOCH", "AT", "TYPE", "CONTENT"],
        views.iter().map(|event| {
            vec![
                event.seq.to_string(),
                event.epoch.to_string(),
                event.at.to_string(),
                word(&event.kind),
                short(&event.payload.to_string(), 100),
            ]
        }),
    )
}

/// An output for people: text as it is, everything else as JSON.
pub(crate) fn answer(output: &Value) -> String {
    output.as_str().map_or_else(|| serde_json::to_string_pretty(output).unwrap_or_else(|_| output.to_string()), str::to_owned)
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statuses_that_occur_are_counted() {
        let of = Counts { total: 7, queued: 0, running: 2, waiting: 0, completed: 4, failed: 1, timeout: 0, cancelled: 0 };
        assert_eq!(counts(&of), "7 in all: 4 completed, 2 running, 1 failed");
        assert_eq!(ended(&of), 5);
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(short("abc", 3), "abc");
        assert_eq!(short("abcd", 3), "abc…");
        assert_eq!(short("a\nb", 3), "a…");
    }

    #[test]
    fn text_is_shown_as_it_is_and_the_rest_as_json() {
        assert_eq!(answer(&Value::from("# a\n")), "# a\n");
        assert_eq!(answer(&serde_json::json!([1])), "[\n  1\n]");
    }
}
