use std::io::Read;
use std::net::TcpStream;

use rustix::io::Errno;

use super::grants::{ORPHANS, PER_WORKER};
use super::*;
use crate::cluster::socket::Options;
use crate::protocol::Wanted;

fn id(worker: u32) -> WorkerId {
    WorkerId::new(worker)
}

fn at(port: usize) -> BoundAddress {
    BoundAddress::Tcp(([127, 0, 0, 1], u16::try_from(port).unwrap()).into())
}

#[test]
fn a_worker_that_tells_of_too_many_addresses_uses_up_only_its_own() {
    let mut listeners = Listeners::default();
    for port in 1..=PER_WORKER {
        listeners.note_own(id(1), at(port)).unwrap();
    }
    let failure = listeners.note_own(id(1), at(PER_WORKER + 1)).unwrap_err();
    assert_eq!(failure.errno, Errno::MFILE.raw_os_error());
    assert!(listeners.note_own(id(1), at(1)).is_ok(), "one that is known already");
    let key = listeners.note_own(id(2), at(PER_WORKER + 1)).unwrap();
    assert_eq!(listeners.note_own(id(3), at(PER_WORKER + 1)).unwrap(), key, "workers may share one");
}

#[test]
fn an_address_is_known_as_long_as_a_worker_that_told_of_it_lives() {
    let (mut listeners, sources) = (Listeners::default(), Sources::new().unwrap());
    let shared = listeners.note_own(id(1), at(1)).unwrap();
    assert_eq!(listeners.note_own(id(2), at(1)).unwrap(), shared);
    let alone = listeners.note_own(id(1), at(2)).unwrap();
    listeners.forget(id(1), &sources);
    assert_eq!((listeners.address(shared), listeners.address(alone)), (Some(&at(1)), None));
    listeners.forget(id(2), &sources);
    assert_eq!(listeners.address(shared), None);
}

/// A listener on a port of its own.
fn grant(listeners: &mut Listeners, worker: u32, index: u32) -> ListenerKey {
    let address = "127.0.0.1:0".parse().unwrap();
    listeners.grant(id(worker), Wanted::Bound { address, index, backlog: None }).unwrap()
}

#[test]
fn listeners_that_nobody_holds_are_not_kept_without_end() {
    everycore_sys::limits::raise_nofile_limit().unwrap();
    let (mut listeners, sources) = (Listeners::default(), Sources::new().unwrap());
    let first = grant(&mut listeners, 1, 0);
    listeners.forget(id(1), &sources);
    // Some end, and some close what they have when they are told to leave.
    for worker in 2..ORPHANS as u32 + 1 {
        let key = grant(&mut listeners, worker, worker);
        if worker % 2 == 0 {
            listeners.forget(id(worker), &sources);
        } else {
            listeners.closed_by(id(worker), key, &sources, true, None);
        }
    }
    assert!(listeners.get(first).is_some());
    let last = grant(&mut listeners, 5000, 5000);
    listeners.forget(id(5000), &sources);
    assert!(listeners.get(first).is_none() && listeners.get(last).is_some());
}

#[test]
fn who_waits_at_a_listener_that_its_last_worker_closes_waits_no_longer_than_said() {
    let (mut listeners, sources) = (Listeners::default(), Sources::new().unwrap());
    let key = grant(&mut listeners, 1, 0);
    let mut client = TcpStream::connect(listeners.address(key).unwrap().tcp().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let arrival = listeners.by_key.get_mut(&key).unwrap().next(key).unwrap().unwrap();
    listeners.take_back(vec![arrival]);
    let until = Instant::now() + Duration::from_secs(1);
    listeners.closed_by(id(1), key, &sources, false, Some(until));
    listeners.close_abandoned(until - Duration::from_millis(1), &sources);
    assert!(listeners.get(key).is_some(), "another may ask for it");
    assert_eq!(listeners.next_abandoned(), Some(until));
    listeners.close_abandoned(until, &sources);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    assert!(listeners.get(key).is_none());
}

#[test]
fn every_worker_hears_who_has_the_address_they_all_ask_for() {
    let mut listeners = Listeners::default();
    let owner = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Address::Tcp(owner.local_addr().unwrap());
    for worker in 1..=3 {
        let refused = listeners.grant_bound(id(worker), taken.clone(), 0, &Options::default()).unwrap_err();
        let named =
            format!("(by {})", everycore_sys::port_owner::port_owner(owner.local_addr().unwrap()).unwrap());
        assert!(refused.message.contains(&named), "worker {worker}: {}", refused.message);
    }
}
