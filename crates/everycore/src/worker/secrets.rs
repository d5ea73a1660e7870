//! [`Secrets`]: what this worker was told of the secrets that all workers share.
//!
//! Neighbours: `link` puts each set here as it is read; `crate::secret` has the values.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::Worker;
use super::driver::{ensure_task, ensure_thread};
use super::messages::wait_blocking;
use crate::error::{Error, Result};
use crate::secret::{Secret, SecretSet};

/// The secrets that the workers of a cluster share: every worker knows the same ones, also one that replaces another and
/// one that came with a reload.
///
/// The primary makes them and replaces them on a schedule
/// ([`Cluster::secret_rotation`](crate::Cluster::secret_rotation)). Make new things with [`current`](Self::current), and
/// look up with [`find`](Self::find) what something was made with: that is good for one more period at least, and for
/// two at most. A secret is known to all workers before it becomes current, so that in the moment of a rotation nobody
/// meets one it does not know.
///
/// Cheap to clone; all clones see each rotation. The primary's binary keeps them in memory only: they end with it.
///
/// ```no_run
/// # async fn keys(worker: everycore::Worker) -> everycore::Result<()> {
/// let secrets = worker.secrets().await?;
/// let made_with = secrets.current();
/// // … later, in whichever worker …
/// match secrets.find(made_with.id()) {
///     Some(secret) => assert_eq!(secret, made_with),
///     None => eprintln!("too old"),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Secrets {
    told: Arc<RwLock<SecretSet>>,
}

impl Secrets {
    pub(crate) fn new(set: SecretSet) -> Self {
        Self { told: Arc::new(RwLock::new(set)) }
    }

    pub(crate) fn replace(&self, set: SecretSet) {
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = set;
    }

    /// The one to make new things with.
    pub fn current(&self) -> Secret {
        self.read(|set| set.current.clone())
    }

    /// The one with this number, as long as it is in force.
    pub fn find(&self, id: u32) -> Option<Secret> {
        self.read(|set| set.find(id).cloned())
    }

    /// How long each secret is current: what was made with one can be used for as long as this in any case.
    pub fn period(&self) -> Duration {
        self.read(|set| set.period)
    }

    fn read<T>(&self, look: impl FnOnce(&SecretSet) -> T) -> T {
        look(&self.told.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read(|set| f.debug_tuple("Secrets").field(set).finish())
    }
}

impl Worker {
    /// The secrets that all workers of this cluster share. Asks the primary the first time.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`]; it is called outside of a tokio runtime; the primary is Node's cluster.
    pub async fn secrets(&self) -> Result<Secrets> {
        ensure_task(&self.core.link)?;
        self.core.link.ask_secrets()?.await.map_err(|_| Error::PrimaryGone)
    }

    /// As [`secrets`](Self::secrets), for a program without a runtime.
    ///
    /// # Errors
    /// [`Error::PrimaryGone`]; it is called from the runtime that serves the channel; the primary is Node's cluster.
    pub fn secrets_blocking(&self) -> Result<Secrets> {
        ensure_thread(&self.core.link)?;
        let mut answer = self.core.link.ask_secrets()?;
        // The primary answers, or is gone: without a deadline of ours the wait ends either way.
        match wait_blocking(&self.core.link, &mut answer, None) {
            Some(Ok(secrets)) => Ok(secrets),
            Some(Err(_)) | None => Err(Error::PrimaryGone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{FromWorker, ToWorker};
    use crate::worker::testing::{FakePrimary, run};

    fn set(current: u32) -> SecretSet {
        let secret = |id: u32| Secret::new(id, [id as u8; Secret::LEN]);
        SecretSet {
            current: secret(current),
            next: secret(current + 1),
            previous: current.checked_sub(1).map(secret),
            period: Duration::from_secs(60),
        }
    }

    #[test]
    fn they_are_asked_for_once_and_follow_each_rotation() {
        let (mut primary, worker) = FakePrimary::with_worker();
        run(async {
            let asked = tokio::spawn({
                let worker = worker.clone();
                async move { worker.secrets().await.unwrap() }
            });
            tokio::task::yield_now().await;
            assert_eq!(primary.hear(), FromWorker::Secrets);
            primary.tell(&ToWorker::Secrets(set(4)), vec![]);
            let secrets = asked.await.unwrap();
            assert_eq!(secrets.current().id(), 4);
            primary.tell(&ToWorker::Secrets(set(5)), vec![]);
            primary.send(everycore_ipc::Message::json("told").unwrap().into());
            worker.recv().await.unwrap().expect("it comes after the secrets");
            assert_eq!(secrets.current().id(), 5);
            assert!(secrets.find(3).is_none() && secrets.find(4).is_some());
            // Known already: no question, and at once.
            assert_eq!(worker.secrets().await.unwrap().current().id(), 5);
        });
    }

    #[test]
    fn a_thread_asks_too_and_hears_when_the_primary_is_gone() {
        let (mut primary, worker) = FakePrimary::with_worker();
        let other = worker.clone();
        let asking =
            std::thread::spawn(move || other.secrets_blocking().map(|secrets| secrets.current().id()));
        assert_eq!(primary.hear(), FromWorker::Secrets);
        primary.tell(&ToWorker::Secrets(set(1)), vec![]);
        assert_eq!(asking.join().unwrap().unwrap(), 1);

        let (primary, worker) = FakePrimary::with_worker();
        let asking = std::thread::spawn(move || worker.secrets_blocking().map(drop));
        drop(primary);
        assert!(matches!(asking.join().unwrap(), Err(Error::PrimaryGone)));
    }
}
