//! Who goes where, and who moves when slots come and go.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::*;

/// Workers by slot; the id is a thousand more.
fn workers(slots: impl IntoIterator<Item = u32>) -> Vec<Candidate> {
    let candidate = |slot| Candidate {
        worker: WorkerId::new(1_000 + slot),
        slot: Slot::new(slot),
        load: 0,
        live: 0,
        recent: 0,
        full: false,
    };
    slots.into_iter().map(candidate).collect()
}

fn source(number: u32) -> SocketAddr {
    (Ipv4Addr::from_bits(0x0a00_0000 + number), 40_000).into()
}

fn pick(free: &[Candidate], busy: &[Candidate], from: SocketAddr) -> WorkerId {
    Sticky::default().pick(&Candidates { free, busy, from: Some(from), overflow: false, credit: 1 }).unwrap()
}

const SOURCES: u32 = 10_000;

fn mapping(slots: impl IntoIterator<Item = u32>) -> Vec<WorkerId> {
    let free = workers(slots);
    (0..SOURCES).map(|number| pick(&free, &[], source(number))).collect()
}

#[test]
fn every_slot_gets_its_share() {
    for count in [2, 3, 8, 32] {
        let mapping = mapping(0..count);
        for slot in 0..count {
            let here = mapping.iter().filter(|worker| worker.get() == 1_000 + slot).count();
            let fair = f64::from(SOURCES) / f64::from(count);
            assert!((here as f64 - fair).abs() < 5.0 * fair.sqrt(), "{here} of {fair} in slot {slot}");
        }
    }
}

#[test]
fn one_slot_more_moves_only_those_who_go_there() {
    for count in 1..20 {
        let (before, after) = (mapping(0..count), mapping(0..=count));
        for (before, after) in before.into_iter().zip(after) {
            assert!(before == after || after.get() == 1_000 + count);
        }
    }
}

#[test]
fn a_slot_that_is_gone_moves_only_its_own() {
    for gone in 0..8 {
        let (before, after) = (mapping(0..8), mapping((0..8).filter(|&slot| slot != gone)));
        let moved: BTreeSet<_> =
            before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.get()).collect();
        assert_eq!(moved, [1_000 + gone].into());
    }
}

#[test]
fn a_replacement_keeps_the_mapping() {
    let mut free = workers(0..4);
    let before: Vec<_> = (0..SOURCES).map(|number| pick(&free, &[], source(number)).get()).collect();
    for candidate in &mut free {
        candidate.worker = WorkerId::new(candidate.worker.get() + 1_000);
    }
    let after: Vec<_> = (0..SOURCES).map(|number| pick(&free, &[], source(number)).get() - 1_000).collect();
    assert_eq!(before, after);
}

#[test]
fn the_port_and_the_spelling_do_not_count() {
    let free = workers(0..16);
    for number in 0..100 {
        let SocketAddr::V4(v4) = source(number) else { unreachable!() };
        let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), 1);
        assert_eq!(pick(&free, &[], source(number)), pick(&free, &[], mapped));
    }
}

#[test]
fn a_busy_worker_is_waited_for_unless_too_many_wait() {
    let all = workers(0..4);
    let mut policy = Sticky::default();
    for number in 0..100 {
        let from = Some(source(number));
        let first = pick(&all, &[], source(number));
        let (busy, free): (Vec<_>, Vec<_>) = all.iter().copied().partition(|c| c.worker == first);
        let mut picks = |overflow| {
            policy
                .pick(&Candidates { free: &free, busy: &busy, from, overflow, credit: 1 })
                .expect("somebody is free")
        };
        assert_eq!(picks(false), first);
        let second = picks(true);
        assert_eq!(second, pick(&free, &[], source(number)), "the next in rank");
    }
}
