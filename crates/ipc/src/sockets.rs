//! How many sockets received from a Node peer are still open here.
//!
//! A Node parent that hands connections of a server to a child keeps counting them: `server.getConnections()` and
//! `server.close()` ask the child, by the key that came with each socket. Neighbour: [`crate::Message`] brings the
//! guards, [`crate::Connection`] answers the questions.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts a received socket as open for its sender. Drop it when the socket is closed.
///
/// Comes with a message whose socket the sender counts ([`crate::Message::take_open_socket`]). When the message is
/// dropped with the guard still inside, the socket counts as closed.
#[must_use = "the sender takes the socket for closed when this is dropped"]
pub struct OpenSocket {
    key: String,
    book: Arc<Book>,
}

impl OpenSocket {
    /// What the sender counts the socket under.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.book.closed(&self.key);
    }
}

impl fmt::Debug for OpenSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSocket").field("key", &self.key).finish_non_exhaustive()
    }
}

type Bell = Arc<dyn Fn() + Send + Sync>;

/// The sockets of one channel.
#[derive(Default)]
pub(crate) struct Book {
    pages: Mutex<Pages>,
    /// Some key has to be reported as closed.
    due: AtomicBool,
}

#[derive(Default)]
struct Pages {
    keys: HashMap<String, Page>,
    due: Vec<String>,
    bell: Option<Bell>,
}

#[derive(Default)]
struct Page {
    open: u64,
    /// The peer wants to know when none is open any more.
    watched: bool,
}

impl Book {
    /// A socket came.
    pub(crate) fn open(self: &Arc<Self>, key: String) -> OpenSocket {
        self.lock().keys.entry(key.clone()).or_default().open += 1;
        OpenSocket { key, book: Arc::clone(self) }
    }

    /// How many are open.
    pub(crate) fn count(&self, key: &str) -> u64 {
        self.lock().keys.get(key).map_or(0, |page| page.open)
    }

    /// The peer wants to know when none is open: at once, or later.
    pub(crate) fn watch(&self, key: String) {
        let mut pages = self.lock();
        match pages.keys.get_mut(&key) {
            Some(page) if page.open > 0 => page.watched = true,
            _ => {
                pages.due.push(key);
                self.due.store(true, Ordering::Release);
            }
        }
    }

    /// The keys to report as closed.
    pub(crate) fn take_due(&self) -> Vec<String> {
        if !self.due.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.lock().due)
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due.load(Ordering::Acquire)
    }

    /// Has this called whenever something becomes due, from the thread that dropped the last guard.
    pub(crate) fn set_bell(&self, bell: Bell) {
        self.lock().bell = Some(bell);
    }

    fn closed(&self, key: &str) {
        let mut pages = self.lock();
        let Some(page) = pages.keys.get_mut(key) else { return };
        page.open -= 1;
        if page.open > 0 {
            return;
        }
        let page = pages.keys.remove(key);
        if !page.is_some_and(|page| page.watched) {
            return;
        }
        pages.due.push(key.to_owned());
        self.due.store(true, Ordering::Release);
        let bell = pages.bell.clone();
        drop(pages);
        if let Some(bell) = bell {
            bell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").field("due", &self.due).finish_non_exhaustive()
    }
}
