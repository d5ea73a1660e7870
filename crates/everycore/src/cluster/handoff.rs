//! The channel on which one worker is handed the connections of one listener.
//!
//! The primary keeps a second descriptor of the worker's end, the *far end*. The kernel gives each record to exactly
//! one reader, so whatever a dead, stuck or leaving worker has not read can be read back here and go elsewhere:
//! nothing is lost and nothing is served twice. One connection per record, or that would not be exact.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use everycore_core::{ClassKey, ListenerKey, Peer};
use everycore_sys::{scm_rights, socket_pair};

use crate::protocol::record;

/// Records sent with one system call.
const BATCH: usize = 16;

/// An accepted connection that no worker has taken yet. Not one byte of it has been read.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) on: ListenerKey,
    pub(crate) peer: Option<SocketAddr>,
    /// The class it was found to belong to; chosen once, however often it comes back.
    pub(crate) class: Option<ClassKey>,
    pub(crate) socket: OwnedFd,
}

impl Arrival {
    /// What the core has to know of it.
    pub(crate) fn from(&self) -> Peer {
        Peer { address: self.peer, class: self.class }
    }

    fn record(&self) -> [u8; record::LEN] {
        // There are fewer classes than one byte can count.
        let class = self.class.map_or(0, |class| u8::try_from(class.get() + 1).unwrap_or(0));
        record::encode(self.peer, class)
    }
}

/// What came back from a worker's channels.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub(crate) arrivals: Vec<Arrival>,
    /// Connections that should have come and are gone.
    pub(crate) lost: u64,
}

impl Back {
    /// How many the worker has no longer.
    pub(crate) fn count(&self) -> u64 {
        self.arrivals.len() as u64 + self.lost
    }
}

/// The primary's side of one worker's hand-off channel.
#[derive(Debug)]
pub(crate) struct HandOff {
    on: ListenerKey,
    near: OwnedFd,
    far: OwnedFd,
    batch: Vec<Arrival>,
}

impl HandOff {
    /// Makes the channel; the second value is the worker's end.
    pub(crate) fn new(on: ListenerKey) -> io::Result<(Self, OwnedFd)> {
        let (near, far) = socket_pair::record_pair()?;
        let workers_end = far.try_clone()?;
        Ok((Self { on, near, far, batch: Vec::new() }, workers_end))
    }

    /// Which listener it belongs to.
    pub(crate) fn on(&self) -> ListenerKey {
        self.on
    }

    /// Whether the next flush has nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Adds a connection to what the next [`flush`](Self::flush) sends.
    pub(crate) fn push(&mut self, arrival: Arrival) {
        debug_assert_eq!(arrival.on, self.on, "a channel belongs to one listener");
        self.batch.push(arrival);
    }

