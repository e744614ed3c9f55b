//! Template versions, and the `kv` tool's rows.

use async_trait::async_trait;
use muster_shared::{
    catalog::{NameOrId, TemplateSelector, TemplateVersion},
    hash::Hash32,
    ids::{InstanceId, ProjectId, TeamId, TemplateId},
    store::{Catalog, StoreError},
    template::Template,
    tool::KeyValue,
};
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    PostgresStore,
    errors::{Failure, retrying},
};
use crate::rows::{self, Reader};

#[async_trait]
impl Catalog for PostgresStore {
    async fn put_template(&self, team: TeamId, id: TemplateId, spec: &Template, activate: bool) -> Result<TemplateVersion, StoreError> {
        if rows::has_nul(&spec.canonical_json()) {
            return Err(StoreError::Refused("the template contains a NUL character".to_owned()));
        }
        Ok(retrying(|| put(self, team, id, spec, activate)).await?)
    }

    async fn activate(&self, team: TeamId, id: TemplateId, version: i32) -> Result<TemplateVersion, StoreError> {
        let mut tx = self.pool.begin().await.map_err(Failure::from)?;
        let missing = || StoreError::NotFound(format!("template {id}@{version}"));
        version_of(&mut tx, team, id, version).await?.ok_or_else(missing)?;
        activate_version(&mut tx, id, version).await?;
        let active = version_of(&mut tx, team, id, version).await?.ok_or_else(missing)?;
        tx.commit().await.map_err(Failure::from)?;
        Ok(active)
    }

    async fn template(&self, team: TeamId, selector: &TemplateSelector) -> Result<TemplateVersion, StoreError> {
        let (name, id) = match &selector.which {
            NameOrId::Name(name) => (Some(name.as_str()), None),
            NameOrId::Id(id) => (None, Some(id.0)),
        };
        let row = sqlx::query(TEMPLATE)
            .bind(team.0)
            .bind(name)
            .bind(id)
            .bind(selector.version)
            .fetch_optional(&self.pool)
            .await
            .map_err(Failure::from)?;
        row.as_ref().map(rows::template_version).transpose()?.ok_or_else(|| StoreError::NotFound(format!("template {selector}")))
    }

    async fn templates(&self, team: TeamId) -> Result<Vec<TemplateVersion>, StoreError> {
        let found = sqlx::query(TEMPLATES).bind(team.0).fetch_all(&self.pool).await.map_err(Failure::from)?;
        found.iter().map(rows::template_version).collect()
    }
}

const TEMPLATE: &str = "-- template
SELECT t.id, t.version, t.spec_json::text AS spec_json, t.spec_hash, a.version IS NOT NULL AS active,
       (extract(epoch FROM t.created_at) * 1000000)::bigint AS created_at
FROM agent_templates t
LEFT JOIN template_activations a ON a.template_id = t.id AND a.environment = 'prod' AND a.version = t.version
WHERE t.team_id = $1 AND (t.name = $2 OR t.id = $3) AND CASE WHEN $4::integer IS NULL THEN a.version IS NOT NULL ELSE t.version = $4 END";

const TEMPLATES: &str = "-- templates
SELECT t.id, t.version, t.spec_json::text AS spec_json, t.spec_hash, a.version IS NOT NULL AS active,
       (extract(epoch FROM t.created_at) * 1000000)::bigint AS created_at
FROM agent_templates t
LEFT JOIN template_activations a ON a.template_id = t.id AND a.environment = 'prod'
WHERE t.team_id = $1 AND t.version = coalesce(a.version, (SELECT max(n.version) FROM agent_templates n WHERE n.id = t.id))
ORDER BY t.name";

/// One transaction: of racing puts of one name each sees what the one before it stored.
async fn put(store: &PostgresStore, team: TeamId, id: TemplateId, spec: &Template, activate: bool) -> Result<TemplateVersion, Failure> {
    let mut tx = store.pool.begin().await?;
    sqlx::query("-- lock_template_name\nSELECT pg_advisory_xact_lock(hashtextextended($1 || $2, 0))")
        .bind(team.to_string())
        .bind(&spec.name)
        .execute(&mut *tx)
        .await?;
    let (id, version) = match newest(&mut tx, team, &spec.name).await? {
        Some((id, version, hash)) if hash == spec.hash() => (id, version),
        Some((id, version, _)) => (id, insert_version(&mut tx, team, id, version + 1, spec).await?),
        None => (id, insert_version(&mut tx, team, id, 1, spec).await?),
    };
    if activate {
        activate_version(&mut tx, id, version).await?;
    }
    let stored = version_of(&mut tx, team, id, version).await?;
    tx.commit().await?;
    let missing = || StoreError::Corrupt(format!("agent_templates: version {version} of {id} was stored, but is not there"));
    Ok(stored.ok_or_else(missing)?)
}

