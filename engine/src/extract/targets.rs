//! Which artifacts a task names.

/// More than this is not read.
const TARGETS_MAX: usize = 64;

/// Extensions that make a plain word a file name. Between backticks, and after `artifact:`, any name will do.
const EXTENSIONS: &[&str] = &[
    "md", "markdown", "txt", "rst", "adoc", "log", "csv", "tsv", "json", "jsonl", "ndjson", "yaml", "yml", "toml", "ini", "cfg", "conf",
    "env", "xml", "html", "htm", "css", "scss", "rs", "py", "js", "mjs", "jsx", "ts", "tsx", "go", "java", "kt", "scala", "c", "h", "cc",
    "cpp", "hpp", "cs", "rb", "php", "pl", "sh", "bash", "sql", "lua", "hs", "swift", "dart", "zig", "proto", "tf", "lock", "mk", "ipynb",
    "tex", "pdf", "docx",
];

/// Files that are known without an extension.
const NAMES: &[&str] =
    &["Makefile", "Dockerfile", "README", "LICENSE", "CHANGELOG", "NOTICE", "AUTHORS", "Justfile", "Gemfile", "Procfile"];

/// After these words a path without an extension is meant as one; elsewhere it may be `and/or`.
const BEFORE_A_PATH: &[&str] = &[
    "read",
    "open",
    "file",
    "files",
    "path",
    "paths",
    "artifact",
    "artifacts",
    "document",
    "documents",
    "see",
    "summarize",
    "summarise",
    "analyze",
    "analyse",
    "review",
    "inspect",
];

/// The artifacts that `task` names, in order, each once.
pub(super) fn named(task: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let known = found.iter().any(|found| found == name);
        if !known && found.len() < TARGETS_MAX {
            found.push(name.to_owned());
        }
    };
    // Every second piece stands between backticks.
    for (index, piece) in task.split('`').enumerate() {
        if index % 2 == 1 {
            if let Some(name) = quoted(piece.trim()) {
                add(name);
            }
            continue;
        }
        let mut before = "";
        for word in piece.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '<' | '>' | '|')) {
            let word = word.trim_matches(['(', ')', '[', ']', '{', '}', '\'', '*']).trim_end_matches(['.', ':', '!', '?']);
            if let Some(name) = plain(word, before) {
                add(name);
            }
            if !word.is_empty() {
                before = word;
            }
        }
    }
    found
}

fn quoted(text: &str) -> Option<&str> {
    let name = text.strip_prefix("artifact:").unwrap_or(text);
    let asked = name.len() < text.len() && is_path(name);
    let file = extension(name).is_some() || NAMES.contains(&last(name));
    (asked || (is_path(name) && (file || has_folder(name)))).then_some(name)
}

fn plain<'a>(word: &'a str, before: &str) -> Option<&'a str> {
    if let Some(name) = word.strip_prefix("artifact:") {
        return is_path(name).then_some(name);
    }
    if !is_path(word) {
        return None;
    }
    let known = extension(word).is_some_and(|extension| EXTENSIONS.contains(&extension.to_lowercase().as_str()));
    if !word.contains('/') {
        return known.then_some(word);
    }
    let meant = || {
        word.starts_with("./")
            || word.matches('/').count() >= 2
            || word.contains(['_', '-'])
            || NAMES.contains(&last(word))
            || BEFORE_A_PATH.contains(&before.trim_end_matches(':').to_lowercase().as_str())
    };
    (extension(word).is_some() || (has_folder(word) && meant())).then_some(word)
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Only characters that paths have, and no address of the web. `run:` begins an artifact that another agent wrote.
fn is_path(text: &str) -> bool {
    let body = text.strip_prefix("run:").unwrap_or(text);
    !body.is_empty()
        && body.len() <= 512
        && !body.starts_with("www.")
        && !body.contains("://")
        && !body.ends_with('/')
        && body.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '@' | '~' | '%' | '#' | '='))
        && body.chars().any(char::is_alphanumeric)
}

/// `a/b`, but not `1/2` and not `n/a`.
fn has_folder(text: &str) -> bool {
    text.contains('/') && text.chars().any(char::is_alphabetic) && !text.eq_ignore_ascii_case("n/a")
}

/// What follows the last dot of the file name, if it looks like an extension and something stands before it.
fn extension(path: &str) -> Option<&str> {
    let (stem, extension) = last(path).rsplit_once('.')?;
    let good = (1..=8).contains(&extension.len())
        && extension.chars().all(|c| c.is_ascii_alphanumeric())
        && extension.chars().any(char::is_alphabetic);
    let stem = stem.chars().any(char::is_alphanumeric);
    (good && stem).then_some(extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_names_its_artifacts_in_many_ways() {
        let cases: &[(&str, &[&str])] = &[
            ("Summarize `src/lib.rs`.", &["src/lib.rs"]),
            ("Read docs/protocol.md, then README.md.", &["docs/protocol.md", "README.md"]),
            ("Compare a.txt with (b.txt) and a.txt", &["a.txt", "b.txt"]),
            ("Look at artifact:notes and `artifact:plan`!", &["notes", "plan"]),
            ("Read run:ins_0123/out/report.md", &["run:ins_0123/out/report.md"]),
            ("Read the file data/input1 please", &["data/input1"]),
            ("Summarise `Makefile` and deploy/Dockerfile", &["Makefile", "deploy/Dockerfile"]),
            ("Path: /etc/passwd or ../../secret.txt", &["/etc/passwd", "../../secret.txt"]),
            ("File: größe/übersicht.md", &["größe/übersicht.md"]),
            ("Use input and/or output at 5 km/h, 1/2, e.g. version 3.5 (n/a), see https://example.com/a.md or www.x.org/a", &[]),
            ("What is TCP/IP? Ask Mr. Smith at example.com. Call `foo()`.", &[]),
            ("", &[]),
        ];
        for (task, expected) in cases {
            assert_eq!(named(task), *expected, "{task}");
        }
    }
}
