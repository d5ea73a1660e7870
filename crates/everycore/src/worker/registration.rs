//! A listener as the primary knows it: from the grant to the word that the program dropped it.
//!
//! Neighbours: `link` makes a [`Registration`] when the grant arrives, a [`Listener`](crate::Listener) keeps it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::link::Link;
use super::source::{Means, Source};
use crate::address::{Address, BoundAddress};
use crate::protocol::FromWorker;

/// A granted listener: how connections come, and on what.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) means: Means,
    pub(crate) address: BoundAddress,
    /// The name has another address.
    pub(crate) more: bool,
    pub(crate) claim: Claim,
}

/// What the worker gives back of a listener, in this order: the primary hears that it is closed before anything asks for
/// the address under the same index again.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) registration: Registration,
    pub(crate) _index: Option<Index>,
}

/// While it lives, the primary counts on this worker for the listener; dropped, it says so. Whoever asked for a
/// listener and went away before the answer came drops it unseen.
pub(crate) struct Registration {
    link: Arc<Link>,
    key: u32,
}

impl Registration {
    pub(crate) fn new(link: Arc<Link>, key: u32) -> Self {
        Self { link, key }
    }

    /// Tells the primary that the program accepts from now on.
    pub(crate) fn listening(&self, source: &Arc<Source>) {
        if source.is_shared() {
            self.link.serves(self.key, source);
        }
        self.told();
    }

    /// As [`listening`](Self::listening), where nothing is accepted.
    pub(crate) fn told(&self) {
        self.link.tell(FromWorker::Listening { key: self.key });
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.link.serves_no_more(self.key);
        self.link.tell(FromWorker::Closed { key: self.key });
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Which indices are in use, per address: several listeners of one worker on the same address are told apart by them,
/// and the first of every worker shares one socket with the first of all others.
#[derive(Debug, Default)]
pub(crate) struct Indices(Mutex<HashMap<Address, BTreeSet<u32>>>);

impl Indices {
    /// Takes the lowest index that is free.
    pub(crate) fn claim(self: &Arc<Self>, address: &Address) -> Index {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = map.entry(address.clone()).or_default();
        let number = (0..).find(|index| !used.contains(index)).unwrap_or(u32::MAX);
        used.insert(number);
        Index { number, address: address.clone(), indices: Arc::clone(self) }
    }
}

/// One index in use; free again when dropped.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) number: u32,
    address: Address,
    indices: Arc<Indices>,
}

impl Drop for Index {
    fn drop(&mut self) {
        let mut map = self.indices.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = map.get_mut(&self.address) {
            used.remove(&self.number);
            if used.is_empty() {
                map.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_index_is_taken() {
        let indices = Arc::new(Indices::default());
        let address = Address::Any { port: 80 };
        let first = indices.claim(&address);
        let second = indices.claim(&address);
        let elsewhere = indices.claim(&Address::Any { port: 81 });
        assert_eq!((first.number, second.number, elsewhere.number), (0, 1, 0));
        drop(first);
        assert_eq!(indices.claim(&address).number, 0);
        drop((second, elsewhere));
        assert!(indices.0.lock().unwrap().is_empty());
    }
}