/// Id, newest version and its hash of the template with this name.
async fn newest(tx: &mut PgConnection, team: TeamId, name: &str) -> Result<Option<(TemplateId, i32, Hash32)>, Failure> {
    let row = sqlx::query(NEWEST_VERSION).bind(team.0).bind(name).fetch_optional(tx).await?;
    let Some(row) = row else { return Ok(None) };
    let at = Reader::new("agent_templates", &row);
    Ok(Some((TemplateId(at.uuid("id")?), at.i32("version")?, at.hash("spec_hash")?)))
}

const NEWEST_VERSION: &str = "-- newest_version
SELECT id, version, spec_hash FROM agent_templates WHERE team_id = $1 AND name = $2 ORDER BY version DESC LIMIT 1";

async fn insert_version(tx: &mut PgConnection, team: TeamId, id: TemplateId, version: i32, spec: &Template) -> Result<i32, Failure> {
    sqlx::query(INSERT_TEMPLATE)
        .bind(id.0)
        .bind(version)
        .bind(team.0)
        .bind(ProjectId::DEFAULT.0)
        .bind(&spec.name)
        .bind(spec.canonical_json())
        .bind(spec.hash().0.as_slice())
        .execute(tx)
        .await?;
    Ok(version)
}

const INSERT_TEMPLATE: &str = "-- insert_template
INSERT INTO agent_templates (id, version, team_id, project_id, name, spec_json, spec_hash) VALUES ($1, $2, $3, $4, $5, $6::json, $7)";

async fn activate_version(tx: &mut PgConnection, id: TemplateId, version: i32) -> Result<(), Failure> {
    sqlx::query(ACTIVATE).bind(id.0).bind(version).execute(tx).await?;
    Ok(())
}

// New instances use it in production; the other environments are for a later issue.
const ACTIVATE: &str = "-- activate_template
INSERT INTO template_activations (template_id, environment, version) VALUES ($1, 'prod', $2)
ON CONFLICT (template_id, environment) DO UPDATE SET version = excluded.version, activated_at = now()";

async fn version_of(tx: &mut PgConnection, team: TeamId, id: TemplateId, version: i32) -> Result<Option<TemplateVersion>, Failure> {
    let row = sqlx::query(TEMPLATE).bind(team.0).bind(None::<&str>).bind(id.0).bind(Some(version)).fetch_optional(tx).await?;
    Ok(row.as_ref().map(rows::template_version).transpose()?)
}

#[async_trait]
impl KeyValue for PostgresStore {
    async fn kv_get(&self, instance: InstanceId, key: &str) -> Result<Option<Value>, StoreError> {
        let row = sqlx::query("-- kv_get\nSELECT instance_id, value::text AS value FROM tool_kv WHERE instance_id = $1 AND key = $2")
            .bind(instance.0)
            .bind(key)
            .fetch_optional(&self.pool)
            .await
            .map_err(Failure::from)?;
        row.map(|row| Reader::new("tool_kv", &row).json("value")).transpose()
    }

    async fn kv_put(&self, instance: InstanceId, key: &str, value: &Value) -> Result<(), StoreError> {
        let text = value.to_string();
        if let Some(why) = rows::refused_text("the key", key).or_else(|| rows::refused_text("the value", &text)) {
            return Err(StoreError::Refused(why));
        }
        sqlx::query(KV_PUT).bind(instance.0).bind(key).bind(text).execute(&self.pool).await.map_err(Failure::from)?;
        Ok(())
    }

    async fn kv_keys(&self, instance: InstanceId) -> Result<Vec<String>, StoreError> {
        let keys = sqlx::query_scalar("-- kv_keys\nSELECT key FROM tool_kv WHERE instance_id = $1 ORDER BY key")
            .bind(instance.0)
            .fetch_all(&self.pool)
            .await
            .map_err(Failure::from)?;
        Ok(keys)
    }
}

const KV_PUT: &str = "-- kv_put
INSERT INTO tool_kv (instance_id, key, value) VALUES ($1, $2, $3::json)
ON CONFLICT (instance_id, key) DO UPDATE SET value = excluded.value";
