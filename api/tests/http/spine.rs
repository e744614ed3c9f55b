//! Templates and spawns on the embedded store.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{App, template};

#[tokio::test]
async fn a_template_is_201_when_new_and_200_when_its_content_is_there() {
    let app = App::new().await;
    let first = app.post("/v1/agents", &template("scout")).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    assert_eq!(first.header("location"), Some("/v1/agents/scout@1"));
    let again = app.post_once("/v1/agents", "key-1", &json!({"template": template("scout")})).await;
    assert_eq!((again.status, &again.json()["hash"]), (StatusCode::OK, &first.json()["hash"]), "{again:?}");
    let mut changed = template("scout");
    changed["objective"] = json!("Say less.");
    let second = app.post("/v1/agents", &changed).await;
    assert_eq!((second.status, &second.json()["version"]), (StatusCode::CREATED, &json!(2)), "{second:?}");
}

#[tokio::test]
async fn a_template_is_shown_by_name_version_and_id_and_activated_explicitly() {
    let app = App::new().await;
    let first = app.template("scout").await.json();
    let mut changed = template("scout");
    changed["objective"] = json!("Say less.");
    let second = app.post("/v1/agents", &json!({"template": changed, "activate": false})).await.json();
    assert_eq!((&second["version"], &second["active"]), (&json!(2), &json!(false)));
    let id = first["id"].as_str().unwrap();
    for (named, version) in [("scout", 1), ("scout@2", 2), (id, 1), (&*format!("{id}@2"), 2)] {
        let shown = app.get(&format!("/v1/agents/{named}")).await.json();
        assert_eq!((&shown["version"], &shown["id"]), (&json!(version), &json!(id)), "{named}");
    }
    let activated = app.post("/v1/agents/scout/activate", &json!({"version": 2})).await;
    assert_eq!((activated.status, &activated.json()["active"]), (StatusCode::OK, &json!(true)), "{activated:?}");
    assert_eq!(app.get("/v1/agents/scout").await.json()["version"], 2);
    let listed = app.get("/v1/agents").await.json();
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["items"][0]["version"]), (1, &json!(2)));
}

#[tokio::test]
async fn a_template_with_faults_is_422_with_all_of_them_and_nothing_is_stored() {
    let app = App::new().await;
    let faults = app.post("/v1/agents", &json!({"name": "Bad Name", "models": [], "max_steps": 99, "colour": "red"})).await;
    let pointers = faults.pointers("template_invalid");
    for wanted in ["/name", "/models", "/max_steps", "/colour"] {
        assert!(pointers.iter().any(|pointer| pointer == wanted), "{wanted} in {pointers:?}");
    }
    let mut unknown = template("scout");
    unknown["models"] = json!(["nobody/nothing"]);
    unknown["tools"] = json!(["teleport"]);
    unknown["mode"] = json!("multi_step");
    let pointers = app.post("/v1/agents", &unknown).await.pointers("template_invalid");
    assert!(pointers.iter().any(|p| p.starts_with("/models")) && pointers.iter().any(|p| p.starts_with("/tools")), "{pointers:?}");
    app.post("/v1/agents", &json!("just text")).await.problem(422, "template_invalid");
    assert_eq!(app.get("/v1/agents").await.json()["items"], json!([]));
}

