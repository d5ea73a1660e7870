//! Who may bind, replace or remove a Unix socket's file, one process at a time.
//!
//! Between two system calls a file that was stale may have become somebody's live socket, and one that is bound but does
//! not listen yet looks stale. So all of that happens under a lock on a file beside it, `.NAME.lock`, which goes with the
//! lock: the file is removed by whoever holds it, and whoever waited for it sees that it is gone, and begins again. One
//! that a killed process leaves behind is in nobody's way.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long somebody else may hold the lock, who has a few system calls to make.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(1);

/// The most of a socket's name that is part of the lock's, which must not get too long. Two sockets with one lock only
/// wait for each other.
const NAME: usize = 200;

/// Held until dropped.
#[derive(Debug)]
pub(super) struct PathLock {
    path: PathBuf,
    file: File,
}

impl PathLock {
    /// Waits for its turn with the file of this name. `None` where there are no locks, as on some network file systems.
    ///
    /// # Errors
    /// The directory is not there or may not be written to, or somebody else holds the lock for too long.
    pub(super) fn take(socket: &Path) -> io::Result<Option<Self>> {
        let path = beside(socket);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::attempt(&path)? {
                Attempt::Taken(file) => return Ok(Some(Self { path, file })),
                Attempt::NoLocks => return Ok(None),
                Attempt::Gone => {}
                Attempt::Held if Instant::now() < deadline => std::thread::sleep(AGAIN),
                Attempt::Held => {
                    let held = format!(
                        "another process holds {}; is it stuck while it binds the same path?",
                        path.display()
                    );
                    return Err(io::Error::new(io::ErrorKind::TimedOut, held));
                }
            }
        }
    }

    fn attempt(path: &Path) -> io::Result<Attempt> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = match options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path) {
            Ok(file) => file,
            // Another user's, who has it at this moment.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => {
                return Ok(Attempt::Held);
            }
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Attempt::Held),
            Err(_) => {
                let _ = std::fs::remove_file(path);
                return Ok(Attempt::NoLocks);
            }
        }
        // Whoever held it before may have removed it: then it is nobody's lock any more.
        let (ours, named) = (file.metadata()?, std::fs::symlink_metadata(path));
        let is_named = named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
        Ok(if is_named { Attempt::Taken(file) } else { Attempt::Gone })
    }
}

enum Attempt {
    Taken(File),
    Held,
    /// It was removed between opening and locking.
    Gone,
    NoLocks,
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // While it is held: nobody else removes it, and nobody takes it for a lock afterwards.
        let _ = std::fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn beside(socket: &Path) -> PathBuf {
    let name = socket.file_name().map_or(&[][..], OsStr::as_bytes);
    let mut lock = OsString::from(".");
    lock.push(OsStr::from_bytes(&name[..name.len().min(NAME)]));
    lock.push(".lock");
    socket.with_file_name(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("everycore-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let socket = dir.join("x".repeat(255));
        let lock = PathLock::take(&socket).unwrap().expect("this file system has locks");
        let error = PathLock::take(&socket).unwrap_err();
        assert!(error.to_string().contains("another process holds"), "{error}");
        drop(lock);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        // What a killed process has left is no lock.
        std::fs::write(beside(&socket), "").unwrap();
        drop(PathLock::take(&socket).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        // Nor does a link lead anywhere.
        std::os::unix::fs::symlink(dir.join("precious"), beside(&socket)).unwrap();
        assert!(PathLock::take(&socket).is_err());
        assert!(!dir.join("precious").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
