//! Template versions, and the store behind the `kv` tool.

use muster_shared::{
    ids::{InstanceId, TeamId, TemplateId},
    store::StoreError,
    template::Template,
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Database,
    bed::{Bed, TEAM},
};

fn template(name: &str, objective: &str) -> Template {
    serde_json::from_value(json!({"name": name, "objective": objective, "models": ["offline/extract"]})).expect("a template")
}

fn id(n: u128) -> TemplateId {
    TemplateId(Uuid::from_u128(n))
}

/// A stored version never changes; the same content is not stored twice; activation is explicit.
pub async fn versions_are_immutable_and_activated_explicitly(database: &impl Database) {
    let store = Bed::new(database).store;
    let (one, two) = (template("researcher", "find"), template("researcher", "find more"));
    let first = store.put_template(TEAM, id(1), &one, true).await.expect("stored");
    assert_eq!((first.id, first.version, first.active, first.hash, &first.spec), (id(1), 1, true, one.hash(), &one));
    let again = store.put_template(TEAM, id(9), &one, false).await.expect("found");
    assert_eq!(again, first);
    let second = store.put_template(TEAM, id(9), &two, false).await.expect("stored");
    assert_eq!((second.id, second.version, second.active), (id(1), 2, false), "the name decides, not the id given");
    let get = async |selector: &str| store.template(TEAM, &selector.parse().expect("a selector")).await.expect("found");
    assert_eq!(get("researcher").await, first);
    assert_eq!(get("researcher@2").await, second);
    let active = store.activate(TEAM, id(1), 2).await.expect("activated");
    assert_eq!((active.version, active.active), (2, true));
    assert_eq!(get(&id(1).to_string()).await.version, 2);
    assert!(!get("researcher@1").await.active);
    let back = store.put_template(TEAM, id(9), &one, true).await.expect("stored");
    assert_eq!((back.version, back.active), (3, true), "only the newest is compared");
    let idempotent = store.put_template(TEAM, id(9), &one, true).await.expect("found");
    assert_eq!(idempotent.version, 3);
}

/// The newest one where none is active.
pub async fn templates_are_listed_by_name_with_their_active_version(database: &impl Database) {
    let store = Bed::new(database).store;
    store.put_template(TEAM, id(2), &template("b", "x"), true).await.expect("stored");
    store.put_template(TEAM, id(2), &template("b", "y"), false).await.expect("stored");
    store.put_template(TEAM, id(1), &template("a", "x"), false).await.expect("stored");
    store.put_template(TEAM, id(1), &template("a", "y"), false).await.expect("stored");
    let listed = store.templates(TEAM).await.expect("listed");
    let shown: Vec<_> = listed.iter().map(|version| (version.spec.name.as_str(), version.version, version.active)).collect();
    assert_eq!(shown, [("a", 2, false), ("b", 1, true)]);
    assert!(store.templates(TeamId(Uuid::from_u128(7))).await.expect("listed").is_empty());
}

/// Errors say what was asked for.
pub async fn what_is_not_there_is_named(database: &impl Database) {
    let store = Bed::new(database).store;
    store.put_template(TEAM, id(1), &template("researcher", "x"), false).await.expect("stored");
    for selector in ["nobody", "researcher@7", "researcher", &id(5).to_string()] {
        let missing = store.template(TEAM, &selector.parse().expect("a selector")).await;
        assert!(matches!(&missing, Err(StoreError::NotFound(what)) if what.contains(selector)), "{missing:?}");
    }
    assert!(matches!(store.activate(TEAM, id(1), 2).await, Err(StoreError::NotFound(_))));
    assert!(matches!(store.activate(TEAM, id(2), 1).await, Err(StoreError::NotFound(_))));
}

/// Every operation is idempotent, and nobody sees another's (I11).
pub async fn the_kv_store_is_private_to_an_instance(database: &impl Database) {
    let store = Bed::new(database).store;
    let (one, other) = (InstanceId(Uuid::from_u128(1)), InstanceId(Uuid::from_u128(2)));
    assert_eq!(store.kv_get(one, "k").await, Ok(None));
    for _ in 0..2 {
        store.kv_put(one, "k", &json!({"n": 1})).await.expect("set");
    }
    store.kv_put(one, "a", &json!("first")).await.expect("set");
    store.kv_put(one, "k", &json!([1, null, "ß"])).await.expect("overwritten");
    assert_eq!(store.kv_get(one, "k").await, Ok(Some(json!([1, null, "ß"]))));
    assert_eq!(store.kv_keys(one).await, Ok(vec!["a".to_owned(), "k".to_owned()]));
    assert_eq!(store.kv_get(other, "k").await, Ok(None));
    assert_eq!(store.kv_keys(other).await, Ok(Vec::new()));
    assert!(matches!(store.kv_put(one, "k", &json!("a\0b")).await, Err(StoreError::Refused(_))));
}
