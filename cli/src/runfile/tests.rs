use super::*;

struct None_;

impl Library for None_ {
    fn text(&self, path: &str) -> Result<String, Failure> {
        Ok(format!("name: from-{path}\nmodels: [a]\n"))
    }
}

fn prepared(text: &str, given: &Given) -> Result<Prepared, Failure> {
    prepare("r.yaml", "r", text, &None_, given)
}

#[test]
fn a_single_task_becomes_a_request() {
    let text = "agent: chat\ntask: \"About {{topic}}\"\nset: {topic: bees}\nmax_parallel: 3\nreduce: {agent: synthesizer, on_failure: {tolerate: 0.5}}";
    let run = prepared(text, &Given { set: vec!["topic=ants".to_owned()], ..Given::default() }).unwrap();
    assert_eq!((run.name.as_str(), run.agent.as_str(), run.request.task.as_deref()), ("r", "chat", Some("About ants")));
    assert_eq!(run.request.max_parallel, Some(3));
    assert_eq!(run.request.reduce.unwrap().on_failure, Some(OnFailure::Tolerate(0.5)));
}

#[test]
fn templates_are_inline_or_named_and_take_the_given_model() {
    let text = "agent: a\ntask: t\ntemplates: [x.yaml, {name: b, model: m}]";
    let run = prepared(text, &Given::default()).unwrap();
    assert_eq!(
        run.templates,
        [serde_json::json!({"name": "from-x.yaml", "models": ["a"]}), serde_json::json!({"name": "b", "model": "m"})]
    );
    let run = prepared(text, &Given { model: Some("p/q".to_owned()), ..Given::default() }).unwrap();
    assert_eq!(run.templates[1], serde_json::json!({"name": "b", "models": ["p/q"]}));
}

#[test]
fn each_file_gets_a_task_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.md", "a.md", "c.bin"] {
        std::fs::write(folder.path().join(name), if name == "c.bin" { "\0" } else { "text" }).unwrap();
    }
    let given = Given { folder: Some(folder.path().to_owned()), ..Given::default() };
    let text = "agent: a\nfor_each: {input: '*', task: 'Read `{{path}}`, {{name}} {{stem}}', name: 'doc {{stem}}'}";
    let run = prepared(text, &given).unwrap();
    let tasks = run.request.tasks.unwrap();
    let TaskSpec::Full(first) = &tasks[0] else { panic!("full") };
    assert_eq!((tasks.len(), first.task.as_str(), first.name.as_deref()), (2, "Read `a.md`, a.md a", Some("doc a")));
    assert_eq!(run.notes, ["2 files; 1 skipped: empty or no text"]);

    let fewer = prepared(text, &Given { at_most: Some(1), ..given.clone() }).unwrap();
    assert!(fewer.request.tasks.unwrap().len() == 1 && fewer.notes[1].contains("only the first 1"));

    let other = prepared(text, &Given { input: vec!["b*".to_owned()], ..given.clone() }).unwrap();
    let TaskSpec::Full(only) = &other.request.tasks.unwrap()[0] else { panic!("full") };
    assert_eq!(only.name.as_deref(), Some("doc b"));

    let none = prepared(text, &Given { input: vec!["*.bin".to_owned()], ..given }).unwrap_err();
    assert!(none.message.starts_with("no text file matches *.bin in ") && none.message.ends_with(" (1 were skipped: empty or no text)"));
}

#[test]
fn faults_are_named_with_their_place() {
    for (text, wanted) in [
        ("agent: a\ntask: t\nagnt: b", "unknown field `agnt`"),
        ("agent: a\ntask: t\nreduce: {agent: s, chunk: 3}", "/reduce"),
        ("agent: a", "exactly one of"),
        ("agent: a\ntask: t\ntasks: [x]", "exactly one of"),
        ("task: t", "missing field `agent`"),
        ("agent: a\ntask: '{{x}}'", "/task: {{x}} has no value"),
        ("agent: a\ntask: t\npriority: high", "/priority"),
        ("- a", "is no mapping"),
        ("", "is empty"),
        ("name: a\nmodels: [offline/extract]", "muster agent apply r.yaml"),
    ] {
        let failure = prepared(text, &Given::default()).unwrap_err();
        assert!(failure.to_string().contains(wanted) && failure.exit == crate::failure::Exit::Usage, "{text}: {failure}");
    }
    let failure = prepared("agent: a\ntask: t", &Given { input: vec!["*".to_owned()], ..Given::default() }).unwrap_err();
    assert!(failure.message.contains("--input"), "{failure}");
    assert!(prepared("a: [", &Given::default()).unwrap_err().message.contains("not valid YAML"));
}

#[test]
fn a_long_path_keeps_its_end_as_the_name() {
    let path = format!("{}/end.md", "x".repeat(300));
    let name = task_of(&path, "t", None, None).name.unwrap();
    assert!(name.ends_with("/end.md") && name.chars().count() == 200);
}
