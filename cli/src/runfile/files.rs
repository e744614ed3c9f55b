//! The files that a glob means: sorted, each once, text only.
//!
//! Relative to the working directory. `*` and `?` stay within a folder, `**` crosses them. As in a shell, what
//! begins with a dot is only found by a pattern that says so. Symbolic links are not followed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    path::{Component, Path, PathBuf},
};

use glob::{MatchOptions, Pattern};

use crate::failure::Failure;

/// Folders that hold what machines made; they are entered only by a pattern that names them.
const MACHINE_MADE: [&str; 2] = ["target", "node_modules"];

/// How much of a file is looked at to see whether it is text.
const SAMPLE_BYTES: u64 = 8 * 1024;

const OPTIONS: MatchOptions = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// What the globs found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Paths as they are written into tasks, in order.
    pub(crate) paths: Vec<String>,
    /// Files that are left out: no text in UTF-8, empty, or with a name that cannot be written into a task.
    pub(crate) skipped: usize,
}

/// The text files that any of the globs means.
pub(crate) fn find(globs: &[String]) -> Result<Found, Failure> {
    find_below(Path::new("."), globs)
}

/// The same, relative to another folder.
pub(crate) fn find_below(folder: &Path, globs: &[String]) -> Result<Found, Failure> {
    let mut all = BTreeSet::new();
    for glob in globs {
        let (base, rest) = split(glob);
        let pattern = Pattern::new(&rest).map_err(|error| Failure::usage(format!("`{glob}` is not a glob: {error}")))?;
        let walk = Walk { pattern, parts: rest.split('/').map(str::to_owned).collect() };
        walk.enter(&folder.join(&base), Path::new(""), 1, &mut |below| {
            all.insert(base.join(below));
        });
    }
    let mut found = Found::default();
    for path in all {
        match path.to_str().filter(|text| is_writable(text)).filter(|_| is_text(&folder.join(&path))) {
            Some(text) => found.paths.push(text.to_owned()),
            None => found.skipped += 1,
        }
    }
    Ok(found)
}

/// The folder before the first wildcard, and the pattern below it.
pub(crate) fn split(glob: &str) -> (PathBuf, String) {
    let glob = glob.strip_prefix("./").unwrap_or(glob);
    let wild = glob.find(['*', '?', '[']).unwrap_or(glob.len());
    match glob[..wild].rfind('/') {
        Some(0) => (PathBuf::from("/"), glob[1..].to_owned()),
        Some(at) => (PathBuf::from(&glob[..at]), glob[at + 1..].to_owned()),
        None => (PathBuf::new(), glob.to_owned()),
    }
}

/// Whether a path can stand between backquotes in a task.
fn is_writable(path: &str) -> bool {
    !path.chars().any(|c| c == '`' || c.is_control())
}

/// Whether a regular file begins with text in UTF-8.
fn is_text(path: &Path) -> bool {
    let sample = File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(SAMPLE_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    });
    let Ok(bytes) = sample else { return false };
    let cut = match std::str::from_utf8(&bytes) {
        Ok(_) => true,
        // The sample may end within a character.
        Err(error) => error.error_len().is_none() && bytes.len() as u64 == SAMPLE_BYTES,
    };
    cut && !bytes.contains(&0) && !bytes.trim_ascii().is_empty()
}

struct Walk {
    pattern: Pattern,
    parts: Vec<String>,
}

impl Walk {
    /// Goes through a folder; `depth` counts the parts of a path in it.
    fn enter(&self, folder: &Path, below: &Path, depth: usize, found: &mut dyn FnMut(PathBuf)) {
        // What cannot be read is not found, as in a shell.
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let (name, Ok(kind)) = (entry.file_name(), entry.file_type()) else { continue };
            let path = below.join(&name);
            if kind.is_dir() {
                if self.goes_into(&name.to_string_lossy(), depth) {
                    self.enter(&entry.path(), &path, depth + 1, found);
                }
            } else if kind.is_file() && self.pattern.matches_path_with(&path, OPTIONS) {
                found(path);
            }
        }
    }

    fn goes_into(&self, name: &str, depth: usize) -> bool {
        let named = |part: &String| part == name || (part.starts_with('.') && name.starts_with('.'));
        if (name.starts_with('.') || MACHINE_MADE.contains(&name)) && !self.parts.iter().any(named) {
            return false;
        }
        depth < self.parts.len() || self.parts.iter().any(|part| part == "**")
    }
}

