//! Messages to every worker, and looking at the cluster, with 1 to 64 workers.

use std::io;
use std::time::Duration;

use super::Bench;
use crate::report::{Report, number};
use crate::servers;

const WORKERS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// How long the server may measure.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn crowd(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("scale-messages", "Messages to all workers, and status: 1 to 64 workers");
    let (mut deliveries, mut looks) = (Vec::new(), Vec::new());
    for workers in WORKERS {
        let said = servers::run_chatter(workers, bench.window / 2, PATIENCE)?;
        let figures = |name: &str| -> Vec<Vec<f64>> {
            let lines = said.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            lines.map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect()).collect()
        };
        let mut row = vec![workers.to_string()];
        for broadcast in figures("broadcast") {
            let [_, count, elapsed, primary, theirs] = broadcast.as_slice() else { return Err(odd(&said)) };
            let each = |nanos: f64| number(nanos / count / workers as f64 / 1e3);
            row.extend([number(elapsed / count / 1e3), each(*primary), each(*theirs)]);
        }
        deliveries.push(row);
        let [elapsed, cpu] = pair(&figures("snapshot")).ok_or_else(|| odd(&said))?;
        let [idle, seen] = pair(&figures("watched")).ok_or_else(|| odd(&said))?;
        looks.push(vec![
            workers.to_string(),
            number(elapsed / 1e3),
            number(cpu / 1e3),
            number(idle / 1e6),
            number(seen / 1e6),
        ]);
    }
    report.text(
        "One JSON value to every worker, parsed there; in µs: of wall time per broadcast, of CPU time per delivery in the \
         primary and in the worker that hears it.",
    );
    report.table(
        &[
            "workers",
            "64 B: µs",
            "primary µs each",
            "worker µs each",
            "16 KiB: µs",
            "primary µs each",
            "worker µs each",
        ],
        deliveries,
    );
    report.text(
        "A snapshot of the whole cluster: µs until it is there, and µs of the primary's CPU time. Then CPU ms per second of \
         the primary, left alone and looked at ten times a second.",
    );
    report.table(&["workers", "snapshot µs", "CPU µs", "idle: CPU ms/s", "at 10 Hz: CPU ms/s"], looks);
    Ok(report)
}

/// The two figures of the only line.
fn pair(lines: &[Vec<f64>]) -> Option<[f64; 2]> {
    let [line] = lines else { return None };
    line.as_slice().try_into().ok()
}

fn odd(said: &str) -> io::Error {
    io::Error::other(format!("the cluster of messages says: {}", said.trim()))
}
