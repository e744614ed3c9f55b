//! What went wrong, for a person: one clear line, the faults with their pointers, and the exit code.

use std::{fmt, process::ExitCode};

use muster_shared::{
    error::{Fault, Faults},
    store::StoreError,
};

/// The documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for failed: a run failed, a thing does not exist.
    Failed = 1,
    /// The command line, the configuration, a file or a request is not valid.
    Usage = 2,
    /// The server, the database or Redis cannot be reached.
    Unreachable = 3,
    /// Somebody pressed Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends without having done what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How the process exits.
    pub(crate) exit: Exit,
    /// What happened and what to do, in one line.
    pub(crate) message: String,
    /// Every fault of a document, by pointer.
    pub(crate) faults: Vec<Fault>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), faults: Vec::new() }
    }

    /// What was asked for failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command, the configuration or a file is not valid.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something cannot be reached.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// Ctrl-C, and what goes on all the same.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, message)
    }

    /// The same with every fault that was found.
    #[must_use]
    pub(crate) fn with(mut self, faults: Vec<Fault>) -> Self {
        self.faults = faults;
        self
    }

    /// A document that is not valid.
    pub(crate) fn faulty(what: &str, faults: Faults) -> Self {
        Self::usage(format!("{what} is not valid")).with(faults.0)
    }

    /// A file that cannot be used.
    pub(crate) fn file(path: &std::path::Path, error: impl fmt::Display) -> Self {
        Self::usage(format!("{}: {error}", path.display()))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::Unavailable(_) => Exit::Unreachable,
            StoreError::Refused(_) | StoreError::Schema(_) => Exit::Usage,
            StoreError::NotFound(_) | StoreError::Conflict(_) | StoreError::KeyReused(_) | StoreError::Corrupt(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.faults.iter().try_for_each(|fault| {
            let pointer = if fault.pointer.is_empty() { "/" } else { &fault.pointer };
            write!(f, "\n  {pointer}: {}", fault.detail)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_listed_with_their_pointers_below_the_message() {
        let failure = Failure::faulty("a.yaml", Faults(vec![Fault::new("", "x"), Fault::new("/models", "y")]));
        assert_eq!(failure.to_string(), "a.yaml is not valid\n  /: x\n  /models: y");
        assert_eq!(failure.exit as u8, 2);
    }
}
