//! `artifact_write`: a file of one's own, that the whole run can read.

use std::{
    fs::File,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use muster_shared::{
    gate::Permit,
    hash::Hash32,
    store::Lease,
    tool::{Effect, Tool, ToolError, ToolSpec},
};
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, renameat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ArtifactRoots, Denied, MAX_PATH_CHARS, RUN_PREFIX, beneath, blocking, parts};
use crate::{arguments, invalid_arguments};

/// Bytes of one file at most. The arguments are journaled with the call, so more would not get here.
const MAX_BYTES: usize = 64 * 1024;

/// Where files are made before they get their name: no run has this name, so nothing in it can be read.
const UNFINISHED: &str = ".unfinished";

const NEW_FILE: OFlag = OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// `artifact_write {path, text} -> {path, artifact, bytes, sha256}`. Idempotent: a file is there with all of
/// its content or not at all, and the repeated call writes the same.
pub struct ArtifactWrite {
    spec: ToolSpec,
    roots: Arc<ArtifactRoots>,
    /// Two attempts at one call may overlap (the first was given up, not stopped): each has its own file.
    attempts: Arc<AtomicU64>,
}

impl ArtifactWrite {
    /// Writes below these roots.
    pub fn new(roots: Arc<ArtifactRoots>) -> Self {
        let spec = ToolSpec {
            name: "artifact_write".to_owned(),
            description: format!(
                "Writes a text file (at most {MAX_BYTES} bytes) and replaces what was there. `path` is relative. Every agent of this run can \
                 read it with artifact_read under the path in `artifact`: `{RUN_PREFIX}<instance id>/<path>`."
            ),
            input_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["path", "text"],
                "properties": {
                    "path": {"type": "string", "minLength": 1, "maxLength": MAX_PATH_CHARS},
                    "text": {"type": "string"},
                },
            }),
            output_schema: json!({
                "type": "object", "additionalProperties": false, "required": ["path", "artifact", "bytes", "sha256"],
                "properties": {
                    "path": {"type": "string"},
                    "artifact": {"type": "string"},
                    "bytes": {"type": "integer", "minimum": 0},
                    "sha256": {"type": "string", "minLength": 64, "maxLength": 64},
                },
            }),
            timeout_ms: 30_000,
            effect: Effect::Idempotent,
        };
        Self { spec, roots, attempts: Arc::default() }
    }
}

#[derive(Deserialize)]
struct Arguments {
    path: String,
    text: String,
}

/// Tells the thread that writes that nobody waits for it any more.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Tool for ArtifactWrite {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    async fn call(&self, permit: Permit) -> Result<Value, ToolError> {
        let Arguments { path, text } = arguments(permit.arguments())?;
        if text.len() > MAX_BYTES {
            return Err(invalid_arguments(format!("/text: has {} bytes, and {MAX_BYTES} are allowed", text.len())));
        }
        if path.starts_with(RUN_PREFIX) {
            return Err(invalid_arguments(format!("/path: `{RUN_PREFIX}` is for reading; write to a relative path")));
        }
        let (roots, lease) = (Arc::clone(&self.roots), permit.lease());
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{}-{}-{attempt}", lease.worker, Hash32::of(permit.idempotency_key().as_bytes()));
        let given_up = GivenUp(Arc::default());
        let stop = Arc::clone(&given_up.0);
        let answer = blocking(move || {
            write(&roots, lease, &path, text.as_bytes(), &temporary, &stop).map_err(|denied| denied.shown(&path))?;
            let artifact = parts(&path).map(|parts| format!("{RUN_PREFIX}{}/{}", lease.instance, parts.join("/")));
            let artifact = artifact.map_err(|denied| denied.shown(&path))?;
            Ok(json!({"path": path, "artifact": artifact, "bytes": text.len(), "sha256": Hash32::of(text.as_bytes()).to_string()}))
        })
        .await;
        drop(given_up);
        answer
    }
}

/// Temporary file, fsync, rename, fsync: after a crash the old content or the new, never a part.
fn write(roots: &ArtifactRoots, lease: Lease, path: &str, bytes: &[u8], temporary: &str, stop: &AtomicBool) -> Result<(), Denied> {
    let parts = parts(path)?;
    let (name, folders) = parts.split_last().ok_or(Denied::Missing("it names a folder, not a file"))?;
    std::fs::create_dir_all(&roots.write)?;
    let root = beneath::root(&roots.write)?;
    let mut folder = beneath::enter_or_make(&root, &lease.run.to_string())?;
    folder = beneath::enter_or_make(&folder, &lease.instance.to_string())?;
    for part in folders {
        folder = beneath::enter_or_make(&folder, part)?;
    }
    let unfinished = Unfinished::write(beneath::enter_or_make(&root, UNFINISHED)?, temporary, bytes)?;
    if stop.load(Ordering::Acquire) {
        return Err(Denied::Abandoned);
    }
    unfinished.finish(&folder, name)
}

/// A file without its name. Dropped, it is gone.
struct Unfinished<'a> {
    folder: File,
    name: &'a str,
}

impl<'a> Unfinished<'a> {
    fn write(folder: File, name: &'a str, bytes: &[u8]) -> Result<Self, Denied> {
        let mut file = File::from(openat(&folder, name, NEW_FILE, Mode::from_bits_truncate(0o644))?);
        let unfinished = Self { folder, name };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(unfinished)
    }

    fn finish(self, folder: &File, name: &str) -> Result<(), Denied> {
        match renameat(&self.folder, self.name, folder, name) {
            Ok(()) => Ok(folder.sync_all()?),
            Err(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST) => Err(Denied::Conflict("there is a folder of that name")),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // After the rename there is nothing of that name, and that is fine.
        let _ = unlinkat(&self.folder, self.name, UnlinkatFlags::NoRemoveDir);
    }
}
