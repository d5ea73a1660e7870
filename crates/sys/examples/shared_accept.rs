//! How a shared listener spreads connections over waiting workers, and how many of them each connection wakes.
//!
//! Wake-ups are the kernel's (voluntary context switches): a worker that finds nothing sleeps on without having noticed.
//!
//! `cargo run --release -p everycore-sys --example shared_accept -- [workers] [connections]`

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a measurement for a terminal")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use everycore_sys::accept::FairAccept;
use rustix::event::{Timespec, epoll};

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (workers, connections) = (args.next().unwrap_or(4), args.next().unwrap_or(2000));
    println!("{workers} workers, {connections} connections one after the other");
    for nested in [false, true] {
        let (counts, wakes) = run(workers, connections, nested);
        let how = if nested { "watched by another epoll set" } else { "waited on directly" };
        println!("{how:30} {counts:?}, {:.2} wake-ups per connection", wakes as f64 / connections as f64);
    }
}

/// Threads instead of processes: to the kernel each is one more epoll set that waits on the listener.
fn run(workers: usize, connections: usize, nested: bool) -> (Vec<usize>, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.set_nonblocking(true).expect("it is a socket");
    let address = listener.local_addr().expect("it is bound");
    let (stop, wakes) = (AtomicBool::new(false), AtomicU64::new(0));
    let counts: Vec<_> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for count in &counts {
            let fair = FairAccept::new(OwnedFd::from(listener.try_clone().expect("descriptors are left")));
            let fair = fair.expect("it is a listener");
            let (stop, wakes) = (&stop, &wakes);
            scope.spawn(move || {
                let outer = outer(&fair);
                let before = times_slept();
                while !stop.load(Ordering::Relaxed) {
                    let woken =
                        if nested { wait_outer(&outer) } else { fair.wait(Some(TICK)).unwrap_or(false) };
                    if !woken {
                        continue;
                    }
                    // Edge-triggered from outside: go on until it is empty. Directly: one, and wait again.
                    while let Ok(Some(_accepted)) = fair.accept() {
                        count.fetch_add(1, Ordering::Relaxed);
                        if !nested {
                            break;
                        }
                    }
                }
                wakes.fetch_add(times_slept() - before, Ordering::Relaxed);
            });
        }
        for done in 1..=connections {
            drop(TcpStream::connect(address).expect("somebody listens"));
            while counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>() < done {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    (counts.into_iter().map(AtomicUsize::into_inner).collect(), wakes.into_inner())
}

/// How often this thread went to sleep by itself.
fn times_slept() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

const TICK: Duration = Duration::from_millis(100);

fn outer(fair: &FairAccept) -> OwnedFd {
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC).expect("descriptors are left");
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&outer, fair.as_fd(), epoll::EventData::new_u64(0), flags).expect("a set can be in a set");
    outer
}

fn wait_outer(outer: &OwnedFd) -> bool {
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
    let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    epoll::wait(outer, &mut events, Some(&timeout)).is_ok_and(|count| count > 0)
}
