//! What is wrong is refused with words that say what to do, and nothing is stored, lost or half done.

use anyhow::{Context as _, ensure};
use muster_tests::Home;
use reqwest::Method;

use crate::support::{Place, id};

const NO_RUN: &str = "run_00000000000070008000000000000000";
const NO_INSTANCE: &str = "ins_00000000000070008000000000000000";

/// Content of a run file, exit code, what must be said.
fn run_files() -> Vec<(String, i32, &'static str)> {
    let long = format!("agent: chat\ntask: {}", "x".repeat(40_000));
    [
        ("agent: nosuch\ntask: t", 1, "there is no template nosuch (not_found)"),
        ("agent: chat@7\ntask: t", 1, "there is no template chat@7 (not_found)"),
        ("agent: Chat Bot\ntask: t", 2, "names have lower-case letters"),
        ("agent: chat@x\ntask: t", 2, "a version is a positive number"),
        ("agent: chat\ntask: ''", 2, "/task: a task must not be empty"),
        ("agent: chat\ntasks: []", 2, "/tasks: give at least one task"),
        ("agent: chat\ntasks: [a, ' ', {task: ''}]", 2, "/tasks/2: a task must not be empty"),
        ("agent: chat\ntask: \"a\\0b\"", 2, "/task: the character NUL (U+0000) cannot be stored"),
        ("agent: chat\ntask: t\noverrides: {max_steps: 1000}", 2, "/overrides/max_steps: is 1000, but chat@1 allows at most"),
        ("agent: chat\ntask: t\noverrides: {tools: [calculator]}", 2, "overrides only narrow"),
        ("agent: chat\ntask: t\noverrides: {models: [offline/script]}", 2, "overrides only narrow"),
        ("agent: chat\ntask: t\noverrides: {limits: {max_parallel: 999999999}}", 2, "/overrides/limits/max_parallel"),
        ("agent: chat\ntasks: [a, b]\nreduce: {agent: analyst}", 2, "/reduce/agent: a reducer has no tools"),
        ("agent: chat\ntasks: [a, b]\nreduce: {agent: nosuch}", 2, "/reduce/agent: there is no template nosuch"),
        ("agent: chat\ntasks: [a, b]\nreduce: {agent: synthesizer, chunk_size: 1}", 2, "/reduce/chunk_size"),
        ("agent: chat\ntask: t\npriority: 12", 2, "/priority: 12 is not within 0 to 9"),
        ("agent: chat\ntask: t\ndeadline_ms: 0", 2, "/deadline_ms"),
        ("agent: chat\ntask: '{{topic}}'", 2, "give --set topic="),
        ("agent: chat\ntemplates: [nowhere.yaml]\ntask: t", 2, "nowhere.yaml: No such file"),
        ("agent: chat\nfor_each: {input: '*.nothing', task: t}", 2, "no text file matches *.nothing"),
        ("agent: [", 2, "is not valid YAML or JSON"),
        ("", 2, "is empty: a run file names an `agent`"),
        ("name: a\nmodels: [offline/extract]", 2, "store it with `muster agent apply bad.yaml`"),
        (&long, 2, "a task has at most 32768 bytes, this one has 40000"),
    ]
    .into_iter()
    .map(|(text, code, wanted)| (text.to_owned(), code, wanted))
    .collect()
}

#[tokio::test]
async fn a_run_that_cannot_be_is_refused_in_words_and_leaves_nothing() -> anyhow::Result<()> {
    let place = Place::embedded().await?;
    for (text, code, wanted) in run_files() {
        place.write("bad.yaml", &text)?;
        let said = place.muster("run bad.yaml").await?;
        let why = said.refusal(code).with_context(|| text.chars().take(200).collect::<String>())?;
        ensure!(why.contains(wanted) && why.starts_with("muster: "), "{wanted}: {why}");
    }
    place.write("bad.yaml", b"agent: chat\ntask: \"\xff\xfe\"\n")?;
    ensure!(place.muster("run bad.yaml").await?.refusal(2)?.contains("UTF-8"));
    let runs = place.json("run list").await?;
    ensure!(runs == serde_json::json!([]), "something was spawned: {runs}");
    Ok(())
}

