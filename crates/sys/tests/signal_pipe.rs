//! Signals on a pipe. Handlers belong to the process, so this is the only test in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::AsFd;

use everycore_sys::signals::{self, subscribe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[test]
fn signals_arrive_as_numbers_and_leave_no_trace() {
    let before = caught();
    let pipe = subscribe(&[libc::SIGUSR1, libc::SIGHUP]).unwrap();
    assert_eq!(pipe.read(), None);
    raise(libc::SIGHUP);
    raise(libc::SIGUSR1);
    assert!(is_readable(&pipe));
    let mut got = [pipe.read().unwrap(), pipe.read().unwrap()];
    got.sort_unstable();
    assert_eq!(got, [libc::SIGHUP, libc::SIGUSR1]);
    assert_eq!(pipe.read(), None);

    assert_eq!(subscribe(&[libc::SIGUSR1]).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert!(subscribe(&[libc::SIGUSR2, 0]).is_err());
    drop(pipe);
    assert_eq!(caught(), before, "dispositions are restored");
    let again = subscribe(&[libc::SIGUSR1, libc::SIGUSR2]).unwrap();

    // Blocked ones wait.
    let blocked = signals::block_all();
    raise(libc::SIGUSR2);
    assert_eq!(again.read(), None);
    drop(blocked);
    assert_eq!(again.read(), Some(libc::SIGUSR2));

    // Many at once need no more of the alternate stack than one.
    drop(again);
    let storm = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGTERM,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGWINCH,
    ];
    let pipe = subscribe(&storm).unwrap();
    let blocked = signals::block_all();
    storm.into_iter().for_each(raise);
    drop(blocked);
    let mut got: Vec<i32> = std::iter::from_fn(|| pipe.read()).collect();
    got.sort_unstable();
    let mut sent = storm.to_vec();
    sent.sort_unstable();
    assert_eq!(got, sent);

    assert_eq!(signals::name(libc::SIGTERM), Some("SIGTERM"));
    assert_eq!(signals::name(64), None);
    assert_eq!(signals::number("usr1"), Some(libc::SIGUSR1));
    assert_eq!(signals::number("SIGKILL"), Some(libc::SIGKILL));
    assert_eq!(signals::number("SIG"), None);
    assert_eq!(signals::number(""), None);
}

/// To this thread, so that it has been handled when the call returns.
fn raise(signal: i32) {
    // SAFETY: all signals raised here are caught.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn is_readable(fd: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

fn caught() -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines().find(|line| line.starts_with("SigCgt")).unwrap().to_owned()
}
