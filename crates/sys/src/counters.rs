//! The page of counters that a worker writes and its primary reads.
//!
//! A sealed memfd, mapped by both. The first half is written by the worker alone (what it took, finished and closed,
//! and whether it is awake), the second by the primary alone (how many it sent, and when it wants to be woken). They are hints: the primary
//! reads plain numbers, clamps them and never lets them go back, so a hostile worker can only harm itself.
//! Neighbour: [`crate::eventfd`] is the bell that is rung when the primary wants to be woken.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Length of the page in bytes. A constant, not the machine's page size: both sides must agree on it.
const LEN: usize = 4096;

/// What keeps a mapping of the page valid: nobody can shrink it under us, nor take the seals off again.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// What a worker has counted since its start, as its primary sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections it took from the hand-off channel.
    pub taken: u64,
    /// Connections whose first turn is over: their credit has returned.
    pub ready: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Turns of its event loop. Only a change means something; it may wrap.
    pub turn: u64,
    /// Whether its event loop is running, not waiting.
    pub awake: bool,
}

/// Makes a page. The descriptor is for the worker (closed on exec unless placed), the view for the primary.
///
/// # Errors
/// The process or the system is out of descriptors or memory.
pub fn create() -> io::Result<(OwnedFd, PrimaryPage)> {
    let memfd = memfd_create("everycore-counters", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memfd, LEN as u64)?;
    fcntl_add_seals(&memfd, SEALS)?;
    let page = PrimaryPage::open(&memfd)?;
    Ok((memfd, page))
}

/// The worker's view: counts up, and learns whether the primary wants to be woken.
///
/// All methods may be called from any thread.
#[derive(Debug)]
pub struct WorkerPage {
    map: Mapping,
    /// The primary's last wish that was answered with a ring, so that one wish costs one ring.
    answered: AtomicU32,
}

impl WorkerPage {
    /// Maps a page that was received or inherited.
    ///
    /// # Errors
    /// `InvalidData` when it is not a page made by [`create`]: wrong size, or not sealed.
    pub fn open<Fd: AsFd>(memfd: Fd) -> io::Result<Self> {
        let map = Mapping::new(memfd)?;
        let answered = AtomicU32::new(map.cells().wish.load(Ordering::Acquire));
        Ok(Self { map, answered })
    }

    /// Counts one connection taken. Call before the program gets it.
    pub fn add_taken(&self) {
        self.map.cells().taken.fetch_add(1, Ordering::Release);
    }

    /// Whether every connection that the primary says it has sent was taken, so that looking for another is in vain. False
    /// where the primary does not say.
    pub fn has_taken_all(&self) -> bool {
        let cells = self.map.cells();
        let sent = cells.sent.load(Ordering::Acquire);
        sent != 0 && sent == cells.taken.load(Ordering::Relaxed)
    }

    /// Counts connections whose first turn is over; true when the primary wants to be woken for it.
    #[must_use = "the primary waits for the ring"]
    pub fn add_ready(&self, count: u64) -> bool {
        self.map.cells().ready.fetch_add(count, Ordering::SeqCst);
        self.is_wanted(false)
    }

    /// Counts one connection closed; true when the primary wants to be woken for it.
    #[must_use = "the primary waits for the ring"]
    pub fn add_closed(&self) -> bool {
        self.map.cells().closed.fetch_add(1, Ordering::SeqCst);
        self.is_wanted(false)
    }

    /// The event loop starts a turn.
    pub fn begin_turn(&self) {
        let cells = self.map.cells();
        cells.turn.fetch_add(1, Ordering::Release);
        cells.awake.store(1, Ordering::Release);
    }

    /// The event loop is about to wait; true when the primary wants to be woken for it.
    #[must_use = "the primary waits for the ring"]
    pub fn end_turn(&self) -> bool {
        self.map.cells().awake.store(0, Ordering::SeqCst);
        self.is_wanted(true)
    }

    /// Our own counters as they stand.
    pub fn counters(&self) -> Counters {
        self.map.cells().load()
    }

    /// Whether the primary has published a wish that holds now and was not answered yet.
    fn is_wanted(&self, idle: bool) -> bool {
        let cells = self.map.cells();
        // Pairs with the fence in `PrimaryPage::set_wake`: either we see the wish or the primary sees our counter.
        fence(Ordering::SeqCst);
        let wish = cells.wish.load(Ordering::Acquire);
        if wish == self.answered.load(Ordering::Relaxed) {
            return false;
        }
        let at_ready = cells.wake_at_ready.load(Ordering::Relaxed) <= cells.ready.load(Ordering::Relaxed);
        let closed = cells.wake_at_closed.load(Ordering::Relaxed);
        let at_closed = closed != 0 && closed <= cells.closed.load(Ordering::Relaxed);
        let when_idle = idle && cells.wake_when_idle.load(Ordering::Relaxed) != 0;
        // Of two threads that see the same wish only one rings.
        (at_ready || at_closed || when_idle) && self.answered.swap(wish, Ordering::Relaxed) != wish
    }
}

/// The primary's view: reads counters with suspicion, and publishes when it wants to be woken.
#[derive(Debug)]
pub struct PrimaryPage {
    map: Mapping,
    /// What was read last; what is read next is never below it.
    seen: Counters,
    wish: u32,
}

impl PrimaryPage {
    /// Maps a page made by [`create`], for instance one kept over an exec.
    ///
    /// # Errors
    /// `InvalidData` when it is not such a page: wrong size, or not sealed.
    pub fn open<Fd: AsFd>(memfd: Fd) -> io::Result<Self> {
        let map = Mapping::new(memfd)?;
        let wish = map.cells().wish.load(Ordering::Relaxed);
        Ok(Self { map, seen: Counters::default(), wish })
    }

