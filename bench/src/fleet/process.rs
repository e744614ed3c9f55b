//! One process of the fleet: started with a clean configuration, stopped in order, killed if it will not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// `muster migrate` takes no longer.
const MIGRATE_LIMIT: Duration = Duration::from_secs(120);

/// A process of the `muster` binary. Killed when dropped.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. Settings of the caller's environment do not reach it; its output goes to a file.
    pub(super) fn start(
        muster: &Path,
        name: &'static str,
        arguments: &[String],
        environment: &[(&str, String)],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).context("a log file")?;
        let mut command = Command::new(fs::canonicalize(muster).context("the muster binary")?);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("MUSTER_") {
                command.env_remove(key);
            }
        }
        let child = command
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("a log file")?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting muster {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Waits for its success.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        let status = tokio::time::timeout(MIGRATE_LIMIT, self.child.wait())
            .await
            .with_context(|| format!("muster {} did not end within {} s", self.name, MIGRATE_LIMIT.as_secs()))??;
        anyhow::ensure!(status.success(), "muster {} ended with {status}; {}", self.name, self.last_words());
        Ok(())
    }

    /// An error when it has ended.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("muster {} ended with {status}", self.name),
        }
    }

    /// SIGTERM, then SIGKILL. Answers what it logged last.
    pub(super) async fn stop(mut self) -> String {
        // No id: it has ended, and its number may be another's by now.
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
        }
        self.last_words()
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(4_000)..];
        format!("muster {} logged last:\n{}", self.name, String::from_utf8_lossy(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Process {
        Process::start(Path::new("/bin/sh"), "shell", &["-c".to_owned(), script.to_owned()], &[("MUSTER_X", "set".to_owned())], folder)
            .expect("there is a shell")
    }

    #[tokio::test]
    async fn a_process_that_fails_is_reported_with_what_it_logged_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = shell(folder.path(), "echo \"x is $MUSTER_X\" >&2; exit 3").finish().await.expect_err("it fails");
        let error = error.to_string();
        assert!(error.contains("exit status: 3") && error.contains("x is set"), "{error}");
    }

    #[tokio::test]
    async fn a_process_is_asked_to_stop_before_it_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        // The pipe tells when the trap is set; the shell waits for a signal in a builtin, so that it can trap it.
        let pipe = folder.path().join("ready");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let process = shell(folder.path(), "trap 'echo asked; exit 0' TERM; echo ready > ready; while :; do read x < ready; done");
        tokio::task::spawn_blocking(move || fs::read_to_string(pipe)).await.expect("no panic").expect("it is ready");
        assert!(process.stop().await.contains("asked"));
    }
}
