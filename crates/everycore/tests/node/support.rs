//! A cluster of real Node workers, driven as its users would: its events, its port, its end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use everycore::{
    BoundAddress, Cluster, Dialect, Event, ExitReason, ExitStatus, Handle, Message, Outcome, Policy, Primary,
    RestartPolicy, RestartSettings, Running, Serialization, WorkerInfo,
};
pub(crate) use everycore_peers::Runtime;
use serde_json::Value;

/// How long anything may take that should take no time at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns from a test where there is no Node, saying so; fails it when peers are required.
macro_rules! need_node {
    () => {
        match everycore_peers::node() {
            Some(node) => node,
            None => return,
        }
    };
    // One whose workers serve what their primary has.
    (served) => {
        match everycore_peers::node() {
            Some(node) if node.takes_connections() => node,
            Some(_) => return everycore_peers::pass_over("a worker of Bun takes no socket from its primary"),
            None => return,
        }
    };
    (Node) => {
        match everycore_peers::node() {
            Some(node) if node.kind == everycore_peers::Kind::Node => node,
            Some(_) => return everycore_peers::pass_over("the test looks into what Node alone has"),
            None => return,
        }
    };
}
pub(crate) use need_node;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/node").join(name)
}

/// The policies that a worker of this runtime serves under, `rr` first.
pub(crate) fn policies(node: &Runtime) -> Vec<Policy> {
    let shared = node.takes_listeners().then_some(Policy::Shared);
    [Some(Policy::RoundRobin), Some(Policy::Least), shared].into_iter().flatten().collect()
}

/// What each test starts from.
pub(crate) trait Starts {
    /// One worker that runs this program under `rr`, is not replaced, and leaves the process's signals alone.
    fn cluster(&self, program: &str) -> Cluster;

    fn start(&self, program: &str) -> Nodes {
        Nodes::start(self.cluster(program))
    }
}

impl Starts for Runtime {
    fn cluster(&self, program: &str) -> Cluster {
        let mut args: Vec<_> = self.args.iter().map(Into::into).collect();
        args.extend([fixture("run.js").into_os_string(), program.into()]);
        Cluster::builder()
            .dialect(Dialect::Node(Serialization::Json))
            .exec(&self.program)
            .args(args)
            .workers(1)
            .policy(Policy::RoundRobin)
            .restart(RestartSettings { policy: RestartPolicy::Never, ..RestartSettings::default() })
            .signals(false)
    }
}

/// What was heard of a worker.
#[derive(Debug)]
pub(crate) enum Seen {
    Fork(WorkerInfo),
    Online(u32),
    Listening(u32, BoundAddress),
    Message(u32, Message),
    Disconnect(u32),
    Exit { worker: u32, status: ExitStatus, reason: ExitReason, after_disconnect: bool },
    Other(Event),
}

/// A running cluster.
pub(crate) struct Nodes {
    running: Option<Running>,
    events: Receiver<Seen>,
}

impl Nodes {
    pub(crate) fn start(cluster: Cluster) -> Self {
        let (sender, events) = channel();
        let cluster = cluster.on_event(move |_, event| {
            // A test that has seen enough does not listen any more.
            let _ = sender.send(Seen::from(event));
        });
        Self { running: Some(cluster.start().unwrap()), events }
    }

    pub(crate) fn primary(&self) -> &Primary {
        self.running.as_ref().expect("until it is waited for").primary()
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().expect("until it is waited for")
    }

    pub(crate) fn next(&self) -> Seen {
        self.events.recv_timeout(PATIENCE).expect("an event in time")
    }

    /// The next event that `pick` wants; others are passed over.
    pub(crate) fn find<T>(&self, mut pick: impl FnMut(Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen =
                self.events.recv_timeout(left).unwrap_or_else(|_| panic!("not in time; seen: {passed:#?}"));
            passed.push(format!("{seen:?}").chars().take(300).collect::<String>());
            if let Some(found) = pick(seen) {
                return found;
            }
        }
    }

    /// The next message of any worker, and whose it is.
    pub(crate) fn message(&self) -> (u32, Value) {
        self.find(|seen| match seen {
            Seen::Message(worker, message) => Some((worker, message.parse().unwrap())),
            _ => None,
        })
    }

    /// What the next message says.
    pub(crate) fn said(&self) -> Value {
        self.message().1
    }

    /// Where a worker begins to listen.
    pub(crate) fn listening(&self) -> (u32, BoundAddress) {
        self.find(|seen| match seen {
            Seen::Listening(worker, address) => Some((worker, address)),
            _ => None,
        })
    }

    /// Where the next worker listens, on TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.listening().1.tcp().expect("a TCP address");
        // A client of the unspecified address connects to this machine.
        if address.ip().is_unspecified() {
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        } else {
            address
        }
    }

    /// Waits until this many workers listen on one address.
    pub(crate) fn all_listen(&self, workers: usize) -> SocketAddr {
        let addresses: Vec<_> = (0..workers).map(|_| self.address()).collect();
        addresses[0]
    }

    /// The next exit: its status, and whether it was agreed.
    pub(crate) fn exit(&self) -> (u32, ExitStatus, bool) {
        self.find(|seen| match seen {
            Seen::Exit { worker, status, after_disconnect, .. } => Some((worker, status, after_disconnect)),
            _ => None,
        })
    }

    /// Stops a worker where it is, and waits until it stands still: it does not at once.
    pub(crate) fn halt(&self, worker: u32) {
        self.primary().kill(worker, everycore_sys::signals::number::STOP).unwrap();
        let workers = self.primary().snapshot().unwrap().workers;
        let pid = workers.iter().find(|info| info.worker.get() == worker).and_then(|info| info.pid).unwrap();
        until("it stands still", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains("State:\tT")
        });
    }

    pub(crate) fn send(&self, worker: u32, message: &Value) {
        self.primary().send(worker, message).unwrap();
    }

    pub(crate) fn send_with(&self, worker: u32, message: &Value, handle: impl Into<Handle>) {
        self.primary().send_with(worker, message, handle.into()).unwrap();
    }

    /// Everything else that is told, until the cluster has ended by itself.
    pub(crate) fn end(mut self) -> (Outcome, Vec<Seen>) {
        let running = self.running.take().expect("ended once");
        let (sender, ended) = channel();
        std::thread::spawn(move || sender.send(running.wait().unwrap()));
        let outcome = ended.recv_timeout(PATIENCE).expect("the cluster ends in time");
        (outcome, self.events.try_iter().collect())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.primary().stop(everycore::Urgency::Fast);
            let _ = running.primary().stop(everycore::Urgency::Fast);
            let _ = running.wait();
        }
    }
}

impl From<Event> for Seen {
    fn from(event: Event) -> Self {
        match event {
            Event::Fork { worker } => Self::Fork(worker),
            Event::Online { worker } => Self::Online(worker.id),
            Event::Listening { worker, address } => Self::Listening(worker.id, address),
            Event::Message { worker, message } => Self::Message(worker.id, message),
            Event::Disconnect { worker } => Self::Disconnect(worker.id),
            Event::Exit { worker, status, reason, exited_after_disconnect } => {
                Self::Exit { worker: worker.id, status, reason, after_disconnect: exited_after_disconnect }
            }
            other => Self::Other(other),
        }
    }
}

/// Connects, says something, and reads to the end.
pub(crate) fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes())?;
    read_all(stream)
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn read_all(mut stream: impl Read) -> std::io::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The next line of a conversation, without waiting for its end.
pub(crate) fn read_line(stream: &mut impl Read) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Tries until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// A directory of this test's own, removed with it.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("everycore-node-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
