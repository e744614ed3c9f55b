//! Opening files below a folder, and never outside it.
//!
//! Every component is opened relative to the folder before it, which is held open, with `O_NOFOLLOW`; links
//! are read and resolved here, and `..` inside a link climbs only the folders that were entered. So there is
//! no moment between check and use: whatever is renamed or replaced meanwhile, each open is of one name in
//! one folder that is known to be inside. (Canonicalising after opening would need `/proc`, and would have
//! opened a device or a pipe by then; `openat2` does the same in one call, on Linux only.)
//!
//! Hard links cannot be told from files; whoever can make them inside the root can also copy.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::fd::AsFd as _,
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat},
};

use super::Denied;

/// Links on the way to one file at most, as on Linux.
const MAX_LINKS: usize = 40;

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// `O_NONBLOCK`: should a pipe take the file's place at the last moment, its open must not hang.
const FILE: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

impl From<Errno> for Denied {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Self::Missing("there is no such file"),
            Errno::ENAMETOOLONG => Self::Missing("a name in it is too long"),
            Errno::ELOOP => Self::Outside("a link took the place of a file or folder"),
            Errno::EACCES | Errno::EPERM => Self::Forbidden,
            other => Self::Io(other.desc().to_owned()),
        }
    }
}

impl From<std::io::Error> for Denied {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().map_or_else(|| Self::Io(error.kind().to_string()), |code| Errno::from_raw(code).into())
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Opens the root itself. Where it leads is the operator's choice, links included.
pub(super) fn root(path: &Path) -> Result<File, Denied> {
    Ok(nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

/// Enters a folder that is no link.
pub(super) fn enter(folder: &File, name: &str) -> Result<File, Denied> {
    Ok(openat(folder, name, FOLDER, Mode::empty())?.into())
}

/// Enters a folder, made if it is not there. No link is followed. What was made is durable.
pub(super) fn enter_or_make(folder: &File, name: &str) -> Result<File, Denied> {
    match mkdirat(folder, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => folder.sync_all()?,
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    match openat(folder, name, FOLDER, Mode::empty()) {
        Ok(opened) => Ok(opened.into()),
        // Linux says ENOTDIR of a link, too.
        Err(Errno::ENOTDIR) => match kind(&fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?) {
            SFlag::S_IFLNK => Err(Denied::Outside("there is a link in it")),
            _ => Err(Denied::Conflict("a file is where a folder is needed")),
        },
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the regular file at `parts` below `root`. Links are followed as long as they stay inside.
pub(super) fn open(root: File, parts: &[&str]) -> Result<File, Denied> {
    let mut entered = vec![root];
    let mut todo: Vec<OsString> = parts.iter().rev().map(OsString::from).collect();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == OsStr::new("..") {
            entered.pop();
            if entered.is_empty() {
                return Err(Denied::Outside("a link in it leaves the root"));
            }
            continue;
        }
        let here = entered.last().expect("the root is never popped without returning");
        match kind(&fstatat(here, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?) {
            SFlag::S_IFLNK => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Denied::Outside("there are too many links in it"));
                }
                follow(&readlinkat(here, name.as_os_str())?, &mut todo)?;
            }
            SFlag::S_IFDIR => {
                let folder = openat(here, name.as_os_str(), FOLDER, Mode::empty())?;
                entered.push(folder.into());
            }
            SFlag::S_IFREG if todo.is_empty() => return regular(openat(here, name.as_os_str(), FILE, Mode::empty())?.into()),
            SFlag::S_IFREG => return Err(Denied::Missing("a part of it is a file, not a folder")),
            _ => return Err(Denied::Missing("it is a special file, and only regular files are read")),
        }
    }
    Err(Denied::Missing("it is a folder, not a file"))
}

/// Puts the parts of a link's target before what is left to do.
fn follow(target: &OsStr, todo: &mut Vec<OsString>) -> Result<(), Denied> {
    for part in Path::new(target).components().rev() {
        match part {
            Component::Prefix(_) | Component::RootDir => return Err(Denied::Outside("a link in it is absolute")),
            Component::CurDir => {}
            Component::ParentDir => todo.push(OsString::from("..")),
            Component::Normal(name) => todo.push(name.to_owned()),
        }
    }
    Ok(())
}

/// What was opened may not be what was looked at; this is what counts.
fn regular(file: File) -> Result<File, Denied> {
    match kind(&fstat(file.as_fd())?) {
        SFlag::S_IFREG => Ok(file),
        _ => Err(Denied::Missing("it is a special file, and only regular files are read")),
    }
}
