//! The load generator: what to send ([`Plan`]), what came of it ([`Outcome`]), and [`run`] in between.
//!
//! One thread, one epoll set, no allocation per request. A *closed* load keeps a number of requests in flight; an
//! *open* one starts them by the clock, whatever the server does, and counts latency from the moment a request was
//! due, so that a stall is felt by every request it delays. Sockets are used again ([`connection`]); what goes over the
//! network is what new ones would send. Neighbours: `engine` is the loop, `connection` one
//! connection's socket, `answer` reads HTTP, `failure` says what can go wrong; `hold` keeps connections at rest.

mod answer;
mod connection;
mod engine;
mod failure;
mod hold;

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub(crate) use failure::{Failed, Failure, Failures};
pub(crate) use hold::hold;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where the server listens.
    pub(crate) target: SocketAddrV4,
    /// On how many addresses, counting up from there: connections go to each in turn.
    pub(crate) hosts: u32,
    /// When a request starts.
    pub(crate) pace: Pace,
    /// What becomes of a connection after its first answer.
    pub(crate) reuse: Reuse,
    /// The share of requests that make a worker burn CPU, and for how many milliseconds.
    pub(crate) burn: Option<Burn>,
    /// Not measured, though failures count.
    pub(crate) warm_up: Duration,
    /// How long is measured.
    pub(crate) length: Length,
    /// When an answer, or the end of a connection, is given up.
    pub(crate) timeout: Duration,
    /// For the choice of requests that burn.
    pub(crate) seed: u64,
}

/// When a request starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As soon as another one has ended: this many are in flight.
    Closed(usize),
    /// By the clock: so many per second, evenly spaced.
    Open(f64),
}

/// What becomes of a connection after its first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// `Connection: close` is asked for, and the end of the connection awaited.
    Short,
    /// The next request follows at once.
    KeepAlive,
    /// As `KeepAlive`, looking for the end of the connection before each request: one more system call, and a
    /// request that is lost then was sent before its sender could know better.
    Careful,
}

/// Requests that make their worker burn CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Burn {
    /// How many of all requests, 0 to 1.
    pub(crate) share: f64,
    /// For how long each burns.
    pub(crate) millis: u32,
}

/// How long is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// By the clock.
    Time(Duration),
    /// Until this many requests have ended.
    Requests(u64),
    /// Until somebody else than this worker has answered, but no longer than this.
    Another(u32, Duration),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Requests answered in the measured time.
    pub(crate) answered: u64,
    /// The measured time.
    pub(crate) window: Duration,
    /// Of requests that burn nothing, answered in the measured time.
    pub(crate) fast: Latencies,
    /// Of requests that burn.
    pub(crate) burned: Latencies,
    /// From the first connection to the last, warm-up included.
    pub(crate) failures: Failures,
    /// Answers in the measured time by the worker that gave them: its process id, out of the body.
    pub(crate) workers: BTreeMap<u32, u64>,
    /// Kept connections that the server ended where it may: announced, or while nothing was asked.
    pub(crate) ended_well: u64,
}

impl Outcome {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answered as f64 / self.window.as_secs_f64().max(1e-9)
    }

    /// The share of the worker that answered most, 0 to 1.
    pub(crate) fn busiest(&self) -> f64 {
        let most = self.workers.values().max().copied().unwrap_or(0);
        most as f64 / self.workers.values().sum::<u64>().max(1) as f64
    }
}

/// Times from due to answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    fn push(&mut self, latency: Duration) {
        self.0.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The latency that this percentage of requests did not exceed, in milliseconds; 0 when there are none.
    pub(crate) fn percentile(&mut self, percent: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        let index = rank.clamp(1, self.0.len()) - 1;
        let (_, nanos, _) = self.0.select_nth_unstable(index);
        *nanos as f64 / 1e6
    }
}

/// A bound of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Warm-up is over.
    Begin,
    /// Measuring is over.
    End,
}

