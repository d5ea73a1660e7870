//! `everycore-bench policies`: who gets how much under each policy, and which addresses `sticky` moves.
//!
//! Prints Markdown, which `docs/policies.md` keeps. Counts, not times: a loaded machine does not change what they say.
//! The same program is the server. Neighbours: `server` is what is measured, `client` connects from many addresses,
//! `stability` kills, scales and reloads.

mod client;
pub(crate) mod server;
mod stability;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddrV4;

use everycore::Policy;

use crate::measure::{cpu, processes};
use crate::raw::Kind;
use crate::sample::Figure;
use crate::surroundings;
use crate::tools::Tools;
use client::Visits;
use server::Server;

pub(crate) const HELP: &str = "\
usage: cargo run --release -p everycore-bench -- policies [--connections N] [--rounds N] [--addresses N] [--only A,B]

The busiest worker's share under each policy, for two and eight workers, light (1 connection in flight) and heavy (128);
then which of so many source addresses sticky moves. Unless given: --connections 10000 --rounds 3 --addresses 4000.";

/// Connections in flight: one after the other, and more than any worker's credit.
const LIGHT: usize = 1;
/// See [`LIGHT`].
const HEAVY: usize = 128;

const WORKERS: [usize; 2] = [2, 8];

/// Whom a row is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Ours(Policy),
    Limit(Kind),
}

const SUBJECTS: [Subject; 7] = [
    Subject::Ours(Policy::RoundRobin),
    Subject::Ours(Policy::Least),
    Subject::Ours(Policy::Sticky),
    Subject::Ours(Policy::Shared),
    Subject::Limit(Kind::Shared),
    Subject::Ours(Policy::Reuseport),
    Subject::Limit(Kind::Reuseport),
];

impl Subject {
    fn name(self) -> String {
        match self {
            Self::Ours(policy) => policy.to_string(),
            Self::Limit(kind) => kind.name().to_owned(),
        }
    }

    fn start(self, workers: usize) -> io::Result<Server> {
        match self {
            Self::Ours(policy) => Server::start(policy, workers),
            Self::Limit(kind) => Server::start_limit(kind, workers),
        }
    }
}

/// What was typed behind `policies`.
struct Args {
    connections: usize,
    rounds: usize,
    addresses: usize,
    only: Vec<String>,
}

impl Args {
    fn parse(typed: &[String]) -> Result<Option<Self>, String> {
        let mut args = Self { connections: 10_000, rounds: 3, addresses: 4000, only: Vec::new() };
        let mut words = typed.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word}: a value is missing"));
            let number = |text: &String| match text.parse::<usize>() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{word} {text}: not a number above 0")),
            };
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--connections" => args.connections = number(value()?)?,
                "--rounds" => args.rounds = number(value()?)?,
                "--addresses" => args.addresses = number(value()?)?,
                "--only" => args.only = value()?.split(',').map(str::to_owned).collect(),
                other => return Err(format!("policies: no option '{other}'; --help lists them")),
            }
        }
        let known = SUBJECTS.map(Subject::name);
        match args.only.iter().find(|name| !known.contains(name)) {
            Some(name) => Err(format!("--only {name}: there are {}", known.join(" "))),
            None => Ok(Some(args)),
        }
    }

    fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject.name())
    }
}

