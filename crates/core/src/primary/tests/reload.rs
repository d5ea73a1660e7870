//! A rolling reload: ready first, and a bad release leaves the good one serving.

use super::*;

#[test]
fn every_replacement_is_ready_before_its_predecessor_drains() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.happens(Event::Reload);
    assert_eq!(cluster.orders(), ["spawn 3 in 0 of 2"]);
    cluster.happens(Event::Online { worker: id(3) });
    assert!(cluster.orders().is_empty());
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 1", "spawn 4 in 1 of 2"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.orders(), ["forget 1"]);
    cluster.serves(4);
    assert_eq!(
        cluster.news(),
        [
            "- spawned 4 as 104",
            "- online 4",
            "- listening 4 on 0",
            "- ready 4",
            "- reload 2 of 2",
            "- reload 2 done",
        ]
    );
    assert_eq!(cluster.picture(), ["2 disconnecting", "3 listening", "4 listening"]);
}

#[test]
fn a_single_worker_is_replaced_without_a_gap() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Reload);
    assert_eq!(cluster.assign(1), [1]);
    cluster.serves(2);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 2", "withdraw 1", "disconnect 1"]);
    assert_eq!(cluster.assign(1), [2]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: reload, exited with code 0, asked to"]);
}

#[test]
fn surge_is_how_many_start_at_a_time() {
    let mut cluster = Cluster::serving(Settings { surge: 2, ..settings(3) });
    cluster.happens(Event::Reload);
    assert_eq!(cluster.orders(), ["spawn 4 in 0 of 2", "spawn 5 in 1 of 2"]);
    cluster.serves(5);
    assert_eq!(cluster.orders(), ["disconnect 2", "spawn 6 in 2 of 2"]);
}

#[test]
fn a_replacement_that_dies_ends_the_reload_and_the_old_workers_stay() {
    let mut cluster = Cluster::serving(Settings { surge: 2, ..settings(2) });
    cluster.happens(Event::Reload);
    cluster.happens(Event::Online { worker: id(4) });
    cluster.forget();
    cluster.exits(3, CRASHED);
    assert_eq!(
        cluster.lines,
        [
            "- disconnect 3",
            "- exit 3: code, exited with code 1",
            "forget 3",
            "- reload 2 failed: worker 3 exited with code 1",
            "disconnect 4",
        ]
    );
    assert_eq!(cluster.picture(), ["1 listening", "2 listening", "4 disconnecting"]);
}

#[test]
fn a_replacement_that_is_late_ends_the_reload() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Reload);
    cluster.forget();
    cluster.passes(60_000);
    let told =
        ["- 2 was not ready within 60s", "SIGTERM 2", "- reload 2 failed: worker 2 was not ready within 60s"];
    assert_eq!(cluster.lines, told);
    assert_eq!(cluster.picture(), ["1 listening", "2 terminating"]);
}

#[test]
fn a_replacement_that_cannot_be_started_ends_the_reload() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Reload);
    cluster.forget();
    cluster.happens(Event::SpawnFailed { worker: id(2), reason: "no such file".into(), lasting: false });
    assert_eq!(cluster.news()[1], "- reload 2 failed: worker 2 could not be started: no such file");
    assert_eq!(cluster.picture(), ["1 listening"]);
    assert_eq!(cluster.primary.next_deadline(), None);
}

#[test]
fn a_replacement_that_loses_its_channel_first_is_not_replaced_before_it_is_judged() {
    let mut cluster = Cluster::serving(settings(3));
    cluster.happens(Event::Reload);
    cluster.forget();
    cluster.happens(Event::Disconnected { worker: id(4) });
    assert!(cluster.orders().is_empty());
    cluster.exits(4, CRASHED);
    assert_eq!(cluster.news()[1], "- reload 2 failed: worker 4 exited with code 1");
}

#[test]
fn after_a_failed_reload_the_generation_that_works_is_kept_and_the_number_is_used_up() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Reload);
    cluster.exits(2, CRASHED);
    cluster.exits(1, CRASHED);
    assert_eq!(cluster.orders().last().unwrap(), "spawn 3 in 0 of 1");
    cluster.serves(3);
    cluster.happens(Event::Reload);
    assert_eq!(cluster.orders(), ["spawn 4 in 0 of 3"]);
}

#[test]
fn an_old_worker_that_crashes_during_a_reload_is_replaced_by_its_own_generation() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.happens(Event::Reload);
    cluster.forget();
    cluster.exits(2, CRASHED);
    assert_eq!(cluster.orders(), ["forget 2", "spawn 4 in 1 of 1"]);
    cluster.serves(4);
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["disconnect 1", "spawn 5 in 1 of 2"]);
}

#[test]
fn a_reload_asked_for_during_one_follows_it() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Reload);
    cluster.happens(Event::Reload);
    cluster.serves(2);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 2", "disconnect 1"]);
    cluster.exits(1, CLEAN); // as many drain as there are slots
    assert_eq!(cluster.orders(), ["forget 1", "spawn 3 in 0 of 3"]);
    cluster.exits(3, CRASHED);
    assert_eq!(cluster.news().last().unwrap(), "- reload 3 failed: worker 3 exited with code 1");
}

#[test]
fn a_reload_revives_slots_that_were_given_up() {
    let limit = RestartSettings { limit: 1, ..RestartSettings::default() };
    let mut cluster = Cluster::serving(Settings { restart: limit, ..settings(2) });
    cluster.exits(1, CRASHED);
    cluster.forget();
    cluster.happens(Event::Reload);
    assert_eq!(cluster.orders(), ["spawn 3 in 0 of 2"]);
    cluster.serves(3);
    assert_eq!(cluster.orders(), ["spawn 4 in 1 of 2"]);
    cluster.serves(4);
    assert_eq!(cluster.news().last().unwrap(), "- reload 2 done");
}

#[test]
fn a_reload_that_fails_in_a_slot_that_was_given_up_leaves_it_so() {
    let limit = RestartSettings { limit: 1, ..RestartSettings::default() };
    let mut cluster = Cluster::serving(Settings { restart: limit, ..settings(2) });
    cluster.exits(1, CRASHED);
    cluster.happens(Event::Reload);
    cluster.forget();
    cluster.exits(3, CRASHED);
    assert_eq!(
        cluster.news()[2..],
        ["- reload 2 failed: worker 3 exited with code 1", "- slot 0 errored after 1"]
    );
    assert_eq!(cluster.picture(), ["2 listening"]);
}

#[test]
fn a_stop_ends_the_reload() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Reload);
    cluster.forget();
    cluster.happens(Event::Stop { urgency: Urgency::Graceful });
    assert_eq!(
        cluster.lines,
        ["- stopping", "- reload 2 failed: the primary stops", "disconnect 1", "SIGTERM 2"]
    );
}

#[test]
fn after_a_reload_replacements_belong_to_the_new_generation_and_start_with_a_clean_record() {
    let limit = RestartSettings { limit: 2, ..RestartSettings::default() };
    let mut cluster = Cluster::serving(Settings { restart: limit, ..settings(1) });
    cluster.exits(1, CRASHED);
    cluster.serves(2);
    cluster.happens(Event::Reload);
    cluster.serves(3);
    cluster.exits(2, CLEAN);
    cluster.passes(10_000);
    cluster.forget();
    cluster.exits(3, CRASHED);
    assert_eq!(cluster.orders(), ["forget 3", "spawn 4 in 0 of 2"]);
}
