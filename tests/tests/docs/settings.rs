//! `docs/configuration.md` names every setting that there is, and no other.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, ensure};
use muster_tests::{Home, checkout};

use crate::markdown::document;

const DOCUMENT: &str = "docs/configuration.md";

/// The names of variables in a text: `MUSTER_…` and `OPENAI_…`.
fn variables(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| (word.starts_with("MUSTER_") || word.starts_with("OPENAI_")) && !word.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

/// The code of a source file without its tests, which name variables that do not exist.
fn code(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned())
}

/// What the sources of the binary read from the environment: names in quotes, which alone are looked up.
fn known() -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for file in ["cli/src/config.rs", "engine/src/config.rs"] {
        let code = code(&checkout().join(file))?;
        let quoted = code.lines().filter(|line| line.contains("get(\"") || line.contains("number(") || line.contains("environment(\""));
        found.extend(quoted.flat_map(variables));
    }
    ensure!(found.len() > 15, "{found:?}");
    Ok(found)
}

/// The rows of the table of settings: cells by column.
fn rows() -> anyhow::Result<Vec<Vec<String>>> {
    let text = document(DOCUMENT)?;
    let table = text.lines().skip_while(|line| !line.starts_with("| file |")).skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> =
        table.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()).collect();
    ensure!(rows.len() > 10, "{rows:?}");
    Ok(rows)
}

#[test]
fn the_document_names_every_variable_that_the_binary_reads_and_no_other() -> anyhow::Result<()> {
    let (known, named) = (known()?, variables(&document(DOCUMENT)?));
    let missing: Vec<&String> = known.difference(&named).collect();
    let invented: Vec<&String> = named.difference(&known).collect();
    ensure!(missing.is_empty() && invented.is_empty(), "not documented: {missing:?}; not known to the binary: {invented:?}");
    Ok(())
}

#[tokio::test]
async fn every_setting_of_the_table_is_understood_where_the_table_says() -> anyhow::Result<()> {
    let home = Home::new()?;
    let mut helps = String::new();
    for command in ["dev", "api", "worker", "migrate", "agent list", "run", "demo"] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        helps.push_str(home.muster(&words).await?.ok()?);
    }
    // Long descriptions are broken at the terminal's width.
    let helps = helps.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut file = String::new();
    let mut engine = String::new();
    for row in rows()? {
        let [key, variable, flag, ..] = &row[..] else { anyhow::bail!("{row:?}") };
        let value = if key.ends_with("_ms") || key == "concurrency" { "9000".to_owned() } else { format!("\"{}\"", sample(key)) };
        match key.strip_prefix("engine.") {
            Some(key) => engine.push_str(&format!("{key} = {value}\n")),
            None => file.push_str(&format!("{key} = {value}\n")),
        }
        if !flag.is_empty() {
            ensure!(helps.contains(&format!("{flag} <")), "no command has the flag {flag}");
            ensure!(helps.contains(&format!("[env: {variable}]")), "the help of {flag} does not name {variable}");
        }
    }
    // A heartbeat must fit into its lease.
    let file = file.replace("heartbeat_ms = 9000", "heartbeat_ms = 900");
    home.write("all.toml", format!("{file}[engine]\n{engine}"))?;
    home.muster(&["agent", "schema", "--config", "all.toml"]).await?.ok()?;
    home.write("more.toml", format!("{file}surplus = 1\n"))?;
    let refused = home.muster(&["agent", "schema", "--config", "more.toml"]).await?;
    ensure!(refused.refusal(2)?.contains("unknown settings: surplus"), "{}", refused.stderr);
    Ok(())
}

fn sample(key: &str) -> &'static str {
    match key {
        "log" => "info",
        "log_format" => "json",
        "otlp_endpoint" => "http://127.0.0.1:9",
        _ => "x",
    }
}

#[test]
fn every_setting_of_the_file_is_in_the_table() -> anyhow::Result<()> {
    let code = code(&checkout().join("cli/src/config.rs"))?;
    let (_, layer) = code.split_once("struct Layer {").context("the settings of one source")?;
    let (layer, _) = layer.split_once("\n}").context("its end")?;
    let fields: BTreeSet<&str> = layer
        .lines()
        .filter_map(|line| line.trim().split_once(": Option<"))
        .map(|(field, _)| field)
        .filter(|field| *field != "engine")
        .collect();
    ensure!(fields.len() > 12, "{fields:?}");
    let rows = rows()?;
    // The script of the top level is that of the flag; in a file it stands below `engine`.
    let named: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_start_matches("engine.")).collect();
    ensure!(named == fields, "table: {named:?}\ncode: {fields:?}");
    Ok(())
}

#[test]
fn the_document_describes_every_field_of_a_run_file() -> anyhow::Result<()> {
    let code = code(&checkout().join("cli/src/runfile/mod.rs"))?;
    let (_, file) = code.split_once("struct RunFile {").context("the fields")?;
    let (file, _) = file.split_once("\n}").context("its end")?;
    let text = document(DOCUMENT)?;
    let (_, section) = text.split_once("## Run files").context("the section")?;
    let fields: Vec<&str> =
        file.lines().filter(|line| !line.contains("#[")).filter_map(|line| line.trim().split_once(": ")).map(|(field, _)| field).collect();
    ensure!(fields.len() > 10, "{fields:?}");
    for field in fields {
        ensure!(section.contains(&format!("`{field}`")), "`{field}` is not described");
    }
    Ok(())
}
