//! What primaries and workers weigh.

use std::io;

use super::{Bench, legend, stop};
use crate::load::{self, Length, Reuse};
use crate::measure::{memory, processes};
use crate::report::{Report, Side, Verdict, number};
use crate::servers::{Face, Server, Spread};

const LEAST: Server = Server::Everycore(Spread::Least, Face::Hyper);

/// Workers of each server here: a primary keeps something for each.
const WORKERS: usize = 8;

pub(super) fn memory(bench: &mut Bench) -> io::Result<Report> {
    let mut report = Report::new("memory", "Memory with 8 workers, idle, after 10,000 requests");
    let axum = Server::Everycore(Spread::Least, Face::Axum);
    let all = [
        LEAST,
        axum,
        Server::Nginx,
        Server::HaProxy,
        Server::AxumThreads,
        Server::Actix,
        Server::NodeRr,
        Server::Pm2,
        Server::Bun,
    ];
    let servers = bench.start_with(&all, WORKERS)?;
    let mut rows = Vec::new();
    for running in &servers {
        let mut plan = bench.closed(running.address, 64, Reuse::Short);
        plan.length = Length::Requests(bench.count(10_000));
        load::run(&plan, &false.into(), &mut |_| {})?;
        let root = running.process.pid();
        let primary = memory::of(root);
        let workers: Vec<f64> =
            processes::children(root).into_iter().map(|pid| memory::of(pid).pss as f64 / 1024.0).collect();
        let worker = crate::sample::Figure::of(workers).map(|figure| figure.median);
        let total: u64 = running.processes().into_iter().map(|pid| memory::of(pid).pss).sum();
        let mib = |kib: u64| kib as f64 / 1024.0;
        rows.push(vec![
            running.server.name().to_owned(),
            number(mib(primary.rss)),
            number(mib(primary.pss)),
            worker.map_or_else(|| "–".to_owned(), number),
            number(mib(total)),
        ]);
        if running.server == LEAST {
            let primary = Some(mib(primary.rss));
            report.verdicts.push(Verdict::new(
                "primary with 8 workers, resident",
                Side::AtMost,
                8.0,
                " MiB",
                primary,
            ));
            report.verdicts.push(Verdict::new(
                "Rust HTTP worker, proportional",
                Side::AtMost,
                1.5,
                " MiB",
                worker,
            ));
        }
    }
    report.text("MiB. RSS counts shared pages in full, PSS in parts; a worker's figure is the median of the primary's children.");
    report.table(&["server", "primary RSS", "primary PSS", "worker PSS", "all PSS"], rows);
    report.text(legend(&servers));
    stop(servers);
    Ok(report)
}
