//! Source code: what its comments say and what it defines. The code itself is not quoted.

use super::split::{Kind, Parsed};

/// How comments are written, and what defines something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// `//`, `///`, `/* */`: Rust, C, Go, Java, JavaScript, …
    Slashes,
    /// `#` and doc strings: Python, shell, YAML, TOML, Make, …
    Hashes,
    /// `--`: SQL, Lua, Haskell.
    Dashes,
}

const SLASHES: &[&str] = &[
    "rs", "c", "h", "cc", "cpp", "hpp", "go", "java", "js", "jsx", "mjs", "ts", "tsx", "kt", "swift", "scala", "cs", "proto", "php",
    "dart", "zig", "css", "scss",
];
const HASHES: &[&str] = &[
    "py",
    "sh",
    "bash",
    "rb",
    "pl",
    "r",
    "yaml",
    "yml",
    "toml",
    "tf",
    "mk",
    "cfg",
    "ini",
    "conf",
    "dockerfile",
    "makefile",
    "nix",
    "ex",
    "exs",
];
const DASHES: &[&str] = &["sql", "lua", "hs"];

/// Words before the name of what a line defines.
const DEFINES: &[&str] = &[
    "fn",
    "struct",
    "enum",
    "trait",
    "type",
    "mod",
    "macro_rules!",
    "class",
    "interface",
    "def",
    "func",
    "function",
    "table",
    "view",
    "index",
    "message",
    "service",
    "const",
    "static",
];

/// Words that may stand before those.
const BEFORE: &[&str] = &[
    "pub",
    "pub(crate)",
    "pub(super)",
    "async",
    "unsafe",
    "extern",
    "export",
    "default",
    "abstract",
    "public",
    "final",
    "create",
    "or",
    "replace",
    "unique",
    "if",
    "not",
    "exists",
];

const NAMES_MAX: usize = 12;

impl Language {
    /// By the extension of a file name, or a script's first line.
    pub(super) fn of(name: &str, text: &str) -> Option<Self> {
        let file = name.rsplit('/').next().unwrap_or(name).to_lowercase();
        let extension = file.rsplit('.').next().unwrap_or_default();
        let is = |list: &[&str]| list.contains(&extension);
        if is(SLASHES) {
            Some(Self::Slashes)
        } else if is(HASHES) || text.starts_with("#!") {
            Some(Self::Hashes)
        } else if is(DASHES) {
            Some(Self::Dashes)
        } else {
            None
        }
    }

    /// The text of a comment line, and what kind of comment it is.
    fn comment(self, line: &str) -> Option<(Kind, &str)> {
        let marks: &[(&str, Kind)] = match self {
            Self::Slashes => &[("//!", Kind::Lead), ("///", Kind::Doc), ("//", Kind::Comment)],
            Self::Hashes => &[("#!", Kind::Names), ("#", Kind::Doc)],
            Self::Dashes => &[("--", Kind::Doc)],
        };
        marks.iter().find_map(|(mark, kind)| line.strip_prefix(mark).map(|text| (*kind, text.trim_end())))
    }

    /// Marks around comments or doc strings of several lines.
    const fn block(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Slashes => &[("/*", "*/")],
            Self::Hashes => &[("\"\"\"", "\"\"\""), ("'''", "'''")],
            Self::Dashes => &[("/*", "*/")],
        }
    }
}

/// What the comments of a source file say, and the names that it defines.
pub(super) fn parse(language: Language, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    let mut open = Open::default();
    let mut lines = text.lines();
    let mut inner: Vec<String> = Vec::new();
    while let Some(whole) = lines.next() {
        let line = whole.trim();
        // What follows in a Rust file are its tests.
        if line == "#[cfg(test)]" {
            break;
        }
        if let Some((kind, said)) = language.comment(line) {
            open.line(&mut parsed, kind, said);
        } else if let Some((begin, end)) = language.block().iter().find(|(begin, _)| line.starts_with(begin)) {
            open.close(&mut parsed);
            let doc = if parsed.points.is_empty() { Kind::Lead } else { Kind::Doc };
            block(&mut open, &mut parsed, doc, line.strip_prefix(begin).unwrap_or_default(), end, &mut lines);
        } else {
            open.close(&mut parsed);
            let names = if whole.starts_with([' ', '\t']) { &mut inner } else { &mut parsed.names };
            names.extend(defined(line).filter(|name| !names.contains(name)).into_iter().collect::<Vec<_>>());
        }
    }
    open.close(&mut parsed);
    // What stands within something else counts only where nothing else is defined.
    if parsed.names.is_empty() {
        parsed.names = inner;
    }
    names(&mut parsed);
    parsed
}

