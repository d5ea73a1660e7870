//! Whether large messages hold up connections: what the primary does between a connection's readiness and its hand-off.

use std::io;
use std::time::Duration;

use super::{Bench, legend};
use crate::load::{self, Length, Pace, Plan, Reuse};
use crate::measure::trace::{Delay, Trace};
use crate::report::{Report, Side, Verdict, number};
use crate::servers::{Face, Running, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Raw);

/// Bytes of a message.
const SIZES: [u64; 2] = [0, 64 << 20];

/// How much longer than other measurements: rare delays are looked for.
const LONGER: u32 = 12;

/// The longest time a message may hold up a connection.
const LONGEST: f64 = 1.0;

pub(super) fn bulk(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("bulk", "Hand-offs beside messages of 64 MiB");
    let Some(perf) = bench.tools.path("perf").map(std::path::Path::to_owned) else {
        report.text("perf is not there: nothing was measured.");
        return Ok(report);
    };
    let (mut rows, mut legends) = (Vec::new(), Vec::new());
    for size in SIZES {
        let bulk = format!("bulk={size}");
        let options: &[&str] = if size == 0 { &[] } else { &[&bulk] };
        let Some(running) = Running::start(LEAST, &bench.tools, bench.workers, options)? else { continue };
        let found = delays(bench, &running, &perf);
        legends.push(legend(std::slice::from_ref(&running)));
        running.stop();
        let delays = found?;
        let name = if size == 0 { "none".to_owned() } else { format!("{} MiB", size >> 20) };
        rows.push(row(name, &delays));
        if size > 0 {
            let longest = percentile(&delays, 100.0, |delay| delay.first);
            report.verdicts.push(Verdict::new(
                "hand-off beside messages of 64 MiB: what the primary does first, longest",
                Side::AtMost,
                LONGEST,
                " ms",
                Some(longest),
            ));
        }
    }
    report.text(
        "500 connections per second; with messages, the primary sends one to each worker and each worker one to the primary \
         every second. From the moment a connection could be accepted to the end of the call that handed it over, in ms: of \
         that time the primary ran (`own`), wanted to run and had no processor (`waits`), or slept (`sleeps`: nobody was free, \
         or it was not woken yet). Where it ran for many turns of its loop, nobody was free either: a message delays a \
         connection by the rest of a turn and the next, no more (`first`). \
         From the kernel's trace points, so that other programs do not show in `own` and `first`; what interrupts and the \
         hypervisor take does.",
    );
    let heads = [
        "messages",
        "connections",
        "first p50",
        "first p99",
        "first longest",
        "own p50",
        "own p99",
        "waits p99",
        "sleeps p99",
        "by the clock p50",
        "p99",
        "longest",
    ];
    report.table(&heads, rows);
    report.text(legends.join("\n"));
    Ok(report)
}

fn delays(bench: &mut Bench, running: &Running, perf: &std::path::Path) -> io::Result<Vec<Delay>> {
    let plan = Plan {
        pace: Pace::Open(500.0),
        warm_up: Duration::ZERO,
        length: Length::Time(bench.window * LONGER),
        ..bench.closed(running.address, 1, Reuse::Short)
    };
    // The loop is the primary's first thread.
    let trace = Trace::start(perf, running.directory(), running.process.pid(), running.address.port())?;
    let outcome = load::run(&plan, &false.into(), &mut |_| {})?;
    let delays = trace.stop()?;
    match outcome.failures.total() {
        0 => Ok(delays),
        _ => Err(io::Error::other(format!("failures while tracing: {}", outcome.failures))),
    }
}

fn row(name: String, delays: &[Delay]) -> Vec<String> {
    let first = |percent| number(percentile(delays, percent, |delay| delay.first));
    let own = |percent| number(percentile(delays, percent, |delay| delay.running));
    let clock = |percent| number(percentile(delays, percent, |delay| delay.all()));
    vec![
        name,
        delays.len().to_string(),
        first(50.0),
        first(99.0),
        first(100.0),
        own(50.0),
        own(99.0),
        number(percentile(delays, 99.0, |delay| delay.waiting)),
        number(percentile(delays, 99.0, |delay| delay.asleep)),
        clock(50.0),
        clock(99.0),
        clock(100.0),
    ]
}

/// In milliseconds.
fn percentile(delays: &[Delay], percent: f64, part: impl Fn(Delay) -> f64) -> f64 {
    let mut times: Vec<f64> = delays.iter().map(|delay| part(*delay) * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * times.len() as f64).ceil() as usize;
    times.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}
