//! The rows of the table of bars: each measures one promise beside those who make the same.
//!
//! A row takes a [`Bench`] and gives a [`Report`]. Neighbours: `throughput` has short and kept connections, `counts` the
//! system calls, `balance` who gets what and how long it takes, `failures` kills and reloads, `starts`, `memory`,
//! `messages`, `bulk` messages beside connections. How costs grow: `curves` with workers and listeners, `held` with connections at rest, `crowd` with messages
//! to many, `flat` over time; `instructions` of single steps.

mod balance;
mod bulk;
pub(crate) mod counts;
mod crowd;
mod curves;
mod failures;
pub(crate) mod flat;
pub(crate) mod held;
pub(crate) mod instructions;
mod memory;
mod messages;
mod starts;
mod throughput;

use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use crate::budget::Budget;
use crate::load::{Length, Pace, Plan, Reuse};
use crate::random::Random;
use crate::report::{Made, Report, number};
use crate::sample::Figure;
use crate::servers::{Running, Server};
use crate::tools::Tools;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    Short,
    KeepAlive,
    Syscalls,
    Fairness,
    Tail,
    TailFast,
    Kills,
    Reloads,
    Starts,
    Memory,
    Messages,
    Bulk,
    Instructions,
    ScaleWorkers,
    ScaleListeners,
    ScaleConnections,
    ScaleMessages,
    Flat,
}

/// A document that rows are written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// How we stand beside others: `docs/performance.md`.
    Performance,
    /// How costs grow: `docs/scale.md`.
    Scale,
}

impl Row {
    /// All of them, in the order of the document.
    pub(crate) const ALL: [Self; 18] = [
        Self::Short,
        Self::KeepAlive,
        Self::Syscalls,
        Self::Fairness,
        Self::Tail,
        Self::TailFast,
        Self::Kills,
        Self::Reloads,
        Self::Starts,
        Self::Memory,
        Self::Messages,
        Self::Bulk,
        Self::Instructions,
        Self::ScaleWorkers,
        Self::ScaleListeners,
        Self::ScaleConnections,
        Self::ScaleMessages,
        Self::Flat,
    ];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::KeepAlive => "keepalive",
            Self::Syscalls => "syscalls",
            Self::Fairness => "fairness",
            Self::Tail => "tail",
            Self::TailFast => "tail-fast",
            Self::Kills => "kills",
            Self::Reloads => "reloads",
            Self::Starts => "starts",
            Self::Memory => "memory",
            Self::Messages => "messages",
            Self::Bulk => "bulk",
            Self::Instructions => "instructions",
            Self::ScaleWorkers => "scale-workers",
            Self::ScaleListeners => "scale-listeners",
            Self::ScaleConnections => "scale-connections",
            Self::ScaleMessages => "scale-messages",
            Self::Flat => "flat",
        }
    }

    /// Seconds it takes when nobody disturbs: the proportions in which rows share the time there is.
    pub(crate) fn share(self) -> u32 {
        match self {
            Self::Short => 230,
            Self::KeepAlive => 130,
            Self::Syscalls => 60,
            Self::Fairness => 110,
            Self::Tail => 170,
            Self::TailFast => 120,
            Self::Kills => 110,
            Self::Reloads => 150,
            Self::Starts => 60,
            Self::Memory => 30,
            Self::Messages => 100,
            Self::Bulk => 30,
            Self::Instructions => 90,
            Self::ScaleWorkers => 200,
            Self::ScaleListeners => 60,
            Self::ScaleConnections => 120,
            Self::ScaleMessages => 60,
            Self::Flat => 120,
        }
    }

    /// Where its findings belong.
    pub(crate) fn document(self) -> Document {
        match self {
            Self::Instructions
            | Self::ScaleWorkers
            | Self::ScaleListeners
            | Self::ScaleConnections
            | Self::ScaleMessages
            | Self::Flat => Document::Scale,
            _ => Document::Performance,
        }
    }

    /// The rows of a document, in order.
    pub(crate) fn of(document: Document) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |row| row.document() == document)
    }

    /// The row of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    /// Measures it.
    ///
    /// # Errors
    /// A server of ours does not start, or the generator fails.
    pub(crate) fn run(self, bench: &mut Bench) -> io::Result<Report> {
        let mut report = match self {
            Self::Short => throughput::short(bench),
            Self::KeepAlive => throughput::keep_alive(bench),
            Self::Syscalls => counts::syscalls(bench),
            Self::Fairness => balance::fairness(bench),
            Self::Tail => balance::tail(bench),
            Self::TailFast => balance::tail_fast(bench),
            Self::Kills => failures::kills(bench),
            Self::Reloads => failures::reloads(bench),
            Self::Starts => starts::starts(bench),
            Self::Memory => memory::memory(bench),
            Self::Messages => messages::messages(bench),
            Self::Bulk => bulk::bulk(bench),
            Self::Instructions => instructions::instructions(bench),
            Self::ScaleWorkers => curves::workers(bench),
            Self::ScaleListeners => curves::listeners(bench),
            Self::ScaleConnections => held::connections(bench),
            Self::ScaleMessages => crowd::crowd(bench),
            Self::Flat => flat::flat(bench),
        }?;
        report.row = self.name().to_owned();
        report.made = Some(bench.made.clone());
        Ok(report)
    }
}

