//! A primary without a cluster: the other ends of everything a worker holds, in the hands of a test.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use everycore_ipc::{Codec, Connection, Flush, Handle, Incoming, Limits, Message, Outgoing, Received};
use everycore_sys::counters::{self, Counters, PrimaryPage};
use everycore_sys::eventfd::EventFd;
use everycore_sys::{scm_rights, socket_pair};
use rustix::event::{PollFd, PollFlags, poll};

use super::Worker;
use super::under_node::UnderNode;
use crate::address::BoundAddress;
use crate::protocol::{FromWorker, ListenFailure, Mode, ToWorker, Welcome, record};

/// What a test waits for at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a future on a runtime like the worker's, and fails when it takes too long.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

/// Runs an ignored test of this binary in a process of its own, since it changes what belongs to the whole process.
pub(crate) fn in_own_process(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--test-threads=1", "--nocapture"])
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{failed}");
}

/// Lowers this process's limit on open descriptors.
pub(crate) fn limit_descriptors(count: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).unwrap();
}

/// The primary of one worker.
pub(crate) struct FakePrimary {
    pub(crate) connection: Connection,
    pub(crate) page: PrimaryPage,
    pub(crate) bell: EventFd,
}

/// The primary's ends of a hand-off channel.
pub(crate) struct FakeHandOff {
    pub(crate) near: OwnedFd,
    pub(crate) far: OwnedFd,
}

impl FakePrimary {
    /// A primary and the channel that its worker would inherit; the welcome is in it.
    pub(crate) fn new() -> (Self, OwnedFd) {
        let (ours, theirs) = socket_pair::stream_pair().unwrap();
        let (memfd, page) = counters::create().unwrap();
        let bell = EventFd::new().unwrap();
        let mut primary = Self {
            connection: Connection::new(ours, Codec::Native, Limits::default()).unwrap(),
            page,
            bell: bell.as_fd().try_clone_to_owned().unwrap().into(),
        };
        let welcome = Welcome {
            name: "web".into(),
            worker: 7,
            slot: 2,
            generation: 3,
            class: None,
            drain_ms: PATIENCE.as_millis() as u64,
        };
        primary.tell(&ToWorker::Welcome(welcome), vec![memfd, bell.into()]);
        (primary, theirs)
    }

    /// A primary and its worker, both through the welcome.
    pub(crate) fn with_worker() -> (Self, Worker) {
        let (mut primary, channel) = Self::new();
        let worker = crate::role::join(channel).unwrap();
        assert_eq!(primary.hear(), FromWorker::Hello { version: crate::protocol::VERSION });
        (primary, worker)
    }

    /// As [`with_worker`](Self::with_worker), where the primary is Node's.
    pub(crate) fn of_node() -> (Connection, Worker) {
        let (ours, theirs) = socket_pair::stream_pair().unwrap();
        let [ours, theirs] =
            [ours, theirs].map(|end| Connection::new(end, Codec::Json, Limits::default()).unwrap());
        let welcome = Welcome {
            name: "web".into(),
            worker: 7,
            slot: 6,
            generation: 0,
            class: None,
            drain_ms: PATIENCE.as_millis() as u64,
        };
        (ours, Worker::under_node(theirs, UnderNode::new(), welcome).unwrap())
    }

    pub(crate) fn tell(&mut self, message: &ToWorker, handles: Vec<OwnedFd>) {
        let mut frame = Message::raw(message.encode());
        for handle in handles {
            frame = frame.with_handle(Handle::Other(handle));
        }
        self.send(Outgoing::internal(frame));
    }

    pub(crate) fn send(&mut self, outgoing: Outgoing) {
        self.connection.queue(outgoing).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.connection.flush().unwrap() != Flush::Done {
            let left = deadline.checked_duration_since(Instant::now()).expect("room in time");
            let mut fds = [PollFd::new(&self.connection, PollFlags::OUT)];
            poll(&mut fds, Some(&super::timespec(left))).unwrap();
        }
    }

