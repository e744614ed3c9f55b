//! How this program is called from where the user stands: for commands that can be copied as they are printed.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// `muster` when a shell finds this very binary by that name, else its path.
pub(crate) fn name() -> String {
    let (Ok(this), Ok(here)) = (env::current_exe(), env::current_dir()) else { return "muster".to_owned() };
    shortest(&this, &here, env::var_os("PATH").as_deref())
}

fn shortest(this: &Path, here: &Path, path: Option<&OsStr>) -> String {
    let real = |file: &Path| file.canonicalize().ok();
    let by_name: Option<PathBuf> =
        path.and_then(|path| env::split_paths(path).map(|folder| folder.join("muster")).find(|file| file.is_file()));
    if by_name.is_some_and(|found| real(&found).is_some() && real(&found) == real(this)) {
        return "muster".to_owned();
    }
    this.strip_prefix(here).unwrap_or(this).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_alone_is_enough_only_where_a_shell_finds_this_binary_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, other) = (folder.path().join("target/demo"), folder.path().join("other"));
        for place in [&bin, &other] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join("muster"), "").unwrap();
        }
        let this = bin.join("muster");
        let called = |here: &Path, path: Option<&Path>| shortest(&this, here, path.map(Path::as_os_str));
        assert_eq!(called(folder.path(), Some(&bin)), "muster");
        assert_eq!(called(folder.path(), Some(&other)), "target/demo/muster", "another binary of that name");
        assert_eq!(called(folder.path(), None), "target/demo/muster");
        assert_eq!(called(&other, None), this.display().to_string());
    }
}
