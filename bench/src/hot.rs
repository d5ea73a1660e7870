//! The paths every connection and every message takes, one step at a time and in one process: for the microbenchmarks,
//! and for counting instructions.
//!
//! A [`Subject`] is set up once and stepped often. Neighbours: `benches/micro.rs` times steps, `rows/instructions` has
//! them counted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use everycore_core::{
    Assignment, Counters, Effect, Event, ListenerKey, Policy, Primary, Settings, Time, WorkerId,
};
use everycore_ipc::{Codec, Connection, Incoming, Limits, Message, Received, v8};

/// Messages that are written in one go, as a turn of a loop writes them.
const RUN: usize = 64;

/// What can be stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A connection: look at every worker's counters, choose one, hear that it is done. Policy and workers.
    Assign(&'static str, u32),
    /// A message of a size through both ends of a channel; parsed, where its codec has values.
    Message(Codec, usize),
    /// As `Message`, written and read 64 at a time.
    Coalesced(Codec, usize),
    /// A value of a size to the codec's bytes and back, without a channel.
    Value(Codec, usize),
    /// A worker that dies and is replaced.
    Restart,
}

impl Subject {
    /// All of them.
    pub(crate) const ALL: [Self; 22] = [
        Self::Assign("least", 2),
        Self::Assign("least", 8),
        Self::Assign("least", 64),
        Self::Assign("rr", 2),
        Self::Assign("rr", 64),
        Self::Assign("sticky", 2),
        Self::Assign("sticky", 64),
        Self::Message(Codec::Native, 64),
        Self::Message(Codec::Native, 1 << 16),
        Self::Message(Codec::Json, 64),
        Self::Message(Codec::Json, 1 << 16),
        Self::Message(Codec::Advanced, 64),
        Self::Message(Codec::Advanced, 1 << 16),
        Self::Coalesced(Codec::Native, 64),
        Self::Coalesced(Codec::Json, 64),
        Self::Coalesced(Codec::Advanced, 64),
        Self::Value(Codec::Json, 64),
        Self::Value(Codec::Json, 1 << 16),
        Self::Value(Codec::Advanced, 64),
        Self::Value(Codec::Advanced, 1 << 16),
        Self::Value(Codec::Native, 64),
        Self::Restart,
    ];

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> String {
        let size =
            |size: usize| if size >= 1024 { format!("{}KiB", size / 1024) } else { format!("{size}B") };
        match self {
            Self::Assign(policy, workers) => format!("assign/{policy}/{workers}"),
            Self::Message(codec, bytes) => format!("message/{}/{}", code(codec), size(bytes)),
            Self::Coalesced(codec, bytes) => format!("coalesced/{}/{}", code(codec), size(bytes)),
            Self::Value(codec, bytes) => format!("value/{}/{}", code(codec), size(bytes)),
            Self::Restart => "restart".to_owned(),
        }
    }

    /// The subject of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.name() == name)
    }

    /// Connections, messages, values or restarts in one step.
    pub(crate) fn per_step(self) -> u64 {
        if let Self::Coalesced(..) = self { RUN as u64 } else { 1 }
    }

    /// Sets it up; each call of what is returned is one step.
    ///
    /// # Errors
    /// No socket pair is to be had.
    pub(crate) fn prepare(self) -> io::Result<Box<dyn FnMut() -> io::Result<()>>> {
        Ok(match self {
            Self::Assign(policy, workers) => {
                let mut cluster = Cluster::new(policy, workers)?;
                Box::new(move || cluster.connection())
            }
            Self::Message(codec, bytes) => {
                let mut pair = Pair::new(codec, bytes)?;
                Box::new(move || pair.exchange(1))
            }
            Self::Coalesced(codec, bytes) => {
                let mut pair = Pair::new(codec, bytes)?;
                Box::new(move || pair.exchange(RUN))
            }
            Self::Value(codec, bytes) => {
                let value = value(bytes);
                Box::new(move || there_and_back(codec, &value))
            }
            Self::Restart => {
                let mut restarts = Restarts::new()?;
                Box::new(move || restarts.next().map(drop))
            }
        })
    }
}

fn code(codec: Codec) -> &'static str {
    match codec {
        Codec::Json => "json",
        Codec::Advanced => "advanced",
        Codec::Native => "native",
    }
}

type Value = BTreeMap<String, String>;

fn value(bytes: usize) -> Value {
    BTreeMap::from([("data".to_owned(), "x".repeat(bytes))])
}

fn there_and_back(codec: Codec, value: &Value) -> io::Result<()> {
    let back: Value = match codec {
        Codec::Advanced => {
            let written = v8::to_vec(value).map_err(io::Error::other)?;
            v8::from_slice(&written).map_err(io::Error::other)?
        }
        // Values travel in native frames as JSON.
        Codec::Json | Codec::Native => {
            Message::json(value).and_then(|message| message.parse()).map_err(io::Error::other)?
        }
    };
    std::hint::black_box(back);
    Ok(())
}

// --- channels ---

struct Pair {
    near: Connection,
    far: Connection,
    codec: Codec,
    value: Value,
    bytes: bytes::Bytes,
}

