//! Every server of the tables: what it is called, how it is started, and when it serves.
//!
//! Each is started with the settings its own users would choose for many short connections: as many workers as we have,
//! a backlog of 4,096, no access log. All answer `GET /` with 200 and a body of a few digits. Neighbours: `peers` has
//! the configuration of other people's servers, `raw` are our limit programs, `crate::process` starts them.

mod peers;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::{self, Length, Pace, Plan, Reuse};
use crate::measure::processes;
use crate::process::{Launch, Process};
use crate::raw;
use crate::scratch::Scratch;
use crate::tools::{self, Tools};

/// How long a server may take until all its workers answer.
const START: Duration = Duration::from_secs(30);

/// Who hands out connections in our own server, or lets the kernel do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spread {
    Least,
    RoundRobin,
    Shared,
    Reuseport,
}

/// What our own server's workers answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Face {
    Raw,
    Hyper,
    Axum,
}

/// A server of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Everycore(Spread, Face),
    Raw(raw::Kind),
    NodeRr,
    NodeNone,
    /// As `NodeRr`, with the newest Node there is a package of.
    NodeNewestRr,
    Pm2,
    Bun,
    Deno,
    Nginx,
    NginxReuseport,
    HaProxy,
    HyperPair,
    HyperThreads,
    AxumThreads,
    Actix,
    /// Node's own program, unmodified, with our primary instead of Node's.
    NodeUnder(Spread),
}

impl Server {
    /// All of them, in the order of the tables.
    pub(crate) fn all() -> Vec<Self> {
        use Face::{Axum, Hyper, Raw};
        use Spread::{Least, Reuseport, RoundRobin, Shared};
        let ours = [
            (Least, Hyper),
            (RoundRobin, Hyper),
            (Shared, Hyper),
            (Reuseport, Hyper),
            (Least, Axum),
            (Shared, Axum),
            (Least, Raw),
            (Shared, Raw),
        ];
        let ours = ours.map(|(spread, face)| Self::Everycore(spread, face));
        let others = [
            Self::Nginx,
            Self::NginxReuseport,
            Self::HaProxy,
            Self::HyperPair,
            Self::HyperThreads,
            Self::AxumThreads,
            Self::Actix,
            Self::NodeUnder(RoundRobin),
            Self::NodeUnder(Shared),
            Self::NodeRr,
            Self::NodeNone,
            Self::NodeNewestRr,
            Self::Pm2,
            Self::Bun,
            Self::Deno,
        ];
        ours.into_iter().chain(raw::Kind::ALL.map(Self::Raw)).chain(others).collect()
    }

