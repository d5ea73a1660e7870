//! What follows when a worker ends that nobody had asked to.

use super::*;

fn with_policy(policy: RestartPolicy, workers: u32) -> Settings {
    Settings { restart: RestartSettings { policy, ..RestartSettings::default() }, ..settings(workers) }
}

#[test]
fn the_first_failure_after_a_healthy_run_is_replaced_at_once() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.exits(1, KILLED);
    assert_eq!(cluster.orders(), ["forget 1", "spawn 3 in 0 of 1"]);
}

#[test]
fn a_failure_without_a_healthy_run_is_replaced_after_a_delay_that_grows() {
    let restart = RestartSettings { start_limit: 100, ..RestartSettings::default() };
    let mut cluster = Cluster::new(Settings { restart, ..settings(1) });
    let mut delays = Vec::new();
    for worker in 1..=9 {
        cluster.exits(worker, CRASHED);
        let (failed, before) = (cluster.now, cluster.primary.next_worker);
        cluster.forget();
        while cluster.primary.next_worker == before {
            cluster.passes(1);
        }
        assert_eq!(cluster.orders(), [format!("spawn {} in 0 of 1", worker + 1)]);
        delays.push((cluster.now - failed).as_millis());
    }
    for (delay, most) in delays.into_iter().zip([200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000])
    {
        assert!(delay <= most && delay >= most * 3 / 4, "{delay} of {most}");
    }
}

#[test]
fn a_slot_that_fails_too_often_is_given_up_and_the_others_serve_on() {
    let mut cluster = Cluster::serving(settings(2));
    let mut failing = 1;
    for _ in 0..10 {
        cluster.exits(failing, CRASHED);
        cluster.passes(30_000);
        failing = cluster.primary.next_worker - 1;
    }
    assert_eq!(cluster.news().last().unwrap(), "- slot 0 errored after 10");
    assert_eq!(cluster.picture(), ["2 listening"]);
    assert_eq!(cluster.primary.next_deadline(), None);
    assert!(!cluster.primary.is_finished());
    assert_eq!(cluster.assign(1), [2]);
}

#[test]
fn when_every_slot_is_given_up_the_primary_is_finished() {
    let limit = RestartSettings { limit: 1, ..RestartSettings::default() };
    let mut cluster = Cluster::new(Settings { restart: limit, ..settings(2) });
    cluster.exits(1, CRASHED);
    assert!(!cluster.primary.is_finished());
    cluster.happens(Event::SpawnFailed { worker: id(2), reason: "no such file".into(), lasting: false });
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.outcome(), Outcome::AllErrored);
}

#[test]
fn a_process_that_cannot_be_started_is_an_error_and_a_failure_but_no_exit() {
    let mut cluster = Cluster::new(settings(1));
    cluster.forget();
    cluster.happens(Event::SpawnFailed { worker: id(1), reason: "no such file".into(), lasting: false });
    assert_eq!(cluster.lines, ["- error 1: no such file", "forget 1", "- restart 0 after failure 1"]);
}

#[test]
fn a_program_that_cannot_be_executed_is_not_tried_again_unless_it_once_was() {
    let lasting = |worker| Event::SpawnFailed { worker: id(worker), reason: "gone".into(), lasting: true };
    let mut cluster = Cluster::new(settings(2));
    cluster.happens(lasting(1));
    cluster.happens(lasting(2));
    assert!(!cluster.lines.iter().any(|line| line.contains("restart")), "{:?}", cluster.lines);
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.outcome(), Outcome::AllErrored);

    let mut cluster = Cluster::serving(settings(1));
    cluster.exits(1, KILLED);
    cluster.forget();
    cluster.happens(lasting(2));
    assert_eq!(cluster.news(), ["- error 2: gone", "- restart 0 after failure 2"]);
}

/// Fails whoever is there, at once, until nothing is left to do or `most` have failed; how many failed.
fn fails_again_and_again(cluster: &mut Cluster, most: usize) -> usize {
    for failed in 0..most {
        let Some(worker) = cluster.primary.workers.first().map(|worker| worker.id.get()) else {
            return failed;
        };
        cluster.exits(worker, CRASHED);
        while cluster.primary.workers.is_empty() && !cluster.primary.is_finished() {
            cluster.passes(100);
        }
    }
    most
}

