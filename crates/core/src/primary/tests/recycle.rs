//! Workers that have served long enough are replaced one by one.

use super::*;

#[test]
fn the_replacement_comes_first_and_never_two_at_once() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.outlives(1, ExitReason::MaxRequests);
    cluster.outlives(2, ExitReason::MaxRss);
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
    cluster.outlives(1, ExitReason::MaxRss);
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
    cluster.outlives(1, ExitReason::MaxRss);
    cluster.happens(Event::Reload);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 1", "spawn 3 in 0 of 2"]);
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 1", "SIGTERM 2"]);
    cluster.exits(1, CLEAN);
    cluster.exits(2, ExitStatus::Signal(15));
    assert_eq!(cluster.picture(), ["3 listening"]);
    assert_eq!(cluster.primary.next_deadline(), None);
}

fn settings_that_recycle(recycle: RecycleSettings) -> Settings {
    Settings { recycle, ..settings(2) }.validated().unwrap()
}

#[test]
fn workers_that_have_taken_enough_go_one_after_the_other() {
    let recycle = RecycleSettings { connections: Some(3), ..RecycleSettings::default() };
    let mut cluster = Cluster::serving(settings_that_recycle(recycle));
    for taken in 1..=3 {
        assert_eq!(cluster.assign(2), [1, 2]);
        (1..=2).for_each(|worker| cluster.observe(worker, taken, taken, taken));
    }
    cluster.passes(0);
    assert_eq!(cluster.orders(), ["spawn 3 in 0 of 1"]);
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 1"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.news().last().unwrap(), "- fork 4");
    cluster.serves(4);
    cluster.exits(2, CLEAN);
    assert!(cluster.news().contains(&"- exit 2: max_requests, exited with code 0, asked to".into()));
    cluster.passes(60_000);
    assert_eq!(cluster.picture(), ["3 listening", "4 listening"]);
}

#[test]
fn a_worker_that_has_lived_long_enough_goes_and_its_successor_has_a_life_of_its_own() {
    let recycle =
        RecycleSettings { lifetime: Some(Duration::from_secs(1_000)), ..RecycleSettings::default() };
    let mut cluster = Cluster::new(Settings { workers: 1, ..settings_that_recycle(recycle) });
    cluster.serves(1);
    cluster.forget();
    let age = |cluster: &Cluster| cluster.primary.next_deadline().unwrap() - cluster.now;
    let first = age(&cluster);
    assert!((750..=1_000).contains(&first.as_secs()), "{first:?}");
    cluster.passes(first.as_millis() as u64 + 1);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 1"]);
    cluster.serves(2);
    cluster.exits(1, CLEAN);
    assert!(cluster.news().contains(&"- exit 1: max_lifetime, exited with code 0, asked to".into()));
    assert_ne!(age(&cluster), first, "drawn anew");
    cluster.passes(749_000);
    assert_eq!(cluster.picture(), ["2 listening"]);
}

#[test]
fn a_worker_that_has_grown_too_large_goes() {
    let recycle = RecycleSettings { memory: Some(1_000), ..RecycleSettings::default() };
    let mut cluster = Cluster::serving(settings_that_recycle(recycle));
    cluster.happens(Event::Memory { worker: id(2), resident: 899 });
    assert!(cluster.lines.is_empty(), "a tenth is the most it is short of");
    cluster.happens(Event::Memory { worker: id(2), resident: 1_000 });
    assert_eq!(cluster.orders(), ["spawn 3 in 1 of 1"]);
    cluster.happens(Event::Memory { worker: id(3), resident: 5_000 });
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 2"], "one that is not ready is not weighed");
}

#[test]
fn a_worker_that_is_too_large_from_the_start_is_told_of_and_replaced_once_in_a_while() {
    let recycle = RecycleSettings { memory: Some(1_000), ..RecycleSettings::default() };
    let mut cluster = Cluster::new(Settings { workers: 1, ..settings_that_recycle(recycle) });
    for worker in 1..=3 {
        cluster.serves(worker);
        if worker > 1 {
            cluster.exits(worker - 1, CLEAN);
        }
        cluster.forget();
        for _ in 0..59 {
            cluster.happens(Event::Memory { worker: id(worker), resident: 45_000 });
            cluster.passes(1_000);
        }
        assert_eq!(cluster.lines, [format!("- {worker} uses 45000 of 1000")], "said once, and no successor");
        cluster.forget();
        cluster.passes(1_000);
        assert_eq!(cluster.orders(), [format!("spawn {} in 0 of 1", worker + 1)]);
    }
}
