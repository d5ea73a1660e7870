//! Starts a program.
//!
//! The child shares our memory until it executes the program, and we wait that long (`CLONE_VM`, `CLONE_VFORK`): no
//! page table is copied, so a large parent starts children as fast as a small one, and the child can say which step
//! failed by writing it down. Everything it needs is prepared before; it does system calls only.
//! Neighbours: [`crate::pidfd`] for what comes back; `image.rs` prepares strings, `child.rs` is the child's side.

mod child;
mod error;
mod image;

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::pidfd::PidFd;
use crate::signals;
use child::{Plan, Report};
pub use error::{SpawnError, Step};
use image::Image;

/// Everything about a program that is to be started. See [`spawn()`].
///
/// Signals need no field: the program starts with every signal at its default and none blocked.
#[derive(Clone, Debug, Default)]
pub struct Spawn<'fd> {
    /// The program: a path when it has a `/` (relative to `cwd`), else looked for in the `PATH` of `env`.
    pub program: OsString,
    /// The arguments after the program's own name.
    pub args: Vec<OsString>,
    /// The name the program is told it has; `program` when `None`.
    pub arg0: Option<OsString>,
    /// The whole environment: nothing is inherited. Of two entries with one name programs see the first.
    pub env: Vec<(OsString, OsString)>,
    /// The directory it starts in; ours when `None`.
    pub cwd: Option<PathBuf>,
    /// Descriptors and the numbers they get. 0, 1 and 2 are ours unless named here; all others are closed.
    pub descriptors: Vec<(BorrowedFd<'fd>, RawFd)>,
    /// User to run as.
    pub uid: Option<u32>,
    /// Group to run as.
    pub gid: Option<u32>,
    /// Supplementary groups. When `None`, a privileged parent that changes `uid` or `gid` drops them all.
    pub groups: Option<Vec<u32>>,
    /// File mode creation mask; ours when `None`.
    pub umask: Option<u32>,
    /// Make it the leader of a process group of its own.
    pub process_group: bool,
    /// The signal it gets when the *thread* that spawned it ends. Spawn from a thread that lives long.
    pub death_signal: Option<i32>,
    /// Set `LISTEN_PID` to its own process id.
    pub listen_pid: bool,
    /// Set-user-id programs it executes give it nothing.
    pub no_new_privs: bool,
}

impl Spawn<'_> {
    /// A program without arguments, with an empty environment.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// To wait for it and signal it. Somebody has to wait, or it stays as a zombie.
    pub pidfd: PidFd,
}

/// Starts a program and returns when it has been executed, or with the reason why it could not be.
///
/// Only the calling thread waits meanwhile, well under a millisecond, however large this process is.
///
/// # Errors
/// [`SpawnError`] tells a missing program, one that cannot be executed, a bad directory and everything else apart. Of a
/// failed attempt nothing is left behind.
///
/// ```
/// use everycore_sys::{WaitStatus, Spawn, spawn};
///
/// let mut program = Spawn::new("sh");
/// program.args = vec!["-c".into(), "exit $CODE".into()];
/// program.env = vec![("CODE".into(), "7".into())];
/// let child = spawn(&program)?;
/// assert_eq!(child.pidfd.wait()?, WaitStatus::Code(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn spawn(program: &Spawn<'_>) -> Result<Spawned, SpawnError> {
    let mut image = Image::new(program)?;
    let mut plan = Plan::new(program, &mut image)?;
    let stack = Stack::new().map_err(|error| SpawnError::step(Step::Clone, &error))?;
    let cloned = {
        // A signal that arrived in the child would run our handlers in our own memory.
        let _blocked = signals::block_all();
        clone_child(&stack, &mut plan)
    };
    let (pid, pidfd) = cloned.map_err(|error| SpawnError::step(Step::Clone, &error))?;
    let pidfd = PidFd::from_fd(pidfd, pid);
    match plan.report.take() {
        None => Ok(Spawned { pid, pidfd }),
        Some(report) => {
            // It has ended or is about to. If foreign code took the status, so much the better.
            let _ = pidfd.wait();
            Err(explain(program, &image, report))
        }
    }
}

fn explain(program: &Spawn<'_>, image: &Image, report: Report) -> SpawnError {
    match (report.step, &program.cwd) {
        (Step::ChangeDirectory, Some(cwd)) => SpawnError::Cwd { path: cwd.clone(), errno: report.errno },
        (Step::Execute, _) => image.execute_error(program, report),
        (step, _) => SpawnError::Step { step, errno: report.errno },
    }
}

/// Runs [`child::run`] in a new process that borrows our memory, and returns when it has executed or ended.
fn clone_child(stack: &Stack, plan: &mut Plan<'_>) -> io::Result<(u32, OwnedFd)> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: the stack is ours alone and large enough; this thread does not go on before the child has left our
    // memory, so `plan` stays in place and is not touched meanwhile. `child::run` only makes system calls.
    let pid = unsafe { libc::clone(child::run, stack.top(), flags, (&raw mut *plan).cast(), &raw mut pidfd) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success the kernel has stored a new descriptor there, closed on exec, which nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((pid.cast_unsigned(), pidfd))
}

/// The child's stack, with a page below it that may not be touched.
struct Stack {
    base: *mut libc::c_void,
    len: usize,
}

impl Stack {
    /// Far more than the child's few frames take, unoptimised builds included; only touched pages cost anything.
    const LEN: usize = 128 * 1024;

    fn new() -> io::Result<Self> {
        let guard = rustix::param::page_size();
        let len = Self::LEN + guard;
        let flags = MapFlags::PRIVATE | MapFlags::STACK | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address the kernel chooses; it touches no memory that is in use.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        let stack = Self { base, len };
        // SAFETY: the first page of the mapping above, which nothing uses yet.
        unsafe { mprotect(base, guard, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// Stacks grow down; a mapping's end is aligned for any processor.
    fn top(&self) -> *mut libc::c_void {
        self.base.wrapping_byte_add(self.len)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; the child has left it, since `clone` returned.
        let result = unsafe { munmap(self.base, self.len) };
        debug_assert!(result.is_ok(), "the range is one whole mapping");
    }
}
