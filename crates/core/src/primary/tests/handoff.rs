//! Who gets a connection, and what becomes of those that are not taken.

use super::*;

fn rr(workers: u32) -> Settings {
    Settings { policy: crate::Policy::RoundRobin, ..settings(workers) }
}

/// Lets one connection arrive every 25 µs for a while, so that the credit rises to what such a rate deserves.
fn hurry(cluster: &mut Cluster) {
    for n in 1..10_000 {
        cluster.now = cluster.now + Duration::from_micros(25);
        let worker = cluster.assign(1)[0];
        assert_ne!(worker, 0, "connection {n}");
        let handed = cluster.primary.snapshot().workers[worker as usize - 1].handed;
        cluster.observe(worker, handed, handed, handed);
    }
}

#[test]
fn idle_workers_take_turns() {
    let mut cluster = Cluster::serving(rr(3));
    assert_eq!(cluster.assign(4), [1, 2, 3, 0]);
    cluster.observe(2, 1, 1, 0);
    assert_eq!(cluster.assign(1), [2]);
}

#[test]
fn least_prefers_the_fewest_live_connections() {
    let mut cluster = Cluster::serving(settings(2));
    assert_eq!(cluster.assign(2), [1, 2]);
    cluster.observe(1, 1, 1, 0); // keeps its connection open
    cluster.observe(2, 1, 1, 1);
    for closed in 2..10 {
        assert_eq!(cluster.assign(1), [2]);
        cluster.observe(2, closed, closed, closed);
    }
}

#[test]
fn equals_share_evenly() {
    let mut cluster = Cluster::serving(settings(2));
    let mut given = [0; 3];
    for _ in 0..1_000 {
        let worker = cluster.assign(1)[0];
        given[worker as usize] += 1;
        cluster.observe(worker, given[worker as usize], given[worker as usize], given[worker as usize]);
    }
    assert_eq!(given, [0, 500, 500]);
}

/// Lets connections arrive, one every 2 ms, each of which is served at once except by the `stuck` worker. How many each
/// worker was given.
fn spread(cluster: &mut Cluster, connections: usize, stuck: Option<u32>) -> Vec<u64> {
    let handed = |cluster: &Cluster| -> Vec<u64> {
        cluster.primary.snapshot().workers.iter().map(|worker| worker.handed).collect()
    };
    let before = handed(cluster);
    for _ in 0..connections {
        cluster.passes(2);
        let worker = cluster.assign(1)[0];
        assert_ne!(worker, 0, "somebody is free");
        let taken = cluster.primary.snapshot().workers[worker as usize - 1].handed;
        match stuck == Some(worker) {
            true => cluster.observe(worker, taken, taken - 1, taken - 1),
            false => cluster.observe(worker, taken, taken, taken),
        }
    }
    handed(cluster).iter().zip(before).map(|(after, before)| after - before).collect()
}

/// The worker gets through with what held it up.
fn comes_through(cluster: &mut Cluster, worker: u32) {
    let handed = cluster.primary.snapshot().workers[worker as usize - 1].handed;
    cluster.observe(worker, handed, handed, handed);
}

#[test]
fn a_worker_that_was_busy_for_a_while_makes_up_for_what_it_missed() {
    for settings in [rr(2), settings(2)] {
        let mut cluster = Cluster::serving(settings);
        spread(&mut cluster, 5_000, None);
        assert_eq!(spread(&mut cluster, 50, Some(1)), [1, 49]);
        comes_through(&mut cluster, 1);
        let after = spread(&mut cluster, 100, None);
        assert!((72..=74).contains(&after[0]), "{after:?}: half of 150 in all, as good as");
        assert_eq!(spread(&mut cluster, 100, None), [50, 50]);
    }
}

