//! The ways to stop.

use super::*;

fn graceful() -> Event {
    Event::Stop { urgency: Urgency::Graceful }
}

#[test]
fn a_graceful_stop_drains_then_terms_then_kills() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.happens(graceful());
    assert_eq!(cluster.orders(), ["disconnect 1", "disconnect 2"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: stop, exited with code 0, asked to"]);
    cluster.passes(8_000);
    assert_eq!(cluster.lines, ["- 2 has not finished within 8s, 0 open", "SIGTERM 2"]);
    cluster.forget();
    cluster.passes(2_000);
    assert_eq!(cluster.orders(), ["SIGKILL 2"]);
    assert!(!cluster.primary.is_finished());
    cluster.exits(2, KILLED);
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.outcome(), Outcome::Stopped);
}

#[test]
fn a_second_stop_is_fast_and_a_third_kills() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(graceful());
    cluster.happens(graceful());
    assert_eq!(cluster.orders(), ["disconnect 1", "SIGTERM 1"]);
    cluster.forget();
    cluster.happens(graceful());
    assert_eq!(cluster.lines, ["- stopping now, KILL after 0ns", "SIGKILL 1"]);
}

#[test]
fn nobody_is_replaced_while_the_primary_stops() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.exits(2, CRASHED);
    cluster.exits(3, CRASHED);
    cluster.happens(graceful());
    cluster.forget();
    cluster.exits(1, KILLED);
    assert_eq!(cluster.orders(), ["forget 1"]);
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.next_deadline(), None);
    cluster.happens(Event::Scale { workers: 5 });
    cluster.happens(Event::Reload);
    assert!(cluster.lines.is_empty());
}

#[test]
fn what_a_leaving_worker_has_not_taken_goes_back_before_it_is_told() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.assign(1);
    cluster.happens(graceful());
    assert_eq!(cluster.orders(), ["withdraw 1", "disconnect 1"]);
    assert_eq!(cluster.assign(1), [0]);
}

#[test]
fn with_a_drain_delay_the_cluster_serves_on_before_it_drains() {
    let deadlines = Deadlines { drain_delay: Duration::from_secs(5), ..Deadlines::default() };
    let mut cluster = Cluster::serving(Settings { deadlines, ..settings(1) });
    cluster.happens(graceful());
    cluster.passes(4_999);
    assert_eq!(cluster.lines, ["- stopping"]);
    assert_eq!(cluster.assign(1), [1]);
    cluster.observe(1, 1, 1, 1);
    cluster.forget();
    cluster.passes(1);
    assert_eq!(cluster.lines, ["disconnect 1"]);
}

#[test]
fn disconnecting_all_ends_the_cluster() {
    let mut cluster = Cluster::serving(settings(2));
    cluster.happens(Event::DisconnectAll);
    cluster.happens(Event::DisconnectAll);
    assert_eq!(cluster.orders(), ["disconnect 1", "disconnect 2"]);
    cluster.exits(1, CLEAN);
    assert_eq!(cluster.news(), ["- disconnect 1", "- exit 1: disconnect, exited with code 0, asked to"]);
    cluster.exits(2, CLEAN);
    assert!(cluster.primary.is_finished());
    assert_eq!(cluster.primary.outcome(), Outcome::Stopped);
}

#[test]
fn the_first_stop_after_disconnecting_all_is_still_graceful() {
    let mut cluster = Cluster::serving(settings(1));
    cluster.happens(Event::DisconnectAll);
    cluster.happens(graceful());
    assert_eq!(cluster.orders(), ["disconnect 1"]);
    cluster.happens(graceful());
    assert_eq!(cluster.orders(), ["SIGTERM 1"]);
}
