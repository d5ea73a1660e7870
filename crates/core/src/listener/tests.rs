//! Whatever a worker writes into its counters, the books stay in order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Move {
    Hand,
    Return(u64),
    Lose(u64),
    Observe(Counters),
    Judge,
}

fn moves() -> impl Strategy<Value = Move> {
    let number = || prop_oneof![0_u64..20, any::<u64>()];
    let counters = (number(), number(), number(), number(), any::<bool>());
    prop_oneof![
        3 => Just(Move::Hand),
        1 => (0_u64..5).prop_map(Move::Return),
        1 => (0_u64..5).prop_map(Move::Lose),
        4 => counters.prop_map(|(taken, ready, closed, turn, awake)| {
            Move::Observe(Counters { taken, ready, closed, turn, awake })
        }),
        1 => Just(Move::Judge),
    ]
}

proptest! {
    #[test]
    fn counters_are_never_believed_beyond_what_was_handed_over(moves in prop::collection::vec(moves(), 0..60)) {
        let second = Duration::from_secs(1);
        let mut now = Time::ZERO;
        let mut handoffs = HandOffs::new(now);
        let (mut handed, mut returned) = (0, 0);
        for step in moves {
            now = now + Duration::from_millis(300);
            let before = (handoffs.taken(), handoffs.untaken());
            match step {
                Move::Hand => {
                    handoffs.handed(1, now, second);
                    handed += 1;
                    prop_assert_eq!(handoffs.untaken(), before.1 + 1);
                }
                Move::Return(count) => {
                    returned += count.min(handoffs.kept());
                    handoffs.returned(count, now, (Duration::from_millis(1), second));
                }
                Move::Lose(count) => {
                    returned += count.min(handoffs.kept());
                    handoffs.lost(count);
                }
                Move::Observe(counters) => {
                    handoffs.observe(counters, now);
                    prop_assert!(handoffs.taken() >= before.0);
                }
                Move::Judge => {
                    let hung = handoffs.check_hung(second, now);
                    prop_assert!(!hung || before.1 > 0);
                }
            }
            prop_assert_eq!(handoffs.kept(), handed - returned);
            prop_assert!(handoffs.untaken() <= handoffs.kept());
            prop_assert!(handoffs.load() <= handoffs.kept());
            prop_assert!(handoffs.live() <= handoffs.kept());
            prop_assert!(handoffs.untaken() == 0 || handoffs.silent_since().is_some());
        }
    }
}

#[test]
fn what_a_worker_says_it_serves_no_more_is_known_only_if_it_served_it_and_never_without_end() {
    let mut handoffs = HandOffs::new(Time::ZERO);
    handoffs.stopped_listening(ListenerKey::new(7));
    assert!(!handoffs.has_served(ListenerKey::new(7)));
    for key in 1..=5000 {
        handoffs.listens(ListenerKey::new(key));
        handoffs.stopped_listening(ListenerKey::new(key));
    }
    assert!(handoffs.has_served(ListenerKey::new(5000)));
    assert_eq!(handoffs.ever_served().count(), FORMER);
}