#[test]
fn a_worker_that_was_busy_for_long_gets_some_hundred_in_a_row_and_no_more() {
    for settings in [rr(2), settings(2)] {
        let mut cluster = Cluster::serving(settings);
        assert_eq!(spread(&mut cluster, 20_000, Some(1))[0], 1);
        comes_through(&mut cluster, 1);
        let after = spread(&mut cluster, 1_000, None);
        assert!((800..=900).contains(&after[0]), "{after:?}");
        assert_eq!(spread(&mut cluster, 1_000, None), [500, 500]);
    }
}

#[test]
fn a_worker_that_comes_to_serve_takes_its_share_and_not_all_there_are() {
    for settings in [rr(2), settings(2)] {
        let mut cluster = Cluster::serving(settings);
        spread(&mut cluster, 5_000, None);
        cluster.happens(Event::Scale { workers: 3 });
        cluster.serves(3);
        assert_eq!(spread(&mut cluster, 300, None), [100, 100, 100]);
    }
}

#[test]
fn what_came_back_from_a_worker_is_not_held_against_it() {
    let mut cluster = Cluster::serving(rr(2));
    hurry(&mut cluster);
    let mut served: Vec<u64> =
        cluster.primary.snapshot().workers.iter().map(|worker| worker.handed).collect();
    // Both get eight; all that the first one got comes back and goes to the second.
    assert_eq!(cluster.assign(16).iter().filter(|&&worker| worker == 1).count(), 8);
    cluster.primary.returned(id(1), 8);
    served[1] += 8;
    cluster.observe(2, served[1], served[1], served[1]);
    assert_eq!(cluster.assign(8), [2; 8]);
    served[1] += 8;
    cluster.observe(2, served[1], served[1], served[1]);
    cluster.now = cluster.now + Duration::from_millis(1);
    assert_eq!(cluster.assign(8), [1; 8], "it has missed sixteen, and has room for eight");
}

#[test]
fn credit_returns_with_the_first_turn_not_with_the_taking() {
    let mut cluster = Cluster::serving(settings(1));
    assert_eq!(cluster.assign(2), [1, 0]);
    cluster.observe(1, 1, 0, 0);
    assert_eq!(cluster.assign(1), [0]);
    cluster.observe(1, 1, 1, 0);
    assert_eq!(cluster.assign(1), [1]);
}

#[test]
fn the_credit_follows_the_rate() {
    let mut cluster = Cluster::serving(settings(2));
    assert_eq!(cluster.primary.gather(cluster.now), None);
    hurry(&mut cluster);
    assert_eq!(cluster.primary.snapshot().credit, 8); // 40,000/s in 400 µs, by two
    assert_eq!(cluster.primary.gather(cluster.now), Some(Duration::from_micros(100)));
    let given = cluster.assign(20);
    assert_eq!(given.iter().filter(|&&worker| worker != 0).count(), 16);
    cluster.passes(1_000);
    assert_eq!(cluster.primary.gather(cluster.now), None);
}

#[test]
fn what_happens_between_two_connections_of_one_moment_counts_for_the_second() {
    let mut cluster = Cluster::serving(settings(2));
    hurry(&mut cluster);
    let credit = cluster.primary.snapshot().credit as usize;
    let first = cluster.assign(1)[0];
    cluster.primary.returned(id(first), 1);
    assert_eq!(cluster.assign(1), [3 - first], "who gave one back is left alone for a moment");
    cluster.primary.lost(id(3 - first), 1);
    assert!(cluster.primary.anyone_free(HTTP, cluster.now));
    (0..credit).for_each(|_| cluster.primary.hand_to(id(3 - first), cluster.now));
    assert_eq!(cluster.assign(1), [0], "what it holds by other means uses up its credit as well");
}

#[test]
fn a_stuck_worker_gets_nothing_more() {
    let mut cluster = Cluster::serving(settings(2));
    hurry(&mut cluster);
    let first = cluster.assign(1)[0];
    let other = 3 - first;
    cluster.now = cluster.now + Duration::from_micros(300);
    assert_eq!(cluster.assign(3), [other; 3]);
}

