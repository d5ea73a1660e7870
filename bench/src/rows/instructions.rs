//! Instructions per step of the hot paths: counted, so that they are the same on a busy machine.
//!
//! `callgrind` runs a subject twice, a few steps and many; the difference is what the steps took. What the kernel does for
//! them is not in it.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::Bench;
use crate::hot::Subject;
use crate::process::{Launch, Process};
use crate::report::{Report, number};
use crate::scratch::Scratch;

/// Steps of both runs.
const STEPS: (u64, u64) = (100, 1_100);

/// What a run says when it came to its end.
const STEPPED: &str = "stepped";

/// How long one run may take: everything is some fifty times slower.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn instructions(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("instructions", "Instructions of the hot paths, in user space");
    let Some(valgrind) = bench.tools.path("valgrind") else {
        report.text("valgrind is not there: nothing was counted.");
        return Ok(report);
    };
    let scratch = Scratch::new("instructions")?;
    let mut rows = Vec::new();
    for subject in Subject::ALL {
        let few = count(valgrind, subject, STEPS.0, scratch.path())?;
        let many = count(valgrind, subject, STEPS.1, scratch.path())?;
        let steps = (STEPS.1 - STEPS.0) * subject.per_step();
        rows.push(vec![subject.name(), number(many.saturating_sub(few) as f64 / steps as f64)]);
    }
    report.text(
        "`assign/POLICY/WORKERS`: one connection in the core, every worker's counters looked at before; \
         `message/CODEC/SIZE`: one message written by one end of a channel and read by the other, with its value where the \
         codec has values; `coalesced`: the same, 64 in one go, for each; `value`: to bytes and back without a channel; \
         `restart`: a worker that dies and its replacement, in the core.",
    );
    report.table(&["step", "instructions"], rows);
    Ok(report)
}

/// `everycore-bench hot SUBJECT STEPS`.
///
/// # Errors
/// A bad command line, or a step fails.
pub(crate) fn step(args: &[String]) -> io::Result<()> {
    let [name, steps] = args else { return Err(usage()) };
    let steps: u64 = steps.parse().map_err(|_| usage())?;
    let mut step = Subject::named(name).ok_or_else(usage)?.prepare()?;
    (0..steps).try_for_each(|_| step())?;
    crate::print_out!("{STEPPED}");
    Ok(())
}

fn usage() -> io::Error {
    let names = Subject::ALL.map(Subject::name).join(" ");
    io::Error::new(io::ErrorKind::InvalidInput, format!("usage: hot SUBJECT STEPS, with one of {names}"))
}

fn count(valgrind: &Path, subject: Subject, steps: u64, directory: &Path) -> io::Result<u64> {
    let own = std::env::current_exe()?.display().to_string();
    let out = format!("--callgrind-out-file={}", directory.join("callgrind").display());
    let args = ["--tool=callgrind".into(), out, own, "hot".into(), subject.name(), steps.to_string()];
    let process = Process::start(&Launch::new(valgrind, args), directory, "valgrind")?;
    process.wait(PATIENCE)?;
    let log = process.log();
    collected(&log)
        .filter(|_| log.contains(STEPPED))
        .ok_or_else(|| io::Error::other(format!("{} was not counted: {}", subject.name(), log.trim())))
}

/// `==123== Collected : 456`
fn collected(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrinds_sum_is_found() {
        assert_eq!(collected("==9== Events    : Ir\n==9== Collected : 1234567\n==9==\n"), Some(1_234_567));
        assert_eq!(collected("==9== Command: true\n"), None);
    }

    #[test]
    fn every_subject_can_be_stepped() {
        for subject in Subject::ALL {
            let mut step = subject.prepare().unwrap();
            (0..20).try_for_each(|_| step()).unwrap_or_else(|error| panic!("{}: {error}", subject.name()));
            assert_eq!(Subject::named(&subject.name()), Some(subject));
        }
    }
}
