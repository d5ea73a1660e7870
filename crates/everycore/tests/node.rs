//! Real Node workers under an Everycore primary; `everycore_peers` says which Node, Bun or Deno.

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
#[path = "node/model.rs"]
mod model;
#[path = "node/preload.rs"]
mod preload;
#[path = "node/settings.rs"]
mod settings;
#[path = "node/shutdown.rs"]
mod shutdown;
