//! Whatever comes in, in whatever order: no panic, and the books stay in order.

use std::time::Duration;

use everycore_core::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Handle(Event),
    Deadline,
    Observe(WorkerId, Counters),
    Assign(ListenerKey),
    Returned(WorkerId, u64),
    Lost(WorkerId, u64),
    Ask(WorkerId),
}

fn worker() -> impl Strategy<Value = WorkerId> {
    prop_oneof![9 => 0_u32..12, 1 => any::<u32>()].prop_map(WorkerId::new)
}

fn listener() -> impl Strategy<Value = ListenerKey> {
    (0_u32..3).prop_map(ListenerKey::new)
}

fn status() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        Just(ExitStatus::Code(0)),
        any::<i32>().prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal),
        Just(ExitStatus::Unknown)
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let urgency = prop_oneof![Just(Urgency::Graceful), Just(Urgency::Fast)];
    prop_oneof![
        2 => (worker(), any::<u32>()).prop_map(|(worker, pid)| Event::Spawned { worker, pid }),
        1 => (worker(), any::<bool>())
            .prop_map(|(worker, lasting)| Event::SpawnFailed { worker, reason: "no such file".into(), lasting }),
        3 => worker().prop_map(|worker| Event::Online { worker }),
        6 => (worker(), listener()).prop_map(|(worker, listener)| Event::Listening { worker, listener }),
        1 => (worker(), listener()).prop_map(|(worker, listener)| Event::StoppedListening { worker, listener }),
        2 => worker().prop_map(|worker| Event::Ready { worker }),
        1 => worker().prop_map(|worker| Event::Leaving { worker }),
        1 => worker().prop_map(|worker| Event::Disconnected { worker }),
        3 => (worker(), status()).prop_map(|(worker, status)| Event::Exited { worker, status }),
        1 => worker().prop_map(|worker| Event::Disconnect { worker }),
        1 => (worker(), any::<i32>()).prop_map(|(worker, signal)| Event::Kill { worker, signal }),
        2 => (worker(), 0..3_000_u64).prop_map(|(worker, resident)| Event::Memory { worker, resident }),
        2 => Just(Event::Reload),
        1 => (0_u32..6).prop_map(|workers| Event::Scale { workers }),
        1 => urgency.prop_map(|urgency| Event::Stop { urgency }),
        1 => Just(Event::DisconnectAll),
    ]
}

fn counters() -> impl Strategy<Value = Counters> {
    let number = || prop_oneof![0_u64..10, any::<u64>()];
    (number(), number(), number(), number(), any::<bool>())
        .prop_map(|(taken, ready, closed, turn, awake)| Counters { taken, ready, closed, turn, awake })
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => event().prop_map(Call::Handle),
        3 => Just(Call::Deadline),
        3 => (worker(), counters()).prop_map(|(worker, counters)| Call::Observe(worker, counters)),
        4 => listener().prop_map(Call::Assign),
        1 => (worker(), prop_oneof![0_u64..4, any::<u64>()]).prop_map(|(worker, count)| Call::Returned(worker, count)),
        1 => (worker(), prop_oneof![0_u64..4, any::<u64>()]).prop_map(|(worker, count)| Call::Lost(worker, count)),
        1 => worker().prop_map(Call::Ask),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let policy = prop_oneof![Just(Policy::RoundRobin), Just(Policy::Least), Just(Policy::Shared)];
    (any::<u8>(), policy, any::<u8>(), any::<bool>()).prop_map(|(workers, policy, surge, hung)| Settings {
        // Not validated: a careless caller is no reason to panic.
        workers: u32::from(workers) % 5,
        policy,
        surge: u32::from(surge) % 3,
        hung: hung.then_some(Duration::from_secs(3)),
        restart: RestartSettings { limit: u32::from(surge) % 4, ..RestartSettings::default() },
        ..Settings::default()
    })
}

fn apply(primary: &mut Primary, call: &Call, now: &mut Time) {
    match call {
        Call::Handle(event) => primary.handle(event.clone(), *now),
        Call::Deadline => {
            *now = primary.next_deadline().unwrap_or(*now).max(*now);
            primary.handle_deadline(*now);
        }
        Call::Observe(worker, counters) => primary.observe(*worker, *counters, *now),
        Call::Assign(on) => {
            let free = primary.anyone_free(*on, *now);
            assert_eq!(primary.assign(*on, None, *now) != Assignment::Wait, free);
        }
        Call::Returned(worker, count) => primary.returned(*worker, *count),
        Call::Lost(worker, count) => primary.lost(*worker, *count),
        Call::Ask(worker) => {
            primary.wake_at(*worker);
            primary.gather(*now);
            assert!(primary.withdrawable(*now).count() <= primary.snapshot().workers.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_as_a_rule_is_one_or_is_explained(
        text in "(from:|listener:|port:|,|[0-9a-f.:/]|\\PC){0,12}"
    ) {
        match text.parse::<Rule>() {
            // Nothing is known of such a connection: only a rule without conditions could match it, and there is none.
            Ok(rule) => prop_assert!(!rule.matches(&Inbound::default())),
            Err(error) => prop_assert!(text.contains(&error.condition)),
        }
    }

    #[test]
    fn nothing_that_comes_in_makes_it_panic(settings in settings(), calls in prop::collection::vec(call(), 0..80)) {
        let mut now = Time::ZERO;
        let mut primary = Primary::new(settings.clone(), now);
        let mut twin = Primary::new(settings, now);
        for call in &calls {
            let mut again = now + Duration::from_millis(100);
            now = again;
            apply(&mut primary, call, &mut now);
            apply(&mut twin, call, &mut again);
            prop_assert_eq!(primary.take_effects(), twin.take_effects());
            let Totals { sent, taken, returned, outstanding, lost, .. } = primary.snapshot().connections;
            prop_assert_eq!(sent, taken + returned + outstanding + lost);
            prop_assert!(!primary.is_finished() || primary.snapshot().workers.is_empty());
        }
        prop_assert_eq!(primary.snapshot(), twin.snapshot());
    }
}