    /// The server of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|server| server.name() == name)
    }

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        use Face::{Axum, Hyper, Raw};
        use Spread::{Least, Reuseport, RoundRobin, Shared};
        match self {
            Self::Everycore(Least, Hyper) => "least",
            Self::Everycore(RoundRobin, Hyper) => "rr",
            Self::Everycore(Shared, Hyper) => "shared",
            Self::Everycore(Reuseport, Hyper) => "reuseport",
            Self::Everycore(Least, Axum) => "least-axum",
            Self::Everycore(RoundRobin, Axum) => "rr-axum",
            Self::Everycore(Shared, Axum) => "shared-axum",
            Self::Everycore(Reuseport, Axum) => "reuseport-axum",
            Self::Everycore(Least, Raw) => "least-by-hand",
            Self::Everycore(RoundRobin, Raw) => "rr-by-hand",
            Self::Everycore(Shared, Raw) => "shared-by-hand",
            Self::Everycore(Reuseport, Raw) => "reuseport-by-hand",
            Self::Raw(kind) => kind.name(),
            Self::NodeRr => "node-rr",
            Self::NodeNone => "node-none",
            Self::NodeNewestRr => "node-26-rr",
            Self::Pm2 => "pm2",
            Self::Bun => "bun",
            Self::Deno => "deno",
            Self::Nginx => "nginx",
            Self::NginxReuseport => "nginx-reuseport",
            Self::HaProxy => "haproxy",
            Self::NodeUnder(Least) => "node-under-least",
            Self::NodeUnder(RoundRobin) => "node-under-rr",
            Self::NodeUnder(Shared) => "node-under-shared",
            Self::NodeUnder(Reuseport) => "node-under-reuseport",
            Self::HyperPair => "hyper-pair",
            Self::HyperThreads => "hyper-threads",
            Self::AxumThreads => "axum-threads",
            Self::Actix => "actix",
        }
    }

    /// What it is, for the legend.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Everycore(_, Face::Hyper) => "Everycore, workers serve with hyper",
            Self::Everycore(_, Face::Axum) => "Everycore, workers serve with axum",
            Self::Everycore(_, Face::Raw) => "Everycore, workers answer by hand",
            Self::Raw(kind) => kind.what(),
            Self::NodeRr => "Node's cluster, its round robin, http server",
            Self::NodeNone => "Node's cluster, SCHED_NONE, http server",
            Self::NodeNewestRr => "the newest Node's cluster, its round robin, http server",
            Self::Pm2 => "pm2-runtime in cluster mode, the same program",
            Self::Bun => "Bun's cluster, Bun.serve, each worker binds with SO_REUSEPORT",
            Self::Deno => "Deno's node:cluster, the same program as Node",
            Self::Nginx => "nginx, one shared listener",
            Self::NginxReuseport => "nginx, listen … reuseport",
            Self::HaProxy => "HAProxy answering by itself, one process, a thread per worker",
            Self::HyperPair => "bare hyper: processes sharing a listener through tokio",
            Self::HyperThreads => "hyper on tokio's work-stealing threads, one process",
            Self::NodeUnder(_) => "Everycore as the primary of unmodified Node workers",
            Self::AxumThreads => "axum on tokio's work-stealing threads, one process",
            Self::Actix => "actix-web, one process, a runtime per thread",
        }
    }

    /// Whether its workers are processes that can be told apart by what they answer.
    pub(crate) fn has_processes(self) -> bool {
        !matches!(self, Self::HaProxy | Self::HyperThreads | Self::AxumThreads | Self::Actix)
    }

    /// Whether `/block` burns CPU in it.
    pub(crate) fn can_burn(self) -> bool {
        matches!(
            self,
            Self::Everycore(..)
                | Self::Raw(_)
                | Self::NodeUnder(_)
                | Self::NodeRr
                | Self::NodeNone
                | Self::NodeNewestRr
                | Self::Pm2
                | Self::Deno
        )
    }

    /// Whether its primary is ours: it prints its events, and without it there is nothing to measure.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Everycore(..) | Self::NodeUnder(_))
    }

    /// Whether it compiles while it runs, and so gets faster.
    pub(crate) fn learns(self) -> bool {
        matches!(
            self,
            Self::NodeUnder(_)
                | Self::NodeRr
                | Self::NodeNone
                | Self::NodeNewestRr
                | Self::Pm2
                | Self::Bun
                | Self::Deno
        )
    }

    /// How to stop it in good order.
    fn stop_signal(self) -> Signal {
        match self {
            // Gracefully would wait for kept connections.
            Self::Pm2 => Signal::INT,
            _ => Signal::TERM,
        }
    }

    /// How it is started; `None` when the program is not there.
    pub(crate) fn launch(self, site: &Site<'_>) -> io::Result<Option<Launch>> {
        let address = site.address;
        match self {
            Self::Everycore(spread, face) => {
                let face = match face {
                    Face::Raw => "raw",
                    Face::Hyper => "hyper",
                    Face::Axum => "axum",
                };
                Ok(Some(ours(site, spread, face, &[])?))
            }
            Self::NodeUnder(spread) => {
                let Some(node) = site.tools.path("node") else { return Ok(None) };
                let script = peers::fixture("cluster.cjs");
                let more = [format!("node={}", node.display()), format!("script={script}")];
                Ok(Some(ours(site, spread, "node", &more)?))
            }
            Self::Raw(kind) => {
                let args =
                    ["raw".to_owned(), kind.name().to_owned(), address.to_string(), site.workers.to_string()];
                Ok(Some(Launch::new(std::env::current_exe()?, args)))
            }
            other => peers::launch(other, site),
        }
    }
}

/// Where a server is to run.
#[derive(Debug)]
pub(crate) struct Site<'t> {
    /// Where the peers are.
    pub(crate) tools: &'t Tools,
    /// Where it listens.
    pub(crate) address: SocketAddrV4,
    /// How many workers, or threads.
    pub(crate) workers: usize,
    /// For configuration, sockets and logs.
    pub(crate) directory: PathBuf,
    /// More arguments, for our own server.
    pub(crate) options: Vec<String>,
}

/// A server that serves.
#[derive(Debug)]
pub(crate) struct Running {
    /// Which one.
    pub(crate) server: Server,
    /// Where.
    pub(crate) address: SocketAddrV4,
    /// The process that was started.
    pub(crate) process: Process,
    /// How it was started, as one would type it.
    pub(crate) command_line: String,
    // After the process: its logs and sockets are in there.
    _scratch: Scratch,
}

impl Running {
    /// Starts a server on a free port and waits until every worker answers; `None` when the program is not there.
    ///
    /// # Errors
    /// It ends, or nobody answers in time; with what it said.
    pub(crate) fn start(
        server: Server,
        tools: &Tools,
        workers: usize,
        options: &[&str],
    ) -> io::Result<Option<Self>> {
        Self::start_on(free_address(Ipv4Addr::LOCALHOST)?, server, tools, workers, options)
    }

