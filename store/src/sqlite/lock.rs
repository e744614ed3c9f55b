//! The lock that makes one process the owner of a database file: held for the life of the process, let go by the
//! kernel however it ends. So whoever held it before is dead, and its leases can be taken back at once.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use muster_shared::store::StoreError;

/// The held lock. Dropping it lets go.
#[derive(Debug)]
pub(super) struct FileLock {
    /// Open for as long as the lock is held.
    _file: File,
}

impl FileLock {
    /// Takes the lock file beside `database`, or says who has it.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database);
        let unavailable = |error: std::io::Error| StoreError::Unavailable(format!("the lock file {}: {error}", path.display()));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(unavailable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message: the lock, not its content, decides.
                let _unreadable = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
                return Err(StoreError::Conflict(format!(
                    "the database {} is in use: {holder} holds the lock {}; stop it, or use another data directory",
                    database.display(),
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(unavailable(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unavailable)?;
        Ok(Self { _file: file })
    }
}

fn beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
