//! One worker's life: the order of its news, its deadlines, its end.

use super::*;

#[test]
fn a_worker_that_serves_and_crashes_is_told_of_in_order() {
    let mut cluster = Cluster::new(settings(1));
    assert_eq!(cluster.orders(), ["spawn 1 in 0 of 1"]);
    cluster.serves(1);
    cluster.happens(Event::Disconnected { worker: id(1) });
    cluster.exits(1, KILLED);
    assert_eq!(
        cluster.news(),
        [
            "- spawned 1 as 101",
            "- online 1",
            "- listening 1 on 0",
            "- ready 1",
            "- disconnect 1",
            "- exit 1: signal, killed by SIGKILL",
            "- restart 0 after failure 1",
        ]
    );
}

#[test]
fn a_missing_disconnect_is_supplied_before_the_exit() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.exits(1, CRASHED);
    assert_eq!(cluster.news()[..2], ["- disconnect 1", "- exit 1: code, exited with code 1"]);
}

#[test]
fn a_worker_that_listens_before_it_said_online_is_online_first() {
    let mut cluster = Cluster::new(settings(1));
    cluster.forget();
    cluster.happens(Event::Listening { worker: id(1), listener: HTTP });
    cluster.happens(Event::Online { worker: id(1) });
    assert_eq!(cluster.news(), ["- online 1", "- listening 1 on 0", "- ready 1"]);
}

#[test]
fn what_is_said_twice_is_told_once() {
    let mut cluster = Cluster::new(settings(1));
    cluster.serves(1);
    cluster.happens(Event::Disconnected { worker: id(1) });
    cluster.forget();
    cluster.happens(Event::Online { worker: id(1) });
    cluster.happens(Event::Spawned { worker: id(1), pid: 5 });
    cluster.happens(Event::Listening { worker: id(1), listener: HTTP });
    cluster.happens(Event::Disconnected { worker: id(1) });
    assert!(cluster.lines.is_empty());
}

#[test]
fn events_for_workers_that_are_gone_are_ignored() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.exits(1, KILLED);
    cluster.forget();
    let worker = id(1);
    for event in [
        Event::Spawned { worker, pid: 1 },
        Event::SpawnFailed { worker, reason: String::new(), lasting: false },
        Event::Online { worker },
        Event::Listening { worker, listener: HTTP },
        Event::StoppedListening { worker, listener: HTTP },
        Event::Ready { worker },
        Event::Leaving { worker },
        Event::Disconnected { worker },
        Event::Exited { worker, status: CLEAN },
        Event::Disconnect { worker },
        Event::Kill { worker, signal: 9 },
        Event::Memory { worker, resident: u64::MAX },
    ] {
        cluster.happens(event);
    }
    assert!(cluster.lines.is_empty());
    assert_eq!(cluster.picture(), ["2 starting"]);
}

#[test]
fn a_worker_that_is_not_ready_in_time_goes_down_the_ladder_and_counts_as_a_failure() {
    let mut cluster = Cluster::new(settings(1));
    cluster.happens(Event::Online { worker: id(1) });
    cluster.forget();
    cluster.passes(59_999);
    assert!(cluster.lines.is_empty());
    cluster.passes(1);
    assert_eq!(cluster.lines, ["- 1 was not ready within 60s", "SIGTERM 1", "- restart 0 after failure 1"]);
    cluster.forget();
    cluster.passes(2_000);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 1", "SIGKILL 1"]);
    cluster.exits(1, KILLED);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: not_ready, killed by SIGKILL"]);
}

#[test]
fn a_kill_is_repeated_until_the_process_is_gone() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Stop { urgency: Urgency::Fast });
    cluster.passes(6_000);
    assert_eq!(cluster.orders(), ["SIGTERM 1", "SIGKILL 1", "SIGKILL 1", "SIGKILL 1"]);
}

#[test]
fn under_notified_a_worker_is_ready_when_it_says_so() {
    let mut cluster = Cluster::new(Settings { readiness: Readiness::Notified, ..settings(1) });
    cluster.forget();
    cluster.happens(Event::Listening { worker: id(1), listener: HTTP });
    assert_eq!(cluster.assign(1), [0]);
    cluster.happens(Event::Ready { worker: id(1) });
    cluster.happens(Event::Ready { worker: id(1) });
    assert_eq!(cluster.news(), ["- online 1", "- listening 1 on 0", "- ready 1"]);
    assert_eq!(cluster.assign(1), [1]);
}

