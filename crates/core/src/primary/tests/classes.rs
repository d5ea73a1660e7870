//! A class that is full, has nobody for a while, or has been given up.

use super::*;
use crate::schedule::{Class, Peer, Policy, Route, Router, WhenFull};

/// Slot 0 is normal, slots 1 and 2 are special; each worker may hold one connection.
fn cluster(when_full: WhenFull) -> Cluster {
    let special = Class::new("special", 2).policy(Policy::RoundRobin).when_full(when_full);
    let router = Router::new(Route::new().class(Class::new("normal", 1)).class(special)).unwrap();
    let mut settings = settings(router.workers());
    settings.policy = Policy::Route;
    settings.limits.per_worker = Some(1);
    let mut cluster = Cluster::new(settings);
    cluster.primary.scheduling = Some(Scheduling::Route(Box::new(router)));
    (1..=3).for_each(|worker| cluster.serves(worker));
    cluster.passes(60_000);
    cluster.forget();
    cluster
}

const ADMIN: ListenerKey = ListenerKey::new(1);
const NORMAL: ClassKey = ClassKey::new(0);
const SPECIAL: ClassKey = ClassKey::new(1);
const WAIT: Assignment = Assignment::WaitFor(Awaited::Class(SPECIAL));

fn to(worker: u32) -> Assignment {
    Assignment::To(id(worker))
}

impl Cluster {
    fn assign_in(&mut self, class: ClassKey) -> Assignment {
        self.assign_on(HTTP, class)
    }

    fn assign_on(&mut self, listener: ListenerKey, class: ClassKey) -> Assignment {
        let peer = Peer { address: None, class: Some(class) };
        let assignment = self.primary.assign(listener, peer, self.now);
        self.collect();
        assignment
    }

    fn overflow_in(&mut self, class: ClassKey) -> Assignment {
        let peer = Peer { address: None, class: Some(class) };
        self.primary.assign_overflow(HTTP, peer, self.now)
    }

    fn refused(&self) -> Vec<u64> {
        self.primary.snapshot().classes.iter().map(|class| class.counts.refused).collect()
    }
}

#[test]
fn a_full_class_that_refuses_says_so_and_counts() {
    let mut cluster = cluster(WhenFull::Refuse);
    assert_eq!([cluster.assign_in(SPECIAL), cluster.assign_in(SPECIAL)], [to(2), to(3)]);
    assert_eq!([(); 3].map(|()| cluster.assign_in(SPECIAL)), [Assignment::Refuse; 3]);
    assert_eq!(cluster.news(), ["- special has refused 1"], "once, not each time");
    cluster.observe(2, 1, 1, 1);
    assert_eq!(cluster.assign_in(SPECIAL), to(2));
    cluster.observe(2, 2, 2, 1);
    cluster.observe(3, 1, 1, 0);
    cluster.passes(10_000);
    assert_eq!(cluster.assign_in(SPECIAL), Assignment::Refuse);
    assert_eq!(cluster.news(), ["- special has refused 4"]);
    assert_eq!((cluster.refused(), cluster.primary.snapshot().connections.refused), (vec![0, 4], 4));
    assert_eq!(cluster.assign_in(NORMAL), to(1), "the other class is none of its business");
}

#[test]
fn who_is_only_busy_is_waited_for_unless_too_many_wait() {
    let mut cluster = cluster(WhenFull::Refuse);
    cluster.primary.settings.limits.per_worker = None;
    assert_eq!([cluster.assign_in(SPECIAL), cluster.assign_in(SPECIAL)], [to(2), to(3)]);
    assert_eq!(cluster.assign_in(SPECIAL), WAIT);
    assert!(!cluster.primary.is_wait_over(Awaited::Class(SPECIAL), HTTP, cluster.now));
    assert_eq!(cluster.overflow_in(SPECIAL), Assignment::Refuse);
    cluster.observe(3, 1, 1, 0);
    assert!(cluster.primary.is_wait_over(Awaited::Class(SPECIAL), HTTP, cluster.now));
    assert_eq!(cluster.assign_in(SPECIAL), to(3));
}

#[test]
fn a_full_class_waits_and_at_the_bound_the_listener_does() {
    let mut cluster = cluster(WhenFull::Wait);
    assert_eq!([cluster.assign_in(SPECIAL), cluster.assign_in(SPECIAL)], [to(2), to(3)]);
    assert_eq!(cluster.assign_in(SPECIAL), WAIT);
    assert_eq!(cluster.overflow_in(SPECIAL), Assignment::Wait);
    assert_eq!(cluster.assign_in(NORMAL), to(1));
}

