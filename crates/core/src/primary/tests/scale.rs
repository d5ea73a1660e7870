//! More workers, fewer, none.

use super::*;

#[test]
fn more_workers_are_started_at_once() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Scale { workers: 3 });
    assert_eq!(cluster.orders(), ["spawn 2 in 1 of 1", "spawn 3 in 2 of 1"]);
}

#[test]
fn fewer_workers_means_the_highest_slots_drain_and_nobody_follows() {
    let mut cluster = Cluster::serving(settings(3));
    cluster.happens(Event::Scale { workers: 1 });
    assert_eq!(cluster.lines, ["- scaled to 1", "disconnect 2", "disconnect 3"]);
    cluster.forget();
    cluster.exits(3, CRASHED);
    assert_eq!(cluster.news(), ["- disconnect 3", "- exit 3: scale, exited with code 1, asked to"]);
}

#[test]
fn a_slot_that_comes_back_does_not_wait_for_its_last_worker_to_leave() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.happens(Event::Scale { workers: 1 });
    cluster.happens(Event::Scale { workers: 2 });
    assert_eq!(cluster.orders(), ["disconnect 2", "spawn 3 in 1 of 1"]);
    cluster.exits(2, CLEAN);
    assert_eq!(cluster.orders(), ["forget 2"]);
}

#[test]
fn with_no_workers_the_primary_goes_on() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Scale { workers: 0 });
    cluster.exits(1, CLEAN);
    assert!(!cluster.primary.is_finished());
    assert_eq!(cluster.assign(1), [0]);
    cluster.happens(Event::Scale { workers: 1 });
    assert_eq!(cluster.orders().last().unwrap(), "spawn 2 in 0 of 1");
}

#[test]
fn scaling_during_a_reload_changes_what_there_is_to_reload() {
    let mut cluster = Cluster::serving(settings(3));
    cluster.happens(Event::Reload);
    cluster.happens(Event::Scale { workers: 1 });
    assert_eq!(cluster.orders(), ["spawn 4 in 0 of 2", "disconnect 2", "disconnect 3"]);
    cluster.serves(4);
    assert_eq!(cluster.news().last().unwrap(), "- reload 2 done");
}

#[test]
fn a_replacement_whose_slot_is_gone_does_not_fail_the_reload() {
    let mut cluster = Cluster::serving(Settings { surge: 2, ..settings(2) });
    cluster.happens(Event::Reload);
    cluster.happens(Event::Scale { workers: 1 });
    cluster.exits(4, KILLED);
    cluster.serves(3);
    assert_eq!(cluster.news().last().unwrap(), "- reload 2 done");
}
