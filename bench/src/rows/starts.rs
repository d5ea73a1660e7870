//! How long a worker takes from fork to listening, and a server from the crash of its only worker to the next answer.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{Bench, legend, median, spread, stop};
use crate::load::{self, Length, Mark, Pace, Plan, Reuse};
use crate::measure::processes;
use crate::report::{Report, Side, Verdict};
use crate::sample::{self, Figure, Round, figure, ratio};
use crate::servers::{Face, Running, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);
const SHARED: Server = Server::Everycore(Spread::Shared, Face::Hyper);

/// Between two crashes, so that each meets a server at rest.
const REST: Duration = Duration::from_millis(100);

/// How long a server may take to come back.
const BACK: Duration = Duration::from_secs(30);

pub(super) fn starts(bench: &mut Bench) -> io::Result<Report> {
    let mut report =
        Report::new("starts", "Fork to listening, and crash of the only worker to the next answer");
    let mut servers = Vec::new();
    for server in [LEAST, SHARED, Server::Nginx, Server::NodeRr, Server::Pm2] {
        if bench.wants(server) {
            servers.extend(Running::start(server, &bench.tools, 1, &["events"])?);
        }
    }
    let crashes = bench.count(10).max(3);
    let mut order = bench.random.clone();
    let rounds = sample::rounds(&servers, &bench.budget.clone(), &mut order, |running| {
        let times: Vec<f64> =
            (0..crashes).map(|_| crash_to_answer(bench, running)).collect::<io::Result<_>>()?;
        Ok(Figure::of(times).map_or(f64::NAN, |figure| figure.median))
    })?;
    bench.random = order;
    let listening: Round<Server, Figure> = servers
        .iter()
        .filter_map(|running| Some((running.server, Figure::of(fork_to_listening(&running.process.log()))?)))
        .collect();
    let rows = servers.iter().map(|running| {
        let server = running.server;
        vec![
            server.name().to_owned(),
            spread(listening.get(&server).copied()),
            spread(figure(&rounds, &server, |time| *time)),
            median(ratio(&rounds, &server, &Server::NodeRr, |time| *time)),
        ]
    });
    report.text(format!(
        "Milliseconds; one worker; {}, each of {crashes} crashes, in random order; the median of each round.",
        bench.budget.rule()
    ));
    report.table(&["server", "fork to listening", "crash to answer", "crash × Node"], rows.collect());
    let start = Some((listening.get(&LEAST), listening.get(&Server::NodeRr)));
    let start = start.and_then(|(ours, node)| Some(ours?.median / node?.median));
    let crash = |to| ratio(&rounds, &LEAST, &to, |time| *time).map(|figure| figure.median);
    for (what, bar, found) in [
        ("fork to listening / Node", 1.0 / 30.0, start),
        ("crash to a served request / Node", 1.0 / 30.0, crash(Server::NodeRr)),
        ("crash to a served request / nginx", 1.0, crash(Server::Nginx)),
    ] {
        report.verdicts.push(Verdict::new(what, Side::AtMost, bar, " ×", found));
    }
    report.text(legend(&servers));
    stop(servers);
    Ok(report)
}

/// Kills the only worker and asks, every millisecond anew, until another one answers; milliseconds.
fn crash_to_answer(bench: &mut Bench, running: &Running) -> io::Result<f64> {
    std::thread::sleep(REST);
    let victims = running.workers()?;
    let [victim] = victims.as_slice() else {
        return Err(io::Error::other(format!("{}: not one worker but {victims:?}", running.server.name())));
    };
    if !processes::tree(running.process.pid()).contains(victim) {
        return Err(io::Error::other(format!(
            "{}: worker {victim} is none of its processes",
            running.server.name()
        )));
    }
    let plan = Plan {
        pace: Pace::Open(1000.0),
        warm_up: Duration::ZERO,
        length: Length::Another(*victim, BACK),
        // A request that was lost with the worker need not be waited for.
        timeout: Duration::from_millis(200),
        ..bench.closed(running.address, 1, Reuse::Short)
    };
    let pid = i32::try_from(*victim).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let began = Instant::now();
    rustix::process::kill_process(pid, Signal::KILL)?;
    let mut answered = began;
    let outcome = load::run(&plan, &false.into(), &mut |mark| {
        if mark == Mark::End {
            answered = Instant::now();
        }
    })?;
    if outcome.workers.keys().all(|worker| worker == victim) {
        return Err(io::Error::other(format!(
            "{} did not come back: {}",
            running.server.name(),
            outcome.failures
        )));
    }
    Ok(answered.duration_since(began).as_secs_f64() * 1e3)
}

/// Milliseconds of each start: ours prints two events with their moments, Node's program the time between them.
fn fork_to_listening(log: &str) -> Vec<f64> {
    let mut forked: BTreeMap<&str, f64> = BTreeMap::new();
    let mut times = Vec::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["fork", worker, _, nanos] => drop(nanos.parse().map(|nanos| forked.insert(worker, nanos))),
            ["listening", worker, _, nanos] => {
                if let (Some(forked), Ok(nanos)) = (forked.remove(worker), nanos.parse::<f64>()) {
                    times.push((nanos - forked) / 1e6);
                }
            }
            ["started", micros] => times.extend(micros.parse::<f64>().map(|micros| micros / 1e3)),
            _ => {}
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_logs_give_milliseconds() {
        let ours = "fork 1 17 1000000000\nlistening 1 17 1002500000\nlistening 9 1 5\nreloaded\n";
        assert_eq!(fork_to_listening(ours), [2.5]);
        assert_eq!(fork_to_listening("started 170000\nsomething else\n"), [170.0]);
    }
}
