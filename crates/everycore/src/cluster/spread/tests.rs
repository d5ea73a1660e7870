//! One listener and one worker, without processes.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use everycore_core::{Event, Policy, Settings};
use everycore_ipc::{Codec, Connection, Limits};
use everycore_sys::eventfd::EventFd;
use everycore_sys::{counters, scm_rights, socket_pair};

use super::*;
use crate::address::Address;
use crate::cluster::event::WorkerInfo;
use crate::cluster::handle::Queued;
use crate::cluster::handoff::HandOff;
use crate::cluster::member::{Library, Link, Member, Side};
use crate::cluster::socket::Options;
use crate::protocol::record;

const WORKER: WorkerId = WorkerId::new(1);

/// One listener and one worker that serves it.
struct Scene {
    listeners: Listeners,
    core: Primary,
    members: Members,
    selector: Selector,
    sources: Sources,
    key: ListenerKey,
    /// The worker's end of its channel for connections.
    handed: OwnedFd,
    /// And of its channel for messages.
    _channel: OwnedFd,
}

fn scene(policy: Policy) -> Scene {
    let mut listeners = Listeners::default();
    let anywhere = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
    listeners.bind("a".into(), anywhere, &Options::default()).unwrap();
    let key = *listeners.by_key.keys().next().unwrap();

    let mut core = Primary::new(Settings { policy, ..Settings::default() }, Time::ZERO);
    for event in [
        Event::Spawned { worker: WORKER, pid: 1 },
        Event::Online { worker: WORKER },
        Event::Listening { worker: WORKER, listener: key },
    ] {
        core.handle(event, Time::ZERO);
    }

    let (ours, channel) = socket_pair::stream_pair().unwrap();
    let connection = Connection::new(ours, Codec::Native, Limits::default()).unwrap();
    let link = Link::new(connection, Arc::new(Queued::default()));
    let (_, page) = counters::create().unwrap();
    let mut library = Library::new(page, EventFd::new().unwrap());
    let (hand_off, handed) = HandOff::new(key).unwrap();
    library.open(hand_off);
    let info = WorkerInfo { id: WORKER.get(), slot: 0, generation: 1, pid: Some(1) };
    let members = Members::from([(WORKER, Member::new(info, link, Side::Library(library)))]);

    let (selector, sources) = (Selector::new(None, None), Sources::new().unwrap());
    Scene { listeners, core, members, selector, sources, key, handed, _channel: channel }
}

impl Scene {
    fn listening(&mut self) -> &mut Listening {
        self.listeners.by_key.get_mut(&self.key).unwrap()
    }

    /// A client, in the kernel's queue.
    fn client(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.listening().bound.address.tcp().unwrap()).unwrap();
        let mut queue =
            [rustix::event::PollFd::new(&self.listening().bound.socket, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut queue, Some(&patience)), Ok(1));
        client
    }

    /// Another one, accepted.
    fn arrival(&mut self) -> (TcpStream, Arrival) {
        let (client, key) = (self.client(), self.key);
        (client, self.listening().next(key).unwrap().unwrap())
    }

    fn is_out_of_descriptors(&mut self) {
        self.listening().pause(&io::Error::from_raw_os_error(24));
        self.listening().pause.as_mut().unwrap().until += Duration::from_secs(60);
    }

    fn drain(&mut self) -> Drained {
        let Self { listeners, core, members, selector, sources, key, .. } = self;
        listeners.drain(*key, core, members, &mut Classifier { selector, sources }, Time::ZERO)
    }

    fn next_of_rest(&mut self) -> Option<Arrival> {
        let Self { listeners, selector, sources, key, .. } = self;
        listeners.next_of_rest(*key, None, &mut Classifier { selector, sources }).unwrap()
    }

    /// Whether the worker finds a connection.
    fn takes_one(&mut self) -> bool {
        let (mut seq, mut gone) = (0, Vec::new());
        assert!(self.members.get_mut(&WORKER).unwrap().flush_handoffs(&mut seq, &mut gone).is_empty());
        scm_rights::receive_one(&self.handed, &mut [0; record::LEN]).is_ok_and(|found| found.is_some())
    }
}

#[test]
fn a_program_that_makes_an_inherited_socket_blocking_does_not_stop_the_primary() {
    let mut scene = scene(Policy::Least);
    scene.listeners.inherited = true;
    // The mode belongs to the socket: of whoever holds it, any may do this at any time.
    rustix::io::ioctl_fionbio(&scene.listening().bound.socket, false).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send((scene.drain(), scene.next_of_rest().is_none())));
    assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok((Drained::Empty, true)));
}

#[test]
fn while_nothing_can_be_accepted_who_came_back_is_handed_on() {
    let mut scene = scene(Policy::Least);
    let (_client, arrival) = scene.arrival();
    let _queued = scene.client();
    scene.is_out_of_descriptors();
    scene.listeners.take_back(vec![arrival]);
    assert_eq!(scene.drain(), Drained::Paused);
    assert!(scene.takes_one());
    assert!(scene.listeners.starved().is_empty(), "else the primary would look again and again");
    assert!(scene.listeners.next_retry().is_some());
    assert_eq!(scene.drain(), Drained::Paused);
    assert!(!scene.takes_one(), "the one in the queue waits for the pause to end");
}

#[test]
fn while_nothing_can_be_accepted_who_waited_for_a_worker_gets_it() {
    let mut scene = scene(Policy::Sticky);
    let (_client, arrival) = scene.arrival();
    scene.is_out_of_descriptors();
    scene.listening().room.push(Awaited::Worker(WORKER), arrival);
    assert_eq!(scene.drain(), Drained::Paused);
    assert!(scene.takes_one());
    assert_eq!(scene.listeners.waited_on().count(), 0);
}

#[test]
fn who_waits_in_a_queue_that_closes_is_in_it_however_many_went_before() {
    let mut scene = scene(Policy::Least);
    let _client = scene.client();
    scene.listening().rest = REST;
    assert!(scene.next_of_rest().is_some(), "only an empty queue is empty");
    assert!(scene.next_of_rest().is_none());
}

#[test]
fn of_an_inherited_queue_each_leaving_takes_so_many() {
    let mut scene = scene(Policy::Least);
    scene.listening().bound.is_ours = false;
    scene.listening().rest = REST;
    let _client = scene.client();
    assert!(scene.next_of_rest().is_none(), "it is for whoever else holds the socket");
    // It was served again meanwhile.
    assert_eq!(scene.drain(), Drained::Starved);
    assert!(scene.takes_one());
    let _other = scene.client();
    assert!(scene.next_of_rest().is_some());
}
