//! Which class gets a connection, and what becomes of it when that is full.

use super::*;

fn workers(slots: impl IntoIterator<Item = u32>) -> Vec<Candidate> {
    let candidate = |slot| Candidate {
        worker: WorkerId::new(slot + 1),
        slot: Slot::new(slot),
        load: 0,
        live: 0,
        recent: 0,
    };
    slots.into_iter().map(candidate).collect()
}

fn from(address: &str) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.parse().unwrap(), 40_000))
}

/// Two normal workers, then one special one.
fn route() -> Route {
    Route::new()
        .class("normal", 2, Policy::RoundRobin)
        .class("special", 1, Policy::Least)
        .rule("10.1.0.0/16", "special")
        .unwrap()
}

fn pick(route: &mut Route, free: &[u32], busy: &[u32], source: &str) -> Option<u32> {
    let (free, busy) = (workers(free.iter().copied()), workers(busy.iter().copied()));
    let picked = route.pick(&Candidates { free: &free, busy: &busy, from: from(source), overflow: false });
    picked.map(|worker| worker.get() - 1)
}

#[test]
fn rules_pick_the_class_and_its_policy_the_worker() {
    let mut route = route();
    let picks = ["10.1.2.3", "10.2.0.1", "10.1.0.0", "::ffff:10.1.9.9", "::1", "192.0.2.1"]
        .map(|source| pick(&mut route, &[0, 1, 2], &[], source).unwrap());
    assert_eq!(picks, [2, 0, 2, 2, 1, 0]);
}

#[test]
fn a_full_class_waits_spills_or_is_stood_in_for() {
    let mut waits = route();
    assert_eq!(pick(&mut waits, &[0, 1], &[2], "10.1.0.1"), Some(2), "it waits for its own");
    assert_eq!(pick(&mut waits, &[0, 1], &[], "10.1.0.1"), Some(0), "there is nobody to wait for");
    let mut spills = route().when_full("special", WhenFull::SpillTo("normal".into()));
    assert_eq!(pick(&mut spills, &[1], &[0, 2], "10.1.0.1"), Some(1));
    assert_eq!(pick(&mut spills, &[], &[0, 1, 2], "10.1.0.1"), Some(2));
    assert_eq!(pick(&mut spills, &[2], &[0, 1], "192.0.2.1"), Some(0), "the other way it waits");
}

#[test]
fn slots_beyond_the_last_class_belong_to_it() {
    let route = route();
    assert_eq!(
        [0, 1, 2, 9].map(|slot| route.class_of_slot(slot)),
        ["normal", "normal", "special", "special"]
    );
}

#[test]
fn networks_have_bounds() {
    let contains =
        |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
    assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "::1"));
    assert!(contains("2001:db8::/32", "2001:db8:ffff::1") && !contains("2001:db8::/32", "2001:db9::1"));
    assert!(contains("127.0.0.2", "127.0.0.2") && !contains("127.0.0.2", "127.0.0.3"));
    for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "", "10.0.0.0/", "10.0.0.0/-1"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
    assert!(Route::new().rule("::1", "special").is_err(), "no such class");
}
