//! `demo`: a built-in HTTP worker on every core. This file is the primary's side; `worker` serves, `meter` counts.

mod meter;
pub(crate) mod worker;

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use everycore::{Address, BoundAddress, Cluster, Error, Event, Policy, Primary, Readiness, Running};

use super::session::{Observer, Opening, Session, Setup, curl_option, summary, url};
use crate::args;
use crate::config::{DEFAULT_LISTENER, Surroundings};
use crate::exit::{Code, Failure};
use crate::output::capture::Tails;
use crate::output::prefix::Prefixes;
use crate::output::requests::Requests;
use crate::output::{count, grouped};
use meter::Meter;

/// Tried one after the other, unless an address or `PORT` was given.
const PORTS: std::ops::RangeInclusive<u16> = 8000..=8099;

const NAME: &str = "demo";

/// Serves until told to stop.
pub(crate) fn serve(demo: args::Demo, around: &Surroundings) -> Result<(), Failure> {
    let workers = around.workers(demo.workers)?;
    let policy = demo.policy.unwrap_or_else(|| around.policy(None));
    if policy == Policy::Route {
        return Err(Failure::usage(
            "--policy route needs classes of workers, and the demo has none; run a program of your own: everycore run --class NAME=N … -- CMD",
        ));
    }
    let style = around.style(demo.looks, None);
    let mut attempts = addresses(demo.bind.as_deref(), around)?.into_iter().peekable();
    let mut taken = None;
    while let Some(address) = attempts.next() {
        let setup = Setup {
            name: NAME.into(),
            style,
            prefixes: Prefixes::new(NAME, workers, false, style.colour),
            tails: Tails::default(),
            addresses_known: true,
            awaited: None,
            drain_delay: Duration::ZERO,
            requests: Requests::default(),
        };
        match start(&address, workers, policy, setup) {
            Err(Error::Bind { source, .. })
                if source.kind() == ErrorKind::AddrInUse && attempts.peek().is_some() =>
            {
                taken.get_or_insert(address);
            }
            Err(error) => return Err(error.into()),
            Ok((session, running)) => {
                open(&session, &running, &Found { workers, policy, taken });
                return session.wait(running);
            }
        }
    }
    Err(Failure::new(Code::Failed, "no address is left to try"))
}

/// Where to try to listen, in this order.
fn addresses(bind: Option<&str>, around: &Surroundings) -> Result<Vec<Address>, Failure> {
    let local = |port| Address::Tcp(([127, 0, 0, 1], port).into());
    match (bind, around.port()?) {
        (Some(text), _) => Ok(vec![text.parse().map_err(|error| Failure::usage(format!("-b: {error}")))?]),
        (None, Some(port)) => Ok(vec![local(port)]),
        (None, None) => Ok(PORTS.map(local).collect()),
    }
}

fn start(
    address: &Address,
    workers: usize,
    policy: Policy,
    setup: Setup,
) -> Result<(Session, Running), Error> {
    let system = |source| Error::System { doing: "starting the demo", source };
    let meter = Arc::new(Mutex::new(Meter::default()));
    let counted = Arc::clone(&meter);
    let (session, mut observer) =
        Session::start(setup, move |primary| status(primary, policy, &meter)).map_err(system)?;
    let running = Cluster::builder()
        .name(NAME)
        .workers(workers)
        .policy(policy)
        .readiness(Readiness::Listening)
        .exec(std::env::current_exe().map_err(system)?)
        .args([NAME])
        .bind(DEFAULT_LISTENER, address.clone())?
        .on_event(move |primary, event| hear(primary, &event, &mut observer, &counted))
        .start()?;
    Ok((session, running))
}

fn hear(primary: &Primary, event: &Event, observer: &mut Observer, meter: &Mutex<Meter>) {
    if let Event::Message { worker, message } = event
        && let Some(requests) = worker::report(message)
    {
        lock(meter).report(worker.id, requests);
    }
    observer.hear(primary, event);
}

/// `2 workers | 12 connections | 53,201 requests/s | 1,204,333 requests`
fn status(primary: &Primary, policy: Policy, meter: &Mutex<Meter>) -> Option<String> {
    // Not under the lock: the primary's thread answers, and takes the lock when workers report.
    let snapshot = primary.snapshot().ok()?;
    if snapshot.stopping {
        return Some(format!("stopping: {} left", count(snapshot.workers.len() as u64, "worker")));
    }
    let ready = snapshot.workers.iter().filter(|worker| worker.ready_since.is_some()).count();
    let (rate, total) = {
        let mut meter = lock(meter);
        (meter.rate(Instant::now()), meter.total())
    };
    let mut parts = vec![count(ready as u64, "worker")];
    // Who accepts for itself tells nobody how many connections it has.
    if policy.hands_off() {
        parts.push(count(snapshot.workers.iter().map(|worker| worker.live).sum(), "connection"));
    }
    parts.push(format!("{} requests/s", grouped(rate)));
    parts.push(count(total, "request"));
    Some(parts.join(" | "))
}

/// What it came to.
struct Found {
    workers: usize,
    policy: Policy,
    /// The address that would have been the first choice.
    taken: Option<Address>,
}

fn open(session: &Session, running: &Running, found: &Found) {
    let Some(address) = running.address(DEFAULT_LISTENER) else { return };
    let url = url(address);
    let mut lines = Vec::new();
    if let Some(taken) = &found.taken {
        lines.push(format!("{taken} is taken, so this is the next free port"));
    }
    let at = if let BoundAddress::Unix(_) = address { address.to_string() } else { url.clone() };
    lines.push(format!("serving {at} with {}", summary(found.workers, &[], Some(found.policy))));
    lines.push(format!("try: curl {}{url}/   also {}", curl_option(address), worker::PATHS.join(" ")));
    lines.push(format!(
        "Ctrl-C stops, kill -HUP {} reloads, kill -9 of a worker is survived",
        std::process::id()
    ));
    session.open(Opening {
        addresses: &[address.to_string()],
        workers: found.workers,
        policy: found.policy,
        lines,
        notes: Vec::new(),
        hint: None,
    });
}

/// A panic elsewhere cannot leave the sums half-changed: every change is one call.
fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}
