//! Everything the primary waits for, in two epoll sets.
//!
//! The *inner* set holds channels, processes, signals, orders and the workers' bells; the *outer* one holds the
//! listeners and the inner set. While no worker is free the primary waits on the inner set alone: connections stay in
//! the kernel's backlog, and no call per connection is spent on not looking at them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use everycore_core::{ListenerKey, WorkerId};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Listener(ListenerKey),
    Channel(WorkerId),
    Process(WorkerId),
    Bell(WorkerId),
    Signals,
    Orders,
    Notify,
    /// A client whose first words are waited for has said something, or ended.
    Peek(u32),
}

/// Wakes taken with one system call; the rest come with the next.
const AT_ONCE: usize = 64;

/// The set behind an entry of the outer one.
const INNER: u64 = u64::MAX;

impl Wake {
    fn token(self) -> u64 {
        let (kind, id) = match self {
            Self::Listener(key) => (0, key.get()),
            Self::Channel(worker) => (1, worker.get()),
            Self::Process(worker) => (2, worker.get()),
            Self::Bell(worker) => (3, worker.get()),
            Self::Signals => (4, 0),
            Self::Orders => (5, 0),
            Self::Notify => (6, 0),
            Self::Peek(number) => (7, number),
        };
        (kind << 32) | u64::from(id)
    }

    fn from_token(token: u64) -> Option<Self> {
        let id = token as u32;
        Some(match token >> 32 {
            0 => Self::Listener(ListenerKey::new(id)),
            1 => Self::Channel(WorkerId::new(id)),
            2 => Self::Process(WorkerId::new(id)),
            3 => Self::Bell(WorkerId::new(id)),
            4 => Self::Signals,
            5 => Self::Orders,
            6 => Self::Notify,
            7 => Self::Peek(id),
            _ => return None,
        })
    }
}

/// Whether new connections are of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// Wake for them.
    On,
    /// Leave them in the backlog.
    Off,
}

/// The two sets.
#[derive(Debug)]
pub(crate) struct Sources {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Sources {
    pub(crate) fn new() -> io::Result<Self> {
        let outer = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let inner = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&outer, &inner, epoll::EventData::new_u64(INNER), epoll::EventFlags::IN)?;
        Ok(Self { outer, inner })
    }

    /// Watches for input, level-triggered; a bell and a client's first words edge-triggered, since nobody reads them here.
    pub(crate) fn add(&self, source: impl AsFd, wake: Wake) -> io::Result<()> {
        let (set, flags) = match wake {
            Wake::Listener(_) => (&self.outer, epoll::EventFlags::IN),
            Wake::Bell(_) => (&self.inner, epoll::EventFlags::IN | epoll::EventFlags::ET),
            Wake::Peek(_) => {
                (&self.inner, epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET)
            }
            _ => (&self.inner, epoll::EventFlags::IN),
        };
        Ok(epoll::add(set, source, epoll::EventData::new_u64(wake.token()), flags)?)
    }

    /// Watches a channel for room to write as well, or no longer.
    pub(crate) fn watch_writes(&self, channel: impl AsFd, worker: WorkerId, writes: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, writes);
        let data = epoll::EventData::new_u64(Wake::Channel(worker).token());
        Ok(epoll::modify(&self.inner, channel, data, flags)?)
    }

    /// Stops watching. Must come before the descriptor is closed: another process may hold the same socket open.
    pub(crate) fn remove(&self, source: impl AsFd, wake: Wake) {
        let set = if matches!(wake, Wake::Listener(_)) { &self.outer } else { &self.inner };
        // Not there is what was wanted.
        let _ = epoll::delete(set, source);
    }

    /// Appends the listeners with connections, without waiting.
    pub(crate) fn look(&self, wakes: &mut Vec<Wake>) -> io::Result<()> {
        poll(&self.outer, Some(Duration::ZERO), |token| {
            if token != INNER {
                wakes.extend(Wake::from_token(token));
            }
        })
    }

    /// Waits until something is ready or `limit` has passed, and appends it to `wakes`.
    pub(crate) fn wait(
        &self,
        listen: Listen,
        limit: Option<Duration>,
        wakes: &mut Vec<Wake>,
    ) -> io::Result<()> {
        let mut inner_ready = true;
        if listen == Listen::On {
            inner_ready = false;
            poll(&self.outer, limit, |token| match token {
                INNER => inner_ready = true,
                token => wakes.extend(Wake::from_token(token)),
            })?;
        }
        if inner_ready {
            let limit = if listen == Listen::On { Some(Duration::ZERO) } else { limit };
            poll(&self.inner, limit, |token| wakes.extend(Wake::from_token(token)))?;
        }
        Ok(())
    }
}

