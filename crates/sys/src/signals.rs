//! Signals as bytes on a pipe, and the masks and dispositions a process inherits.
//!
//! A handler may do next to nothing, so ours writes the signal's number to a non-blocking pipe that the event loop
//! watches. For programs that own their process; a library inside someone else's must not subscribe.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// Signals by their numbers, for what takes a number.
pub mod number {
    /// `SIGHUP`.
    pub const HUP: i32 = libc::SIGHUP;
    /// `SIGINT`.
    pub const INT: i32 = libc::SIGINT;
    /// `SIGQUIT`.
    pub const QUIT: i32 = libc::SIGQUIT;
    /// `SIGKILL`.
    pub const KILL: i32 = libc::SIGKILL;
    /// `SIGUSR1`.
    pub const USR1: i32 = libc::SIGUSR1;
    /// `SIGUSR2`.
    pub const USR2: i32 = libc::SIGUSR2;
    /// `SIGTERM`.
    pub const TERM: i32 = libc::SIGTERM;
    /// `SIGCHLD`.
    pub const CHLD: i32 = libc::SIGCHLD;
    /// `SIGCONT`.
    pub const CONT: i32 = libc::SIGCONT;
    /// `SIGSTOP`.
    pub const STOP: i32 = libc::SIGSTOP;
    /// `SIGTTIN`.
    pub const TTIN: i32 = libc::SIGTTIN;
    /// `SIGTTOU`.
    pub const TTOU: i32 = libc::SIGTTOU;
    /// `SIGWINCH`.
    pub const WINCH: i32 = libc::SIGWINCH;
}

/// One more than the highest signal number of Linux on the processors we support.
const SIGNALS: usize = 65;

/// Write end of the pipe for each subscribed signal, -1 for none.
static PIPES: [AtomicI32; SIGNALS] = [const { AtomicI32::new(-1) }; SIGNALS];

/// Handlers that are running at this moment, in any thread.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Delivers the signals asked for in [`subscribe`]; becomes readable when one has arrived.
///
/// Dropping it restores what the signals did before.
#[derive(Debug)]
pub struct SignalPipe {
    read: OwnedFd,
    /// Declared after nothing that uses it: closes last, when no handler can write to it any more.
    _write: OwnedFd,
    previous: Vec<Previous>,
}

/// Turns the given signals, by number, into bytes on a pipe.
///
/// System calls that a signal interrupts are restarted. Signals of one number that arrive while 64 KiB of them are
/// unread are lost.
///
/// # Errors
/// `AlreadyExists` when one of them is subscribed already; `InvalidInput` for a number that is no signal or cannot be
/// caught; out of descriptors.
pub fn subscribe(signals: &[i32]) -> io::Result<SignalPipe> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let mut pipe = SignalPipe { read, _write: write, previous: Vec::with_capacity(signals.len()) };
    for &signal in signals {
        // On an error the signals before this one are restored by dropping `pipe`.
        pipe.claim(signal)?;
    }
    Ok(pipe)
}

