use rustix::io::Errno;

use super::grants::PER_WORKER;
use super::*;

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
    let mut listeners = Listeners::default();
    let shared = listeners.note_own(id(1), at(1)).unwrap();
    assert_eq!(listeners.note_own(id(2), at(1)).unwrap(), shared);
    let alone = listeners.note_own(id(1), at(2)).unwrap();
    listeners.forget(id(1));
    assert_eq!((listeners.address(shared), listeners.address(alone)), (Some(&at(1)), None));
    listeners.forget(id(2));
    assert_eq!(listeners.address(shared), None);
}
