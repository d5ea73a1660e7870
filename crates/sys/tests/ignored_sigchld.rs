//! A process that ignores SIGCHLD loses the exit codes of its children, and must not hang or fail for it.
//! Dispositions belong to the process, so this is the only test in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use everycore_sys::{Spawn, WaitStatus, spawn};

#[test]
fn the_status_is_unknown() {
    // SAFETY: sets a disposition, no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut program = Spawn::new("sh");
    program.args = vec!["-c".into(), "exit 3".into()];
    let child = spawn(&program).unwrap();
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Unknown);
    assert_eq!(child.pidfd.try_wait().unwrap(), Some(WaitStatus::Unknown));

    let mut sleeper = Spawn::new("sleep");
    sleeper.args = vec!["60".into()];
    let child = spawn(&sleeper).unwrap();
    assert_eq!(child.pidfd.try_wait().unwrap(), None, "alive is not the same as unknown");
    child.pidfd.signal(libc::SIGKILL).unwrap();
    assert_eq!(child.pidfd.wait().unwrap(), WaitStatus::Unknown);
    assert!(spawn(&Spawn::new("/no/such/program")).is_err());
}