impl Pair {
    fn new(codec: Codec, bytes: usize) -> io::Result<Self> {
        let (near, far) = everycore_sys::socket_pair::stream_pair()?;
        Ok(Self {
            near: Connection::new(near, codec, Limits::default())?,
            far: Connection::new(far, codec, Limits::default())?,
            codec,
            value: value(bytes),
            bytes: vec![b'x'; bytes].into(),
        })
    }

    fn exchange(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let message = match self.codec {
                Codec::Native => Message::raw(self.bytes.clone()),
                Codec::Json | Codec::Advanced => self.near.message(&self.value).map_err(io::Error::other)?,
            };
            self.near.queue(message).map_err(io::Error::other)?;
        }
        let mut received = 0;
        while received < count {
            // More than a socket holds goes in pieces.
            self.near.flush().map_err(io::Error::other)?;
            match self.far.receive().map_err(io::Error::other)? {
                Received::Message(Incoming::User(message)) => {
                    received += 1;
                    match self.codec {
                        Codec::Native => drop(std::hint::black_box(message.into_bytes())),
                        Codec::Json | Codec::Advanced => {
                            std::hint::black_box(message.parse::<Value>().map_err(io::Error::other)?);
                        }
                    }
                }
                Received::Message(other) => return Err(io::Error::other(format!("unasked for: {other:?}"))),
                Received::Blocked | Received::More => {}
                Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(())
    }
}

// --- the core ---

const LISTENER: ListenerKey = ListenerKey::new(0);

/// A primary whose workers are all ready, and what they would have counted.
struct Cluster {
    primary: Primary,
    workers: Vec<(WorkerId, Counters)>,
    now: Time,
    clients: u16,
}

impl Cluster {
    fn new(policy: &str, workers: u32) -> io::Result<Self> {
        let policy: Policy = policy.parse().map_err(io::Error::other)?;
        let settings = Settings { workers, policy, ..Settings::default() };
        let mut primary = Primary::new(settings, Time::ZERO);
        let mut ready = Vec::new();
        for effect in primary.take_effects() {
            if let Effect::Spawn { worker, .. } = effect {
                primary.handle(Event::Online { worker }, Time::ZERO);
                primary.handle(Event::Listening { worker, listener: LISTENER }, Time::ZERO);
                ready.push((worker, Counters::default()));
            }
        }
        primary.take_effects();
        Ok(Self { primary, workers: ready, now: Time::ZERO, clients: 0 })
    }

    /// What one connection costs the primary's decisions, at some 30,000 per second.
    fn connection(&mut self) -> io::Result<()> {
        self.now = self.now + Duration::from_micros(33);
        self.clients = self.clients.wrapping_add(1);
        self.primary.observe_all(self.workers.iter().copied(), self.now);
        let from = SocketAddr::from(([127, 0, self.clients.to_be_bytes()[0], 1], self.clients));
        match self.primary.assign(LISTENER, Some(from), self.now) {
            Assignment::To(chosen) => {
                let served = self.workers.iter_mut().find(|(worker, _)| *worker == chosen);
                let (_, counters) = served.ok_or_else(|| io::Error::other("nobody's worker"))?;
                counters.taken += 1;
                counters.ready += 1;
                counters.closed += 1;
                counters.turn += 1;
                Ok(())
            }
            other => Err(io::Error::other(format!("all workers are idle, and yet {other:?}"))),
        }
    }
}

/// A cluster of eight workers that die one after the other.
pub(crate) struct Restarts {
    primary: Primary,
    alive: Vec<WorkerId>,
    now: Time,
    done: usize,
}

impl Restarts {
    pub(crate) fn new() -> io::Result<Self> {
        let settings = Settings { workers: 8, ..Settings::default() };
        let settings = settings.validated().map_err(io::Error::other)?;
        let mut restarts =
            Self { primary: Primary::new(settings, Time::ZERO), alive: Vec::new(), now: Time::ZERO, done: 0 };
        restarts.carry_out();
        Ok(restarts)
    }

    /// One worker serves for an hour, is killed, and its replacement comes; gives how many workers there are.
    pub(crate) fn next(&mut self) -> io::Result<usize> {
        self.now = self.now + Duration::from_secs(3600);
        let place = self.done % self.alive.len().max(1);
        self.done += 1;
        let wanted = self.alive.len();
        let worker = self.alive.swap_remove(place);
        if self.primary.assign(LISTENER, None, self.now) == Assignment::Wait {
            return Err(io::Error::other("nobody is ready"));
        }
        self.primary
            .handle(Event::Exited { worker, status: everycore_core::ExitStatus::Signal(9) }, self.now);
        self.carry_out();
        while self.alive.len() < wanted {
            let due = self.primary.next_deadline();
            self.now = due.ok_or_else(|| io::Error::other("no replacement is due"))?.max(self.now);
            self.primary.handle_deadline(self.now);
            self.carry_out();
        }
        Ok(self.alive.len())
    }

    fn carry_out(&mut self) {
        loop {
            let effects = self.primary.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                if let Effect::Spawn { worker, .. } = effect {
                    self.primary.handle(Event::Online { worker }, self.now);
                    self.primary.handle(Event::Listening { worker, listener: LISTENER }, self.now);
                    self.alive.push(worker);
                }
            }
        }
    }
}