/// Waits of less are finer than `epoll_wait` can count: it would make a gathering ten times as long.
const FINE: Duration = Duration::from_millis(1);

/// No wait is longer, however far away a deadline is: more than 24 days cannot be said to kernels before 5.11. Whoever
/// waited finds nothing to do, and waits again.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn poll(set: &OwnedFd, limit: Option<Duration>, mut each: impl FnMut(u64)) -> io::Result<()> {
    let timespec = |limit: Duration| Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let limit = match limit {
        // `epoll_pwait2` counts finely but came with Linux 5.11; polling the set itself does so everywhere.
        Some(fine) if !fine.is_zero() && fine < FINE => {
            let mut set = [PollFd::new(set, PollFlags::IN)];
            match rustix::event::poll(&mut set, Some(&timespec(fine))) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => Some(timespec(Duration::ZERO)),
                Err(error) => return Err(error.into()),
            }
        }
        limit => limit.map(|limit| timespec(limit.min(LONGEST))),
    };
    let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); AT_ONCE];
    match epoll::wait(set, &mut buffer, limit.as_ref()) {
        Ok((events, _)) => {
            events.iter().for_each(|event| each(event.data.u64()));
            Ok(())
        }
        Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_tell_sources_apart() {
        let sources = [
            Wake::Listener(ListenerKey::new(7)),
            Wake::Channel(WorkerId::new(7)),
            Wake::Process(WorkerId::new(u32::MAX)),
            Wake::Bell(WorkerId::new(7)),
            Wake::Signals,
            Wake::Orders,
            Wake::Notify,
            Wake::Peek(7),
        ];
        for source in sources {
            assert_eq!(Wake::from_token(source.token()), Some(source));
        }
        assert_eq!(Wake::from_token(INNER), None);
    }

    #[test]
    fn a_gathering_is_shorter_than_a_millisecond() {
        let sources = Sources::new().unwrap();
        let mut wakes = Vec::new();
        // The shortest of many: the machine may be busy with something else in any of them.
        let shortest = (0..50).map(|_| {
            let began = std::time::Instant::now();
            sources.wait(Listen::Off, Some(Duration::from_micros(100)), &mut wakes).unwrap();
            began.elapsed()
        });
        let shortest = shortest.min().unwrap();
        assert!(shortest >= Duration::from_micros(100) && shortest < FINE, "{shortest:?}");
        let bell = everycore_sys::eventfd::EventFd::new().unwrap();
        sources.add(&bell, Wake::Orders).unwrap();
        bell.ring().unwrap();
        sources.wait(Listen::Off, Some(Duration::from_micros(100)), &mut wakes).unwrap();
        assert_eq!(wakes, [Wake::Orders]);
    }

    #[test]
    fn a_starved_primary_does_not_see_connections_but_all_else() {
        let sources = Sources::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let key = Wake::Listener(ListenerKey::new(1));
        sources.add(&listener, key).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut wakes = Vec::new();
        sources.wait(Listen::Off, Some(Duration::ZERO), &mut wakes).unwrap();
        assert_eq!(wakes, []);
        let bell = everycore_sys::eventfd::EventFd::new().unwrap();
        sources.add(&bell, Wake::Orders).unwrap();
        bell.ring().unwrap();
        sources.wait(Listen::Off, None, &mut wakes).unwrap();
        assert_eq!(wakes, [Wake::Orders]);
        wakes.clear();
        sources.wait(Listen::On, None, &mut wakes).unwrap();
        assert_eq!(wakes.len(), 2);
    }
    #[test]
    fn of_many_listeners_those_with_connections_are_named() {
        let sources = Sources::new().unwrap();
        let listeners = [0; 5].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        for (listener, key) in listeners.iter().zip(1..) {
            sources.add(listener, Wake::Listener(ListenerKey::new(key))).unwrap();
        }
        let bell = everycore_sys::eventfd::EventFd::new().unwrap();
        sources.add(&bell, Wake::Orders).unwrap();
        bell.ring().unwrap();
        let _client = std::net::TcpStream::connect(listeners[3].local_addr().unwrap()).unwrap();
        let mut wakes = Vec::new();
        sources.look(&mut wakes).unwrap();
        assert_eq!(wakes, [Wake::Listener(ListenerKey::new(4))]);
    }
}
