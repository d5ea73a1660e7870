//! Everycore side by side with Node, nginx and others: one command, one table of ratios.
//!
//! `everycore-bench [ROW…] [options]` starts every server of a row, loads them in turn, and prints how they compare and how
//! that stands against the bars. Neighbours: `args` reads the command line, `rows` are the measurements, `servers` what is
//! measured, `load` the generator, `measure` the accounts, `sample` the rules, `report` the tables. The same program is
//! also each of the limit programs (`raw`) and both ends of the message rows (`messages`).

#![forbid(unsafe_code)]
// `scratch` and others serve several modules; what a row does not need yet is no reason to split them.
mod args;
mod budget;
mod hot;
mod load;
mod measure;
mod messages;
mod policies;
mod process;
mod random;
mod raw;
mod report;
mod rows;
mod sample;
mod scratch;
mod servers;
mod surroundings;
mod tools;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Command};
use report::Report;
use rows::{Bench, Document, Row};

/// Tells the reader what is going on, beside the results.
macro_rules! say {
    ($($arg:tt)*) => {{
        #[allow(clippy::print_stderr, reason = "a program for a terminal")]
        { eprintln!($($arg)*); }
    }};
}
pub(crate) use say;

/// Prints results.
macro_rules! print_out {
    ($($arg:tt)*) => {{
        #[allow(clippy::print_stdout, reason = "a program for a terminal")]
        { println!($($arg)*); }
    }};
}
pub(crate) use print_out;

fn main() -> ExitCode {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let result = match typed.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("raw", rest)) => raw::primary(rest),
        Some(("raw-worker", rest)) => raw::worker(rest),
        Some(("messages", rest))
            if !rest.is_empty() && !rest[0].starts_with('-') && Row::named(&rest[0]).is_none() =>
        {
            messages::measure(rest)
        }
        Some(("policies", rest)) => policies::run(rest),
        Some(("policies-server", rest)) => policies::server::serve(rest),
        Some(("messages-echo", rest)) => messages::echo(rest),
        Some(("message-steps", rest)) => messages::steps(rest),
        Some(("hot", rest)) => rows::instructions::step(rest),
        Some(("hold", rest)) => rows::held::hold(rest),
        Some(("restarts", rest)) => rows::flat::restart_all(rest),
        _ => run(&typed),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("everycore-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(typed: &[String]) -> io::Result<()> {
    let args = Args::parse(typed).map_err(|problem| io::Error::new(io::ErrorKind::InvalidInput, problem))?;
    match args.command {
        Command::Help => print_out!("{}", args::HELP),
        Command::Load => load_one(&args)?,
        Command::Rows(ref rows) => measure_rows(&args, rows)?,
        Command::Gate => {
            process::adopt_orphans()?;
            print_out!("{}", rows::counts::gate(&tools::Tools::on_path(&["strace", "node"]))?);
        }
        Command::Report => {}
    }
    if args.document || args.command == Command::Report {
        write_documents()?;
    }
    Ok(())
}

fn measure_rows(args: &Args, rows: &[Row]) -> io::Result<()> {
    process::adopt_orphans()?;
    surroundings::build_servers()?;
    let tools = tools::Tools::find(args.missing)?;
    let made = surroundings::made(&tools);
    print_out!("{}\n{}\nseed {}", made.machine.join("; "), made.versions.join(", "), args.seed);
    let mut bench = Bench {
        tools,
        workers: args.workers,
        budget: budget::Budget::new(args.rounds, args.budget),
        window: args.window,
        only: args.only.clone(),
        scale: args.scale,
        random: random::Random::new(args.seed),
        made,
    };
    let mut failed = Vec::new();
    let ends = Instant::now() + args.budget;
    for (done, row) in rows.iter().enumerate() {
        // What earlier rows took too long, later ones share.
        let shares: u32 = rows[done..].iter().map(|row| row.share()).sum();
        let left = ends.saturating_duration_since(Instant::now());
        bench.budget = budget::Budget::new(args.rounds, left * row.share() / shares);
        match row.run(&mut bench) {
            Ok(report) => {
                print_out!("{}", report.to_text());
                if args.keep {
                    report.save(&surroundings::results())?;
                }
            }
            // The others are measured all the same.
            Err(error) => {
                say!("{}: {error}", row.name());
                failed.push(row.name());
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(format!("not measured: {}", failed.join(", "))))
    }
}

/// Out of the last run of each row; a document none of whose rows was ever run stays as it is.
fn write_documents() -> io::Result<()> {
    for document in [Document::Performance, Document::Scale] {
        let names: Vec<&str> = Row::of(document).map(Row::name).collect();
        let reports = Report::load_all(&surroundings::results(), &names);
        if reports.is_empty() {
            continue;
        }
        let path = surroundings::document(document);
        std::fs::write(&path, report::document(document, &reports))?;
        say!("written: {}", path.display());
    }
    Ok(())
}

/// The generator alone, against whatever listens there.
fn load_one(args: &Args) -> io::Result<()> {
    let Some(plan) = &args.plan else { return Ok(()) };
    let mut outcome = load::run(plan, &false.into(), &mut |_| {})?;
    print_out!(
        "{:.0}/s, {} answered in {:.2} s; ms p50 {:.3} p90 {:.3} p99 {:.3}; burned p50 {:.3}; failures: {}; ended well: {}; workers: {:?}",
        outcome.rate(),
        outcome.answered,
        outcome.window.as_secs_f64(),
        outcome.fast.percentile(50.0),
        outcome.fast.percentile(90.0),
        outcome.fast.percentile(99.0),
        outcome.burned.percentile(50.0),
        outcome.failures,
        outcome.ended_well,
        outcome.workers,
    );
    Ok(())
}