#[test]
fn a_worker_in_one_turn_for_too_long_gets_nothing_even_without_load() {
    let mut cluster = Cluster::serving(settings(1));
    let busy = Counters { turn: 1, awake: true, ..Counters::default() };
    cluster.primary.observe(id(1), busy, cluster.now);
    assert!(cluster.primary.anyone_free(HTTP, cluster.now));
    cluster.now = cluster.now + Duration::from_micros(300);
    cluster.primary.observe(id(1), busy, cluster.now);
    assert!(!cluster.primary.anyone_free(HTTP, cluster.now));
    cluster.primary.observe(id(1), Counters { turn: 2, ..busy }, cluster.now);
    assert!(cluster.primary.anyone_free(HTTP, cluster.now));
}

#[test]
fn what_a_stuck_worker_holds_may_go_to_one_that_is_free() {
    let mut cluster = Cluster::serving(settings(2));
    assert_eq!(cluster.assign(1), [1]);
    cluster.now = cluster.now + Duration::from_micros(999);
    assert_eq!(cluster.primary.withdrawable(cluster.now).count(), 0);
    cluster.now = cluster.now + Duration::from_micros(1);
    assert_eq!(cluster.primary.withdrawable(cluster.now).collect::<Vec<_>>(), [id(1)]);
    cluster.primary.returned(id(1), 1);
    assert_eq!(cluster.primary.withdrawable(cluster.now).count(), 0);
    assert_eq!(cluster.primary.assign(HTTP, None, cluster.now), Assignment::To(id(2)));
}

#[test]
fn what_is_lost_on_its_way_back_takes_no_credit() {
    let mut cluster = Cluster::serving(settings(1));
    assert_eq!(cluster.assign(2), [1, 0]);
    cluster.primary.lost(id(1), 1);
    assert_eq!(cluster.assign(2), [1, 0], "another takes its place");
    let Totals { sent, returned, outstanding, lost, .. } = cluster.primary.snapshot().connections;
    assert_eq!((sent, returned, outstanding, lost), (2, 0, 1, 1));
    cluster.exits(1, ExitStatus::Signal(9));
    cluster.primary.lost(id(1), 1);
    assert_eq!(cluster.primary.snapshot().connections.lost, 2, "the first, and what it had not taken");
}

#[test]
fn nothing_is_withdrawn_when_nobody_else_is_free() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.assign(2);
    cluster.now = cluster.now + Duration::from_millis(2);
    assert_eq!(cluster.primary.withdrawable(cluster.now).count(), 0);
    cluster.observe(2, 1, 1, 1);
    assert_eq!(cluster.primary.withdrawable(cluster.now).collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn a_connection_untaken_for_a_second_takes_its_worker_out_of_rotation() {
    let mut cluster = Cluster::serving(settings(2));
    assert_eq!(cluster.assign(1), [1]);
    cluster.passes(999);
    assert!(cluster.lines.is_empty());
    cluster.passes(1);
    assert_eq!(cluster.lines, ["- hung 1", "withdraw 1"]);
    cluster.primary.returned(id(1), 1);
    assert_eq!(cluster.assign(1), [2]);
    cluster.observe(2, 1, 1, 1);
    assert_eq!(cluster.assign(1), [2]);
}

#[test]
fn a_hung_worker_that_moves_is_back() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.passes(1_000);
    assert_eq!(cluster.news(), ["- hung 1"]);
    assert_eq!(cluster.assign(1), [0]);
    cluster.observe(1, 1, 1, 0);
    assert_eq!(cluster.news(), ["- recovered 1"]);
    assert_eq!(cluster.assign(1), [1]);
}

