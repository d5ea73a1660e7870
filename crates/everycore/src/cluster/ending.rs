//! How a cluster ends: what the core made of it, and what is said of workers that would not run.

use everycore_core as core;
use everycore_sys::SpawnError;

use super::Outcome;
use crate::error::{Error, Result};

/// What is to be known at the end.
#[derive(Default)]
pub(super) struct Ending {
    /// How the core has ended, while the cluster goes on until nothing is left.
    outcome: Option<core::Outcome>,
    /// How the last worker ended that was not told to, or why the last could not be started.
    last_failure: String,
    /// Why the program cannot be started, if the last attempt has shown that.
    unstartable: Option<SpawnError>,
}

impl Ending {
    /// A worker ended that was not told to, or could not be started.
    pub(super) fn failed(&mut self, how: String) {
        self.last_failure = how;
    }

    pub(super) fn started(&mut self) {
        self.unstartable = None;
    }

    /// A worker could not be started, and another attempt would fail the same way.
    pub(super) fn unstartable(&mut self, error: SpawnError) {
        self.unstartable = Some(error);
    }

    /// How the core has ended, if it has. That is settled before what is left has been waited for: an order to stop
    /// meanwhile changes nothing.
    pub(super) fn outcome(&mut self, core: &core::Primary) -> Option<core::Outcome> {
        self.outcome = core.is_finished().then(|| self.outcome.unwrap_or_else(|| core.outcome()));
        self.outcome
    }

    /// What whoever ran the cluster is told.
    pub(super) fn result(&mut self, outcome: core::Outcome) -> Result<Outcome> {
        match (outcome, self.unstartable.take()) {
            (core::Outcome::Stopped, _) => Ok(Outcome::Stopped),
            (core::Outcome::Completed, _) => Ok(Outcome::Completed),
            (core::Outcome::AllErrored, Some(source)) => Err(Error::Start { source }),
            (core::Outcome::AllErrored, None) => {
                Err(Error::GivenUp { last: std::mem::take(&mut self.last_failure) })
            }
        }
    }
}