#[tokio::test]
async fn what_does_not_exist_is_404() {
    let app = App::new().await;
    app.template("scout").await;
    let none = "0190a6c2f5f07000800000000000000a";
    for path in [
        "/v1/agents/nobody".to_owned(),
        "/v1/agents/scout@7".to_owned(),
        format!("/v1/agents/tpl_{none}"),
        format!("/v1/runs/run_{none}"),
        format!("/v1/runs/run_{none}/instances"),
        format!("/v1/runs/run_{none}/result"),
        format!("/v1/instances/ins_{none}"),
        format!("/v1/instances/ins_{none}/events"),
    ] {
        app.get(&path).await.problem(404, "not_found");
    }
    app.post("/v1/agents/nobody/spawn", &json!({"task": "x"})).await.problem(404, "not_found");
    app.post("/v1/agents/scout@7/spawn", &json!({"task": "x"})).await.problem(404, "not_found");
    app.post("/v1/agents/scout/activate", &json!({"version": 7})).await.problem(404, "not_found");
    app.post(&format!("/v1/runs/run_{none}/cancel"), &json!({})).await.problem(404, "not_found");
    app.post(&format!("/v1/instances/ins_{none}/cancel"), &json!({})).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_spawn_is_202_and_what_it_names_can_be_read_at_once() {
    let app = App::new().await;
    app.template("scout").await;
    let answer = app.post("/v1/agents/scout/spawn", &json!({"task": "Look.", "priority": 7})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let (run, instance) = (answer.json()["run_id"].clone(), answer.json()["instance_id"].clone());
    let run = format!("/v1/runs/{}", run.as_str().unwrap());
    assert_eq!(answer.header("location"), Some(&*run));
    let shown = app.get(&run).await.json();
    assert_eq!((&shown["status"], &shown["agent"], &shown["priority"]), (&json!("running"), &json!("scout@1"), &json!(7)), "{shown}");
    assert_eq!((&shown["tasks"], &shown["instances"]["total"]), (&json!(1), &json!(1)), "{shown}");
    let view = app.get(&format!("/v1/instances/{}", instance.as_str().unwrap())).await.json();
    assert_eq!((&view["status"], &view["task"]), (&json!("queued"), &json!("Look.")), "{view}");
    let events = app.get(&format!("/v1/instances/{}/events", instance.as_str().unwrap())).await;
    assert_eq!((events.status, events.json()), (StatusCode::OK, json!({"items": []})));
    let pending = app.get(&format!("{run}/result")).await;
    assert_eq!((pending.status, &pending.json()["status"]), (StatusCode::ACCEPTED, &json!("running")), "{pending:?}");
    assert_eq!(pending.header("retry-after"), Some("1"));
    assert_eq!(app.get("/v1/demand").await.json()["demand"], 1);
    assert_eq!(app.get("/readyz").await.json(), json!({"status": "ready"}));
}

#[tokio::test]
async fn the_same_key_and_body_get_the_same_answer_and_another_body_is_409() {
    let app = App::new().await;
    app.template("scout").await;
    let path = "/v1/agents/scout/spawn";
    let first = app.post_once(path, "order-1", &json!({"task": "Look."})).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::ACCEPTED, None), "{first:?}");
    let again = app.post_once(path, "order-1", &json!({"task": "Look."})).await;
    assert_eq!((again.status, again.json()), (StatusCode::ACCEPTED, first.json()), "{again:?}");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    app.post_once(path, "order-1", &json!({"task": "Look elsewhere."})).await.problem(409, "idempotency_key_reused");
    app.post_once("/v1/agents/scout@1/spawn", "order-1", &json!({"task": "Look."})).await.problem(409, "idempotency_key_reused");
    assert_eq!(app.get("/v1/runs").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_spawn_with_faults_is_422_with_pointers_and_nothing_is_spawned() {
    let app = App::new().await;
    app.template("scout").await;
    let mut armed = template("armed");
    armed["tools"] = json!(["calculator"]);
    armed["mode"] = json!("multi_step");
    assert!(app.post("/v1/agents", &armed).await.status.is_success());
    let cases: [(Value, &str); 11] = [
        (json!({}), ""),
        (json!({"task": ""}), "/task"),
        (json!({"task": "  \n"}), "/task"),
        (json!({"task": "x".repeat(33 * 1024)}), "/task"),
        (json!({"task": "a\u{0}b"}), "/task"),
        (json!({"tasks": ["fine", ""]}), "/tasks/1"),
        (json!({"task": "x", "overrides": {"max_steps": 20}}), "/overrides/max_steps"),
        (json!({"task": "x", "overrides": {"tools": ["calculator"]}}), "/overrides/tools"),
        (json!({"tasks": ["x", "y"], "reduce": {"agent": "nobody"}}), "/reduce/agent"),
        (json!({"tasks": ["x", "y"], "reduce": {"agent": "armed"}}), "/reduce/agent"),
        (json!({"task": "x", "priority": 10}), "/priority"),
    ];
    for (body, wanted) in cases {
        let answer = app.post("/v1/agents/scout/spawn", &body).await;
        let pointers = answer.pointers("spawn_invalid");
        assert!(pointers.iter().any(|pointer| pointer.starts_with(wanted)), "{wanted} in {pointers:?}: {answer:?}");
    }
    assert_eq!(app.get("/v1/runs").await.json()["items"], json!([]));
}

#[tokio::test]
async fn listings_are_read_page_by_page() {
    let app = App::new().await;
    app.template("scout").await;
    let mut spawned = Vec::new();
    for task in ["a", "b", "c"] {
        spawned.push(app.spawn("scout", &json!({"tasks": [task, "second", {"task": "third", "name": "n"}]})).await["run_id"].clone());
    }
    let mut read = Vec::new();
    let mut path = "/v1/runs?limit=2".to_owned();
    loop {
        let page = app.get(&path).await.json();
        read.extend(page["items"].as_array().unwrap().iter().map(|run| run["id"].clone()));
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/runs?limit=2&after={next}"),
            None => break,
        }
    }
    spawned.reverse();
    assert_eq!(read, spawned, "newest first");
    let instances = app.get(&format!("/v1/runs/{}/instances?limit=2", read[0].as_str().unwrap())).await.json();
    assert_eq!((&instances["items"][0]["task"], &instances["items"][1]["ordinal"]), (&json!("c"), &json!(1)), "{instances}");
    let rest = format!("/v1/runs/{}/instances?after={}", read[0].as_str().unwrap(), instances["next"].as_str().unwrap());
    assert_eq!(app.get(&rest).await.json()["items"][0]["name"], "n");
    for (listing, cursor) in [("/v1/runs", "nonsense"), (&*format!("/v1/runs/{}/instances", read[0].as_str().unwrap()), "run_1")] {
        app.get(&format!("{listing}?after={cursor}")).await.problem(400, "bad_query");
    }
}