#[test]
fn what_spills_is_counted_and_waits_for_either_class() {
    let mut cluster = cluster(WhenFull::SpillTo("normal".into()));
    assert_eq!([(); 4].map(|()| cluster.assign_in(SPECIAL)), [to(2), to(3), to(1), WAIT]);
    cluster.observe(1, 1, 1, 1);
    assert!(cluster.primary.is_wait_over(Awaited::Class(SPECIAL), HTTP, cluster.now));
    let picture = cluster.primary.snapshot();
    let special = picture.classes[1].counts;
    assert_eq!((special.handed, special.spilled, picture.connections.spilled), (2, 1, 1));
}

#[test]
fn a_class_waits_for_its_next_worker_and_is_closed_to_when_none_will_come() {
    for when_full in [WhenFull::Wait, WhenFull::Refuse] {
        let mut cluster = cluster(when_full);
        cluster.primary.settings.restart.limit = 2;
        cluster.exits(2, CRASHED);
        cluster.exits(3, CRASHED);
        assert_eq!(cluster.assign_in(SPECIAL), WAIT, "replacements are on their way");
        cluster.exits(4, CRASHED);
        assert_eq!(cluster.assign_in(SPECIAL), WAIT, "one is left");
        cluster.exits(5, CRASHED);
        assert!(cluster.primary.is_wait_over(Awaited::Class(SPECIAL), HTTP, cluster.now));
        assert_eq!(cluster.assign_in(SPECIAL), Assignment::Refuse, "never given to another class");
        assert_eq!(cluster.assign_in(NORMAL), to(1));
    }
}

#[test]
fn a_class_that_does_not_serve_the_listener_is_not_waited_for() {
    let mut cluster = cluster(WhenFull::Wait);
    for worker in [2, 3] {
        cluster.happens(Event::StoppedListening { worker: id(worker), listener: HTTP });
    }
    assert_eq!(cluster.assign_in(SPECIAL), Assignment::Refuse);
}

/// Workers serve HTTP first, then ADMIN, where special ones alone are wanted.
fn with_admin() -> Cluster {
    let mut cluster = cluster(WhenFull::Wait);
    (1..=3).for_each(|worker| cluster.serves_admin(worker));
    cluster
}

impl Cluster {
    fn serves_admin(&mut self, worker: u32) {
        self.happens(Event::Listening { worker: id(worker), listener: ADMIN });
    }

    fn waits_on_admin(&self) -> bool {
        !self.primary.is_wait_over(Awaited::Class(SPECIAL), ADMIN, self.now)
    }
}

#[test]
fn a_worker_that_is_ready_at_its_first_listener_is_waited_for_at_its_second() {
    let mut cluster = with_admin();
    cluster.exits(2, CRASHED);
    cluster.exits(3, CRASHED);
    assert_eq!(cluster.assign_on(ADMIN, SPECIAL), WAIT);
    for worker in [4, 5] {
        cluster.serves(worker);
        assert_eq!(cluster.assign_on(ADMIN, SPECIAL), WAIT, "worker {worker} serves HTTP alone so far");
        assert!(cluster.waits_on_admin());
    }
    cluster.serves_admin(5);
    assert!(!cluster.waits_on_admin());
    assert_eq!(cluster.assign_on(ADMIN, SPECIAL), to(5));
}

#[test]
fn so_it_is_when_the_last_worker_of_its_class_is_recycled() {
    let mut cluster = with_admin();
    cluster.exits(2, CRASHED);
    cluster.happens(Event::StoppedListening { worker: id(3), listener: ADMIN });
    cluster.serves(4);
    cluster.serves_admin(4);
    cluster.outlives(4, ExitReason::MaxRequests);
    cluster.serves(5);
    assert!(cluster.picture().contains(&"4 disconnecting".to_owned()), "{:?}", cluster.picture());
    assert_eq!(cluster.assign_on(ADMIN, SPECIAL), WAIT);
    cluster.serves_admin(5);
    assert_eq!(cluster.assign_on(ADMIN, SPECIAL), to(5));
}

#[test]
fn who_has_not_come_to_serve_a_listener_for_long_is_not_waited_for() {
    let mut cluster = with_admin();
    cluster.exits(2, CRASHED);
    cluster.exits(3, CRASHED);
    cluster.serves(4);
    cluster.serves(5);
    let patience = cluster.primary.settings.deadlines.drain.as_millis() as u64;
    cluster.passes(patience - 1);
    assert_eq!(cluster.assign_on(ADMIN, SPECIAL), WAIT);
    cluster.passes(1);
    assert!(!cluster.waits_on_admin());
    assert_eq!(cluster.assign_on(ADMIN, SPECIAL), Assignment::Refuse);
}
