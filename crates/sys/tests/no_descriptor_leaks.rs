//! Counts the descriptors of the whole process, so this is the only test in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::{AsFd, BorrowedFd};

use everycore_sys::scm_rights::{is_back_pressure, receive, receive_one, send, send_each};
use everycore_sys::socket_pair::{record_pair, stream_pair};
use everycore_sys::{Spawn, counters, inherit, signals, spawn};
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn nothing_is_left_open_and_a_process_out_of_descriptors_copes() {
    let before = open_descriptors();
    spawns();
    truncated_messages();
    truncated_records();
    pages_and_signals();
    adopting();
    assert_eq!(open_descriptors(), before);
}

fn spawns() {
    for program in ["true", "no-such-program", "/dev/null"] {
        for _ in 0..50 {
            if let Ok(child) = spawn(&Spawn::new(program)) {
                child.pidfd.wait().unwrap();
            }
        }
    }
}

/// A receiver with room for 10 of 64 descriptors gets those, the bytes, and is told.
fn truncated_messages() {
    let (left, right) = stream_pair().unwrap();
    let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(left.as_fd(), 64).collect();
    for _ in 0..20 {
        send(&left, b"payload", &many).unwrap();
        let (mut buffer, mut fds) = ([0; 64], Vec::with_capacity(64));
        let received = with_room_for(10, || receive(&right, &mut buffer, &mut fds).unwrap());
        assert_eq!((received.bytes, received.truncated), (7, true));
        assert!((1..=10).contains(&fds.len()), "{}", fds.len());
    }
    // The stream goes on as if nothing had happened.
    send(&left, b"next", &[left.as_fd()]).unwrap();
    let (mut buffer, mut fds) = ([0; 64], Vec::new());
    let received = receive(&right, &mut buffer, &mut fds).unwrap();
    assert_eq!((received.bytes, received.truncated, fds.len()), (4, false, 1));
}

fn truncated_records() {
    let (left, right) = record_pair().unwrap();
    let records = vec![(&b"record"[..], left.as_fd()); 3];
    assert_eq!(send_each(&left, &records).unwrap(), 3);
    let mut buffer = [0; 16];
    let received = with_room_for(0, || receive_one(&right, &mut buffer));
    assert!(matches!(received, Ok(Some((6, None)))), "the record arrives, its descriptor does not");
    // Two stay in the queue, descriptors and all; closing the pair frees them.
    let full = loop {
        if let Err(error) = send_each(&left, &records) {
            break error;
        }
    };
    assert!(is_back_pressure(&full));
}

fn pages_and_signals() {
    for _ in 0..20 {
        let (memfd, page) = counters::create().unwrap();
        let worker = counters::WorkerPage::open(memfd).unwrap();
        worker.add_taken();
        drop((worker, page));
        assert!(counters::WorkerPage::open(std::fs::File::open("/dev/null").unwrap()).is_err());
        drop(signals::subscribe(&[libc::SIGUSR1]).unwrap());
        assert!(signals::subscribe(&[libc::SIGUSR1, libc::SIGKILL]).is_err());
    }
}

fn adopting() {
    let file = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let number = std::os::fd::IntoRawFd::into_raw_fd(file);
    let adopted = inherit::adopt_fd(number, &[]).unwrap();
    assert!(inherit::adopt_fd(number, &[]).is_err(), "taken already");
    drop(adopted);
    assert!(inherit::adopt_fd(number, &[]).is_err(), "not open");
}

/// Runs `action` with room for `count` more descriptors.
fn with_room_for<T>(count: u64, action: impl FnOnce() -> T) -> T {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let is_free = |number: &u64| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err();
    // Numbers below the limit, not their count, are what may be used: step over those in use.
    let end = (0..).filter(is_free).nth(count as usize).unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(end), maximum: limit.maximum }).unwrap();
    let result = action();
    setrlimit(Resource::Nofile, limit).unwrap();
    result
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
