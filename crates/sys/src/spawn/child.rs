//! The child's side of a spawn: from `clone` to `execve`, in memory borrowed from the parent.
//!
//! Rules: system calls only. No allocation, no lock, no panic, nothing that takes a detour through the C library's
//! state. `errno` is the waiting parent thread's and may be overwritten. Everything comes prepared in a [`Plan`].

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};

use super::image::{Image, Pointers, write_pid};
use super::{Spawn, SpawnError, Step};

/// What to do, in the form the child can use.
pub(super) struct Plan<'a> {
    pointers: Pointers,
    cwd: Option<std::ffi::CString>,
    /// Source and target; sources are moved out of the way of the targets first.
    descriptors: Vec<(RawFd, RawFd)>,
    /// Ranges of numbers to close, both ends included.
    gaps: Vec<(u32, u32)>,
    /// Numbers from here on are free to move sources to.
    above: RawFd,
    /// One more than the highest number that can be open; used only where `close_range` is missing.
    end: u32,
    groups: Option<Vec<libc::gid_t>>,
    gid: Option<u32>,
    uid: Option<u32>,
    umask: Option<u32>,
    process_group: bool,
    death_signal: Option<i32>,
    no_new_privs: bool,
    parent: libc::pid_t,
    /// Where the child notes what went wrong.
    pub(super) report: Option<Report>,
    /// The pointers lead into the image, the descriptors are borrowed.
    _borrows: PhantomData<&'a ()>,
}

/// The step that failed, and why.
pub(super) struct Report {
    pub(super) step: Step,
    pub(super) errno: i32,
    /// Which of the candidate paths it was, when executing.
    pub(super) candidate: usize,
}

impl<'a> Plan<'a> {
    pub(super) fn new(program: &'a Spawn<'_>, image: &'a mut Image) -> Result<Self, SpawnError> {
        let prepare = |errno| SpawnError::Step { step: Step::Prepare, errno };
        let descriptors: Vec<_> =
            program.descriptors.iter().map(|(fd, target)| (fd.as_raw_fd(), *target)).collect();
        let mut targets: Vec<u32> = Vec::with_capacity(descriptors.len());
        for (_, target) in &descriptors {
            let target = u32::try_from(*target).map_err(|_| prepare(libc::EBADF))?;
            if targets.contains(&target) {
                return Err(prepare(libc::EBUSY));
            }
            targets.push(target);
        }
        targets.sort_unstable();
        let cwd = program
            .cwd
            .clone()
            .map(|path| std::ffi::CString::new(path.into_os_string().into_encoded_bytes()));
        let changes_ids = program.uid.is_some() || program.gid.is_some();
        let drops_groups = changes_ids && rustix::process::geteuid().is_root();
        let limit = crate::limits::nofile_limit();
        Ok(Self {
            pointers: image.pointers(),
            cwd: cwd.transpose().map_err(|_| prepare(libc::EINVAL))?,
            descriptors,
            gaps: gaps(&targets),
            above: targets.last().map_or(3, |last| last + 1).max(3).cast_signed(),
            end: limit.soft.unwrap_or(u64::MAX).min(1 << 20) as u32,
            groups: program.groups.clone().or_else(|| drops_groups.then(Vec::new)),
            gid: program.gid,
            uid: program.uid,
            umask: program.umask,
            process_group: program.process_group,
            death_signal: program.death_signal,
            no_new_privs: program.no_new_privs,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            report: None,
            _borrows: PhantomData,
        })
    }
}

/// The ranges between 0, 1, 2 and the targets (sorted), up to the last number there is.
fn gaps(targets: &[u32]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::with_capacity(targets.len() + 1);
    let mut first = 3;
    for target in targets.iter().copied().filter(|target| *target >= 3) {
        if first < target {
            gaps.push((first, target - 1));
        }
        first = target + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// Entry point of the new process. Comes back only through `exit`.
pub(super) extern "C" fn run(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent passed its plan and waits until we have left its memory, so it is ours alone.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    let failed = become_program(plan);
    plan.report = Some(failed);
    exit()
}

/// The whole way; comes back only with what failed.
///
/// The order matters: ids are given up after everything that may need them and before everything that a change of ids
/// undoes; the mask is emptied when no handler of the parent's can run any more.
fn become_program(plan: &mut Plan<'_>) -> Report {
    match prepare(plan) {
        Ok(()) => execute(&plan.pointers),
        Err((step, errno)) => Report { step, errno, candidate: 0 },
    }
}

fn prepare(plan: &mut Plan<'_>) -> Result<(), (Step, i32)> {
    reset_signals();
    if plan.process_group {
        call(libc::SYS_setpgid, []).map_err(|errno| (Step::ProcessGroup, errno))?;
    }
    place_descriptors(plan).map_err(|errno| (Step::PlaceDescriptors, errno))?;
    close_others(plan);
    if let Some(mask) = plan.umask {
        // Cannot fail; returns the former mask.
        let _ = call(libc::SYS_umask, [mask as usize]);
    }
    if let Some(cwd) = &plan.cwd {
        call(libc::SYS_chdir, [cwd.as_ptr() as usize]).map_err(|errno| (Step::ChangeDirectory, errno))?;
    }
    change_ids(plan)?;
    if plan.no_new_privs {
        call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as usize, 1])
            .map_err(|errno| (Step::NoNewPrivileges, errno))?;
    }
    if let Some(signal) = plan.death_signal {
        die_with_parent(signal, plan.parent).map_err(|errno| (Step::DeathSignal, errno))?;
    }
    if !plan.pointers.pids.is_empty() {
        let pid = call(libc::SYS_getpid, []).unwrap_or(0) as u32;
        for at in &plan.pointers.pids {
            write_pid(*at, pid);
        }
    }
    empty_mask().map_err(|errno| (Step::ResetSignals, errno))
}

