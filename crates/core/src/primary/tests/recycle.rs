//! Workers that have served long enough are replaced one by one.

use super::*;

#[test]
fn the_replacement_comes_first_and_never_two_at_once() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.happens(Event::Recycle { worker: id(1), reason: ExitReason::MaxRequests });
    cluster.happens(Event::Recycle { worker: id(2), reason: ExitReason::MaxRss });
    assert_eq!(cluster.orders(), ["spawn 3 in 0 of 1"]);
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 1"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.orders(), ["forget 1", "spawn 4 in 1 of 1"]);
    cluster.serves(4);
    cluster.forget();
    cluster.exits(2, CLEAN);
    assert_eq!(cluster.news(), ["- disconnect 2", "- exit 2: max_rss, exited with code 0, asked to"]);
    assert_eq!(cluster.picture(), ["3 listening", "4 listening"]);
}

#[test]
fn a_replacement_that_fails_leaves_the_worker_in_place_until_the_next_try() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Recycle { worker: id(1), reason: ExitReason::MaxRss });
    cluster.exits(2, CRASHED);
    cluster.forget();
    cluster.passes(29_999);
    assert!(cluster.lines.is_empty());
    cluster.passes(1);
    assert_eq!(cluster.orders(), ["spawn 3 in 0 of 1"]);
}

#[test]
fn a_reload_comes_before_recycling_and_makes_it_needless() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Recycle { worker: id(1), reason: ExitReason::MaxRss });
    cluster.happens(Event::Reload);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 1", "spawn 3 in 0 of 2"]);
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 1", "SIGTERM 2"]);
    cluster.exits(1, CLEAN);
    cluster.exits(2, ExitStatus::Signal(15));
    assert_eq!(cluster.picture(), ["3 listening"]);
    assert_eq!(cluster.primary.next_deadline(), None);
}