#[test]
fn a_hung_worker_with_nothing_to_show_is_tried_with_one_connection_a_second() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.passes(1_000);
    cluster.primary.returned(id(1), 1);
    assert_eq!(cluster.assign(1), [0]);
    assert!(cluster.primary.next_deadline().is_some());
    cluster.passes(1_000);
    assert_eq!(cluster.assign(2), [1, 0]);
    cluster.primary.returned(id(1), 1);
    assert_eq!(cluster.assign(1), [0]);
    cluster.passes(1_000);
    assert_eq!(cluster.assign(1), [1]);
    cluster.observe(1, 1, 0, 0);
    assert_eq!(cluster.news(), ["- hung 1", "- recovered 1"]);
}

#[test]
fn a_worker_is_asked_for_only_on_listeners_it_serves() {
    let mut cluster = Cluster::serving(settings(2));
    let admin = ListenerKey::new(1);
    assert_eq!(cluster.primary.assign(admin, None, cluster.now), Assignment::Wait);
    cluster.happens(Event::Listening { worker: id(2), listener: admin });
    assert_eq!(cluster.primary.assign(admin, None, cluster.now), Assignment::To(id(2)));
    cluster.happens(Event::StoppedListening { worker: id(2), listener: admin });
    assert_eq!(cluster.orders(), ["withdraw 2"]);
    assert!(!cluster.primary.anyone_free(admin, cluster.now));
}

#[test]
fn the_connections_of_a_dead_worker_are_read_back_and_counted() {
    let mut cluster = Cluster::serving(settings(1));
    hurry(&mut cluster);
    let before = cluster.primary.snapshot().connections;
    cluster.assign(3);
    cluster.observe(1, before.taken + 1, before.taken, before.taken);
    cluster.forget();
    cluster.exits(1, KILLED);
    assert_eq!(cluster.orders()[..2], ["withdraw 1", "forget 1"]);
    assert_eq!(cluster.primary.snapshot().connections.lost, 2);
    cluster.primary.returned(id(1), 2);
    let after = cluster.primary.snapshot().connections;
    assert_eq!((after.lost, after.returned, after.taken), (0, 2, before.taken + 1));
    assert_eq!(after.sent, after.taken + after.returned);
}

#[test]
fn a_starved_primary_knows_when_to_wake() {
    let mut cluster = Cluster::serving(settings(1));
    assert_eq!(cluster.assign(2), [1, 0]);
    assert_eq!(cluster.primary.wake_at(id(1)), 1);
    hurry_after_ready(&mut cluster);
    let credit = cluster.primary.snapshot().credit;
    let handed = cluster.primary.snapshot().workers[0].handed;
    let given = cluster.assign(40).iter().filter(|&&worker| worker == 1).count() as u64;
    assert_eq!(given, credit);
    let low = handed + credit - credit / 2;
    assert_eq!(cluster.primary.wake_at(id(1)), low, "one wake-up for half of what it may hold");
    assert_eq!(cluster.primary.wake_at(id(9)), u64::MAX);
    let working = |ready| Counters { taken: ready, ready, closed: ready, turn: 1, awake: true };
    cluster.primary.observe(id(1), working(low - 1), cluster.now);
    assert!(cluster.primary.anyone_free(HTTP, cluster.now) && !cluster.primary.anyone_low(HTTP, cluster.now));
    cluster.primary.observe(id(1), Counters { awake: false, ..working(low - 1) }, cluster.now);
    assert!(cluster.primary.anyone_low(HTTP, cluster.now), "whoever sleeps rings no more");
    cluster.primary.observe(id(1), working(low), cluster.now);
    assert!(cluster.primary.anyone_low(HTTP, cluster.now));
}