/// The comment that is being read.
#[derive(Default)]
struct Open {
    kind: Option<Kind>,
    text: String,
    fenced: bool,
}

impl Open {
    fn line(&mut self, parsed: &mut Parsed, kind: Kind, said: &str) {
        // Indented text is an example, unless it goes on with a list item.
        if said.starts_with("   ") && self.kind.is_none() {
            return;
        }
        let said = said.trim();
        if said.starts_with("```") {
            self.fenced = !self.fenced;
            return;
        }
        if self.fenced || kind == Kind::Names || said.contains("SPDX-License") || said.starts_with("Copyright") {
            return;
        }
        let item = super::split::bullet(said);
        let new = self.kind.is_some_and(|open| open != kind) || said.is_empty() || item.is_some() || said.starts_with('|');
        if new {
            self.close(parsed);
        }
        if let Some(heading) = said.strip_prefix("# ").filter(|_| matches!(kind, Kind::Doc | Kind::Lead)) {
            parsed.title.get_or_insert_with(|| heading.to_owned());
            return;
        }
        self.kind = Some(kind);
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(item.unwrap_or(said));
    }

    fn close(&mut self, parsed: &mut Parsed) {
        if let Some(kind) = self.kind.take() {
            parsed.paragraph(kind, &std::mem::take(&mut self.text));
        }
    }
}

/// The rest of a comment of several lines.
fn block<'a>(open: &mut Open, parsed: &mut Parsed, kind: Kind, first: &'a str, end: &str, lines: &mut impl Iterator<Item = &'a str>) {
    let mut line = Some(first.trim_start_matches('*'));
    while let Some(said) = line {
        let (said, last) = said.split_once(end).map_or((said, false), |(said, _)| (said, true));
        open.line(parsed, kind, said.trim().trim_start_matches('*').trim());
        if last {
            break;
        }
        line = lines.next();
    }
    open.close(parsed);
}

/// The name that a line defines.
fn defined(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| BEFORE.contains(&word.to_lowercase().as_str()));
    let word = words.next()?.to_lowercase();
    if !DEFINES.contains(&word.as_str()) {
        return None;
    }
    // `const fn name` has two of them.
    let word = words.find(|word| !BEFORE.contains(&word.to_lowercase().as_str()) && !DEFINES.contains(word))?;
    let name: String = word.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (name.len() > 1).then_some(name)
}

fn names(parsed: &mut Parsed) {
    if parsed.names.is_empty() {
        return;
    }
    let shown: Vec<String> = parsed.names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let more = parsed.names.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    parsed.point(Kind::Names, &format!("Defines {}{more}.", shown.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(language: Language, text: &str) -> Vec<(Kind, String)> {
        parse(language, text).points
    }

    #[test]
    fn rust_is_its_documentation_and_its_items() {
        let text = "//! One lease per\n//! instance at a time. Nothing else.\n\n/// Claims the instance.\n/// ```\n/// let no = 1;\n/// ```\npub async fn claim<T>(x: T) {\n    // The epoch must rise first.\n    let a = 1;\n}\npub(crate) struct Lease(u8);\n#[cfg(test)]\nmod tests { fn hidden() {} }\n";
        let expected = [
            (Kind::Lead, "One lease per instance at a time."),
            (Kind::Lead, "Nothing else."),
            (Kind::Doc, "Claims the instance."),
            (Kind::Comment, "The epoch must rise first."),
            (Kind::Names, "Defines `claim`, `Lease`."),
        ];
        assert_eq!(points(Language::Slashes, text), expected.map(|(kind, text)| (kind, text.to_owned())));
    }

    #[test]
    fn python_sql_and_block_comments_are_read_too() {
        let python = "#!/usr/bin/env python\n\"\"\"Counts the words.\n\nSlowly but surely.\"\"\"\ndef count(words):\n    return 1\n";
        let texts: Vec<String> = points(Language::Hashes, python).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["Counts the words.", "Slowly but surely.", "Defines `count`."]);
        let sql = "-- One row per instance.\nCREATE TABLE IF NOT EXISTS agent_instances (\n  id uuid\n);\n";
        let texts: Vec<String> = points(Language::Dashes, sql).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["One row per instance.", "Defines `agent_instances`."]);
        let c = "/**\n * Adds two numbers.\n */\nint add(int a, int b);\n";
        assert_eq!(points(Language::Slashes, c)[0], (Kind::Lead, "Adds two numbers.".to_owned()));
    }
}
