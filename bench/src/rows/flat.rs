//! What must not grow: the primary's memory over restarts and connections, and a worker's over connections.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::Bench;
use crate::hot::Restarts;
use crate::load::{self, Length, Plan, Reuse};
use crate::measure::{memory, processes};
use crate::process::{Launch, Process};
use crate::report::{Report, Side, Verdict};
use crate::scratch::Scratch;
use crate::servers::{Face, Running, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);

/// Restarts decided by the core alone, in virtual time.
const SIMULATED: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Real ones.
const KILLED: [u64; 3] = [10, 100, 1_000];

/// Connections served.
const SERVED: [u64; 3] = [10_000, 100_000, 1_000_000];

/// What may be added after the first figure: pages an allocator keeps, and no more.
const GROWTH: u64 = 1024;

pub(super) fn flat(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("flat", "Memory over restarts and connections");
    simulated(bench, &mut report)?;
    killed(bench, &mut report)?;
    served(bench, &mut report)?;
    Ok(report)
}

/// `everycore-bench restarts COUNT…`: lets a cluster in virtual time restart so often, and prints what it weighs at each.
///
/// # Errors
/// A bad command line, or the cluster does not come back.
pub(crate) fn restart_all(args: &[String]) -> io::Result<()> {
    let mut restarts = Restarts::new()?;
    let mut done = 0;
    for count in args {
        let count: u64 = count.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        while done < count {
            restarts.next()?;
            done += 1;
        }
        crate::print_out!("{done} {}", memory::of(std::process::id()).rss);
    }
    Ok(())
}

fn simulated(bench: &Bench, report: &mut Report) -> io::Result<()> {
    let scratch = Scratch::new("restarts")?;
    let counts = SIMULATED.map(|count| bench.count(count).to_string());
    let launch = Launch::new(std::env::current_exe()?, std::iter::once("restarts".to_owned()).chain(counts));
    let process = Process::start(&launch, scratch.path(), "restarts")?;
    process.wait(Duration::from_secs(300))?;
    let log = process.log();
    let lines: Vec<(u64, u64)> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(count, rss)| Some((count.parse().ok()?, rss.parse().ok()?)))
        .collect();
    if lines.len() != SIMULATED.len() {
        return Err(io::Error::other(format!("the simulated restarts say: {}", log.trim())));
    }
    report.text("Restarts decided by the core, eight workers in virtual time, each killed after an hour: RSS of the process.");
    let rows = lines.iter().map(|(count, rss)| vec![count.to_string(), rss.to_string()]).collect();
    report.table(&["restarts", "RSS KiB"], rows);
    let sizes: Vec<u64> = lines.iter().map(|(_, rss)| *rss).collect();
    report.verdicts.push(growth("memory over simulated restarts, growth", &sizes));
    Ok(())
}

fn killed(bench: &mut Bench, report: &mut Report) -> io::Result<()> {
    let Some(running) = Running::start(LEAST, &bench.tools, bench.workers, &["events"])? else {
        return Ok(());
    };
    let (mut done, mut rows, mut sizes) = (0, Vec::new(), Vec::new());
    for count in KILLED.map(|count| bench.count(count)) {
        while done < count {
            kill_one(&running, bench.workers)?;
            done += 1;
        }
        let root = running.process.pid();
        sizes.push(memory::of(root).rss);
        rows.push(vec![done.to_string(), memory::of(root).rss.to_string(), descriptors(root).to_string()]);
    }
    running.stop();
    report.text("`kill -9` of a real worker, again and again: the primary.");
    report.table(&["restarts", "RSS KiB", "descriptors"], rows);
    report.verdicts.push(growth("primary over real restarts, growth", &sizes));
    Ok(())
}

fn served(bench: &mut Bench, report: &mut Report) -> io::Result<()> {
    let Some(running) = Running::start(LEAST, &bench.tools, bench.workers, &[])? else { return Ok(()) };
    let root = running.process.pid();
    let worker = processes::children(root).first().copied().unwrap_or(root);
    let (mut done, mut rows) = (0, Vec::new());
    let (mut primary, mut workers) = (Vec::new(), Vec::new());
    for count in SERVED.map(|count| bench.count(count)) {
        let plan = Plan {
            length: Length::Requests(count.saturating_sub(done)),
            warm_up: Duration::ZERO,
            ..bench.closed(running.address, 128, Reuse::Short)
        };
        let outcome = load::run(&plan, &false.into(), &mut |_| {})?;
        if outcome.failures.total() > 0 {
            return Err(io::Error::other(format!("failures while serving: {}", outcome.failures)));
        }
        done += outcome.answered;
        primary.push(memory::of(root).rss);
        workers.push(memory::of(worker).rss);
        let words =
            [done, memory::of(root).rss, descriptors(root), memory::of(worker).rss, descriptors(worker)];
        rows.push(words.iter().map(u64::to_string).collect());
    }
    running.stop();
    report.text(
        "Short connections served, 128 in flight. Ten million take ten times as long: `just bench flat --scale 10`.",
    );
    let heads = ["connections", "primary RSS KiB", "descriptors", "worker RSS KiB", "descriptors"];
    report.table(&heads, rows);
    report.verdicts.push(growth("primary over connections, growth", &primary));
    report.verdicts.push(growth("worker over connections, growth", &workers));
    Ok(())
}

/// From the first figure to the last.
fn growth(what: &str, sizes: &[u64]) -> Verdict {
    let grown = sizes.first().zip(sizes.last()).map(|(first, last)| last.saturating_sub(*first) as f64);
    Verdict::new(what, Side::AtMost, GROWTH as f64, " KiB", grown)
}

fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64)
}

/// Kills one and waits until there are as many as before, without it.
fn kill_one(running: &Running, workers: usize) -> io::Result<()> {
    let root = running.process.pid();
    let victim = processes::children(root).first().copied().ok_or(io::ErrorKind::NotFound)?;
    let pid = i32::try_from(victim).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = processes::children(root);
        if now.len() >= workers && !now.contains(&victim) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!(
                "worker {victim} was not replaced: {}",
                running.process.log()
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