/// Sends what the plan says and calls `mark` at both bounds of the measured time. `stop` ends it early.
///
/// # Errors
/// The generator itself is out of something. What goes wrong with the server is in the outcome.
pub(crate) fn run(plan: &Plan, stop: &AtomicBool, mark: &mut dyn FnMut(Mark)) -> std::io::Result<Outcome> {
    engine::Engine::new(plan)?.run(stop, mark)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::thread::{self, JoinHandle};

    use super::*;

    /// What a server does with a request.
    #[derive(Clone, Copy)]
    enum How {
        /// Answers and ends, as it should; the client's end must be one, too, and no reset.
        Good,
        /// As `Good`, byte by byte.
        Slow,
        Nothing,
        Half,
        Garbage,
        Reset,
        /// Answers and waits for the client to give up.
        Stays,
    }

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n42\n";

    /// Serves one connection after the other and gives the clients' ends.
    fn server(plan: Vec<How>) -> (SocketAddrV4, JoinHandle<Vec<SocketAddr>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("IPv4 was asked for") };
        let serve = move || plan.into_iter().map(|how| serve_one(listener.accept().unwrap(), how)).collect();
        (address, thread::spawn(serve))
    }

    fn serve_one((mut stream, from): (TcpStream, SocketAddr), how: How) -> SocketAddr {
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        match how {
            How::Good | How::Stays => stream.write_all(ANSWER).unwrap(),
            How::Slow => ANSWER.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap()),
            How::Half => stream.write_all(&ANSWER[..30]).unwrap(),
            How::Garbage => stream.write_all(b"SSH-2.0-x\r\n").unwrap(),
            How::Reset => rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(),
            How::Nothing => {}
        }
        match how {
            How::Reset | How::Garbage => {}
            How::Good | How::Slow | How::Nothing | How::Half => {
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut byte).unwrap(), 0);
            }
            How::Stays => assert_eq!(stream.read(&mut byte).unwrap(), 0),
        }
        from
    }

    fn plan(target: SocketAddrV4, pace: Pace, requests: u64) -> Plan {
        Plan {
            target,
            hosts: 1,
            pace,
            reuse: Reuse::Short,
            burn: None,
            warm_up: Duration::ZERO,
            length: Length::Requests(requests),
            timeout: Duration::from_millis(500),
            seed: 1,
        }
    }

    #[test]
    fn whatever_goes_wrong_is_told_apart_and_spoils_nothing_that_follows() {
        use How::{Garbage, Good, Half, Nothing, Reset, Slow, Stays};
        let all = [Good, Good, Nothing, Slow, Half, Good, Garbage, Good, Reset, Good, Stays, Slow, Good];
        let (target, served) = server(all.to_vec());
        let plan = plan(target, Pace::Closed(1), all.len() as u64);
        let outcome = run(&plan, &false.into(), &mut |_| {}).unwrap();
        let from = served.join().unwrap();
        assert_eq!(outcome.answered, 9, "{}", outcome.failures);
        assert_eq!(outcome.workers, BTreeMap::from([(42, 9)]));
        let wrong = [
            Failure::EndedWithoutAnswer,
            Failure::CutShort,
            Failure::BadAnswer,
            Failure::ResetAfterRequest,
            Failure::NoEnd,
        ];
        assert!(wrong.iter().all(|failure| outcome.failures.count(*failure) == 1), "{}", outcome.failures);
        assert_eq!(outcome.failures.total(), 5);
        // Each failure names the client's end as the server saw it.
        let ends: Vec<_> = outcome.failures.each.iter().map(|failed| failed.from).collect();
        let [nothing, half, garbage, stays] = [2, 4, 6, 10].map(|place: usize| Some(from[place]));
        assert_eq!([ends[0], ends[1], ends[2], ends[4]], [nothing, half, garbage, stays]);
        // A connection is one of its own, whoever's socket it has.
        assert_eq!(from.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn by_the_clock_sockets_are_used_again_too() {
        let (target, served) = server(vec![How::Good; 50]);
        let plan = plan(target, Pace::Open(2000.0), 50);
        let outcome = run(&plan, &false.into(), &mut |_| {}).unwrap();
        assert_eq!((outcome.answered, outcome.failures.total()), (50, 0), "{}", outcome.failures);
        assert_eq!(served.join().unwrap().len(), 50);
    }

    #[test]
    fn a_refused_connection_is_one() {
        // An address of its own: nobody else can have taken the port meanwhile.
        let target = TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap();
        let SocketAddr::V4(target) = target else { panic!("IPv4 was asked for") };
        let outcome = run(&plan(target, Pace::Closed(1), 1), &false.into(), &mut |_| {}).unwrap();
        assert_eq!(outcome.failures.to_string(), "1 refused");
    }

    #[test]
    fn percentiles_are_of_real_samples() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50.0), 0.0);
        for millis in (1..=100).rev() {
            latencies.push(Duration::from_millis(millis));
        }
        assert_eq!(latencies.percentile(50.0), 50.0);
        assert_eq!(latencies.percentile(99.0), 99.0);
        assert_eq!(latencies.percentile(100.0), 100.0);
    }
}