impl SignalPipe {
    /// Takes the next signal's number; `None` when there is none at the moment.
    pub fn read(&self) -> Option<i32> {
        let mut byte = [0u8];
        loop {
            match rustix::io::read(&self.read, &mut byte) {
                Ok(1) => return Some(i32::from(byte[0])),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    fn claim(&mut self, signal: i32) -> io::Result<()> {
        let slot = usize::try_from(signal).ok().and_then(|index| PIPES.get(index));
        let slot = slot.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let write = self._write.as_raw_fd();
        if slot.compare_exchange(-1, write, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            let text = format!("signal {signal} is subscribed to already");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        match install(signal, on_signal as *const () as libc::sighandler_t) {
            Ok(action) => {
                self.previous.push(Previous { signal, action });
                Ok(())
            }
            Err(error) => {
                slot.store(-1, Ordering::SeqCst);
                Err(error)
            }
        }
    }
}

impl AsRawFd for SignalPipe {
    /// For event loops that want the number, such as tokio's.
    fn as_raw_fd(&self) -> RawFd {
        self.read.as_raw_fd()
    }
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

impl Drop for SignalPipe {
    fn drop(&mut self) {
        for previous in &self.previous {
            previous.restore();
            if let Some(slot) = usize::try_from(previous.signal).ok().and_then(|index| PIPES.get(index)) {
                slot.store(-1, Ordering::SeqCst);
            }
        }
        // A handler in another thread may have read the number just before; it is done in a microsecond, and only
        // then may the number be closed and given to somebody else.
        while RUNNING.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    }
}

/// Blocks every signal for the calling thread until dropped.
#[derive(Debug)]
#[must_use = "the signals are unblocked when this is dropped"]
pub struct BlockedSignals {
    previous: u64,
    /// The mask belongs to a thread, so the guard must not leave it.
    _thread: std::marker::PhantomData<*const ()>,
}

/// Blocks every signal for the calling thread, the ones the C library keeps for itself included.
pub fn block_all() -> BlockedSignals {
    let previous = set_mask(u64::MAX).expect("a full mask is valid for every thread");
    BlockedSignals { previous, _thread: std::marker::PhantomData }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_mask(self.previous).expect("the mask is the one the thread had");
    }
}

/// The name of a signal, `SIGTERM` for 15; `None` for numbers without one.
pub fn name(signal: i32) -> Option<&'static str> {
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// The number of a signal from its name, with or without `SIG`, in any case.
pub fn number(name: &str) -> Option<i32> {
    let short =
        name.get(..3).filter(|prefix| prefix.eq_ignore_ascii_case("SIG")).map_or(name, |_| &name[3..]);
    NAMES.iter().find(|(_, full)| full[3..].eq_ignore_ascii_case(short)).map(|(number, _)| *number)
}

/// As numbered on this processor.
const NAMES: &[(i32, &str)] = &[
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGCHLD, "SIGCHLD"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGSTOP, "SIGSTOP"),
    (libc::SIGTSTP, "SIGTSTP"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
    (libc::SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
];

/// What a signal did before we took it.
struct Previous {
    signal: i32,
    action: libc::sigaction,
}

impl Previous {
    fn restore(&self) {
        // SAFETY: the action was given to us by the kernel for this very signal.
        unsafe { libc::sigaction(self.signal, &self.action, std::ptr::null_mut()) };
    }
}

impl std::fmt::Debug for Previous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Previous({})", self.signal)
    }
}

/// Sets the disposition of a signal and returns the one before.
fn install(signal: i32, handler: libc::sighandler_t) -> io::Result<libc::sigaction> {
    // SAFETY: all-zero bytes are a valid sigaction: default disposition, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut previous = action;
    action.sa_sigaction = handler;
    // Other runtimes in the process give their threads alternate stacks; on theirs we must run, too.
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // One at a time: an alternate stack has room for two or three frames with the vector registers of today, and a
    // storm of different signals would nest as many handlers as there are numbers.
    // SAFETY: fills in the mask of a live sigaction.
    unsafe { libc::sigfillset(&mut action.sa_mask) };
    // SAFETY: both pointers are to live values; the handler is `on_signal`, SIG_DFL or SIG_IGN, and `on_signal` does
    // only what a handler may do.
    match unsafe { libc::sigaction(signal, &action, &mut previous) } {
        0 => Ok(previous),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    RUNNING.fetch_add(1, Ordering::SeqCst);
    if let Some(slot) = usize::try_from(signal).ok().and_then(|index| PIPES.get(index)) {
        let fd = slot.load(Ordering::SeqCst);
        if fd >= 0 {
            write_byte(fd, signal as u8);
        }
    }
    RUNNING.fetch_sub(1, Ordering::SeqCst);
}

/// Writes one byte and leaves `errno` as it was, as a handler must.
fn write_byte(fd: i32, byte: u8) {
    // SAFETY: errno's location is valid in every thread; `write` reads one live byte and is allowed in handlers. The
    // number is open: it is closed only after `RUNNING` has dropped to zero with no slot naming it.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// Replaces the calling thread's mask, bit n-1 for signal n, and returns the one before.
///
/// By system call, since the C library's function silently leaves out the signals it uses itself.
fn set_mask(mask: u64) -> io::Result<u64> {
    let mut previous = 0u64;
    // SAFETY: reads eight bytes from `mask` and writes eight to `previous`, the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut previous,
            size_of::<u64>(),
        )
    };
    if result == 0 { Ok(previous) } else { Err(io::Error::last_os_error()) }
}
