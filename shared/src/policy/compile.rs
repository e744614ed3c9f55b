//! Template version + overrides -> policy.
use super::{Overrides, Policy};
use crate::{catalog::TemplateVersion, error::Faults};

/// Compiles a policy; every override that would widen is a fault.
pub fn compile(version: &TemplateVersion, overrides: &Overrides) -> Result<Policy, Faults> {
    let _ = (version, overrides);
    Err(Faults(vec![]))
}