#[test]
fn the_credit_grows_while_workers_run_dry_with_connections_waiting_and_shrinks_after() {
    let mut cluster = Cluster::serving(settings(2));
    let mut served = [0; 3];
    let mut turn = |cluster: &mut Cluster, arrive: usize| {
        // Far too slowly for the rate to deserve any credit.
        cluster.passes(10);
        let given = cluster.assign(arrive);
        let left = given.iter().filter(|&&worker| worker == 0).count();
        given.iter().for_each(|&worker| served[worker as usize] += 1);
        cluster.primary.drained(left > 0);
        (1..=2).for_each(|worker| {
            cluster.observe(worker as u32, served[worker], served[worker], served[worker])
        });
        arrive - left
    };
    let gives: Vec<_> = (0..6).map(|_| turn(&mut cluster, 60)).collect();
    assert_eq!(gives, [2, 4, 8, 16, 32, 32]);
    (0..40).for_each(|_| assert_eq!(turn(&mut cluster, 1), 1));
    assert_eq!(turn(&mut cluster, 60), 2);
}

fn hurry_after_ready(cluster: &mut Cluster) {
    cluster.observe(1, 1, 1, 1);
    hurry(cluster);
}

#[test]
fn a_listener_is_served_by_whoever_is_ready_however_busy() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    assert!(cluster.primary.is_served(HTTP) && !cluster.primary.anyone_free(HTTP, cluster.now));
    assert!(!cluster.primary.is_served(ListenerKey::new(1)));
    cluster.happens(Event::Disconnect { worker: id(1) });
    assert!(!cluster.primary.is_served(HTTP));
    assert!(cluster.primary.is_leaving(id(1)) && !cluster.primary.is_leaving(id(2)));
    assert!(cluster.primary.is_leaving(id(9)));
}

#[test]
fn under_shared_the_primary_assigns_nothing() {
    let mut cluster = Cluster::serving(Settings { policy: crate::Policy::Shared, ..settings(1) });
    assert!(!cluster.primary.anyone_free(HTTP, cluster.now));
    assert_eq!(cluster.assign(1), [0]);
}

#[test]
fn a_policy_of_ones_own_may_choose_among_the_free_and_nobody_else() {
    #[derive(Debug)]
    struct Always(WorkerId);
    impl SchedulingPolicy for Always {
        fn pick(&mut self, _: &crate::Candidates<'_>) -> Option<WorkerId> {
            Some(self.0)
        }
    }
    let mut cluster = Cluster::serving(settings(2));
    cluster.primary = cluster.primary.with_scheduling(Box::new(Always(id(2))));
    assert_eq!(cluster.assign(2), [2, 0]);
}

#[test]
fn a_primary_that_has_slept_judges_nobody_by_what_it_knew_before() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.now = cluster.now + Duration::from_secs(3600);
    cluster.primary.handle_deadline(cluster.now);
    assert!(cluster.primary.take_effects().is_empty());
    cluster.observe(1, 1, 1, 1);
    cluster.primary.handle_deadline(cluster.now);
    assert!(cluster.primary.take_effects().is_empty());
}

#[test]
fn a_worker_whose_connections_all_came_back_does_not_hang() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.primary.returned(id(1), 1);
    cluster.passes(5_000);
    assert!(cluster.lines.is_empty());
    assert_eq!(cluster.primary.next_deadline(), None);
}

#[test]
fn a_hung_worker_that_still_holds_a_connection_is_not_tried() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.passes(5_000);
    assert_eq!(cluster.news(), ["- hung 1"]);
    assert_eq!(cluster.assign(1), [0]);
    cluster.primary.returned(id(1), 1);
    let busy = Counters { awake: true, ..Counters::default() };
    cluster.primary.observe(id(1), busy, cluster.now);
    cluster.passes(1);
    assert_eq!(cluster.assign(1), [0]);
    cluster.primary.observe(id(1), Counters::default(), cluster.now);
    assert_eq!(cluster.assign(1), [1]);
}

/// How long a worker that has just given a connection back gets none, in milliseconds.
fn pause(cluster: &mut Cluster) -> u64 {
    cluster.primary.returned(id(1), 1);
    (0..)
        .find(|_| {
            cluster.assign(1) == [1] || {
                cluster.passes(1);
                false
            }
        })
        .unwrap()
}

