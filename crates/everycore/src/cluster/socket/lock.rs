//! Who may bind, replace or remove a Unix socket's file, one process at a time.
//!
//! Between two system calls a file that was stale may have become somebody's live socket, and one that is bound but does
//! not listen yet looks stale. So all of that happens under a lock on the directory it is in. The lock is among those who
//! ask for it, and leaves nothing behind. Without it (no permission to read the directory, a file system that knows no
//! locks, somebody who does not let go) everything works, and only two who bind one path in the same moment may disturb
//! each other.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// How long somebody else may hold the lock, who has a few system calls to make.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const AGAIN: Duration = Duration::from_millis(1);

/// Somebody held a lock for longer than that, by mistake or on purpose: nobody is waited for any more, since it is the
/// primary's loop that waits, and a worker that may make it.
static OUT_OF_PATIENCE: AtomicBool = AtomicBool::new(false);

/// Held until dropped, as far as there are locks.
#[derive(Debug)]
pub(super) struct PathLock {
    _directory: Option<File>,
}

impl PathLock {
    /// Waits for its turn with the directory of this file.
    pub(super) fn take(socket: &Path) -> Self {
        Self { _directory: lock(socket, &OUT_OF_PATIENCE, PATIENCE) }
    }
}

fn lock(socket: &Path, out_of_patience: &AtomicBool, patience: Duration) -> Option<File> {
    let flags = OFlags::DIRECTORY.bits() as i32;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(socket.parent()?).ok()?;
    let deadline = Instant::now().checked_add(patience);
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if out_of_patience.load(Ordering::Relaxed) => return None,
            Err(Errno::AGAIN) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                std::thread::sleep(AGAIN)
            }
            Err(Errno::AGAIN) => {
                out_of_patience.store(true, Ordering::Relaxed);
                return None;
            }
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_and_waited_for_until_somebody_does_not_let_go() {
        let dir = std::env::temp_dir().join(format!("everycore-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (socket, impatient) = (dir.join("socket"), AtomicBool::new(false));
        let take = |patience| lock(&socket, &impatient, patience);
        let held = take(Duration::ZERO).expect("this file system has locks");
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(Duration::from_secs(30)));
            drop(held);
            waiting.join().unwrap()
        });
        assert!(waiting.is_some() && !impatient.load(Ordering::Relaxed));
        // Whoever holds it for too long is not waited for a second time.
        assert!(take(Duration::from_millis(5)).is_none());
        assert!(take(Duration::MAX).is_none());
        drop(waiting);
        assert!(take(Duration::ZERO).is_some());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(take(Duration::ZERO).is_none(), "no directory, no lock: the bind will say it");
    }
}
