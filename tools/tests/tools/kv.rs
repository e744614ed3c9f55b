//! `kv_get` and `kv_put`.

use muster_shared::error::Retryable;
use serde_json::json;

use crate::support::{Fixture, lease};

#[tokio::test]
async fn a_value_is_found_again_by_its_instance_and_by_no_other() {
    let fixture = Fixture::builtin(None);
    let (mine, other) = (lease(1, 1), lease(1, 2));
    let put = json!({"key": "notes", "value": {"seen": [1, null]}});
    for _ in 0..2 {
        assert_eq!(fixture.call(mine, "kv_put", put.clone()).await, Ok(json!({"key": "notes", "bytes": 17})));
    }
    let get = json!({"key": "notes"});
    let found = json!({"key": "notes", "found": true, "value": {"seen": [1, null]}});
    assert_eq!(fixture.call(mine, "kv_get", get.clone()).await, Ok(found));
    let none = json!({"key": "notes", "found": false, "value": null});
    assert_eq!(fixture.call(other, "kv_get", get).await, Ok(none));
}

#[tokio::test]
async fn keys_and_values_are_bounded() {
    let fixture = Fixture::builtin(None);
    for arguments in [
        json!({"key": "", "value": 1}),
        json!({"key": "k".repeat(257), "value": 1}),
        json!({"key": "k", "value": "v".repeat(32 * 1024 - 1)}),
        json!({"key": "k", "value": "\0"}),
        json!({"key": "k"}),
    ] {
        assert_eq!(fixture.code("kv_put", arguments).await, "invalid_arguments");
    }
    let largest = json!({"key": "ü".repeat(256), "value": "v".repeat(32 * 1024 - 2)});
    assert!(fixture.call(lease(1, 1), "kv_put", largest).await.is_ok());
}

#[tokio::test]
async fn a_store_that_is_away_is_tried_again_and_its_words_stay_inside() {
    let fixture = Fixture::builtin(None);
    let failure = fixture.call(lease(1, 1), "kv_get", json!({"key": "unreachable"})).await.expect_err("it is away");
    assert_eq!((failure.error.code.as_str(), failure.retry), ("store_unavailable", Retryable::Backoff));
    assert!(!failure.error.message.contains("hunter2"));
}
