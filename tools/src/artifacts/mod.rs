//! `artifact_read` and `artifact_write`: files under two roots that the operator names.
//!
//! Paths are relative and stay inside. How that is kept, against links and races too, stands in `beneath`.
//! What an instance writes goes to `<write>/<run>/<instance>/<path>` and can be read by every instance of the
//! same run as `run:<instance>/<path>`; the place follows from the lease, never from what the model says.

mod beneath;
mod read;
mod write;

use std::path::PathBuf;

use muster_shared::{
    error::{ErrorClass, Retryable},
    tool::ToolError,
};

pub use read::ArtifactRead;
pub use write::ArtifactWrite;

/// Characters of a path at most.
const MAX_PATH_CHARS: usize = 512;

/// What marks a path as written by an instance of the same run.
const RUN_PREFIX: &str = "run:";

/// Where artifacts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactRoots {
    /// Agents read below this folder. It must exist when they do.
    pub read: PathBuf,
    /// Agents write below this folder, each run and instance in its own. It is made when it is needed.
    pub write: PathBuf,
}

/// Why a path led nowhere.
#[derive(Debug, PartialEq, Eq)]
enum Denied {
    /// It would leave its root, or might.
    Outside(&'static str),
    /// There is no such file.
    Missing(&'static str),
    /// Something else is where a file or folder shall be written.
    Conflict(&'static str),
    /// The operating system does not permit it.
    Forbidden,
    /// The caller has gone: nothing was changed.
    Abandoned,
    /// The file system failed.
    Io(String),
}

impl Denied {
    /// The error that the agent sees. It names the path as the agent wrote it, never one of the host.
    fn shown(self, path: &str) -> ToolError {
        let shown = path.escape_debug();
        match self {
            Self::Outside(why) => {
                let message = format!("`{shown}` is refused: {why}. Paths are relative and stay within the root");
                ToolError::new(ErrorClass::Permission, "outside_root", message, Retryable::Never)
            }
            Self::Missing(why) => ToolError::new(ErrorClass::Tool, "not_found", format!("`{shown}`: {why}"), Retryable::Never),
            Self::Conflict(why) => ToolError::new(ErrorClass::Tool, "path_conflict", format!("`{shown}`: {why}"), Retryable::Never),
            Self::Forbidden => {
                let message = format!("`{shown}`: the worker is not permitted to open it");
                ToolError::new(ErrorClass::Permission, "not_permitted", message, Retryable::Never)
            }
            Self::Abandoned => ToolError::new(ErrorClass::Timeout, "tool_timeout", "the call was given up", Retryable::Backoff),
            Self::Io(why) => ToolError::new(ErrorClass::Tool, "io_error", format!("`{shown}`: {why}"), Retryable::Backoff),
        }
    }
}

/// The parts of a relative path. Refuses by the text alone what no file system needs to be asked about.
fn parts(path: &str) -> Result<Vec<&str>, Denied> {
    if path.contains('\0') {
        return Err(Denied::Outside("it contains a NUL character"));
    }
    if path.starts_with('/') {
        return Err(Denied::Outside("it is absolute"));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(Denied::Outside("it contains `..`"));
    }
    if parts.is_empty() || path.ends_with('/') {
        return Err(Denied::Missing("it names a folder, not a file"));
    }
    Ok(parts)
}

/// Runs file system work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ToolError> + Send + 'static) -> Result<T, ToolError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ToolError::new(ErrorClass::Tool, "tool_stopped", "the worker is stopping", Retryable::Backoff)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_refused_by_its_text_when_it_is_absolute_climbs_or_hides_a_nul() {
        for path in ["/etc/passwd", "//x", "../x", "a/../b", "a/..", "..", "a\0b"] {
            assert!(matches!(parts(path), Err(Denied::Outside(_))), "{path}");
        }
        for path in ["", ".", "./", "a/", "././/"] {
            assert!(matches!(parts(path), Err(Denied::Missing(_) | Denied::Outside(_))), "{path}");
        }
        assert_eq!(parts("./a//b/...c"), Ok(vec!["a", "b", "...c"]));
    }
}
