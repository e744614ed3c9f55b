//! stub
use super::Template;

/// The templates that ship with the product.
pub fn presets() -> Vec<Template> {
    Vec::new()
}