#[test]
fn under_online_a_worker_is_ready_when_it_has_started() {
    let mut cluster = Cluster::new(Settings { readiness: Readiness::Online, ..settings(1) });
    cluster.forget();
    cluster.happens(Event::Online { worker: id(1) });
    assert_eq!(cluster.news(), ["- online 1", "- ready 1"]);
    assert_eq!(cluster.primary.next_deadline(), None);
}

#[test]
fn a_worker_told_to_leave_drains_and_is_replaced_at_once() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Disconnect { worker: id(1) });
    assert_eq!(cluster.orders(), ["disconnect 1", "spawn 2 in 0 of 1"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: disconnect, exited with code 0, asked to"]);
}

#[test]
fn a_worker_told_to_leave_that_stays_goes_down_the_ladder() {
    let mut cluster = Cluster::serving(Settings {
        restart: RestartSettings { policy: RestartPolicy::OnFailure, ..RestartSettings::default() },
        ..settings(1)
    });
    cluster.happens(Event::Disconnect { worker: id(1) });
    cluster.passes(7_999);
    assert_eq!(cluster.orders(), ["disconnect 1"]);
    cluster.passes(1);
    assert_eq!(cluster.orders(), ["SIGTERM 1"]);
    cluster.passes(2_000);
    assert_eq!(cluster.orders(), ["SIGKILL 1"]);
    cluster.exits(1, KILLED);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: disconnect, killed by SIGKILL, asked to"]);
    assert!(cluster.primary.is_finished());
}

#[test]
fn a_worker_that_leaves_by_itself_needs_not_be_told() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Leaving { worker: id(1) });
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 1"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: disconnect, exited with code 0, asked to"]);
}

#[test]
fn workers_that_leave_as_soon_as_they_come_are_not_forked_without_end() {
    let mut cluster = Cluster::new(settings(1));
    cluster.forget();
    cluster.happens(Event::Leaving { worker: id(1) });
    assert!(cluster.orders().is_empty());
    cluster.passes(200);
    assert_eq!(cluster.orders(), ["spawn 2 in 0 of 1"]);
}

#[test]
fn a_channel_that_ends_unasked_leaves_the_process_its_drain_time() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Disconnected { worker: id(1) });
    assert_eq!(cluster.lines, ["- disconnect 1"]);
    assert_eq!(cluster.assign(1), [0]);
    cluster.forget();
    cluster.passes(8_000);
    assert_eq!(cluster.orders(), ["SIGTERM 1", "spawn 2 in 0 of 1"]);
    cluster.exits(1, ExitStatus::Signal(15));
    assert_eq!(cluster.news(), ["- exit 1: disconnect, killed by SIGTERM"]);
}

#[test]
fn an_operators_signal_changes_nothing_by_itself() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::Kill { worker: id(1), signal: 10 });
    assert_eq!(cluster.lines, ["SIGUSR1 1"]);
    assert_eq!(cluster.picture(), ["1 listening"]);
}

#[test]
fn a_worker_without_a_channel_that_stays_counts_as_a_failure() {
    let deadlines = Deadlines { drain: Duration::from_secs(3), ..Deadlines::default() };
    let mut cluster = Cluster::new(Settings { deadlines, ..settings(1) });
    cluster.serves(1);
    cluster.happens(Event::Disconnected { worker: id(1) });
    cluster.forget();
    cluster.passes(3_000);
    assert_eq!(
        cluster.lines,
        ["- 1 has not finished within 3s, 0 open", "SIGTERM 1", "- restart 0 after failure 1"]
    );
}

#[test]
fn telling_a_failed_worker_to_leave_does_not_revive_its_slot() {
    let limit = RestartSettings { limit: 1, ..RestartSettings::default() };
    let mut cluster = Cluster::new(Settings { restart: limit, ..settings(2) });
    cluster.serves(2);
    cluster.passes(60_000);
    assert_eq!(cluster.news().last().unwrap(), "- slot 0 errored after 1");
    cluster.happens(Event::Disconnect { worker: id(1) });
    assert!(cluster.orders().is_empty());
}

#[test]
fn a_worker_taken_for_ready_by_mistake_counts_as_never_ready() {
    let settings = Settings { readiness: Readiness::Notified, ..settings(1) };
    let mut cluster = Cluster::new(settings);
    for worker in 1..=6 {
        cluster.happens(Event::Spawned { worker: id(worker), pid: 100 + worker });
        cluster.happens(Event::Ready { worker: id(worker) });
        cluster.happens(Event::Mistaken { worker: id(worker) });
        cluster.exits(worker, CRASHED);
        cluster.passes(5_000);
    }
    assert!(cluster.primary.is_finished(), "nobody was ever ready, and it has failed six times");
    assert_eq!(cluster.primary.outcome(), Outcome::AllErrored);
}
