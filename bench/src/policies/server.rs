//! What is measured: workers that answer with their process id and slot.
//!
//! `everycore-bench policies-server POLICY WORKERS` picks a port and prints what happens, one line each:
//! `listening ADDRESS`, `serving WORKER PID`, `exit WORKER`, `reloaded`.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use everycore::{Cluster, Event, Policy, RestartSettings, Stream, Worker};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Visits;
use super::{Target, children};
use crate::process::{Launch, Process};
use crate::raw::Kind;
use crate::scratch::Scratch;

/// How long a server may take for anything that happens once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs.
pub(super) struct Server {
    process: Process,
    pub(super) address: Target,
    /// Lines of the log that have been read.
    read: Cell<usize>,
    _directory: Scratch,
}

impl Server {
    /// Starts ours, and waits until all workers serve.
    pub(super) fn start(policy: Policy, workers: usize) -> io::Result<Self> {
        let address = free_address()?;
        let args =
            ["policies-server".to_owned(), address.to_string(), policy.to_string(), workers.to_string()];
        let server = Self::launch(address, args)?;
        (0..workers).try_for_each(|_| server.wait("serving").map(drop))?;
        Ok(server)
    }

    /// Starts a limit program, and waits until all its workers have answered.
    pub(super) fn start_limit(kind: Kind, workers: usize) -> io::Result<Self> {
        let address = free_address()?;
        let args = ["raw".to_owned(), kind.name().to_owned(), address.to_string(), workers.to_string()];
        let server = Self::launch(address, args)?;
        let deadline = Instant::now() + PATIENCE;
        while server.workers().len() < workers || Visits::from_anywhere(1).run(address, 1).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} does not serve", kind.name())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn launch(address: Target, args: [String; 4]) -> io::Result<Self> {
        let directory = Scratch::new("policies")?;
        let launch = Launch::new(std::env::current_exe()?, args);
        let process = Process::start(&launch, directory.path(), "server")?;
        Ok(Self { process, address, read: Cell::new(0), _directory: directory })
    }

    /// The rest of the next line that begins with this word.
    pub(super) fn wait(&self, word: &str) -> io::Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.process.log();
            // The last line may be half written.
            let whole = log.rfind('\n').map_or("", |end| &log[..end]);
            for line in whole.lines().skip(self.read.get()) {
                self.read.set(self.read.get() + 1);
                if let Some(rest) = line.strip_prefix(word) {
                    return Ok(rest.trim().to_owned());
                }
            }
            if self.process.has_ended() || Instant::now() > deadline {
                return Err(io::Error::other(format!("the server does not say '{word}': {log}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// The workers' processes.
    pub(super) fn workers(&self) -> Vec<u32> {
        children(self.process.pid())
    }

    pub(super) fn stop(self) {
        // It is gone in any case when this value is dropped.
        let _ = self.process.end(Signal::TERM);
    }
}

/// A port nobody holds at the moment.
fn free_address() -> io::Result<Target> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// The program itself: `ADDRESS POLICY WORKERS`.
///
/// # Errors
/// The arguments are none, or what the library reports.
pub(crate) fn serve(args: &[String]) -> io::Result<()> {
    let [address, policy, workers] = args else {
        return Err(io::Error::other("usage: policies-server ADDRESS POLICY WORKERS"));
    };
    let policy = policy.parse::<Policy>().map_err(io::Error::other)?;
    let workers = workers.parse().map_err(io::Error::other)?;
    let at_once = RestartSettings {
        first_delay: Duration::from_millis(1),
        healthy_after: Duration::ZERO,
        ..RestartSettings::default()
    };
    Cluster::builder()
        .bind_with("http", address.as_str(), everycore::ListenOptions::new().backlog(4096))
        .map_err(io::Error::other)?
        .workers(workers)
        .policy(policy)
        .restart(at_once)
        .on_event(|_, event| match event {
            Event::Listening { worker, .. } => crate::print_out!("serving {}", worker.id),
            Event::Exit { worker, .. } => crate::print_out!("exit {}", worker.id),
            Event::ReloadDone { .. } => crate::print_out!("reloaded"),
            Event::ReloadFailed { reason, .. } => crate::print_out!("reload failed: {reason}"),
            Event::Warning { text } => crate::print_out!("warning: {text}"),
            _ => {}
        })
        .run_with(work)
        .map(drop)
        .map_err(io::Error::other)
}

async fn work(worker: Worker) -> everycore::Result<()> {
    let mut listener = worker.listener("http").await?;
    let body = format!("{} {}\n", worker.pid(), worker.slot());
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let answer: &'static str = answer.leak();
    while let Ok((stream, _)) = listener.accept().await {
        // A client that goes away in the middle is none of our concern.
        tokio::spawn(async move { converse(stream, answer).await.is_ok() });
    }
    Ok(())
}

async fn converse(mut stream: Stream, answer: &str) -> io::Result<()> {
    let mut request = Vec::with_capacity(256);
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer.as_bytes()).await
}
