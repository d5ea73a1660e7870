//! What the machine says about itself and about a server while it is loaded.
//!
//! Neighbours: `processes` finds who belongs to a server, `cpu` what they used, `machine` who else was about,
//! `memory` what they weigh, `syscalls` how often they entered the kernel, `trace` what a primary does before a hand-off.

pub(crate) mod cpu;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod processes;
pub(crate) mod syscalls;
pub(crate) mod trace;