#[test]
fn where_nobody_was_ever_ready_a_few_quick_failures_of_every_slot_are_enough() {
    let mut cluster = Cluster::new(settings(1));
    assert_eq!(fails_again_and_again(&mut cluster, 100), 6);
    assert_eq!(cluster.news().last().unwrap(), "- slot 0 errored after 6");
    assert!(cluster.now - Time::ZERO < Duration::from_secs(7));
    assert_eq!(cluster.primary.outcome(), Outcome::AllErrored);

    let mut cluster = Cluster::new(settings(3));
    assert!((18..=24).contains(&fails_again_and_again(&mut cluster, 100)));
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.outcome(), Outcome::AllErrored);
}

#[test]
fn whoever_was_ready_or_takes_its_time_to_fail_has_more_attempts() {
    let mut served = Cluster::serving(settings(1));
    assert_eq!(fails_again_and_again(&mut served, 100), 10);

    // One slot that has not failed: it may yet be ready, and the other one with it.
    let mut cluster = Cluster::new(settings(2));
    for _ in 0..9 {
        let worker = cluster.primary.workers.iter().find(|worker| worker.slot.get() == 0);
        cluster.exits(worker.unwrap().id.get(), CRASHED);
        cluster.passes(30_000);
    }
    assert!(!cluster.news().iter().any(|line| line.contains("errored")));

    let mut slow = Cluster::new(settings(1));
    for worker in 1..=7 {
        slow.passes(30_000);
        slow.exits(worker, CRASHED);
        slow.passes(20_000);
    }
    assert!(!slow.primary.is_finished());
}

#[test]
fn under_always_a_clean_exit_is_replaced_too() {
    let mut cluster = Cluster::serving(with_policy(RestartPolicy::Always, 1));
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.orders(), ["forget 1", "spawn 2 in 0 of 1"]);
}

#[test]
fn under_on_failure_a_clean_exit_leaves_the_slot_empty() {
    let mut cluster = Cluster::serving(with_policy(RestartPolicy::OnFailure, 2));
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.orders(), ["forget 1"]);
    cluster.exits(2, CRASHED);
    assert_eq!(cluster.orders(), ["forget 2", "spawn 3 in 1 of 1"]);
    cluster.exits(3, CLEAN);
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.outcome(), Outcome::Completed);
}

#[test]
fn under_never_nobody_is_replaced() {
    let mut cluster = Cluster::serving(with_policy(RestartPolicy::Never, 2));
    cluster.exits(1, KILLED);
    cluster.exits(2, CLEAN);
    assert_eq!(cluster.orders(), ["forget 1", "forget 2"]);
    assert_eq!(cluster.primary.outcome(), Outcome::Completed);
    assert!(cluster.primary.is_finished());
}

#[test]
fn a_silent_worker_is_killed_when_a_time_out_is_set() {
    let mut cluster = Cluster::serving(Settings { hung: Some(Duration::from_secs(5)), ..settings(1) });
    cluster.assign(1);
    cluster.passes(4_999);
    assert_eq!(cluster.orders(), ["withdraw 1"]); // hung after a second
    cluster.passes(1);
    assert_eq!(cluster.orders(), ["withdraw 1", "SIGTERM 1", "spawn 2 in 0 of 1"]);
    cluster.passes(2_000);
    assert_eq!(cluster.orders(), ["SIGKILL 1"]);
    cluster.exits(1, KILLED);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: hung, killed by SIGKILL"]);
}

#[test]
fn one_turn_of_a_workers_loop_that_takes_too_long_counts_as_silence() {
    let mut cluster = Cluster::serving(Settings { hung: Some(Duration::from_secs(5)), ..settings(1) });
    let busy = Counters { turn: 7, awake: true, ..Counters::default() };
    cluster.primary.observe(id(1), busy, cluster.now);
    cluster.passes(4_000);
    cluster.primary.observe(id(1), Counters { turn: 8, ..busy }, cluster.now);
    cluster.passes(4_999);
    assert!(cluster.orders().is_empty());
    cluster.passes(1);
    assert_eq!(cluster.lines, ["- 1 was silent for 5s", "SIGTERM 1", "spawn 2 in 0 of 1", "- fork 2"]);
}