/// The folder that contains everything which the globs mean, where they leave the working directory; and the
/// globs relative to it.
pub(crate) fn outside(globs: &[String]) -> Option<(PathBuf, Vec<String>)> {
    let leaves = |base: &Path| base.is_absolute() || base.components().any(|part| part == Component::ParentDir);
    let [glob] = globs else { return None };
    let (base, rest) = split(glob);
    leaves(&base).then(|| (base, vec![rest]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn found(folder: &tempfile::TempDir, globs: &[&str]) -> (Vec<String>, usize) {
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        let found = find_below(folder.path(), &globs).unwrap();
        (found.paths, found.skipped)
    }

    #[test]
    fn files_are_sorted_and_each_is_found_once() {
        let folder = tree(&[("b.md", b"x"), ("a/c.md", b"x"), ("a/d/e.md", b"x"), ("a/x.rs", b"x")]);
        assert_eq!(found(&folder, &["**/*.md", "b.md", "./a/*"]).0, ["a/c.md", "a/d/e.md", "a/x.rs", "b.md"]);
        assert_eq!(found(&folder, &["a/*.md"]).0, ["a/c.md"]);
        assert_eq!(found(&folder, &["a/?/*.md"]).0, ["a/d/e.md"]);
        assert_eq!(found(&folder, &["nothing/**"]).0, Vec::<String>::new());
    }

    #[test]
    fn what_is_no_text_is_skipped_and_counted() {
        let mut long = vec![b'a'; 8191];
        long.extend("é".as_bytes());
        let folder =
            tree(&[("nul", b"a\0b"), ("latin", b"caf\xe9 "), ("empty", b" \n"), ("od`d", b"x"), ("cut", &long), ("good", "é".as_bytes())]);
        assert_eq!(found(&folder, &["*"]), (vec!["cut".to_owned(), "good".to_owned()], 4));
    }

    #[test]
    fn hidden_and_machine_made_folders_are_entered_only_by_name() {
        let folder = tree(&[(".git/a.md", b"x"), ("target/b.md", b"x"), ("web/node_modules/c.md", b"x"), ("d.md", b"x"), (".e.md", b"x")]);
        assert_eq!(found(&folder, &["**/*.md"]).0, ["d.md"]);
        assert_eq!(found(&folder, &["target/*.md", ".git/**/*.md", ".*.md"]).0, [".e.md", ".git/a.md", "target/b.md"]);
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_not_followed() {
        let folder = tree(&[("a/b.md", b"x")]);
        std::os::unix::fs::symlink(folder.path().join("a"), folder.path().join("loop")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("a/b.md"), folder.path().join("link.md")).unwrap();
        assert_eq!(found(&folder, &["**/*.md"]).0, ["a/b.md"]);
    }

    #[test]
    fn a_bad_glob_is_refused() {
        assert!(find(&["a/[".to_owned()]).unwrap_err().message.contains("`a/[` is not a glob"));
    }

    #[test]
    fn globs_that_leave_the_working_directory_are_split_at_their_folder() {
        let outside = |glob: &str| outside(&[glob.to_owned()]).map(|(base, rest)| (base.display().to_string(), rest.join(" ")));
        assert_eq!(outside("/a/b/**/*.md"), Some(("/a/b".to_owned(), "**/*.md".to_owned())));
        assert_eq!(outside("../x/*.md"), Some(("../x".to_owned(), "*.md".to_owned())));
        assert_eq!(outside("/*.md"), Some(("/".to_owned(), "*.md".to_owned())));
        assert_eq!(outside("a/**/*.md"), None);
    }
}
