//! Paths that documents name are there.

use std::path::Path;

use anyhow::{Context as _, ensure};
use muster_tests::checkout;

use crate::markdown::{document, quoted};

/// What has a slash and is no path of the checkout, by its beginning.
const NO_PATHS: [&str; 13] = [
    "/",
    "LISTEN/",
    "application/",
    "docs/**",
    "docs/*.md",
    "env/",
    "hyper/",
    "llama-",
    "offline/",
    "openai/",
    "provider/",
    "some/dir",
    "text/",
];

/// The endings of names that are files even without a slash.
const FILES: [&str; 8] = [".md", ".rs", ".toml", ".sql", ".yaml", ".yml", ".json", ".proto"];

/// The words between backquotes that are paths of the checkout.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for quotation in quoted(text) {
        // `a/ b/ c/` names several; a command names files of its user.
        if quotation.split(' ').any(|word| matches!(word, "muster" | "make" | "curl" | "GET" | "POST" | "->" | "<-")) {
            continue;
        }
        for word in quotation.split(' ') {
            let word = word.trim_end_matches([';', ':', ',']);
            let is_path = word.contains('/') || FILES.iter().any(|ending| word.ends_with(ending));
            let is_other =
                NO_PATHS.iter().any(|no| word.starts_with(no)) || word.contains("://") || word.contains('…') || word.contains("::");
            // What a person's own directory may hold.
            let is_theirs = word.starts_with("./") || word.starts_with(".muster") || word == "muster.toml";
            if is_path && !is_other && !is_theirs {
                found.push(word.to_owned());
            }
        }
    }
    found
}

/// `a/{b,c}/d` as `a/b/d` and `a/c/d`.
fn alternatives(path: &str) -> Vec<String> {
    let braces = path.split_once('{').and_then(|(before, rest)| rest.split_once('}').map(|(inside, after)| (before, inside, after)));
    match braces {
        None => vec![path.to_owned()],
        Some((before, inside, after)) => inside.split(',').flat_map(|one| alternatives(&format!("{before}{one}{after}"))).collect(),
    }
}

fn exists(path: &str) -> anyhow::Result<bool> {
    let full = checkout().join(path);
    let found = |path: &Path| -> anyhow::Result<bool> {
        let pattern = path.to_str().context("a name in UTF-8")?;
        Ok(glob::glob(pattern)?.next().is_some())
    };
    if path.contains('/') || full.exists() {
        return Ok(if path.contains('*') { found(&full)? } else { full.exists() });
    }
    // Just the name of a source file.
    Ok(found(&checkout().join("*/src/**").join(path))? || found(&checkout().join("*/tests/**").join(path))?)
}

#[test]
fn every_path_that_a_document_names_exists() -> anyhow::Result<()> {
    let documents =
        ["README.md", "ARCHITECTURE.md", "examples/README.md", "docs/configuration.md", "docs/requirements.md", "docs/protocol.md"];
    for (name, least) in documents.into_iter().zip([10, 1, 3, 1, 30, 2]) {
        let found = paths(&document(name)?);
        ensure!(found.len() >= least, "only {} paths in {name}: {found:?}", found.len());
        let folder = name.rsplit_once('/').map(|(folder, _)| folder);
        for path in found.iter().flat_map(|path| alternatives(path)) {
            let beside = folder.map(|folder| exists(&format!("{folder}/{path}"))).transpose()?.unwrap_or(false);
            // `src/{fsm,agent}` names modules, whichever way they are filed.
            ensure!(beside || exists(&path)? || exists(&format!("{path}.rs"))?, "{name} names `{path}`, and there is no such thing");
        }
    }
    Ok(())
}

#[test]
fn every_link_of_a_document_leads_somewhere() -> anyhow::Result<()> {
    for name in ["README.md", "ARCHITECTURE.md", "examples/README.md", "docs/configuration.md", "docs/requirements.md", "docs/protocol.md"]
    {
        let text = document(name)?;
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            if path.contains("://") {
                continue;
            }
            let path = if path.is_empty() { name.to_owned() } else { format!("{folder}/{path}").trim_start_matches('/').to_owned() };
            ensure!(checkout().join(&path).exists(), "{name} leads to {target}, which is not there");
            if !anchor.is_empty() {
                let there = document(&path)?;
                let anchors = there.lines().filter(|line| line.starts_with('#')).map(|line| {
                    line.trim_start_matches('#')
                        .trim()
                        .to_lowercase()
                        .replace(' ', "-")
                        .replace(|c: char| !c.is_alphanumeric() && c != '-' && c != '_', "")
                });
                ensure!(anchors.into_iter().any(|one| one == anchor), "{name} leads to {target}, and {path} has no such section");
            }
        }
    }
    Ok(())
}

#[test]
fn the_codemap_names_what_is_there() -> anyhow::Result<()> {
    let text = document("ARCHITECTURE.md")?;
    let map = crate::markdown::blocks(&text, "").into_iter().find(|block| block.contains("shared/")).context("the codemap")?;
    let mut folder = String::new();
    let mut named = 0;
    for line in map.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !line.starts_with(' ') {
            folder = first.trim_end_matches('/').to_owned();
            for path in line
                .split_whitespace()
                .take_while(|word| word.contains('/'))
                .flat_map(|word| word.split(','))
                .filter(|word| !word.is_empty())
            {
                ensure!(exists(path)?, "the codemap names `{path}`");
                named += 1;
            }
        }
        // Within a crate: `agent/`, `fsm.rs`, several a line.
        for word in line.split_whitespace().map(|word| word.trim_end_matches([',', ':'])).filter(|word| word.ends_with(".rs")) {
            ensure!(exists(&format!("{folder}/src/{word}"))?, "the codemap names `{word}` in `{folder}`");
            named += 1;
        }
    }
    ensure!(named > 15, "only {named} names in the codemap");
    Ok(())
}