#[tokio::test]
async fn a_template_that_cannot_be_is_refused_with_every_fault() -> anyhow::Result<()> {
    let place = Place::embedded().await?;
    let before = place.json("agent list").await?;
    for (text, wanted) in [
        ("name: x\nmodels: [foo/bar]", vec!["/models/0: unknown model `foo/bar`; known: "]),
        ("name: x\nmodels: [offline/extract]\nmode: multi_step\ntools: [nosuch]", vec!["/tools/0: unknown tool `nosuch`; known: "]),
        ("name: X Y\nmodels: []\nmax_steps: 0\nmode: foo", vec!["/name: ", "/models: ", "/max_steps: ", "/mode: "]),
        ("- a", vec!["a template is an object"]),
        ("agent: a\ntask: t", vec!["run it with `muster run bad.yaml`"]),
    ] {
        place.write("bad.yaml", text)?;
        let said = place.muster("agent apply examples/templates/file-reader.yaml bad.yaml").await?;
        let why = said.refusal(2).with_context(|| text.to_owned())?;
        ensure!(wanted.iter().all(|wanted| why.contains(wanted)) && why.contains("bad.yaml"), "{wanted:?}: {why}");
    }
    let names = |list: &serde_json::Value| list.as_array().map(|all| all.iter().filter(|one| one["spec"]["name"] != "file-reader").count());
    ensure!(names(&place.json("agent list").await?) == names(&before), "a faulty template was stored");
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_or_of_another_kind_is_said_plainly() -> anyhow::Result<()> {
    let place = Place::embedded().await?;
    for (line, code, wanted) in [
        ("agent show nosuch".to_owned(), 1, "muster: there is no template nosuch (not_found)".to_owned()),
        ("agent show chat@9".to_owned(), 1, "there is no template chat@9".to_owned()),
        (format!("run show {NO_RUN}"), 1, format!("muster: there is no {NO_RUN} (not_found)")),
        (format!("run result {NO_RUN}"), 1, format!("there is no {NO_RUN}")),
        (format!("run watch {NO_RUN}"), 1, format!("there is no {NO_RUN}")),
        (format!("run cancel {NO_RUN}"), 1, format!("there is no {NO_RUN}")),
        (format!("instance show {NO_INSTANCE}"), 1, format!("muster: there is no {NO_INSTANCE} (not_found)")),
        (format!("instance events {NO_INSTANCE}"), 1, format!("there is no {NO_INSTANCE}")),
        (format!("run show {NO_INSTANCE}"), 2, "is not a run id: expected `run_`".to_owned()),
        (format!("instance show {NO_RUN}"), 2, "is not an instance id: expected `ins_`".to_owned()),
        ("run show run_12".to_owned(), 2, "followed by 32 hexadecimal digits".to_owned()),
        ("run listt".to_owned(), 2, "no such command: list, show".to_owned()),
        ("run nowhere.yaml".to_owned(), 2, "nowhere.yaml: No such file".to_owned()),
        ("run list --limit 0".to_owned(), 2, "0 is not in 1..=1000".to_owned()),
        ("run examples/summarize.yaml --set nothing=1".to_owned(), 2, "the run file has no {{nothing}}".to_owned()),
        ("run examples/scripted.yaml --input *".to_owned(), 2, "--input is for run files with `for_each`".to_owned()),
        ("run examples/summarize.yaml --input docs/*.md --model no/model".to_owned(), 2, "unknown model `no/model`".to_owned()),
    ] {
        let said = place.muster(&line).await?;
        let why = said.refusal(code).with_context(|| line.clone())?;
        ensure!(why.contains(&wanted), "{line}: {wanted}: {why}");
    }
    Ok(())
}

#[tokio::test]
async fn commands_without_a_server_or_with_settings_that_cannot_be_say_what_to_do() -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("typo.toml", "concurency = 3\n")?;
    home.write("weak.toml", "[engine]\nproviders = [{ name = \"x\" }]\n")?;
    for (line, code, wanted) in [
        ("agent list --url http://127.0.0.1:9", 3, "start one with `muster dev`"),
        ("agent list --url nowhere", 2, "write http://host:port"),
        ("agent list --data nowhere", 2, "is not the data directory of a fleet"),
        ("run examples/scripted.yaml --data data --detach", 2, "--detach needs a server"),
        ("api", 2, "set MUSTER_DATABASE_URL"),
        ("api --database-url postgres://h/d", 2, "set MUSTER_REDIS_URL"),
        ("worker --database-url postgres://h/d --redis-url nowhere", 2, "redis_url"),
        ("migrate", 2, "set MUSTER_DATABASE_URL"),
        ("migrate --database-url mysql://u:secret@h/d", 2, "begins with `postgres://` or `sqlite:`"),
        ("dev --listen nowhere", 2, "cannot listen on nowhere"),
        ("dev --concurrency 0", 2, "a worker needs at least one slot"),
        ("dev --script nowhere.yaml", 2, "nowhere.yaml"),
        ("dev --log a=b=c", 2, "the log filter `a=b=c` is not understood"),
        ("dev --artifacts-read nowhere", 2, "no folder"),
        ("dev --otlp-endpoint nowhere", 2, "otlp_endpoint"),
        ("dev --config typo.toml", 2, "unknown settings: concurency"),
        ("dev --config weak.toml", 2, "/providers/0/base_url"),
        ("dev --config nowhere.toml", 2, "nowhere.toml"),
        ("demo --input docs/*.md --out nowhere/report.md", 2, "nowhere/report.md"),
        ("frobnicate", 2, "unrecognized subcommand"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = home.muster(&words).await?;
        let why = said.refusal(code).with_context(|| line.to_owned())?;
        ensure!(why.contains(wanted) && !why.contains("secret"), "{line}: {wanted}: {why}");
    }
    Ok(())
}

#[tokio::test]
async fn requests_that_cannot_be_are_problems_with_stable_codes() -> anyhow::Result<()> {
    let place = Place::embedded().await?;
    let client = place.client();
    let spawn = "/v1/agents/chat/spawn";
    let post = |body: Vec<u8>| client.request(Method::POST, spawn).header("content-type", "application/json").body(body);
    let too_large = vec![b' '; 33 * 1024 * 1024];
    for (request, status, code) in [
        (post(b"{\"task\": ".to_vec()), 400, "bad_json"),
        (post(b"{\"task\": \"\xff\"}".to_vec()), 400, "bad_utf8"),
        (post(b"[]".to_vec()), 422, "spawn_invalid"),
        (post(b"{\"task\": 5}".to_vec()), 422, "spawn_invalid"),
        (post(br#"{"task": "a\u0000b"}"#.to_vec()), 422, "spawn_invalid"),
        (post(too_large), 413, "body_too_large"),
        (client.request(Method::POST, spawn).body("task=x"), 415, "unsupported_media_type"),
        (client.request(Method::DELETE, "/v1/agents/chat"), 405, "method_not_allowed"),
        (client.request(Method::GET, "/v1/nothing"), 404, "route_not_found"),
        (client.request(Method::GET, &format!("/v1/runs/{NO_RUN}")), 404, "not_found"),
        (client.request(Method::GET, &format!("/v1/runs/{NO_INSTANCE}")), 400, "bad_id"),
        (client.request(Method::GET, "/v1/runs?limit=0"), 400, "bad_query"),
        (client.request(Method::GET, "/v1/runs?after=nonsense"), 400, "bad_query"),
    ] {
        let (got, problem) = client.send(request).await.with_context(|| code.to_owned())?;
        ensure!(got == status && problem["code"] == code, "{status} {code}: {got} {problem}");
        ensure!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    }
    ensure!(place.json("run list").await? == serde_json::json!([]), "something was spawned");

    let once = |task: &str| client.request(Method::POST, spawn).header("idempotency-key", "k").json(&serde_json::json!({ "task": task }));
    let (_, first) = client.send(once("x")).await?;
    let (status, again) = client.send(once("x")).await?;
    ensure!(status == 202 && id(&first, "run_id")? == id(&again, "run_id")?, "{first} {again}");
    let (status, problem) = client.send(once("y")).await?;
    ensure!(status == 409 && problem["code"] == "idempotency_key_reused", "{status} {problem}");
    Ok(())
}
