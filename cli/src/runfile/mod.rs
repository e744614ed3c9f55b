//! Run files: what `muster run FILE` sends, as a document (YAML or JSON).
//!
//! A run file names an agent and its tasks, or one task for each file that a glob means. It may bring templates.
//! `docs/configuration.md` has its reference; `examples/` has examples.

pub(crate) mod files;
pub(crate) mod vars;

use std::path::{Path, PathBuf};

use muster_shared::{
    error::{Fault, Faults},
    policy::Overrides,
    wire::{FullTask, OnFailure, ReduceSpec, SpawnRequest, TaskSpec},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::failure::Failure;

/// A run file, its variables filled.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunFile {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    templates: Vec<Value>,
    agent: String,
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    tasks: Option<Vec<TaskSpec>>,
    #[serde(default)]
    for_each: Option<ForEach>,
    #[serde(default)]
    context: Option<Value>,
    #[serde(default)]
    reduce: Option<ReduceSpec>,
    #[serde(default)]
    on_failure: Option<OnFailure>,
    #[serde(default)]
    max_parallel: Option<u32>,
    #[serde(default)]
    priority: Option<u8>,
    #[serde(default)]
    overrides: Option<Overrides>,
    #[serde(default)]
    deadline_ms: Option<u64>,
    #[serde(default)]
    set: Option<Value>,
}

/// One task for each file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForEach {
    input: Globs,
    task: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    role: Option<String>,
}

/// One glob or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Globs {
    One(String),
    Many(Vec<String>),
}

/// What the command line says about a run file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// Instead of the globs of `for_each`.
    pub(crate) input: Vec<String>,
    /// `key=value`.
    pub(crate) set: Vec<String>,
    /// The model of the templates that it brings.
    pub(crate) model: Option<String>,
    /// Where globs begin; the working directory if it does not say.
    pub(crate) folder: Option<PathBuf>,
    /// Files at most; the rest is left out, and said.
    pub(crate) at_most: Option<usize>,
}

/// A run that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What people call it.
    pub(crate) name: String,
    /// Templates to be stored first.
    pub(crate) templates: Vec<Value>,
    /// The template of the leaves.
    pub(crate) agent: String,
    /// The request.
    pub(crate) request: SpawnRequest,
    /// What was left out, for people.
    pub(crate) notes: Vec<String>,
}

/// Where the texts that a run file names come from.
pub(crate) trait Library {
    /// The text of a template file, as the run file names it.
    fn text(&self, path: &str) -> Result<String, Failure>;
}

/// Template files beside the run file.
struct Beside(PathBuf);

impl Library for Beside {
    fn text(&self, path: &str) -> Result<String, Failure> {
        read(&self.0.join(path))
    }
}

/// Reads a run file from disk.
pub(crate) fn load(path: &Path, given: &Given) -> Result<Prepared, Failure> {
    let beside = Beside(path.parent().map(Path::to_owned).unwrap_or_default());
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    prepare(&path.display().to_string(), &name, &read(path)?, &beside, given)
}

/// Reads a template file from disk.
pub(crate) fn template(path: &Path) -> Result<Value, Failure> {
    let what = path.display();
    let document = parse(&what.to_string(), &read(path)?)?;
    if document.get("agent").is_some() && document.get("models").is_none() {
        return Err(Failure::usage(format!("{what} is a run file, not a template: run it with `muster run {what}`")));
    }
    Ok(document)
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::file(path, error))
}

/// YAML, of which JSON is a part.
fn parse(what: &str, text: &str) -> Result<Value, Failure> {
    serde_norway::from_str(text).map_err(|error| Failure::usage(format!("{what} is not valid YAML or JSON: {error}")))
}

