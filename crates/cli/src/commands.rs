//! The commands, one file each, and what they share.

pub(crate) mod demo;
pub(crate) mod run;
mod session;
mod start;

use everycore::Role;

use crate::args::{Args, Command};
use crate::config::Surroundings;
use crate::exit::Failure;

/// Does what was asked for. `role` says whether another primary started this process.
pub(crate) fn carry_out(args: Args, role: Role) -> Result<(), Failure> {
    match (args.command, role) {
        (Command::Demo(demo), Role::Worker(worker)) => demo::worker::serve(worker, demo.bind),
        (Command::Demo(demo), Role::Primary(_)) => demo::serve(demo, &Surroundings::look()),
        // As a worker of another primary `run` is like any program that does not use the library; the channel
        // stays open until the end, for its end would mean ours.
        (Command::Run(run), _role) => run::supervise(run, &Surroundings::look()),
        (Command::Start { words }, _) => Err(start::refuse(&words)),
    }
}
