//! The command as people meet it: exact texts and exit codes, and real processes behind real ports.
//!
//! Nothing sleeps: tests wait for lines, answers and exits, each under one deadline that fails.

mod demo;
mod harness;
mod reload;
mod run;
mod sockets;
mod terminal;
mod transcripts;