/// From the text of a run file to a request.
pub(crate) fn prepare(what: &str, default_name: &str, text: &str, library: &dyn Library, given: &Given) -> Result<Prepared, Failure> {
    let mut document = parse(what, text)?;
    must_be_a_run_file(what, &document)?;
    let faulty = |faults| Failure::faulty(what, Faults(faults));
    let vars = vars::Vars::new(document.get("set"), &given.set).map_err(faulty)?;
    let faults = vars.fill(&mut document, &given.set);
    if !faults.is_empty() {
        return Err(faulty(faults));
    }
    let file: RunFile = typed(document).map_err(|fault| faulty(vec![fault]))?;
    // It was read above, from the document.
    drop(file.set);
    let mut templates = Vec::with_capacity(file.templates.len());
    for template in file.templates {
        let template = match template {
            Value::String(path) => parse(&path, &library.text(&path)?)?,
            inline @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => inline,
        };
        templates.push(with_model(template, given.model.as_deref()));
    }
    if !given.input.is_empty() && file.for_each.is_none() {
        return Err(Failure::usage(format!("--input is for run files with `for_each`; {what} has none")));
    }
    let mut notes = Vec::new();
    let (task, tasks) = match (file.task, file.tasks, file.for_each) {
        (task @ Some(_), None, None) => (task, None),
        (None, tasks @ Some(_), None) => (None, tasks),
        (None, None, Some(each)) => (None, Some(tasks_of(each, given, &mut notes)?)),
        _ => return Err(faulty(vec![Fault::new("", "give exactly one of `task`, `tasks` and `for_each`")])),
    };
    let request = SpawnRequest {
        task,
        tasks,
        context: file.context,
        reduce: file.reduce,
        on_failure: file.on_failure,
        max_parallel: file.max_parallel,
        priority: file.priority,
        overrides: file.overrides,
        deadline_ms: file.deadline_ms,
    };
    Ok(Prepared { name: file.name.unwrap_or_else(|| default_name.to_owned()), templates, agent: file.agent, request, notes })
}

/// The usual mistakes, in words that help.
fn must_be_a_run_file(what: &str, document: &Value) -> Result<(), Failure> {
    let Some(fields) = document.as_object() else {
        let is = if document.is_null() { "is empty" } else { "is no mapping" };
        return Err(Failure::usage(format!("{what} {is}: a run file names an `agent` and its `task`, `tasks` or `for_each`")));
    };
    if !fields.contains_key("agent") && (fields.contains_key("models") || fields.contains_key("model")) {
        return Err(Failure::usage(format!("{what} is a template, not a run file: store it with `muster agent apply {what}`")));
    }
    Ok(())
}

/// Deserializes, and says where it failed.
fn typed<T: DeserializeOwned>(document: Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let pointer = if path == "." { String::new() } else { format!("/{}", path.replace(['.', '['], "/").replace(']', "")) };
        Fault::new(pointer, error.into_inner().to_string())
    })
}

fn with_model(mut template: Value, model: Option<&str>) -> Value {
    if let (Some(model), Some(fields)) = (model, template.as_object_mut()) {
        fields.remove("model");
        fields.insert("models".to_owned(), Value::from(vec![model]));
    }
    template
}

fn tasks_of(each: ForEach, given: &Given, notes: &mut Vec<String>) -> Result<Vec<TaskSpec>, Failure> {
    let globs = match (each.input, given.input.is_empty()) {
        (Globs::One(one), true) => vec![one],
        (Globs::Many(many), true) => many,
        (Globs::One(_) | Globs::Many(_), false) => given.input.clone(),
    };
    let mut found = match &given.folder {
        Some(folder) => files::find_below(folder, &globs)?,
        None => files::find(&globs)?,
    };
    if found.paths.is_empty() {
        let below = given.folder.as_ref().map(|folder| format!(" in {}", folder.display())).unwrap_or_default();
        let skipped = if found.skipped > 0 { format!(" ({} were skipped: empty or no text)", found.skipped) } else { String::new() };
        return Err(Failure::usage(format!("no text file matches {}{below}{skipped}", globs.join(" "))));
    }
    let files = if found.paths.len() == 1 { "1 file".to_owned() } else { format!("{} files", found.paths.len()) };
    notes.push(if found.skipped == 0 { files } else { format!("{files}; {} skipped: empty or no text", found.skipped) });
    if let Some(at_most) = given.at_most.filter(|at_most| found.paths.len() > *at_most) {
        notes.push(format!("only the first {at_most} files are used; --input chooses others"));
        found.paths.truncate(at_most);
    }
    Ok(found
        .paths
        .iter()
        .map(|path| TaskSpec::Full(Box::new(task_of(path, &each.task, each.name.as_deref(), each.role.as_deref()))))
        .collect())
}

fn task_of(path: &str, task: &str, name: Option<&str>, role: Option<&str>) -> FullTask {
    let parts = Path::new(path);
    let part = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let fill = |text: &str| {
        vars::replace(text, |key| match key {
            "path" => Some(path.to_owned()),
            "name" => part(parts.file_name()),
            "stem" => part(parts.file_stem()),
            "folder" => part(parts.parent().map(Path::as_os_str)),
            _ => None,
        })
    };
    // Names are short; the end of a path says more than its beginning.
    let name = fill(name.unwrap_or("{{path}}"));
    let excess = name.chars().count().saturating_sub(muster_shared::spawn::MAX_NAME_CHARS);
    FullTask { task: fill(task), name: Some(name.chars().skip(excess).collect()), role: role.map(fill), context: None }
}

#[cfg(test)]
mod tests;
