//! A worker's page: counting, waking, and a worker that writes garbage.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use everycore_sys::counters::{self, Counters, PrimaryPage, WorkerPage};
use rustix::fs::{MemfdFlags, SealFlags, ftruncate, memfd_create};

#[test]
fn the_primary_sees_what_the_worker_counts() {
    let (memfd, mut primary) = counters::create().unwrap();
    let worker = WorkerPage::open(&memfd).unwrap();
    assert_eq!(primary.read(9), Counters::default());
    worker.begin_turn();
    worker.add_taken();
    worker.add_taken();
    assert!(!worker.add_ready(1), "nobody asked to be woken");
    assert!(!worker.add_closed(), "nobody asked");
    assert_eq!(primary.read(9), Counters { taken: 2, ready: 1, closed: 1, turn: 1, awake: true });
    assert!(!worker.end_turn());
    assert!(!primary.read(9).awake);
    assert_eq!(worker.counters(), primary.read(9));
}

#[test]
fn one_wish_is_answered_once() {
    let (memfd, mut primary) = counters::create().unwrap();
    let worker = WorkerPage::open(memfd).unwrap();
    primary.set_wake(2, false);
    assert!(!worker.add_ready(1));
    assert!(!worker.end_turn(), "it did not ask for idleness");
    assert!(worker.add_ready(1));
    assert!(!worker.add_ready(1), "answered");
    primary.set_wake(2, false);
    assert!(worker.add_ready(1), "a new wish, even if it was fulfilled before");
    primary.set_wake(u64::MAX, true);
    assert!(!worker.add_ready(1));
    assert!(worker.end_turn());
    primary.set_wake(0, true);
    primary.clear_wake();
    assert!(!worker.add_ready(1) && !worker.end_turn());
}

#[test]
fn garbage_is_clamped_and_never_goes_back() {
    let (memfd, mut primary) = counters::create().unwrap();
    let write = |bytes: &[u8]| rustix::io::pwrite(&memfd, bytes, 0).unwrap();
    let cells = |values: [u64; 4]| values.map(u64::to_ne_bytes).concat();
    write(&cells([u64::MAX; 4]));
    let read = primary.read(5);
    assert_eq!((read.taken, read.ready, read.closed), (5, 5, 5));
    write(&cells([0; 4]));
    let read = primary.read(7);
    assert_eq!((read.taken, read.ready, read.closed, read.turn), (5, 5, 5, 0));
    write(&cells([6, 7, 8, 9]));
    let read = primary.read(7);
    assert_eq!((read.taken, read.ready, read.closed), (6, 6, 6));
    write(&[0xa5; 4096]);
    let read = primary.read(7);
    assert_eq!((read.taken, read.ready, read.closed), (7, 7, 7));
}

#[test]
fn only_sealed_pages_of_the_right_size_are_mapped() {
    let (memfd, _primary) = counters::create().unwrap();
    assert!(ftruncate(&memfd, 0).is_err(), "a mapping cannot be pulled away from under its reader");
    assert!(ftruncate(&memfd, 8192).is_err());
    PrimaryPage::open(&memfd).unwrap();

    let other = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&other, 4096).unwrap();
    assert!(WorkerPage::open(&other).is_err(), "not sealed");
    ftruncate(&other, 8192).unwrap();
    rustix::fs::fcntl_add_seals(&other, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    assert!(WorkerPage::open(&other).is_err(), "too long");
    let (left, _right) = everycore_sys::socket_pair::stream_pair().unwrap();
    assert!(WorkerPage::open(left).is_err());
}

#[test]
fn no_wish_is_lost_between_two_threads() {
    // Store, then look, on both sides: either the worker rings or the primary sees the number it waits for.
    let (memfd, mut primary) = counters::create().unwrap();
    let worker = WorkerPage::open(memfd).unwrap();
    let rounds = 100_000u64;
    std::thread::scope(|scope| {
        let (ring, bell) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for _ in 0..rounds {
                worker.add_taken();
                if worker.add_ready(1) {
                    // Nobody listens any more once the last number was seen.
                    let _ = ring.send(());
                }
            }
        });
        let mut target = 1;
        while target <= rounds {
            primary.set_wake(target, false);
            if worker_ready(&mut primary) < target {
                match bell.recv_timeout(std::time::Duration::from_secs(30)) {
                    Ok(()) => {}
                    Err(error) => assert!(worker_ready(&mut primary) >= target, "{error}: lost at {target}"),
                }
            }
            target = worker_ready(&mut primary).max(target) + 1;
        }
    });
}

fn worker_ready(primary: &mut PrimaryPage) -> u64 {
    primary.read(u64::MAX).ready
}