/// How much is measured, and with what.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Where the peers are.
    pub(crate) tools: Tools,
    /// Workers of every server.
    pub(crate) workers: usize,
    /// Rounds of the row under way, and its time.
    pub(crate) budget: Budget,
    /// How long one measurement takes.
    pub(crate) window: Duration,
    /// Only these servers, when there are any.
    pub(crate) only: Vec<Server>,
    /// Scales down what is counted instead of timed: 1 for real figures, less for a look whether all works.
    pub(crate) scale: f64,
    /// For every choice by chance.
    pub(crate) random: Random,
    /// Goes into every report.
    pub(crate) made: Made,
}

impl Bench {
    /// Starts those of the servers that are there and wanted. A peer that does not start is left out, aloud.
    ///
    /// # Errors
    /// A server of our own does not start.
    fn start(&self, servers: &[Server]) -> io::Result<Vec<Running>> {
        self.start_with(servers, self.workers)
    }

    /// As [`start`](Self::start), with this many workers.
    fn start_with(&self, servers: &[Server], workers: usize) -> io::Result<Vec<Running>> {
        let mut running = Vec::new();
        for server in servers.iter().copied().filter(|server| self.wants(*server)) {
            match Running::start(server, &self.tools, workers, &[]) {
                Ok(Some(one)) => running.push(one),
                Ok(None) => crate::say!("{} is left out: not installed", server.name()),
                Err(error) if server.is_ours() || matches!(server, Server::Raw(_)) => return Err(error),
                Err(error) => crate::say!("{} is left out: {error}", server.name()),
            }
        }
        Ok(running)
    }

    fn wants(&self, server: Server) -> bool {
        self.only.is_empty() || self.only.contains(&server)
    }

    /// A count, scaled.
    fn count(&self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1)
    }

    /// A closed load, measured for the usual time.
    fn closed(&mut self, target: SocketAddrV4, connections: usize, reuse: Reuse) -> Plan {
        Plan {
            target,
            hosts: 1,
            pace: Pace::Closed(connections),
            reuse,
            burn: None,
            warm_up: self.window / 4,
            length: Length::Time(self.window),
            timeout: Duration::from_secs(5),
            seed: self.random.next(),
        }
    }
}

/// Stops servers, all of them, before anything else is measured.
fn stop(servers: Vec<Running>) {
    for running in servers {
        running.stop();
    }
}

/// What each server of a table is, and how it was started.
fn legend(servers: &[Running]) -> String {
    let line = |running: &Running| {
        format!("* `{}`: {} — `{}`", running.server.name(), running.server.what(), running.command_line)
    };
    servers.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `1.04 (0.98–1.10)`
fn spread(figure: Option<Figure>) -> String {
    figure.map_or_else(
        || "–".to_owned(),
        |f| format!("{} ({}–{})", number(f.median), number(f.least), number(f.most)),
    )
}

/// The median alone.
fn median(figure: Option<Figure>) -> String {
    figure.map_or_else(|| "–".to_owned(), |f| number(f.median))
}