    /// Reads the counters of a worker that was handed `sent` connections in all.
    ///
    /// Whatever the worker wrote, the answer never goes back and keeps `closed, ready ≤ taken ≤ sent`. Use
    /// `u64::MAX` where the number sent is not known.
    pub fn read(&mut self, sent: u64) -> Counters {
        let raw = self.map.cells().load();
        let seen = &mut self.seen;
        seen.taken = seen.taken.max(raw.taken.min(sent));
        seen.ready = seen.ready.max(raw.ready.min(seen.taken));
        seen.closed = seen.closed.max(raw.closed.min(seen.taken));
        seen.turn = raw.turn;
        seen.awake = raw.awake;
        *seen
    }

    /// Says how many connections the worker was sent in all, those not counted that came back. Never fewer than are in its
    /// channel: say so before sending, and after taking back.
    pub fn set_sent(&self, sent: u64) {
        self.map.cells().sent.store(sent, Ordering::Release);
    }

    /// Asks to be woken once `ready` has reached `at_ready`, or, with `when_idle`, once the worker's loop waits.
    ///
    /// Read the counters once more after it and before sleeping: what the worker did in between rings no bell.
    /// One wish is answered at most once.
    pub fn set_wake(&mut self, at_ready: u64, when_idle: bool) {
        self.map.cells().wake_at_closed.store(0, Ordering::Relaxed);
        self.publish(at_ready, when_idle);
    }

    fn publish(&mut self, at_ready: u64, when_idle: bool) {
        let cells = self.map.cells();
        cells.wake_at_ready.store(at_ready, Ordering::Relaxed);
        cells.wake_when_idle.store(u32::from(when_idle), Ordering::Relaxed);
        self.wish = self.wish.wrapping_add(1);
        cells.wish.store(self.wish, Ordering::Release);
        // Pairs with the fence in `WorkerPage::is_wanted`.
        fence(Ordering::SeqCst);
    }

    /// Asks to be woken only once `closed` has reached `at_closed`, which is not 0. Otherwise as
    /// [`set_wake`](Self::set_wake).
    pub fn set_wake_at_closed(&mut self, at_closed: u64) {
        self.map.cells().wake_at_closed.store(at_closed, Ordering::Relaxed);
        self.publish(u64::MAX, false);
    }

    /// Takes the wish back.
    pub fn clear_wake(&mut self) {
        let cells = self.map.cells();
        cells.wake_at_ready.store(u64::MAX, Ordering::Relaxed);
        cells.wake_when_idle.store(0, Ordering::Relaxed);
        cells.wake_at_closed.store(0, Ordering::Relaxed);
    }
}

/// The page itself. Atomics only, since another process writes to it at any time; each half has cache lines of its
/// own (two, since processors fetch lines in pairs).
#[repr(C, align(128))]
struct Cells {
    // written by the worker
    taken: AtomicU64,
    ready: AtomicU64,
    closed: AtomicU64,
    turn: AtomicU64,
    awake: AtomicU32,
    _gap: [u8; 92],
    // written by the primary
    wake_at_ready: AtomicU64,
    wake_when_idle: AtomicU32,
    /// Raised with each wish, so that zero (a fresh page) means that there never was one.
    wish: AtomicU32,
    /// Zero: never.
    wake_at_closed: AtomicU64,
    /// Zero: nothing yet, or not told.
    sent: AtomicU64,
}

const _: () = assert!(std::mem::offset_of!(Cells, wake_at_ready) == 128 && size_of::<Cells>() <= LEN);

impl Cells {
    /// Reads `taken` last: an honest worker raises it first, so it is never below the others.
    fn load(&self) -> Counters {
        let awake = self.awake.load(Ordering::SeqCst) != 0;
        let turn = self.turn.load(Ordering::SeqCst);
        let closed = self.closed.load(Ordering::SeqCst);
        let ready = self.ready.load(Ordering::SeqCst);
        let taken = self.taken.load(Ordering::SeqCst);
        Counters { taken, ready, closed, turn, awake }
    }
}

/// A shared mapping of a page, unmapped on drop.
#[derive(Debug)]
struct Mapping(NonNull<Cells>);

// SAFETY: the mapping belongs to the process, not to a thread, and `Cells` is atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out `&Cells` and nothing else.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new<Fd: AsFd>(memfd: Fd) -> io::Result<Self> {
        let memfd = memfd.as_fd();
        let not_a_page = || io::Error::new(io::ErrorKind::InvalidData, "not a page of counters");
        let seals = fcntl_get_seals(memfd).map_err(|_| not_a_page())?;
        if !seals.contains(SEALS) || fstat(memfd)?.st_size != LEN as _ {
            return Err(not_a_page());
        }
        // SAFETY: a new mapping at an address the kernel chooses; it touches no memory that is in use.
        let address = unsafe {
            mmap(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, memfd, 0)?
        };
        NonNull::new(address.cast()).map(Self).ok_or_else(not_a_page)
    }

    fn cells(&self) -> &Cells {
        // SAFETY: the mapping lives as long as `self`, is page-aligned and larger than `Cells`; the seals keep the file
        // from shrinking under it; every bit pattern is a valid `Cells`, and all access to it is atomic.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and no reference to it outlives `self`.
        let result = unsafe { munmap(self.0.as_ptr().cast(), LEN) };
        debug_assert!(result.is_ok(), "the range is one whole mapping");
    }
}
