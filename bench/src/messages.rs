//! Two processes that exchange messages, in every way that is compared.
//!
//! `everycore-bench messages WAY SIZE ROUND_TRIPS ONE_WAYS` starts itself as the other side and prints two numbers, as the
//! peers' programs do: nanoseconds per round trip and messages per second one way. JSON is built for each message and
//! read into a typed value on both sides. Neighbours: `link` are the ways without a runtime, `awaited` those under tokio; `steps`
//! times single calls.

mod awaited;
mod link;
mod steps;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use everycore_ipc::{Codec, Message};
use everycore_sys::{Spawn, Spawned, socket_pair, spawn};
use rustix::process::Signal;

use link::Link;
pub(crate) use steps::steps;

/// One way to exchange messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Length-prefixed bytes on a blocking socket, one write per message.
    Bytes,
    /// The same, gathered in a buffer of 64 KiB where nobody waits for an answer.
    BytesCoalesced,
    /// `everycore_ipc::Channel` under tokio, JSON.
    Json,
    /// `everycore_ipc::blocking::Channel`, JSON.
    JsonBlocking,
    /// `everycore_ipc::Channel` under tokio, native frames.
    Native,
    /// `everycore_ipc::blocking::Channel`, native frames.
    NativeBlocking,
}

impl Way {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 6] = [
        Self::Json,
        Self::JsonBlocking,
        Self::Native,
        Self::NativeBlocking,
        Self::Bytes,
        Self::BytesCoalesced,
    ];

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bytes => "raw-bytes",
            Self::BytesCoalesced => "raw-bytes-coalesced",
            Self::Json => "json",
            Self::JsonBlocking => "json-blocking",
            Self::Native => "native",
            Self::NativeBlocking => "native-blocking",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }

    fn codec(self) -> Codec {
        match self {
            Self::Json | Self::JsonBlocking => Codec::Json,
            Self::Native | Self::NativeBlocking | Self::Bytes | Self::BytesCoalesced => Codec::Native,
        }
    }
}

/// The side that measures.
///
/// # Errors
/// A bad command line, or the other side fails.
pub(crate) fn measure(args: &[String]) -> io::Result<()> {
    let [way, size, round_trips, one_ways] = args else { return Err(usage()) };
    let way = Way::named(way).ok_or_else(usage)?;
    let number = |text: &String| text.parse::<usize>().map_err(|_| usage());
    let (size, round_trips, one_ways) = (number(size)?, number(round_trips)?, number(one_ways)?);
    let (near, far) = socket_pair::stream_pair()?;
    let other = start(way, &far)?;
    drop(far);
    let payload = Payload::new(way.codec(), size);
    let times = match way {
        Way::Json | Way::Native => awaited::measure(near, way.codec(), &payload, round_trips, one_ways)?,
        Way::Bytes | Way::BytesCoalesced | Way::JsonBlocking | Way::NativeBlocking => {
            let mut link = link::open(way, near)?;
            let round_trip = round_trip(link.as_mut(), &payload, round_trips)?;
            let one_way = one_way(link.as_mut(), &payload, one_ways)?;
            drop(link);
            (round_trip, one_way)
        }
    };
    other.pidfd.wait()?;
    print_times(times);
    Ok(())
}

/// The other side, with its socket as standard input.
///
/// # Errors
/// As [`measure`].
pub(crate) fn echo(args: &[String]) -> io::Result<()> {
    let way = args.first().and_then(|name| Way::named(name)).ok_or_else(usage)?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = Payload::new(way.codec(), 0);
    if matches!(way, Way::Json | Way::Native) {
        return awaited::echo(socket, way.codec(), &nothing);
    }
    let mut link = link::open(way, socket)?;
    let mut answering = true;
    while let Some(heard) = link.receive()? {
        let ends_run = heard.is_empty();
        if answering && !ends_run || !answering && ends_run {
            link.send(&heard)?;
            link.flush()?;
        }
        answering ^= ends_run;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the numbers are read by the bench")]
fn print_times((round_trip, one_way): (f64, f64)) {
    println!("{round_trip:.0} {one_way:.0}");
}

/// What is sent: a value for the codecs that write values, bytes for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Value(BTreeMap<String, String>),
    Bytes(bytes::Bytes),
}

impl Payload {
    fn new(codec: Codec, size: usize) -> Self {
        match codec {
            Codec::Json | Codec::Advanced => {
                Self::Value(BTreeMap::from([("data".to_owned(), "x".repeat(size))]))
            }
            Codec::Native => Self::Bytes(vec![b'x'; size].into()),
        }
    }

    /// Bytes of what it says.
    fn len(&self) -> usize {
        match self {
            Self::Value(value) => value.values().map(String::len).sum(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Empty messages begin and end the run of those that are not answered.
    fn is_empty(&self) -> bool {
        match self {
            Self::Value(value) => value.values().all(String::is_empty),
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }

    fn to_message(&self) -> io::Result<Message> {
        match self {
            Self::Value(value) => Message::json(value).map_err(io::Error::other),
            Self::Bytes(bytes) => Ok(Message::raw(bytes.clone())),
        }
    }

    fn of(codec: Codec, message: Message) -> io::Result<Self> {
        match codec {
            Codec::Json | Codec::Advanced => message.parse().map(Self::Value).map_err(io::Error::other),
            Codec::Native => Ok(Self::Bytes(message.into_bytes())),
        }
    }
}

/// Nanoseconds; the first eighth warms up.
fn round_trip(link: &mut dyn Link, payload: &Payload, rounds: usize) -> io::Result<f64> {
    let mut began = Instant::now();
    for round in 0..rounds + rounds / 8 {
        if round == rounds / 8 {
            began = Instant::now();
        }
        link.send(payload)?;
        link.flush()?;
        link.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    Ok(began.elapsed().as_nanos() as f64 / rounds.max(1) as f64)
}

/// Messages per second, until the other side says that it has the last.
fn one_way(link: &mut dyn Link, payload: &Payload, count: usize) -> io::Result<f64> {
    let nothing = match payload {
        Payload::Value(_) => Payload::new(Codec::Json, 0),
        Payload::Bytes(_) => Payload::new(Codec::Native, 0),
    };
    link.send(&nothing)?;
    let began = Instant::now();
    for _ in 0..count {
        link.send(payload)?;
    }
    link.send(&nothing)?;
    link.flush()?;
    link.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

fn start(way: Way, socket: &OwnedFd) -> io::Result<Spawned> {
    let mut program = Spawn::new(std::env::current_exe()?);
    program.args = ["messages-echo", way.name()].map(Into::into).to_vec();
    program.descriptors = vec![(socket.as_fd(), 0)];
    program.death_signal = Some(Signal::KILL.as_raw());
    spawn(&program).map_err(|error| io::Error::other(error.to_string()))
}

fn usage() -> io::Error {
    let ways = Way::ALL.map(Way::name).join("|");
    io::Error::new(io::ErrorKind::InvalidInput, format!("usage: messages {ways} SIZE ROUND_TRIPS ONE_WAYS"))
}
