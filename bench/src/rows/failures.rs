//! What a killed worker and a reload cost the clients.
//!
//! Our workers keep a book of what they have taken (`witness`), so that a request lost on a connection somebody had taken,
//! which no one can save, is told apart from one lost on the way, which nobody may lose.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal};

use super::{Bench, stop};
use crate::load::{self, Failed, Length, Outcome, Pace, Plan, Reuse};
use crate::measure::processes;
use crate::report::{Report, Side, Verdict};
use crate::servers::{Face, Running, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);
const ROUND_ROBIN: Server = Server::Everycore(Spread::RoundRobin, Face::Hyper);
const NODE_UNDER: Server = Server::NodeUnder(Spread::RoundRobin);
const SHARED: Server = Server::Everycore(Spread::Shared, Face::Hyper);

/// How long the server may take to be whole again after a kill, or to finish a reload.
const WHOLE: Duration = Duration::from_secs(20);

/// How often it happens to our own workers.
const OURS: u64 = 100;

/// To Node workers of ours, who take a third of a second to start.
const NODE: u64 = 15;

/// To a peer: enough to see what one costs.
const PEERS: u64 = 15;

/// How long a peer whose recovery cannot be seen is left alone.
const PAUSE: Duration = Duration::from_millis(400);

/// After a recovery that was seen, until the load is steady again.
const STEADY: Duration = Duration::from_millis(30);

/// The loads under which something happens.
const LOADS: [(&str, Pace, Reuse); 3] = [
    ("800/s, short", Pace::Open(800.0), Reuse::Short),
    ("64 in flight, short", Pace::Closed(64), Reuse::Short),
    ("64 kept connections", Pace::Closed(64), Reuse::Careful),
];

pub(super) fn kills(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("kills", "`kill -9` of a worker under load, again and again");
    let mut rows = Vec::new();
    for server in [LEAST, ROUND_ROBIN, SHARED, NODE_UNDER, Server::Nginx, Server::NodeRr] {
        let count = times(bench, server);
        for (load, pace, reuse) in LOADS {
            let Some(running) = start(bench, server, &["events", "witness={dir}/witness"])? else { continue };
            let plan = plan(bench, &running, pace, reuse);
            let outcome = under_load(&plan, || {
                (0..count).try_for_each(|done| kill_one(&running, bench.workers, done))
            })?;
            let loss = Loss::of(&running, &outcome);
            rows.push(row(server, load, count, &outcome, &loss));
            if let Some(untaken) = loss.untaken {
                let what =
                    format!("{count} kills, {load}, {}: not taken, beyond one per kill", server.name());
                let beyond = untaken.saturating_sub(count) as f64;
                report.verdicts.push(Verdict::new(&what, Side::AtMost, 0.0, "", Some(beyond)));
            }
            stop(vec![running]);
        }
    }
    report.text(
        "Every failure of the whole run is counted. *Taken* are failures on connections that a worker had written down. \
         One connection per kill may be off the channel, or accepted, and not yet written down: those show as *not taken*.",
    );
    report.table(&HEADS, rows);
    Ok(report)
}

pub(super) fn reloads(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("reloads", "Reloads under load, one after the other");
    let mut rows = Vec::new();
    for server in [
        LEAST,
        ROUND_ROBIN,
        SHARED,
        Server::Everycore(Spread::Least, Face::Axum),
        NODE_UNDER,
        Server::Nginx,
        Server::HaProxy,
    ] {
        let count = times(bench, server);
        for (load, pace, reuse) in LOADS {
            let Some(running) = start(bench, server, &["events"])? else { continue };
            let plan = plan(bench, &running, pace, reuse);
            let outcome = under_load(&plan, || (0..count).try_for_each(|done| reload_once(&running, done)))?;
            let loss = Loss::of(&running, &outcome);
            rows.push(row(server, load, count, &outcome, &loss));
            if server.is_ours() {
                let what = format!("{count} reloads, {load}, {}: failures", server.name());
                report.verdicts.push(Verdict::new(
                    &what,
                    Side::AtMost,
                    0.0,
                    "",
                    Some(outcome.failures.total() as f64),
                ));
            }
            stop(vec![running]);
        }
    }
    report.text(
        "Kept connections are looked at before each request: what fails was sent before its sender could see the end of \
         the connection or its announcement.",
    );
    report.table(&HEADS, rows);
    Ok(report)
}

const HEADS: [&str; 9] = [
    "server",
    "load",
    "times",
    "answered",
    "failures",
    "lost requests",
    "of failures taken",
    "not taken",
    "which",
];

fn times(bench: &Bench, server: Server) -> u64 {
    bench.count(match server {
        Server::NodeUnder(_) => NODE,
        server if server.is_ours() => OURS,
        _ => PEERS,
    })
}

fn row(server: Server, load: &str, count: u64, outcome: &Outcome, loss: &Loss) -> Vec<String> {
    let or_dash = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| count.to_string());
    vec![
        server.name().to_owned(),
        load.to_owned(),
        count.to_string(),
        outcome.answered.to_string(),
        outcome.failures.total().to_string(),
        outcome.failures.lost_requests().to_string(),
        or_dash(loss.taken),
        or_dash(loss.untaken),
        outcome.failures.to_string(),
    ]
}

fn start(bench: &Bench, server: Server, options: &[&str]) -> io::Result<Option<Running>> {
    if !bench.wants(server) {
        return Ok(None);
    }
    Running::start(server, &bench.tools, bench.workers, options)
}

