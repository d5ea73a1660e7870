//! The command as people meet it: exact texts and exit codes, and real processes behind real ports.
//!
//! Nothing sleeps: tests wait for lines, answers and exits, each under one deadline that fails.

#![allow(clippy::unwrap_used, reason = "a helper that panics is a test that fails")]

mod apps;
mod demo;
mod harness;
mod keeping;
mod node;
mod reload;
mod run;
mod runtimes;
mod sockets;
mod starts;
mod terminal;
mod transcripts;