    /// Sends the batch; our copies of what went are `gone`, to be closed in this turn. Gives back what did not fit.
    pub(crate) fn flush(&mut self, gone: &mut Vec<OwnedFd>) -> Vec<Arrival> {
        let mut sent = 0;
        while sent < self.batch.len() {
            match send_some(&self.near, &self.batch[sent..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => sent += count,
            }
        }
        let left = self.batch.split_off(sent);
        gone.extend(self.batch.drain(..).map(|arrival| arrival.socket));
        left
    }

    /// Takes back everything the worker has not read, as far as there are descriptors for it: the kernel destroys a
    /// connection that is received without room for it, so what there is none for stays in the channel. True when
    /// nothing did.
    pub(crate) fn read_back(&mut self, back: &mut Back) -> bool {
        back.arrivals.append(&mut self.batch);
        let mut buffer = [0; record::LEN];
        loop {
            if self.far.try_clone().is_err() {
                return false;
            }
            let Ok(Some((length, socket))) = scm_rights::receive_one(&self.far, &mut buffer) else {
                return true;
            };
            // Only we write to this channel, and always a connection: one without came while another thread of this
            // program took the last descriptor.
            let (Some(socket), Some(peer)) = (socket, record::decode(&buffer[..length])) else {
                back.lost += 1;
                continue;
            };
            let class = record::class(&buffer).checked_sub(1).map(|class| ClassKey::new(class.into()));
            back.arrivals.push(Arrival { on: self.on, peer, class, socket });
        }
    }
}

fn send_some(near: &OwnedFd, batch: &[Arrival]) -> io::Result<usize> {
    let count = batch.len().min(BATCH);
    let records: [[u8; record::LEN]; BATCH] =
        std::array::from_fn(|i| batch.get(i).map_or([0; record::LEN], Arrival::record));
    // Places beyond `count` repeat the first and are cut off: an array, since this runs for every connection.
    let messages: [(&[u8], BorrowedFd<'_>); BATCH] = std::array::from_fn(|i| {
        let i = if i < count { i } else { 0 };
        (&records[i][..], batch[i].socket.as_fd())
    });
    scm_rights::send_each(near, &messages[..count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(on: ListenerKey, port: u16) -> Arrival {
        let (socket, _) = socket_pair::stream_pair().unwrap();
        let class = port.is_multiple_of(2).then(|| ClassKey::new(254));
        Arrival { on, peer: Some(([127, 0, 0, 1], port).into()), class, socket }
    }

    fn all_back(channel: &mut HandOff) -> Vec<Arrival> {
        let mut back = Back::default();
        assert!(channel.read_back(&mut back));
        assert_eq!(back.lost, 0);
        back.arrivals
    }

    fn ports(arrivals: &[Arrival]) -> Vec<u16> {
        arrivals.iter().map(|arrival| arrival.peer.unwrap().port()).collect()
    }

    #[test]
    fn what_the_worker_has_not_read_comes_back_in_order() {
        let on = ListenerKey::new(1);
        let (mut channel, worker) = HandOff::new(on).unwrap();
        for port in 1..=40 {
            channel.push(arrival(on, port));
        }
        assert!(channel.flush(&mut Vec::new()).is_empty());
        let mut buffer = [0; record::LEN];
        for port in 1..=3 {
            let (length, socket) = scm_rights::receive_one(&worker, &mut buffer).unwrap().unwrap();
            assert!(socket.is_some());
            assert_eq!(record::decode(&buffer[..length]).unwrap().unwrap().port(), port);
        }
        let back = all_back(&mut channel);
        assert_eq!(ports(&back), (4..=40).collect::<Vec<_>>());
        let classes = back.iter().map(|arrival| arrival.class.map(ClassKey::get));
        assert!(
            classes.eq((4..=40).map(|port: u16| port.is_multiple_of(2).then_some(254))),
            "they are of the classes they were of"
        );
        assert!(all_back(&mut channel).is_empty());
    }

    #[test]
    fn a_record_without_its_connection_is_counted() {
        let on = ListenerKey::new(1);
        let (mut channel, _worker) = HandOff::new(on).unwrap();
        channel.push(arrival(on, 1));
        assert!(channel.flush(&mut Vec::new()).is_empty());
        // As it arrives where there is no descriptor left for it.
        rustix::io::write(&channel.near, &record::encode(None, 0)).unwrap();
        let mut back = Back::default();
        channel.push(arrival(on, 2));
        assert!(channel.read_back(&mut back));
        assert_eq!(ports(&back.arrivals), [2, 1]);
        assert_eq!((back.lost, back.count()), (1, 3));
    }

    #[test]
    fn a_full_channel_gives_back_what_did_not_fit() {
        let on = ListenerKey::new(1);
        let (mut channel, _worker) = HandOff::new(on).unwrap();
        for port in 1..=2000 {
            channel.push(arrival(on, port));
        }
        let left = ports(&channel.flush(&mut Vec::new()));
        let back = ports(&all_back(&mut channel));
        assert!(!left.is_empty(), "the kernel's buffer has a bound");
        assert_eq!([back, left].concat(), (1..=2000).collect::<Vec<_>>());
    }
}
