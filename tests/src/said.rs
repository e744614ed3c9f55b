//! What a command said, once it has ended.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::Process;

/// Exit code and output of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// Waits for the end of a process.
    pub async fn by(mut process: Process) -> anyhow::Result<Self> {
        let status = process.ended().await.with_context(|| process.stderr())?;
        Ok(Self { code: status.code(), stdout: process.stdout(), stderr: process.stderr() })
    }

    /// The standard output of a command that must have succeeded.
    pub fn ok(&self) -> anyhow::Result<&str> {
        ensure!(self.code == Some(0), "exit code {:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(&self.stdout)
    }

    /// The JSON document that a command which must have succeeded has printed.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(self.ok()?).with_context(|| format!("not JSON: {}", self.stdout))
    }

    /// What a command that must have failed in this way has told a person.
    pub fn refusal(&self, code: i32) -> anyhow::Result<&str> {
        ensure!(self.code == Some(code), "exit code {:?} instead of {code}\n{}\n{}", self.code, self.stdout, self.stderr);
        ensure!(!self.stderr.trim().is_empty(), "it does not say why");
        ensure!(self.stdout.is_empty(), "a failed command has printed an answer: {}", self.stdout);
        Ok(&self.stderr)
    }
}