    /// As [`start`](Self::start), on this address, and on those above it when the options say so.
    ///
    /// # Errors
    /// As `start`.
    pub(crate) fn start_on(
        address: SocketAddrV4,
        server: Server,
        tools: &Tools,
        workers: usize,
        options: &[&str],
    ) -> io::Result<Option<Self>> {
        let scratch = Scratch::new(server.name())?;
        let options =
            options.iter().map(|option| option.replace("{dir}", &scratch.path().display().to_string()));
        let site = Site {
            tools,
            address,
            workers,
            directory: scratch.path().to_owned(),
            options: options.collect(),
        };
        let Some(launch) = server.launch(&site)? else { return Ok(None) };
        let process = Process::start(&launch, scratch.path(), "server")?;
        let command_line = shown(&launch, &scratch);
        let running = Self { server, address: site.address, process, command_line, _scratch: scratch };
        running.wait_until_all_serve(workers)?;
        Ok(Some(running))
    }

    /// The directory of its logs and sockets.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self._scratch.path()
    }

    /// Itself and its descendants, of which the first is itself.
    pub(crate) fn processes(&self) -> Vec<u32> {
        processes::tree(self.process.pid())
    }

    /// The processes that answer, by asking.
    ///
    /// # Errors
    /// The generator fails.
    pub(crate) fn workers(&self) -> io::Result<Vec<u32>> {
        let plan = Plan::probe(self.address);
        let outcome = load::run(&plan, &false.into(), &mut |_| {})?;
        Ok(outcome.workers.into_keys().collect())
    }

    /// Stops it. What does not end in time is killed, and that is no failure of the measurement.
    pub(crate) fn stop(self) {
        let signal = self.server.stop_signal();
        if let Err(error) = self.process.end(signal) {
            crate::say!("{}: {error}", self.server.name());
        }
    }

    /// At first nobody answers, then some do. Where a worker is never seen (a kernel that prefers one of them), three
    /// seconds of answers are enough.
    fn wait_until_all_serve(&self, workers: usize) -> io::Result<()> {
        let began = Instant::now();
        let expected = if self.server.has_processes() { workers } else { 1 };
        let mut served_since = None;
        loop {
            let seen = self.workers()?.len();
            if seen > 0 {
                served_since.get_or_insert_with(Instant::now);
            }
            if seen >= expected || served_since.is_some_and(|since| since.elapsed() > Duration::from_secs(3))
            {
                return Ok(());
            }
            if self.process.has_ended() || began.elapsed() > START {
                let what = if self.process.has_ended() { "ended" } else { "does not serve" };
                return Err(io::Error::other(format!(
                    "{} {what}: {}",
                    self.server.name(),
                    self.process.log().trim()
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Plan {
    /// A few connections at once, to see who answers.
    fn probe(target: SocketAddrV4) -> Self {
        Self {
            target,
            hosts: 1,
            pace: Pace::Closed(8),
            reuse: Reuse::Short,
            burn: None,
            warm_up: Duration::ZERO,
            length: Length::Requests(64),
            timeout: Duration::from_secs(2),
            seed: 0,
        }
    }
}

/// A port nobody uses at this moment. Somebody could take it before the server does; then it says so and ends.
pub(crate) fn free_address(ip: Ipv4Addr) -> io::Result<SocketAddrV4> {
    let port = TcpListener::bind((ip, 0))?.local_addr()?.port();
    Ok(SocketAddrV4::new(ip, port))
}

/// How our own server is started.
fn ours(site: &Site<'_>, spread: Spread, face: &str, more: &[String]) -> io::Result<Launch> {
    let spread = match spread {
        Spread::Least => "least",
        Spread::RoundRobin => "rr",
        Spread::Shared => "shared",
        Spread::Reuseport => "reuseport",
    };
    let mut args = vec![site.address.to_string(), site.workers.to_string(), spread.into(), face.into()];
    args.extend(more.iter().chain(&site.options).cloned());
    Ok(Launch::new(own_server()?, args))
}

/// As one would type it on another machine: with no path of this one.
fn shown(launch: &Launch, scratch: &Scratch) -> String {
    let peers = tools::peers().display().to_string();
    launch.command_line().replace(&scratch.path().display().to_string(), "DIR").replace(&peers, "bench/peers")
}

/// Runs our cluster of messages to its end and gives what it said.
///
/// # Errors
/// It fails, or does not end in time.
pub(crate) fn run_chatter(workers: usize, window: Duration, limit: Duration) -> io::Result<String> {
    let scratch = Scratch::new("chatter")?;
    let window = format!("window={}", window.as_millis());
    let args = ["-".to_owned(), workers.to_string(), "least".into(), "chatter".into(), window];
    let process = Process::start(&Launch::new(own_server()?, args), scratch.path(), "server")?;
    process.wait(limit)?;
    Ok(process.log())
}

/// Our server is built beside us.
fn own_server() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("everycore-bench-server"))
}