/// As the kernel lays it out, which is not as the C library does. With all bits zero: default, no flags, no mask. The
/// order and number of the fields differ between processors; zeroes fit them all.
#[repr(C)]
struct KernelSigaction([u64; 4]);

/// Sets every signal to its default. Executing resets handlers by itself, but keeps what is ignored.
fn reset_signals() {
    let default = KernelSigaction([0; 4]);
    let address = &raw const default as usize;
    for signal in 1..=64 {
        // Refused for KILL and STOP, which nobody can ignore.
        let _ = call(libc::SYS_rt_sigaction, [signal, address, 0, size_of::<u64>()]);
    }
}

fn empty_mask() -> Result<(), i32> {
    let none = 0u64;
    let address = &raw const none as usize;
    call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, address, 0, size_of::<u64>()]).map(drop)
}

fn place_descriptors(plan: &mut Plan<'_>) -> Result<(), i32> {
    for (source, _) in &mut plan.descriptors {
        // One that sits where a target goes would be overwritten, or be its own target and keep close-on-exec.
        if *source < plan.above {
            let arguments = [*source as usize, libc::F_DUPFD_CLOEXEC as usize, plan.above as usize];
            *source = call(libc::SYS_fcntl, arguments)? as RawFd;
        }
    }
    for (source, target) in &plan.descriptors {
        call(libc::SYS_dup3, [*source as usize, *target as usize, 0])?;
    }
    Ok(())
}

/// Closes everything but 0, 1, 2 and the targets, so that nothing leaks that somebody forgot to mark.
fn close_others(plan: &Plan<'_>) {
    for (first, last) in &plan.gaps {
        if call(libc::SYS_close_range, [*first as usize, *last as usize, 0]).is_err() {
            // A sandbox that does not know the call. One by one is slow, but right.
            for fd in *first..(*last).min(plan.end) {
                let _ = call(libc::SYS_close, [fd as usize]);
            }
        }
    }
}

/// By system call: the C library's functions would change the ids of all threads, and here there is one.
fn change_ids(plan: &Plan<'_>) -> Result<(), (Step, i32)> {
    if let Some(groups) = &plan.groups {
        call(libc::SYS_setgroups, [groups.len(), groups.as_ptr() as usize])
            .map_err(|errno| (Step::SetGroups, errno))?;
    }
    if let Some(gid) = plan.gid {
        call(libc::SYS_setgid, [gid as usize]).map_err(|errno| (Step::SetGroup, errno))?;
    }
    if let Some(uid) = plan.uid {
        call(libc::SYS_setuid, [uid as usize]).map_err(|errno| (Step::SetUser, errno))?;
    }
    Ok(())
}

/// Arranges the signal, then looks whether the parent died before that.
fn die_with_parent(signal: i32, parent: libc::pid_t) -> Result<(), i32> {
    call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, signal as usize])?;
    match call(libc::SYS_getppid, []) {
        Ok(now) if now == parent as usize => Ok(()),
        _ => Err(libc::ESRCH),
    }
}

/// Tries each path. A missing one is passed over, one that may not be executed too, but remembered.
fn execute(pointers: &Pointers) -> Report {
    let mut report = Report { step: Step::Execute, errno: libc::ENOENT, candidate: 0 };
    let (args, env) = (pointers.args.as_ptr() as usize, pointers.env.as_ptr() as usize);
    for (candidate, path) in pointers.candidates.iter().enumerate() {
        let errno = match call(libc::SYS_execve, [*path as usize, args, env]) {
            Ok(_) => 0,
            Err(errno) => errno,
        };
        match errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => report = Report { step: Step::Execute, errno, candidate },
            _ => return Report { step: Step::Execute, errno, candidate },
        }
    }
    report
}

/// Ends the process, without anything that a library wants to do at an exit.
fn exit() -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [127]);
    }
}

/// One system call; the error is its number.
///
/// `libc::syscall` takes no lock and allocates nothing. It stores the error in `errno` of the thread whose registers we
/// run with, the parent's, which waits for us and does not look at it before its own call has returned.
fn call<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Result<usize, i32> {
    const { assert!(N <= 5) };
    // What is not given is zero: `prctl` refuses anything else in the places it does not use.
    let mut all = [0; 5];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument;
    }
    let [a, b, c, d, e] = all;
    // SAFETY: every caller passes what the call's manual page asks for; pointers lead into the plan or a live local.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result >= 0 {
        return Ok(result as usize);
    }
    // SAFETY: the location is valid in every thread.
    Err(unsafe { *libc::__errno_location() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_leave_out_the_targets_and_the_standard_three() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[3]), [(4, u32::MAX)]);
        assert_eq!(gaps(&[1, 3, 4, 7]), [(5, 6), (8, u32::MAX)]);
        assert_eq!(gaps(&[5]), [(3, 4), (6, u32::MAX)]);
    }
}
