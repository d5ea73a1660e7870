//! `everycore`: any program on every core, behind one port.
//!
//! Parses, carries out, prints what went wrong, ends with the right code. `args` is what was typed, `config` what
//! that means here, `program` what is run, `commands` what is done, `output` what is shown, `exit` how it ends.

#![forbid(unsafe_code)]

mod account;
mod args;
mod commands;
mod config;
mod env_file;
mod exit;
mod output;
mod program;

use std::process::ExitCode;

use clap::Parser;

use exit::Failure;

fn main() -> ExitCode {
    // Before anything else, for it may find that this process is a worker, and takes the variables that say so.
    let role = everycore::role();
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Also how help and version arrive; nobody reading them is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let json = args.wants_json();
    match role.map_err(Failure::from).and_then(|role| commands::carry_out(args, role)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::report(&failure, json);
            failure.code.into()
        }
    }
}