    /// The next frame; `None` at the end of the channel.
    pub(crate) fn receive(&mut self) -> Option<Incoming> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connection.receive().unwrap() {
                Received::Message(incoming) => return Some(incoming),
                Received::Closed => return None,
                Received::Blocked | Received::More => {}
            }
            let left = deadline.checked_duration_since(Instant::now()).expect("a frame in time");
            let mut fds = [PollFd::new(&self.connection, PollFlags::IN)];
            poll(&mut fds, Some(&super::timespec(left))).unwrap();
        }
    }

    /// The next word of the worker's library.
    pub(crate) fn hear(&mut self) -> FromWorker {
        match self.receive() {
            Some(Incoming::Internal(message)) => FromWorker::decode(message.bytes()).unwrap(),
            other => panic!("{other:?} instead of a word of the library"),
        }
    }

    /// Waits for the question and grants a hand-off channel under this key; the worker then listens.
    pub(crate) fn grant_hand_off(&mut self, key: u32, address: &str) -> FakeHandOff {
        let (near, theirs) = socket_pair::record_pair().unwrap();
        let far = theirs.try_clone().unwrap();
        self.grant(key, Mode::HandOff, address, theirs);
        FakeHandOff { near, far }
    }

    pub(crate) fn grant(&mut self, key: u32, mode: Mode, address: &str, handle: OwnedFd) {
        let request = match self.hear() {
            FromWorker::Listen { request, .. } => request,
            other => panic!("{other:?} instead of a question for a listener"),
        };
        let address = match address.strip_prefix("unix:") {
            Some(path) => BoundAddress::Unix(path.into()),
            None => BoundAddress::Tcp(address.parse().unwrap()),
        };
        self.tell(&ToWorker::Granted { request, key, mode, address, more: false }, vec![handle]);
    }

    pub(crate) fn refuse(&mut self, failure: ListenFailure) {
        match self.hear() {
            FromWorker::Listen { request, .. } => self.tell(&ToWorker::Refused { request, failure }, vec![]),
            other => panic!("{other:?} instead of a question for a listener"),
        }
    }

    pub(crate) fn counters(&mut self) -> Counters {
        self.page.read(u64::MAX)
    }
}

impl FakeHandOff {
    /// Hands over one end of a fresh connection and returns the client's.
    pub(crate) fn hand(&self, port: u16) -> OwnedFd {
        let (client, server) = socket_pair::stream_pair().unwrap();
        self.send(port, server);
        client
    }

    pub(crate) fn send(&self, port: u16, connection: OwnedFd) {
        let record = record::encode(Some(SocketAddr::from(([127, 0, 0, 1], port))), 0);
        let sent = scm_rights::send_each(&self.near, &[(&record, connection.as_fd())]).unwrap();
        assert_eq!(sent, 1);
    }

    /// As `send`, however slowly the other side reads.
    pub(crate) fn send_when_there_is_room(&self, port: u16, connection: OwnedFd) {
        let record = record::encode(Some(SocketAddr::from(([127, 0, 0, 1], port))), 0);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = scm_rights::send_each(&self.near, &[(&record, connection.as_fd())]) {
            assert!(scm_rights::is_back_pressure(&error), "{error}");
            assert!(Instant::now() < deadline, "room in time");
            std::thread::yield_now();
        }
    }

    /// Whether the worker holds no end of the channel any more. Gives up the far end, which would hold it, too.
    pub(crate) fn closed_by_the_worker(self) -> bool {
        drop(self.far);
        let (connection, _) = socket_pair::stream_pair().unwrap();
        scm_rights::send_each(&self.near, &[(b"", connection.as_fd())]).is_err()
    }

    /// Takes back one connection that the worker has not read: its port.
    pub(crate) fn read_back(&self) -> Option<u16> {
        let mut buffer = [0; record::LEN];
        let (length, fd) = scm_rights::receive_one(&self.far, &mut buffer).ok().flatten()?;
        assert!(fd.is_some());
        Some(record::decode(&buffer[..length])??.port())
    }
}
