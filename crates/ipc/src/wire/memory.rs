//! Memory of large messages, used again for the next.
//!
//! What an allocator gives back to the system has to be cleared by it, page by page, when it is asked for again: for a message
//! of a megabyte that takes longer than writing it. Each thread keeps a little of what it has freed. Neighbour:
//! [`super::json`] writes into it.

use std::cell::{Cell, RefCell};
use std::thread;

use bytes::{Bytes, BytesMut};

/// Buffers from this size on are kept.
pub(crate) const LARGE: usize = 32 * 1024;

/// Bytes kept by a thread at most.
const KEEP: usize = 4 << 20;

/// Memory from this size on is given back aside: the system takes a millisecond for each twelve megabytes, and whoever drops a
/// message may have other things to do by then, such as handing connections over.
pub(crate) const HUGE: usize = 4 << 20;

thread_local! {
    /// The last was used last, and is still at hand.
    static FREED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };

    /// This thread is there to give memory back.
    static RELEASES: Cell<bool> = const { Cell::new(false) };
}

/// An empty buffer of at least this size.
pub(crate) fn buffer(size: usize) -> Vec<u8> {
    let used_again = |freed: &RefCell<Vec<Vec<u8>>>| {
        let mut freed = freed.borrow_mut();
        // A small message that is kept long must not keep the memory of a large one.
        let fits = |buffer: &Vec<u8>| (size..=size.saturating_mul(4)).contains(&buffer.capacity());
        let place = freed.iter().rposition(fits)?;
        Some(freed.remove(place))
    };
    // At the end of a thread there may be none.
    FREED.try_with(used_again).ok().flatten().unwrap_or_else(|| Vec::with_capacity(size))
}

/// Bytes whose memory is kept for [`buffer`] when the last that shares them is gone.
pub(crate) fn share(bytes: Vec<u8>) -> Bytes {
    if bytes.capacity() < LARGE { bytes.into() } else { Bytes::from_owner(Kept(bytes)) }
}

/// What was received, as bytes to share.
pub(crate) fn shared(bytes: BytesMut) -> Bytes {
    if bytes.len() < HUGE { bytes.freeze() } else { Bytes::from_owner(Huge(bytes)) }
}

/// Gives memory back in a thread of its own, which ends with that; here if there can be none.
pub(crate) fn release(memory: impl Send + 'static) {
    if RELEASES.try_with(Cell::get).unwrap_or(true) {
        return drop(memory);
    }
    const STACK: usize = 64 * 1024;
    let thread = thread::Builder::new().name("everycore-free".into()).stack_size(STACK);
    let _ = thread.spawn(move || {
        RELEASES.set(true);
        drop(memory);
    });
}

/// Keeps memory for [`buffer`], or gives it back.
pub(crate) fn keep(mut buffer: Vec<u8>) {
    if buffer.capacity() < LARGE {
        return;
    }
    if buffer.capacity() >= HUGE {
        return release(buffer);
    }
    buffer.clear();
    let _ = FREED.try_with(|freed| {
        let mut freed = freed.borrow_mut();
        freed.push(buffer);
        while freed.iter().map(Vec::capacity).sum::<usize>() > KEEP {
            freed.remove(0);
        }
    });
}

struct Huge(BytesMut);

impl AsRef<[u8]> for Huge {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Huge {
    fn drop(&mut self) {
        release(std::mem::take(&mut self.0));
    }
}

struct Kept(Vec<u8>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<usize> {
        FREED.with_borrow(|freed| freed.iter().map(Vec::capacity).collect())
    }

    #[test]
    fn memory_is_used_again_when_nobody_shares_it_any_more() {
        let mut first = buffer(LARGE);
        first.push(1);
        let place = first.as_ptr();
        let shared = share(first);
        let part = shared.slice(..1);
        drop(shared);
        assert!(kept().is_empty());
        assert_eq!(part[..], [1]);
        drop(part);
        assert_eq!(kept(), [LARGE]);
        let larger = buffer(LARGE + 1);
        assert_eq!(kept(), [LARGE]);
        let again = buffer(LARGE);
        assert_eq!((again.as_ptr(), again.len(), kept().len()), (place, 0, 0));
        drop((larger, again));
        drop(share(Vec::with_capacity(5 * LARGE)));
        assert_eq!((buffer(LARGE).capacity(), buffer(2 * LARGE).capacity()), (LARGE, 5 * LARGE));
    }

    #[test]
    fn what_takes_long_to_give_back_is_given_back_by_another_thread() {
        struct Probe(std::sync::mpsc::Sender<thread::ThreadId>);
        impl Drop for Probe {
            fn drop(&mut self) {
                let _ = self.0.send(thread::current().id());
                if !RELEASES.get() {
                    return;
                }
                // What is dropped there with it is dropped there.
                let id = self.0.clone();
                struct Last(std::sync::mpsc::Sender<thread::ThreadId>);
                impl Drop for Last {
                    fn drop(&mut self) {
                        let _ = self.0.send(thread::current().id());
                    }
                }
                release(Last(id));
            }
        }
        let (tell, told) = std::sync::mpsc::channel();
        release(Probe(tell));
        let threads: Vec<_> = told.iter().collect();
        assert_eq!(threads.len(), 2);
        assert_eq!(threads[0], threads[1]);
        assert_ne!(threads[0], thread::current().id());
    }

    #[test]
    fn only_so_much_is_kept() {
        drop(share(Vec::with_capacity(LARGE - 1)));
        drop(share(Vec::with_capacity(HUGE)));
        assert!(kept().is_empty());
        let all: Vec<Bytes> = (1..=5).map(|size| share(Vec::with_capacity(size * KEEP / 10))).collect();
        drop(all);
        assert_eq!(kept(), [4 * KEEP / 10, 5 * KEEP / 10]);
        std::thread::spawn(|| assert!(kept().is_empty())).join().unwrap();
    }
}
