//! The `kv` tool's store: rows private to an instance.

use async_trait::async_trait;
use muster_shared::{ids::InstanceId, store::StoreError, tool::KeyValue};
use serde_json::Value;

use super::{SqliteStore, sql::db};
use crate::rows::{self, Reader};

#[async_trait]
impl KeyValue for SqliteStore {
    async fn kv_get(&self, instance: InstanceId, key: &str) -> Result<Option<Value>, StoreError> {
        let row = sqlx::query("-- kv_get\nSELECT instance_id, value FROM tool_kv WHERE instance_id = ?1 AND key = ?2")
            .bind(instance.0)
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(db)?;
        row.map(|row| Reader::new("tool_kv", &row).json("value")).transpose()
    }

    async fn kv_put(&self, instance: InstanceId, key: &str, value: &Value) -> Result<(), StoreError> {
        let text = value.to_string();
        if let Some(why) = rows::refused_text("the key", key).or_else(|| rows::refused_text("the value", &text)) {
            return Err(StoreError::Refused(why));
        }
        sqlx::query(
            "-- kv_put
             INSERT INTO tool_kv (instance_id, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (instance_id, key) DO UPDATE SET value = excluded.value",
        )
        .bind(instance.0)
        .bind(key)
        .bind(text)
        .execute(&self.writer)
        .await
        .map_err(db)?;
        Ok(())
    }

    async fn kv_keys(&self, instance: InstanceId) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar("-- kv_keys\nSELECT key FROM tool_kv WHERE instance_id = ?1 ORDER BY key")
            .bind(instance.0)
            .fetch_all(&self.readers)
            .await
            .map_err(db)
    }
}
