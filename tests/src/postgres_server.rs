//! A Postgres of the test's own, which it may stop and start again.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nix::unistd::{Uid, User, chown};
use tempfile::TempDir;

use crate::server;

/// A private server on a free port. Dropped, it is stopped at once.
pub struct PostgresServer {
    port: u16,
    folder: TempDir,
}

impl PostgresServer {
    /// Makes and starts one.
    pub fn start() -> anyhow::Result<Self> {
        let server = Self { port: crate::fleet::free_port()?, folder: tempfile::tempdir()? };
        if let Some(user) = server_user()? {
            chown(server.folder.path(), Some(user.uid), Some(user.gid))?;
        }
        let data = server.data();
        let args =
            ["-D".as_ref(), data.as_os_str(), "-U".as_ref(), "postgres".as_ref(), "-A".as_ref(), "trust".as_ref(), "--no-sync".as_ref()];
        server.run("initdb", &args)?;
        server.up()?;
        Ok(server)
    }

    /// Its maintenance database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it on what it had.
    pub fn up(&self) -> anyhow::Result<()> {
        let (data, log) = (self.data(), self.folder.path().join("log"));
        let options = format!("-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off", self.port);
        let args = [
            "-D".as_ref(),
            data.as_os_str(),
            "-l".as_ref(),
            log.as_os_str(),
            "-w".as_ref(),
            "-o".as_ref(),
            options.as_ref(),
            "start".as_ref(),
        ];
        self.run("pg_ctl", &args)
    }

    /// Stops it as a crash would: connections break, nothing more is written.
    pub fn down(&self) -> anyhow::Result<()> {
        let data = self.data();
        self.run("pg_ctl", &["-D".as_ref(), data.as_os_str(), "-m".as_ref(), "immediate".as_ref(), "-w".as_ref(), "stop".as_ref()])
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str, args: &[&OsStr]) -> anyhow::Result<()> {
        let program = Path::new(&server("MUSTER_TEST_PG_BINDIR")).join(program);
        let mut command = match server_user()? {
            None => Command::new(&program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid), "--clear-groups".to_owned()]).arg(&program);
                command
            }
        };
        let status = command
            .args(args)
            .current_dir(self.folder.path())
            // Inherited, the pipes of a test runner would stay open for as long as the server runs.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("cannot start {}", program.display()))?;
        ensure!(
            status.success(),
            "{}: {status}\n{}",
            program.display(),
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        );
        Ok(())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // A test may have stopped it.
        let _ = self.down();
    }
}

/// Postgres refuses to run as root: then another user runs it.
fn server_user() -> anyhow::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let named = |name| User::from_name(name).ok().flatten();
    named("postgres").or_else(|| named("nobody")).map(Some).context("running as root, and there is no user `postgres` or `nobody`")
}
