//! A child process whose output is kept, and which never outlives its test.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::until;

/// A running child.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `program`; its output goes to files named after `label` in `folder`.
    pub fn start<S: AsRef<OsStr>>(
        program: &Path,
        args: &[S],
        env: &[(String, String)],
        folder: &Path,
        label: &str,
    ) -> anyhow::Result<Self> {
        let (stdout, stderr) = (folder.join(format!("{label}.out")), folder.join(format!("{label}.err")));
        let mut command = Command::new(program);
        // Nothing that the caller's shell has set may reach a fleet: no setting and no key.
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("MUSTER_") || key == "OPENAI_API_KEY" {
                command.env_remove(key);
            }
        }
        let child = command
            .args(args)
            .envs(env.iter().cloned())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, stdout, stderr })
    }

    /// Sends a signal. The process may have ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids fit");
        // An ended process was reaped by nobody else, so the id is still its own.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let child = std::sync::Mutex::new(&mut self.child);
        until("the process to end", || async { Ok(child.lock().expect("not poisoned").try_wait()?) }).await
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until its output, either of them, contains `text`.
    pub async fn says(&self, text: &str) -> anyhow::Result<()> {
        until(&format!("`{text}`"), || async { Ok((self.stdout().contains(text) || self.stderr().contains(text)).then_some(())) })
            .await
            .with_context(|| format!("stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
