//! `muster demo`: the main job on real files, with nothing installed. It runs `examples/summarize.yaml` on an embedded
//! fleet, through the same API as everybody else.

mod report;

use std::path::{Path, PathBuf};

use muster_engine::OFFLINE_EXTRACT;
use muster_shared::wire::{RunResult, RunView};

use crate::{
    args::{DemoArgs, TargetArgs},
    client::{Link, follow, runs},
    embed::Work,
    failure::Failure,
    output,
    runfile::{self, Given, Library, Prepared, files},
    serve::{Context, make_private},
};

/// Where the demo keeps its data.
const DATA: &str = ".muster/demo";
/// The report, in the data directory.
const REPORT: &str = "muster-report.md";
/// Files at most, unless --input says which.
const FILES: usize = 500;
/// The same with a model that costs money.
const PAID_FILES: usize = 20;
/// Lines of the report that a terminal is shown.
const SHOWN_LINES: usize = 60;

const RUN_FILE: &str = include_str!("../../examples/summarize.yaml");

/// The templates that the run file names, as they were when this binary was made.
struct Embedded;

impl Library for Embedded {
    fn text(&self, path: &str) -> Result<String, Failure> {
        let text = match path {
            "templates/file-reader.yaml" => include_str!("../../examples/templates/file-reader.yaml"),
            "templates/report-writer.yaml" => include_str!("../../examples/templates/report-writer.yaml"),
            other => return Err(Failure::failed(format!("the demo has no `{other}`"))),
        };
        Ok(text.to_owned())
    }
}

/// Runs the demo to its report.
pub(crate) async fn command(mut context: Context, args: DemoArgs) -> Result<(), Failure> {
    let data = args.data.or_else(|| context.config.data.clone()).unwrap_or_else(|| PathBuf::from(DATA));
    let model = context.config.engine.default_model().to_owned();
    let prepared = prepare(&mut context, args.input, &model)?;
    make_private(&data)?;
    let out = args.out.unwrap_or_else(|| data.join(REPORT));
    // Before the work: a report that cannot be saved is better known now.
    std::fs::OpenOptions::new().append(true).create(true).open(&out).map_err(|error| Failure::file(&out, error))?;
    output::note(format!("model: {model}{}", if model == OFFLINE_EXTRACT { " (no key, no network)" } else { "" }));
    let target = TargetArgs { url: None, data: Some(data.clone()) };
    let (run, result) = Link::with(&context, &target, Work::Done, async |link| {
        if !link.is_ours() {
            output::note(format!("another process runs the fleet of {}; it does the work, with its own settings", data.display()));
        }
        let spawned = runs::spawn(link, prepared).await?;
        let run = follow::follow(link, spawned.run_id).await?;
        let result = follow::answer(link, &run).await?;
        Ok((run, result))
    })
    .await?;
    finish(&run, &result, &data, &out)
}

/// The run file, on the chosen files. Those outside of the working directory make their folder the one that agents
/// may read.
fn prepare(context: &mut Context, input: Vec<String>, model: &str) -> Result<Prepared, Failure> {
    let at_most = if !input.is_empty() {
        None
    } else if model.starts_with("offline/") {
        Some(FILES)
    } else {
        Some(PAID_FILES)
    };
    let mut given = Given { input, model: Some(model.to_owned()), at_most, ..Given::default() };
    if let Some((folder, globs)) = files::outside(&given.input) {
        context.config.artifacts_read = Some(folder.clone());
        (given.input, given.folder) = (globs, Some(folder));
    } else {
        context.config.artifacts_read.get_or_insert_with(|| PathBuf::from("."));
    }
    runfile::prepare("examples/summarize.yaml", "summarize", RUN_FILE, &Embedded, &given)
}

fn finish(run: &RunView, result: &RunResult, data: &Path, out: &Path) -> Result<(), Failure> {
    let report = report::markdown(run, result);
    std::fs::write(out, &report).map_err(|error| Failure::file(out, error))?;
    let lines = report.lines().count();
    if output::read_by_person() && lines > SHOWN_LINES {
        let shown: Vec<&str> = report.lines().take(SHOWN_LINES).collect();
        output::say(format!("{}\n… {} more lines in {}", shown.join("\n"), lines - SHOWN_LINES, out.display()));
    } else {
        output::say(report.trim_end());
    }
    let (id, data, muster) = (run.id, data.display(), crate::program::name());
    let first = report::first_leaf(&result.provenance).map(|leaf| leaf.to_string()).unwrap_or_else(|| "ins_…".to_owned());
    output::note(format!(
        "\n{}\nThe report is in {}. To look further:\n  {muster} run show {id} --instances --data {data}\n  \
         {muster} instance events {first} --data {data}\n  {muster} dev --data {data}",
        runs::summary(run),
        out.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_run_file_and_its_templates_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.md"), "text").unwrap();
        let given = Given { folder: Some(folder.path().to_owned()), ..Given::default() };
        let prepared = runfile::prepare("summarize.yaml", "summarize", RUN_FILE, &Embedded, &given).unwrap();
        assert_eq!(prepared.templates.len(), 2);
        for template in &prepared.templates {
            muster_shared::template::Template::parse(template).unwrap();
        }
        assert!(prepared.request.tasks.unwrap().len() == 1 && prepared.agent == "file-reader");
    }
}
