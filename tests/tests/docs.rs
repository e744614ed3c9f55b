//! Documents stay true: commands parse, paths exist, examples run, and settings are neither missing nor invented.

#[path = "docs/commands.rs"]
mod commands;
#[path = "docs/markdown.rs"]
mod markdown;
#[path = "docs/paths.rs"]
mod paths;
#[path = "docs/settings.rs"]
mod settings;
