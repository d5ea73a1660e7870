//! Real Node workers: what they say, and what the primary does about it.

pub(crate) mod acts;
mod answers;
mod preload;
mod settings;

use std::time::Duration;

use everycore_core::CreditSettings;

pub(in crate::cluster) use answers::unconfirmed;
pub(in crate::cluster) use preload::Preload;
pub use settings::{NodeSettings, WorkerPipes, WorkerStdio};

/// How far to be ahead of Node workers, each of which needs some 150 µs for a connection where our own take ten: a turn
/// of its loop takes one. What it was sent cannot be taken back from it while it lives, so that is little.
pub(in crate::cluster) fn credit() -> CreditSettings {
    CreditSettings {
        max: 4,
        horizon: Duration::from_millis(1),
        gather_above: 2_000,
        gather: Duration::from_micros(400),
        ..CreditSettings::default()
    }
}
