//! How long one call takes while a large message is on its way: whoever owns an event loop does nothing else meanwhile.
//!
//! `everycore-bench message-steps BYTES` prints a line for each codec and kind of call, in µs of the thread's own CPU time, so
//! that other processes do not show.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use everycore_ipc::{Codec, Connection, Limits, Message, Received};
use everycore_sys::socket_pair;
use rustix::time::{ClockId, clock_gettime};

/// Messages of each kind.
const MESSAGES: usize = 5;

type Steps = BTreeMap<&'static str, Vec<Duration>>;

/// # Errors
/// A bad command line, or a channel fails.
pub(crate) fn steps(args: &[String]) -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: message-steps BYTES");
    let [bytes] = args else { return Err(usage()) };
    let bytes: usize = bytes.parse().map_err(|_| usage())?;
    for codec in [Codec::Native, Codec::Json, Codec::Advanced] {
        let mut steps = Steps::new();
        for _ in 0..MESSAGES {
            exchange(codec, bytes, &mut steps)?;
        }
        for (name, mut times) in steps {
            times.sort();
            let at = |share: usize| times[(times.len() - 1) * share / 100].as_nanos() as f64 / 1e3;
            crate::print_out!(
                "{:8} {name:7} {:4} calls, µs: median {:.0}, p99 {:.0}, longest {:.0}",
                codec.to_string(),
                times.len(),
                at(50),
                at(99),
                at(100)
            );
        }
    }
    Ok(())
}

fn exchange(codec: Codec, bytes: usize, steps: &mut Steps) -> io::Result<()> {
    let (near, far) = socket_pair::stream_pair()?;
    let mut near = Connection::new(near, codec, Limits::default())?;
    let mut far = Connection::new(far, codec, Limits::default())?;
    let message = match codec {
        Codec::Native => Message::raw(vec![b'x'; bytes]),
        Codec::Json | Codec::Advanced => near.message(&"x".repeat(bytes)).map_err(io::Error::other)?,
    };
    timed(steps, "queue", || near.queue(message)).map_err(io::Error::other)?;
    loop {
        timed(steps, "flush", || near.flush()).map_err(io::Error::other)?;
        match timed(steps, "receive", || far.receive()).map_err(io::Error::other)? {
            Received::Message(message) => {
                timed(steps, "drop", || drop(message));
                return Ok(());
            }
            Received::More | Received::Blocked => {}
            Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn timed<T>(steps: &mut Steps, name: &'static str, step: impl FnOnce() -> T) -> T {
    let used = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
    };
    let before = used();
    let value = step();
    steps.entry(name).or_default().push(used() - before);
    value
}
