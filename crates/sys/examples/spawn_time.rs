//! How long a spawn takes from a parent of a given size, beside the standard library's.
//!
//! `cargo run --release -p everycore-sys --example spawn_time -- [MiB] [rounds]`

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a measurement for a terminal")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use everycore_sys::{Spawn, spawn};

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (mib, rounds) = (args.next().unwrap_or(1024), args.next().unwrap_or(500));
    // Written to, page by page, so that it is resident and would have page tables to copy.
    let mut ballast = vec![0u8; mib << 20];
    for page in ballast.chunks_mut(4096) {
        page[0] = 1;
    }
    println!("{mib} MiB resident, {rounds} rounds of /bin/true, microseconds");
    println!("{:32} {:>6} {:>6} {:>6}", "", "p50", "p90", "p99");

    let everything =
        Spawn { process_group: true, umask: Some(0o022), no_new_privs: true, ..Spawn::new("/bin/true") };
    for (name, program) in [("ours", Spawn::new("/bin/true")), ("ours, group, umask, privileges", everything)]
    {
        let (spawned, total) = measure(rounds, || {
            let start = Instant::now();
            let child = spawn(&program).expect("/bin/true can be started");
            let spawned = start.elapsed();
            child.pidfd.wait().expect("it is our child");
            (spawned, start.elapsed())
        });
        report(name, spawned);
        report(&format!("{name}, and wait"), total);
    }
    let (spawned, total) = measure(rounds, || {
        let start = Instant::now();
        let mut child =
            Command::new("/bin/true").stdin(Stdio::null()).spawn().expect("/bin/true can be started");
        let spawned = start.elapsed();
        child.wait().expect("it is our child");
        (spawned, start.elapsed())
    });
    report("std, for comparison", spawned);
    report("std, and wait", total);
    std::hint::black_box(ballast);
}

fn measure(rounds: usize, mut once: impl FnMut() -> (Duration, Duration)) -> (Vec<Duration>, Vec<Duration>) {
    (0..rounds).map(|_| once()).unzip()
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    println!("{name:32} {:>6} {:>6} {:>6}", at(50), at(90), at(99));
}