#[test]
fn a_worker_that_declines_is_left_alone_longer_each_time_until_it_takes_or_closes_something() {
    let mut cluster = Cluster::serving(settings(1));
    assert_eq!(cluster.assign(1), [1]);
    let pauses: Vec<_> = (0..4).map(|_| pause(&mut cluster)).collect();
    assert_eq!(pauses, [1, 2, 4, 8]);
    cluster.observe(1, 1, 1, 0);
    assert_eq!(cluster.assign(1), [1]);
    assert_eq!(pause(&mut cluster), 1);
    cluster.primary.returned(id(1), 1);
    assert_eq!(cluster.assign(1), [0]);
    cluster.observe(1, 1, 1, 1);
    assert_eq!(cluster.assign(1), [1]);
}

#[test]
fn a_worker_that_is_alive_and_takes_nothing_is_relieved_all_the_same() {
    let mut cluster = Cluster::serving(settings(2));
    assert_eq!(cluster.assign(1), [1]);
    for turn in 1..=10 {
        cluster.now = cluster.now + Duration::from_micros(100);
        cluster.primary.observe(id(1), Counters { turn, awake: true, ..Counters::default() }, cluster.now);
    }
    assert_eq!(cluster.primary.withdrawable(cluster.now).collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn a_worker_that_hung_although_it_was_alive_is_back_when_it_takes_something() {
    let mut cluster = Cluster::serving(Settings { hung: Some(Duration::from_secs(5)), ..settings(1) });
    cluster.assign(1);
    let live = |cluster: &mut Cluster, turn, taken| {
        cluster.primary.observe(id(1), Counters { turn, taken, ..Counters::default() }, cluster.now);
        cluster.collect();
    };
    for turn in 1..=9_000 {
        cluster.passes(1);
        live(&mut cluster, turn, 0);
    }
    assert_eq!(cluster.lines, ["- hung 1", "withdraw 1"]); // and not killed: it is not silent
    cluster.forget();
    live(&mut cluster, 9_001, 1);
    assert_eq!(cluster.lines, ["- recovered 1"]);
}

#[test]
fn a_worker_that_is_back_has_its_time_for_what_it_still_holds() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.passes(60_000);
    cluster.primary.observe(id(1), Counters { turn: 1, ..Counters::default() }, cluster.now);
    cluster.collect();
    cluster.passes(999);
    assert_eq!(cluster.news(), ["- hung 1", "- recovered 1"]);
    cluster.passes(1);
    assert_eq!(cluster.news(), ["- hung 1"]);
}

#[test]
fn a_worker_that_holds_its_most_is_passed_over_until_one_is_closed() {
    let limits = Limits { per_worker: Some(2), ..Limits::default() };
    let mut cluster = Cluster::serving(Settings { limits, ..settings(2) });
    assert_eq!(cluster.assign(2), [1, 2]);
    (1..=2).for_each(|worker| cluster.observe(worker, 1, 1, 0));
    assert_eq!(cluster.assign(2), [1, 2]);
    (1..=2).for_each(|worker| cluster.observe(worker, 2, 2, 0));
    assert_eq!(cluster.assign(1), [0], "both are full, however free they are");
    assert_eq!(cluster.primary.wake_at_closed(id(1)), Some(1));
    cluster.observe(2, 2, 2, 1);
    assert_eq!(cluster.assign(2), [2, 0]);
}

#[test]
fn the_workers_of_a_listener_hold_no_more_than_its_most_together() {
    let limits = Limits { per_listener: Some(3), ..Limits::default() };
    let mut cluster = Cluster::serving(Settings { limits, ..settings(2) });
    assert_eq!(cluster.assign(2), [1, 2]);
    (1..=2).for_each(|worker| cluster.observe(worker, 1, 1, 0));
    assert_eq!(cluster.assign(2), [1, 0]);
    cluster.observe(1, 2, 2, 1);
    assert_eq!(cluster.assign(1), [2], "whoever's is closed makes room for all");
}
