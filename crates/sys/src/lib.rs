//! Everycore's only door to the kernel, and the only crate with `unsafe`.
//!
//! Each file has one duty and a safe face; nothing here knows about workers, messages or policies.
//!
//! | File | Duty |
//! |---|---|
//! | [`mod@spawn`] | starts a program: `clone` with vfork semantics, descriptors in place, errors told apart |
//! | [`pidfd`] | waits for and signals a child without races |
//! | [`socket_pair`] | the two ends of a channel |
//! | [`scm_rights`] | bytes and descriptors over a Unix socket, one message or many |
//! | [`counters`] | the page of counters that a worker writes and its primary reads |
//! | [`eventfd`] | the bell a worker rings to wake its primary |
//! | [`accept`] | accept until empty, and the fair accept on a shared listener |
//! | [`signals`] | signals as bytes on a pipe; masks and inherited dispositions |
//! | [`inherit`] | what a process finds at its start: variables and descriptors |
//! | [`limits`] | how many descriptors this process may open |
//! | [`cpu`] | how many processors this process may use |
//! | [`random`] | bytes for keys |
//! | [`descriptors`] | closes many descriptors with few calls |
//! | [`port_owner`] | which program holds a port that is taken |

#[cfg(not(target_os = "linux"))]
compile_error!("everycore runs on Linux 5.9 or newer; other systems are not supported yet");

pub mod accept;
pub mod counters;
pub mod cpu;
pub mod descriptors;
pub mod eventfd;
pub mod inherit;
pub mod limits;
pub mod pidfd;
pub mod port_owner;
pub mod random;
pub mod scm_rights;
pub mod signals;
pub mod socket_pair;
pub mod spawn;

pub use pidfd::{PidFd, WaitStatus};
pub use spawn::{Spawn, SpawnError, Spawned, spawn};
