//! A stranger's working directory, and `muster dev` in it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::{Client, Process, Said, muster_binary, until};

/// The top of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Copies `README.md`, `ARCHITECTURE.md`, `docs` and `examples` of the checkout into a folder.
pub fn copy_documents(to: &Path) -> anyhow::Result<()> {
    for name in ["README.md", "ARCHITECTURE.md", "docs", "examples"] {
        copy(&checkout().join(name), &to.join(name)).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// A working directory with a copy of the documents and examples.
pub struct Home {
    folder: TempDir,
    env: Vec<(String, String)>,
    started: AtomicU32,
}

impl Home {
    /// A new one, see [`copy_documents`].
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        copy_documents(folder.path())?;
        Ok(Self { folder, env: Vec::new(), started: AtomicU32::new(0) })
    }

    /// With a variable in the environment of all that is started here.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        fs::write(self.path(name), bytes).with_context(|| name.to_owned())
    }

    /// Starts `muster ARGS`.
    pub fn start(&self, args: &[&str]) -> anyhow::Result<Process> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let label = format!(".{number}-{}", args.first().unwrap_or(&"muster"));
        Process::start(&muster_binary(), args, &self.env, self.folder.path(), &label)
    }

    /// Runs `muster ARGS` to its end.
    pub async fn muster(&self, args: &[&str]) -> anyhow::Result<Said> {
        Said::by(self.start(args)?).await
    }

    /// Starts `muster dev` on the data directory `data`, on a free port, and waits until it is ready.
    pub async fn dev(&self, data: &str, more: &[&str]) -> anyhow::Result<Dev> {
        let mut args = vec!["dev", "--data", data, "--listen", "127.0.0.1:0"];
        args.extend(more);
        let process = self.start(&args)?;
        process.says("listening on http://").await?;
        let said = process.stdout();
        let url = said.lines().find_map(|line| line.strip_prefix("listening on ")).context("the line with the address")?.to_owned();
        let client = Client::new(url.clone());
        until("the embedded fleet to be ready", || async { Ok((client.get("/readyz").await?.0 == 200).then_some(())) })
            .await
            .with_context(|| process.stderr())?;
        Ok(Dev { process, client, url })
    }
}

/// A running `muster dev`.
pub struct Dev {
    /// The process.
    pub process: Process,
    /// Its API.
    pub client: Client,
    /// Where that is.
    pub url: String,
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_file() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
