//! Who gets how much, and how long the others wait while some burn.

use std::io;
use std::time::Duration;

use super::{Bench, legend, median, spread, stop};
use crate::load::{Burn, Length, Pace, Plan, Reuse};
use crate::raw::Kind;
use crate::report::{Report, Side, Verdict};
use crate::sample::{self, Round, Sample, figure, ratio};
use crate::servers::{Face, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);
const ROUND_ROBIN: Server = Server::Everycore(Spread::RoundRobin, Face::Hyper);
const SHARED: Server = Server::Everycore(Spread::Shared, Face::Hyper);
const RAW_SHARED: Server = Server::Raw(Kind::Shared);

const SERVERS: [Server; 8] = [
    LEAST,
    ROUND_ROBIN,
    SHARED,
    RAW_SHARED,
    Server::Raw(Kind::Reuseport),
    Server::Raw(Kind::HandOff),
    Server::NodeRr,
    Server::NodeNone,
];

/// Connections in flight: one after the other, a few, many.
const FLIGHTS: [usize; 3] = [1, 8, 128];

pub(super) fn fairness(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("fairness", "The busiest worker's share of 10,000 short connections");
    let servers = bench.start(&SERVERS)?;
    let mut columns = Vec::new();
    for (done, flight) in FLIGHTS.into_iter().enumerate() {
        let count = bench.count(10_000);
        let budget = bench.budget.part((FLIGHTS.len() - done) as u32);
        let mut order = bench.random.clone();
        let rounds = sample::rounds(&servers, &budget, &mut order, |running| {
            let mut plan = bench.closed(running.address, flight, Reuse::Short);
            (plan.warm_up, plan.length) = (Duration::ZERO, Length::Requests(count));
            sample::take(running, &plan)
        })?;
        bench.random = order;
        columns.push(rounds);
    }
    let busiest = |rounds: &Vec<Round<Server, Sample>>, server| {
        figure(rounds, &server, |s| s.outcome.busiest() * 100.0)
    };
    let line = |server: Server| {
        let name = std::iter::once(server.name().to_owned());
        name.chain(columns.iter().map(|rounds| spread(busiest(rounds, server)))).collect()
    };
    report.text(format!(
        "{} workers; per cent, median and spread of {}, all of them kept.",
        bench.workers,
        bench.budget.rule()
    ));
    report.table(
        &["server", "1 in flight", "8 in flight", "128 in flight"],
        servers.iter().map(|r| line(r.server)).collect(),
    );
    if let Some(heavy) = columns.last() {
        for (name, server, bar) in [
            ("hand-off (least)", LEAST, 51.0),
            ("hand-off (rr)", ROUND_ROBIN, 51.0),
            ("shared", SHARED, 55.0),
        ] {
            let what = format!("fairness, 10,000 connections, busiest of two: {name}");
            let found = busiest(heavy, server).map(|figure| figure.median);
            report.verdicts.push(Verdict::new(&what, Side::AtMost, bar, " %", found));
        }
    }
    report.text(legend(&servers));
    stop(servers);
    Ok(report)
}

pub(super) fn tail(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("tail", "500 requests per second by the clock, 1 % of them burn 50 ms");
    let rounds = open(bench, &mut report, 500.0, 0.01)?;
    for (name, server) in [("least", LEAST), ("rr", ROUND_ROBIN)] {
        let p90 = figure(&rounds, &server, |sample| latency(sample, 90.0)).map(|f| f.median);
        let p99 = ratio(&rounds, &server, &RAW_SHARED, |sample| latency(sample, 99.0)).map(|f| f.median);
        let busiest = figure(&rounds, &server, |sample| sample.outcome.busiest() * 100.0).map(|f| f.median);
        let what = |which: &str| format!("tail, 500/s, 1 % burn, hand-off ({name}): {which}");
        report.verdicts.push(Verdict::new(&what("p90 of the others"), Side::AtMost, 0.5, " ms", p90));
        report.verdicts.push(Verdict::new(&what("p99 / raw shared"), Side::AtMost, 1.1, " ×", p99));
        report.verdicts.push(Verdict::new(&what("busiest of two"), Side::AtMost, 52.0, " %", busiest));
    }
    Ok(report)
}

pub(super) fn tail_fast(bench: &mut Bench) -> io::Result<Report> {
    let mut report =
        Report::new("tail-fast", "4,000 requests per second by the clock, 0.2 % of them burn 50 ms");
    let rounds = open(bench, &mut report, 4000.0, 0.002)?;
    for (name, server) in [("least", LEAST), ("rr", ROUND_ROBIN)] {
        let p99 = ratio(&rounds, &server, &RAW_SHARED, |sample| latency(sample, 99.0)).map(|f| f.median);
        let what = format!("tail, 4,000/s, 0.2 % burn, hand-off ({name}): p99 / raw shared");
        report.verdicts.push(Verdict::new(&what, Side::AtMost, 1.15, " ×", p99));
    }
    Ok(report)
}

/// Measures an open load in which some requests burn, and puts the table into the report.
fn open(
    bench: &mut Bench,
    report: &mut Report,
    per_second: f64,
    share: f64,
) -> io::Result<Vec<Round<Server, Sample>>> {
    let burning: Vec<Server> = SERVERS.into_iter().filter(|server| server.can_burn()).collect();
    let servers = bench.start(&burning)?;
    let mut order = bench.random.clone();
    let budget = bench.budget;
    let rounds = sample::rounds(&servers, &budget, &mut order, |running| {
        let plan = Plan {
            target: running.address,
            hosts: 1,
            pace: Pace::Open(per_second),
            reuse: Reuse::Short,
            burn: Some(Burn { share, millis: 50 }),
            warm_up: bench.window / 4,
            // A percentile of few requests is chance: four times the usual.
            length: Length::Time(bench.window * 4),
            timeout: Duration::from_secs(5),
            seed: bench.random.next(),
        };
        sample::take_undisturbed(running, &plan, &budget)
    })?;
    bench.random = order;
    let made = rounds.len();
    let rounds = sample::keep_calm(rounds);
    report.text(sample::rules(&budget, made, &rounds));
    report.text("Latency in ms from the moment a request was due, of requests that do not burn.");
    let line = |server: Server| {
        let at = |percent: f64| figure(&rounds, &server, move |sample: &Sample| latency(sample, percent));
        let p99 = ratio(&rounds, &server, &RAW_SHARED, |sample| latency(sample, 99.0));
        let busiest = figure(&rounds, &server, |sample| sample.outcome.busiest() * 100.0);
        let failures: u64 =
            rounds.iter().filter_map(|round| Some(round.get(&server)?.outcome.failures.total())).sum();
        vec![
            server.name().to_owned(),
            median(at(50.0)),
            spread(at(90.0)),
            spread(at(99.0)),
            spread(p99),
            median(busiest),
            failures.to_string(),
        ]
    };
    let heads = ["server", "p50", "p90", "p99", "p99 × raw shared", "busiest %", "failures"];
    report.table(&heads, servers.iter().map(|running| line(running.server)).collect());
    report.text(legend(&servers));
    stop(servers);
    Ok(rounds)
}

fn latency(sample: &Sample, percent: f64) -> f64 {
    sample.outcome.fast.clone().percentile(percent)
}
