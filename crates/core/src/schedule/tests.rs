//! The built-in policies, by what they pick.

use super::*;

fn free(workers: &[(u32, u64, u64, u32)]) -> Vec<Candidate> {
    let candidate = |&(worker, load, live, recent)| Candidate {
        worker: WorkerId::new(worker),
        slot: Slot::new(worker),
        load,
        live,
        recent,
        full: false,
    };
    workers.iter().map(candidate).collect()
}

fn picks(policy: &mut dyn SchedulingPolicy, free: &[Candidate], count: usize) -> Vec<u32> {
    picks_with(policy, free, count, 1)
}

fn picks_with(policy: &mut dyn SchedulingPolicy, free: &[Candidate], count: usize, credit: u64) -> Vec<u32> {
    let candidates = Candidates { free, busy: &[], from: None, overflow: false, credit };
    (0..count).map(|_| policy.pick(&candidates).unwrap().get()).collect()
}

#[test]
fn round_robin_goes_round() {
    let free = free(&[(2, 0, 0, 0), (5, 0, 0, 0), (9, 0, 0, 0)]);
    assert_eq!(picks(&mut RoundRobin::default(), &free, 5), [2, 5, 9, 2, 5]);
}

#[test]
fn round_robin_has_missed_turns_made_up_for_however_much_the_others_hold() {
    let missed = free(&[(1, 0, 0, 5), (2, 3, 7, 4), (3, 0, 2, 5)]);
    assert_eq!(picks(&mut RoundRobin::default(), &missed, 2), [2, 2]);
    let level = free(&[(1, 1, 1, 5), (2, 3, 7, 5), (3, 0, 2, 5)]);
    assert_eq!(picks(&mut RoundRobin::default(), &level, 4), [1, 2, 3, 1]);
}

#[test]
fn least_takes_the_fewest_live_then_the_fewest_recent_then_turns() {
    let by_live = free(&[(1, 0, 3, 0), (2, 1, 1, 9), (3, 0, 2, 0)]);
    assert_eq!(picks(&mut LeastConnections::default(), &by_live, 2), [2, 2]);
    let by_recent = free(&[(1, 0, 1, 5), (2, 0, 1, 4), (3, 0, 2, 0)]);
    assert_eq!(picks(&mut LeastConnections::default(), &by_recent, 2), [2, 2]);
    let equal = free(&[(1, 0, 1, 4), (2, 0, 1, 4), (3, 0, 1, 4)]);
    assert_eq!(picks(&mut LeastConnections::default(), &equal, 4), [1, 2, 3, 1]);
}

#[test]
fn least_takes_counts_for_equal_that_are_half_a_credit_apart() {
    let close = free(&[(1, 0, 100, 5), (2, 0, 102, 4), (3, 0, 104, 3), (4, 0, 105, 2)]);
    let least = |credit| picks_with(&mut LeastConnections::default(), &close, 1, credit);
    assert_eq!([least(1), least(4), least(8), least(9), least(10)], [[1], [2], [3], [3], [4]]);
}

#[test]
fn a_policy_is_read_back_from_its_name() {
    for policy in
        [Policy::RoundRobin, Policy::Least, Policy::Sticky, Policy::Route, Policy::Shared, Policy::Reuseport]
    {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert_eq!(
        "fair".parse::<Policy>().unwrap_err().to_string(),
        "unknown policy \"fair\"; choose round-robin (rr), least, sticky, route, shared (none) or reuseport"
    );
}
