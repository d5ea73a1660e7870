//! Waits for children that nobody waits for any more, so that none stays as a zombie.
//!
//! One thread for the whole process, started with the first such child; it sleeps in the kernel. Neither `SIGCHLD` nor
//! anybody else's children are touched.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use everycore_sys::PidFd;
use rustix::event::epoll;
use rustix::io::Errno;

static REAPER: LazyLock<Option<Reaper>> = LazyLock::new(|| Reaper::start().ok());

/// Takes over the duty to wait for a process.
///
/// When not even a descriptor or a thread can be had for it, the child stays a zombie until this process ends, which
/// is all there is left to do.
pub(super) fn adopt(pidfd: Arc<PidFd>) {
    if let Some(reaper) = REAPER.as_ref() {
        reaper.adopt(pidfd);
    }
}

struct Reaper {
    epoll: OwnedFd,
    /// By pid, which is unique as long as the process was not waited for.
    orphans: Mutex<HashMap<u32, Arc<PidFd>>>,
}

impl Reaper {
    fn start() -> io::Result<Self> {
        let reaper =
            Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, orphans: Mutex::new(HashMap::new()) };
        // The thread waits until the static it is made for can be seen.
        std::thread::Builder::new().name("everycore-reaper".into()).spawn(|| {
            if let Some(reaper) = REAPER.as_ref() {
                reaper.run();
            }
        })?;
        Ok(reaper)
    }

    fn adopt(&self, pidfd: Arc<PidFd>) {
        let pid = pidfd.pid();
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let data = epoll::EventData::new_u64(pid.into());
        if epoll::add(&self.epoll, &pidfd, data, epoll::EventFlags::IN).is_ok() {
            orphans.insert(pid, pidfd);
        }
    }

    fn run(&self) {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 16];
        loop {
            match epoll::wait(&self.epoll, &mut events, None) {
                Ok(count) => events[..count].iter().for_each(|event| self.reap(event.data.u64())),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn reap(&self, pid: u64) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pidfd) = u32::try_from(pid).ok().and_then(|pid| orphans.remove(&pid)) else { return };
        drop(orphans);
        // It has ended, so this does not wait; the status interests nobody.
        let _ = pidfd.try_wait();
        let _ = epoll::delete(&self.epoll, &pidfd);
    }
}