fn plan(bench: &mut Bench, running: &Running, pace: Pace, reuse: Reuse) -> Plan {
    Plan {
        target: running.address,
        hosts: 1,
        pace,
        reuse,
        burn: None,
        warm_up: Duration::ZERO,
        // Until it is told to stop.
        length: Length::Time(Duration::from_secs(3600)),
        timeout: Duration::from_secs(5),
        seed: bench.random.next(),
    }
}

/// Loads a server while something happens to it, and half a second before and after.
fn under_load(plan: &Plan, happening: impl FnOnce() -> io::Result<()>) -> io::Result<Outcome> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| load::run(plan, &stop, &mut |_| {}));
        std::thread::sleep(Duration::from_millis(500));
        let happened = happening();
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        let outcome = load.join().map_err(|_| io::Error::other("the generator panicked"))??;
        happened.map(|()| outcome)
    })
}

/// Kills the worker whose turn it is and waits until there are as many as before.
fn kill_one(running: &Running, workers: usize, done: u64) -> io::Result<()> {
    let before = processes::children(running.process.pid());
    let victim = before[done as usize % before.len().max(1)];
    let pid = i32::try_from(victim).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    if running.server.is_ours() {
        wait_for(running, "listening", workers as u64 + done + 1)?;
        std::thread::sleep(STEADY);
    } else {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn reload_once(running: &Running, done: u64) -> io::Result<()> {
    match running.server {
        server if server.is_ours() => {
            running.process.signal(Signal::HUP)?;
            wait_for(running, "reloaded", done + 1)
        }
        // Its master re-executes itself with the sockets it gets from its worker.
        Server::HaProxy => {
            running.process.signal(Signal::USR2)?;
            std::thread::sleep(PAUSE);
            Ok(())
        }
        _ => {
            running.process.signal(Signal::HUP)?;
            std::thread::sleep(PAUSE);
            Ok(())
        }
    }
}

/// Waits until the server has said a word so many times.
fn wait_for(running: &Running, word: &str, times: u64) -> io::Result<()> {
    let deadline = Instant::now() + WHOLE;
    loop {
        let said = running.process.log();
        if said.lines().filter(|line| line.starts_with(word)).count() as u64 >= times {
            return Ok(());
        }
        if Instant::now() > deadline || running.process.has_ended() {
            let last: Vec<&str> = said.lines().rev().take(10).collect();
            return Err(io::Error::other(format!(
                "{} never said '{word}' {times} times; last: {last:?}",
                running.server.name()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Failures by whether a worker had taken the connection; unknown where nobody kept a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loss {
    taken: Option<u64>,
    untaken: Option<u64>,
}

impl Loss {
    fn of(running: &Running, outcome: &Outcome) -> Self {
        match std::fs::read_to_string(running.directory().join("witness")) {
            Ok(book) => Self::by(&read_book(&book), outcome),
            Err(_) => Self { taken: None, untaken: None },
        }
    }

    fn by(book: &HashMap<SocketAddr, Vec<u64>>, outcome: &Outcome) -> Self {
        let taken = outcome.failures.each.iter().filter(|failed| was_taken(book, failed)).count() as u64;
        Self { taken: Some(taken), untaken: Some(outcome.failures.total() - taken) }
    }
}

/// `ADDRESS PID NANOSECONDS` per line.
fn read_book(book: &str) -> HashMap<SocketAddr, Vec<u64>> {
    let mut taken: HashMap<SocketAddr, Vec<u64>> = HashMap::new();
    for line in book.lines() {
        let mut words = line.split(' ');
        let (address, nanos) = (
            words.next().and_then(|word| word.parse().ok()),
            words.nth(1).and_then(|word| word.parse().ok()),
        );
        if let (Some(address), Some(nanos)) = (address, nanos) {
            taken.entry(address).or_default().push(nanos);
        }
    }
    taken
}

/// Between the wall clock, which is corrected while it runs, and the clock that failures are timed with.
const CLOCKS: u64 = 50_000_000;

/// Ports come round again: the entry must be from the connection's own time, give or take what clocks drift.
fn was_taken(book: &HashMap<SocketAddr, Vec<u64>>, failed: &Failed) -> bool {
    let Some(entries) = failed.from.and_then(|from| book.get(&from)) else { return false };
    let began = wall_clock(failed.began).saturating_sub(CLOCKS);
    let ended = wall_clock(failed.ended).saturating_add(CLOCKS);
    entries.iter().any(|taken| (began..=ended).contains(taken))
}

/// Nanoseconds since 1970 of a moment in the past.
fn wall_clock(instant: Instant) -> u64 {
    let then = SystemTime::now().checked_sub(instant.elapsed()).unwrap_or(UNIX_EPOCH);
    u64::try_from(then.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;

    #[test]
    fn a_failure_counts_as_taken_only_by_an_entry_of_its_own_time() {
        let now = Instant::now();
        let began = now - Duration::from_secs(1);
        let from: SocketAddr = "127.0.0.2:4000".parse().unwrap();
        let failed = Failed { failure: Failure::ResetAfterRequest, from: Some(from), began, ended: now };
        let at = |instant| {
            read_book(&format!("{from} 17 {}\n127.0.0.2:4001 17 {}\n", wall_clock(instant), wall_clock(now)))
        };
        assert!(was_taken(&at(now - Duration::from_millis(500)), &failed));
        assert!(was_taken(&at(began - Duration::from_millis(1)), &failed), "clocks drift");
        assert!(!was_taken(&at(now - Duration::from_secs(2)), &failed));
        assert!(!was_taken(&at(began), &Failed { from: None, ..failed }));
    }
}
