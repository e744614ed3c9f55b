//! Template versions.

use async_trait::async_trait;
use muster_shared::{
    catalog::{NameOrId, TemplateSelector, TemplateVersion},
    hash::Hash32,
    ids::{ProjectId, TeamId, TemplateId},
    store::{Catalog, StoreError},
    template::Template,
    time::Timestamp,
};
use sqlx::SqliteConnection;

use super::{SqliteStore, sql::db};
use crate::rows::{self, Reader};

#[async_trait]
impl Catalog for SqliteStore {
    async fn put_template(&self, team: TeamId, id: TemplateId, spec: &Template, activate: bool) -> Result<TemplateVersion, StoreError> {
        let json = spec.canonical_json();
        if rows::has_nul(&json) {
            return Err(StoreError::Refused("the template contains a NUL character".to_owned()));
        }
        let mut tx = self.begin().await?;
        let now = self.now();
        let newest = newest(&mut tx, team, &spec.name).await?;
        let (id, version) = match newest {
            Some((known, version, hash)) if hash == spec.hash() => (known, version),
            older => {
                let next = older.map_or((id, 1), |(known, version, _)| (known, version + 1));
                insert_version(&mut tx, team, next, spec, &json, now).await?;
                next
            }
        };
        if activate {
            activate_version(&mut tx, id, version, now).await?;
        }
        let stored = version_of(&mut tx, team, id, version).await?;
        tx.commit().await.map_err(db)?;
        stored.ok_or_else(|| StoreError::Corrupt(format!("agent_templates: version {version} of {id} was stored, but is not there")))
    }

    async fn activate(&self, team: TeamId, id: TemplateId, version: i32) -> Result<TemplateVersion, StoreError> {
        let mut tx = self.begin().await?;
        if version_of(&mut tx, team, id, version).await?.is_none() {
            return Err(StoreError::NotFound(format!("template {id}@{version}")));
        }
        activate_version(&mut tx, id, version, self.now()).await?;
        let active = version_of(&mut tx, team, id, version).await?;
        tx.commit().await.map_err(db)?;
        active.ok_or_else(|| StoreError::NotFound(format!("template {id}@{version}")))
    }

    async fn template(&self, team: TeamId, selector: &TemplateSelector) -> Result<TemplateVersion, StoreError> {
        let (name, id) = match &selector.which {
            NameOrId::Name(name) => (Some(name.as_str()), None),
            NameOrId::Id(id) => (None, Some(id.0)),
        };
        let row = sqlx::query(
            "-- template
             SELECT t.id, t.version, t.spec_json, t.spec_hash, a.version IS NOT NULL AS active, t.created_at
             FROM agent_templates t
             LEFT JOIN template_activations a ON a.template_id = t.id AND a.environment = 'prod' AND a.version = t.version
             WHERE t.team_id = ?1 AND (t.name = ?2 OR t.id = ?3) AND CASE WHEN ?4 IS NULL THEN a.version IS NOT NULL ELSE t.version = ?4 END",
        )
        .bind(team.0)
        .bind(name)
        .bind(id)
        .bind(selector.version)
        .fetch_optional(&self.readers)
        .await
        .map_err(db)?;
        row.as_ref().map(rows::template_version).transpose()?.ok_or_else(|| StoreError::NotFound(format!("template {selector}")))
    }

    async fn templates(&self, team: TeamId) -> Result<Vec<TemplateVersion>, StoreError> {
        let found = sqlx::query(
            "-- templates
             SELECT t.id, t.version, t.spec_json, t.spec_hash, a.version IS NOT NULL AS active, t.created_at
             FROM agent_templates t
             LEFT JOIN template_activations a ON a.template_id = t.id AND a.environment = 'prod'
             WHERE t.team_id = ?1
               AND t.version = coalesce(a.version, (SELECT max(version) FROM agent_templates n WHERE n.id = t.id))
             ORDER BY t.name",
        )
        .bind(team.0)
        .fetch_all(&self.readers)
        .await
        .map_err(db)?;
        found.iter().map(rows::template_version).collect()
    }
}

/// Id of the template with this name, and its newest version with its hash.
async fn newest(conn: &mut SqliteConnection, team: TeamId, name: &str) -> Result<Option<(TemplateId, i32, Hash32)>, StoreError> {
    let row = sqlx::query(
        "-- newest_version
         SELECT id, version, spec_hash FROM agent_templates WHERE team_id = ?1 AND name = ?2 ORDER BY version DESC LIMIT 1",
    )
    .bind(team.0)
    .bind(name)
    .fetch_optional(conn)
    .await
    .map_err(db)?;
    let Some(row) = row else { return Ok(None) };
    let at = Reader::new("agent_templates", &row);
    Ok(Some((TemplateId(at.uuid("id")?), at.i32("version")?, at.hash("spec_hash")?)))
}

async fn insert_version(
    conn: &mut SqliteConnection,
    team: TeamId,
    (id, version): (TemplateId, i32),
    spec: &Template,
    json: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "-- insert_template
         INSERT INTO agent_templates (id, version, team_id, project_id, name, spec_json, spec_hash, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)",
    )
    .bind(id.0)
    .bind(version)
    .bind(team.0)
    .bind(ProjectId::DEFAULT.0)
    .bind(&spec.name)
    .bind(json)
    .bind(spec.hash().0.to_vec())
    .bind(now.micros())
    .execute(conn)
    .await
    .map_err(db)?;
    Ok(())
}

async fn activate_version(conn: &mut SqliteConnection, id: TemplateId, version: i32, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "-- activate
         INSERT INTO template_activations (template_id, environment, version, activated_at) VALUES (?1, 'prod', ?2, ?3)
         ON CONFLICT (template_id, environment) DO UPDATE SET version = excluded.version, activated_at = excluded.activated_at",
    )
    .bind(id.0)
    .bind(version)
    .bind(now.micros())
    .execute(conn)
    .await
    .map_err(db)?;
    Ok(())
}

async fn version_of(
    conn: &mut SqliteConnection,
    team: TeamId,
    id: TemplateId,
    version: i32,
) -> Result<Option<TemplateVersion>, StoreError> {
    let row = sqlx::query(
        "-- template_version
         SELECT t.id, t.version, t.spec_json, t.spec_hash, a.version IS NOT NULL AS active, t.created_at
         FROM agent_templates t
         LEFT JOIN template_activations a ON a.template_id = t.id AND a.environment = 'prod' AND a.version = t.version
         WHERE t.team_id = ?1 AND t.id = ?2 AND t.version = ?3",
    )
    .bind(team.0)
    .bind(id.0)
    .bind(version)
    .fetch_optional(conn)
    .await
    .map_err(db)?;
    row.as_ref().map(rows::template_version).transpose()
}