/// Measures and prints.
///
/// # Errors
/// What was typed makes no sense, a server does not start or does not answer.
pub(crate) fn run(typed: &[String]) -> io::Result<()> {
    let args = Args::parse(typed).map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
    let Some(args) = args else {
        crate::print_out!("{HELP}");
        return Ok(());
    };
    crate::process::adopt_orphans()?;
    let made = surroundings::made(&Tools::on_path(&[]));
    crate::print_out!("{}; {}\n\n    {}\n", made.machine.join("; "), made.date, made.command);
    let mut measured = Vec::new();
    for subject in SUBJECTS.into_iter().filter(|subject| args.wants(*subject)) {
        measured.push((subject, measure(subject, &args)?));
    }
    crate::print_out!(
        "The busiest worker's share of {} short connections, in per cent: median of {} rounds (least–most).\n",
        args.connections,
        args.rounds
    );
    print_table(&measured, |account| account.busiest * 100.0, 1);
    crate::print_out!(
        "\nHow often a worker woke, per connection (all workers' voluntary context switches; medians).\n"
    );
    print_table(&measured, |account| account.wakes, 2);
    crate::print_out!(
        "\nCPU time of all workers, µs per connection (medians; the machine's mood is in these).\n"
    );
    print_table(&measured, |account| account.cpu, 0);
    if args.wants(Subject::Ours(Policy::Sticky)) {
        stability::run(args.addresses)?;
    }
    Ok(())
}

/// What one round of one load came to.
#[derive(Clone, Copy, Debug)]
struct Account {
    busiest: f64,
    wakes: f64,
    cpu: f64,
}

/// The rounds of each load, in the order of the columns.
fn measure(subject: Subject, args: &Args) -> io::Result<Vec<Vec<Account>>> {
    let mut columns = Vec::new();
    for workers in WORKERS {
        let server = subject.start(workers)?;
        for flight in [LIGHT, HEAVY] {
            crate::say!("{}, {workers} workers, {flight} in flight", subject.name());
            let rounds = (0..args.rounds).map(|_| account(&server, flight, args.connections));
            columns.push(rounds.collect::<io::Result<_>>()?);
        }
        server.stop();
    }
    Ok(columns)
}

fn account(server: &Server, flight: usize, connections: usize) -> io::Result<Account> {
    let workers = server.workers();
    let (wakes, used) = (voluntary_switches(&workers), cpu::used(&workers));
    let visits = Visits::from_anywhere(connections).run(server.address, flight)?;
    let (wakes, used) = (voluntary_switches(&workers) - wakes, cpu::used(&workers) - used);
    let mut counts = BTreeMap::<u32, usize>::new();
    visits.iter().for_each(|visit| *counts.entry(visit.pid).or_default() += 1);
    let all = visits.len() as f64;
    Ok(Account {
        busiest: counts.values().max().copied().unwrap_or(0) as f64 / all,
        wakes: wakes as f64 / all,
        cpu: used.as_secs_f64() * 1e6 / all,
    })
}

/// How often these processes went to sleep by themselves, and so were woken.
fn voluntary_switches(processes: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    processes.iter().filter_map(of).sum()
}

fn print_table(measured: &[(Subject, Vec<Vec<Account>>)], of: fn(&Account) -> f64, digits: usize) {
    let heads: Vec<String> = WORKERS
        .iter()
        .flat_map(|workers| [LIGHT, HEAVY].map(|flight| format!("{workers} workers, {flight} in flight")))
        .collect();
    crate::print_out!("| | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for (subject, columns) in measured {
        let cells = columns.iter().map(|rounds| {
            Figure::of(rounds.iter().map(of)).map_or_else(
                || "–".to_owned(),
                |f| format!("{:.digits$} ({:.digits$}–{:.digits$})", f.median, f.least, f.most),
            )
        });
        crate::print_out!("| `{}` | {} |", subject.name(), cells.collect::<Vec<_>>().join(" | "));
    }
}

/// Processes below the server's own.
fn children(pid: u32) -> Vec<u32> {
    processes::tree(pid).split_off(1)
}

/// Where clients of the measurement connect to.
type Target = SocketAddrV4;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Args>, String> {
        Args::parse(&line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn mistakes_are_named() {
        for (line, problem) in [
            ("--connections", "--connections: a value is missing"),
            ("--rounds 0", "--rounds 0: not a number above 0"),
            ("--only rr", "--only rr: there are round-robin"),
            ("fast", "policies: no option 'fast'"),
        ] {
            let error = parse(line).map(drop).unwrap_err();
            assert!(error.starts_with(problem), "{line}: {error}");
        }
        assert!(parse("--help").unwrap().is_none());
    }
}
