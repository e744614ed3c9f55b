//! Template versions as they are stored.

use serde::{Deserialize, Serialize};

use crate::{hash::Hash32, ids::TemplateId, policy::TemplateRef, template::Template, time::Timestamp};

/// One immutable version of a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateVersion {
    /// The template, in all its versions.
    pub id: TemplateId,
    /// From 1.
    pub version: i32,
    /// What it says.
    pub spec: Template,
    /// Its content hash.
    pub hash: Hash32,
    /// Whether new instances use it unless they name another.
    pub active: bool,
    /// When it was stored.
    pub created_at: Timestamp,
}

impl TemplateVersion {
    /// The reference that policies carry.
    pub fn reference(&self) -> TemplateRef {
        TemplateRef { id: self.id, name: self.spec.name.clone(), version: self.version }
    }
}

/// How a caller names a template: `researcher`, `researcher@3`, `tpl_…` or `tpl_…@3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSelector {
    /// Name or id.
    pub which: NameOrId,
    /// The active version when absent.
    pub version: Option<i32>,
}

/// Name or id of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    /// Unique within its team.
    Name(String),
    /// Unique everywhere.
    Id(TemplateId),
}

impl std::str::FromStr for TemplateSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (which, version) = match text.split_once('@') {
            Some((which, version)) => {
                let version = version.parse::<i32>().ok().filter(|v| *v > 0);
                (which, Some(version.ok_or_else(|| format!("`{text}`: a version is a positive number, as in `researcher@3`"))?))
            }
            None => (text, None),
        };
        let which = match which.parse::<TemplateId>() {
            Ok(id) => NameOrId::Id(id),
            Err(_) if which.is_empty() => return Err("a template is named `name`, `name@version` or `tpl_…`".to_owned()),
            Err(error) if which.starts_with(TemplateId::PREFIX) => return Err(error.to_string()),
            Err(_) => NameOrId::Name(which.to_owned()),
        };
        Ok(Self { which, version })
    }
}

impl std::fmt::Display for TemplateSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.which {
            NameOrId::Name(name) => f.write_str(name)?,
            NameOrId::Id(id) => write!(f, "{id}")?,
        }
        self.version.map_or(Ok(()), |version| write!(f, "@{version}"))
    }
}
