//! Real Node workers under an Everycore primary. `EVERYCORE_NODE` chooses the Node, Bun or Deno that is tried.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it skips"
)]
#![allow(dead_code, reason = "shared by several modules, each uses a part")]

#[path = "node/support.rs"]
mod support;

#[path = "node/connections.rs"]
mod connections;
#[path = "node/hostile.rs"]
mod hostile;
#[path = "node/listen.rs"]
mod listen;
#[path = "node/messages.rs"]
mod messages;
#[path = "node/shutdown.rs"]
mod shutdown;
