//! Short and kept connections: answers per second and CPU per answer, every server beside every other.

use std::io;

use super::{Bench, legend, median, spread, stop};
use crate::load::Reuse;
use crate::raw::Kind;
use crate::report::{Report, Side, Verdict};
use crate::sample::{self, Round, Sample, figure, ratio};
use crate::servers::{Face, Running, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);
const ROUND_ROBIN: Server = Server::Everycore(Spread::RoundRobin, Face::Hyper);
const SHARED: Server = Server::Everycore(Spread::Shared, Face::Hyper);

type Rounds = Vec<Round<Server, Sample>>;

pub(super) fn short(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("short", "Short connections: connect, one request, close; 128 in flight");
    let rounds = measure(bench, &mut report, &Server::all(), 128, Reuse::Short)?;
    let rate = |of, to| ratio(&rounds, &of, &to, rate).map(|figure| figure.median);
    let cpu = |of, to| ratio(&rounds, &of, &to, Sample::cpu_per_request).map(|figure| figure.median);
    for (name, ours) in [("least", LEAST), ("rr", ROUND_ROBIN)] {
        let bars = [
            ("nginx", 1.0, rate(ours, Server::Nginx)),
            ("Bun's cluster", 1.25, rate(ours, Server::Bun)),
            ("our own shared", 1.0, rate(ours, SHARED)),
        ];
        for (peer, bar, found) in bars {
            let what = format!("short, hand-off ({name}): rate / {peer}");
            report.verdicts.push(Verdict::new(&what, Side::AtLeast, bar, " ×", found));
        }
        let what = format!("short, hand-off ({name}): CPU / Node rr");
        report.verdicts.push(Verdict::new(&what, Side::AtMost, 1.0 / 12.0, " ×", cpu(ours, Server::NodeRr)));
    }
    let bars = [
        ("short, shared: rate / nginx", Side::AtLeast, 1.0, rate(SHARED, Server::Nginx)),
        (
            "short, shared: rate / raw reuseport",
            Side::AtLeast,
            0.87,
            rate(SHARED, Server::Raw(Kind::Reuseport)),
        ),
        ("short, shared: CPU / bare hyper pair", Side::AtMost, 0.95, cpu(SHARED, Server::HyperPair)),
    ];
    report.verdicts.extend(bars.map(|(what, side, bar, found)| Verdict::new(what, side, bar, " ×", found)));
    for (policy, spread, bar) in [("rr", Spread::RoundRobin, 1.1), ("shared fd", Spread::Shared, 1.7)] {
        let what = format!("short, Node workers under our primary ({policy}): rate / Node rr");
        let found = rate(Server::NodeUnder(spread), Server::NodeRr);
        report.verdicts.push(Verdict::new(&what, Side::AtLeast, bar, " ×", found));
    }
    let what = "proxy (HTTP, pooled), short and keep-alive: rate / nginx";
    report.verdicts.push(Verdict::absent(what, "≥ 1.00 ×", "there is no proxy yet"));
    Ok(report)
}

pub(super) fn keep_alive(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("keepalive", "Kept connections: 64 of them, one request after the other");
    let servers = [
        LEAST,
        SHARED,
        Server::Everycore(Spread::Least, Face::Axum),
        Server::Everycore(Spread::Least, Face::Raw),
        Server::Raw(Kind::Shared),
        Server::Nginx,
        Server::HaProxy,
        Server::HyperPair,
        Server::HyperThreads,
        Server::AxumThreads,
        Server::Actix,
        Server::NodeRr,
        Server::NodeNone,
        Server::Bun,
    ];
    let rounds = measure(bench, &mut report, &servers, 64, Reuse::KeepAlive)?;
    let peers = [
        ("Node", 3.4, Server::NodeRr),
        ("nginx", 1.0, Server::Nginx),
        ("axum threads", 1.0, Server::AxumThreads),
        ("actix", 1.0, Server::Actix),
    ];
    for (peer, bar, server) in peers {
        let found = ratio(&rounds, &LEAST, &server, rate).map(|figure| figure.median);
        let what = format!("keep-alive (least): rate / {peer}");
        report.verdicts.push(Verdict::new(&what, Side::AtLeast, bar, " ×", found));
    }
    Ok(report)
}

/// Measures these servers and puts the table into the report.
fn measure(
    bench: &mut Bench,
    report: &mut Report,
    servers: &[Server],
    connections: usize,
    reuse: Reuse,
) -> io::Result<Rounds> {
    let servers = bench.start(servers)?;
    let plan = |bench: &mut Bench, running: &Running| bench.closed(running.address, connections, reuse);
    // Compilers that learn while they run get time to learn before the first round.
    for running in servers.iter().filter(|running| running.server.learns()) {
        let plan = plan(bench, running);
        sample::take(running, &plan)?;
    }
    let mut order = bench.random.clone();
    let budget = bench.budget;
    let rounds = sample::rounds(&servers, &budget, &mut order, |running| {
        let plan = plan(bench, running);
        sample::take_undisturbed(running, &plan, &budget)
    })?;
    bench.random = order;
    let made = rounds.len();
    let rounds = sample::keep_calm(rounds);
    report.text(sample::rules(&budget, made, &rounds));
    report.text(
        "`generator %` is the load generator's share of one CPU; it shares the machine with the servers.",
    );
    report.table(&HEADS, servers.iter().map(|running| line(&rounds, running.server)).collect());
    report.text(legend(&servers));
    stop(servers);
    Ok(rounds)
}

const HEADS: [&str; 11] = [
    "server",
    "answers/s",
    "× nginx",
    "× Node rr",
    "CPU µs",
    "CPU × nginx",
    "p50 ms",
    "p99 ms",
    "busiest %",
    "generator %",
    "failures",
];

fn line(rounds: &Rounds, server: Server) -> Vec<String> {
    let failures: u64 =
        rounds.iter().filter_map(|round| Some(round.get(&server)?.outcome.failures.total())).sum();
    let latency =
        |percent: f64| figure(rounds, &server, |sample| sample.outcome.fast.clone().percentile(percent));
    let busiest =
        figure(rounds, &server, |sample| sample.outcome.busiest() * 100.0).filter(|_| server.has_processes());
    let generator = figure(rounds, &server, |sample| {
        sample.generator.as_secs_f64() / sample.outcome.window.as_secs_f64() * 100.0
    });
    vec![
        server.name().to_owned(),
        median(figure(rounds, &server, rate)),
        spread(ratio(rounds, &server, &Server::Nginx, rate)),
        median(ratio(rounds, &server, &Server::NodeRr, rate)),
        spread(figure(rounds, &server, Sample::cpu_per_request)),
        median(ratio(rounds, &server, &Server::Nginx, Sample::cpu_per_request)),
        median(latency(50.0)),
        median(latency(99.0)),
        median(busiest),
        median(generator),
        failures.to_string(),
    ]
}

fn rate(sample: &Sample) -> f64 {
    sample.outcome.rate()
}
