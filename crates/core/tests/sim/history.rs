//! A random history from a seed: settings, behaviours, orders; then calm, and a stop.

use std::time::Duration;

use everycore_core::*;

use super::dice::Dice;
use super::process::Behaviour;
use super::watch::Watch;
use super::world::{Happening, Script, Trace, World};

/// Plays the history of a seed to its end.
pub(crate) fn play(seed: u64, trace: Trace) -> World {
    let mut dice = Dice::new(seed);
    let mut settings = settings(&mut dice, seed);
    let route = dice.percent(30).then(|| route(&mut dice));
    if let Some(route) = &route {
        settings.policy = Policy::Route;
        settings.workers = route.classes().iter().map(Class::workers).sum();
    }
    let calm = dice.percent(10);
    let script: Script = if calm { |_: &mut Dice, _| Behaviour::Healthy } else { mischief };
    let mut world = World::new(settings, route, dice, script, trace);
    for _ in 0..world.dice.between(2, 12) {
        let pause = pause(&mut world.dice);
        world.run_until(world.now + pause);
        if let Some(order) = order(&mut world) {
            world.order(order);
        }
        let wave = world.dice.pick(&[0, 1, 1, 2, 5, 20]);
        world.after(Duration::ZERO, Happening::Arrive(wave));
    }
    comes_to_rest(&mut world);
    stops(&mut world);
    world
}

fn settings(dice: &mut Dice, seed: u64) -> Settings {
    Settings {
        workers: dice.between(1, 4) as u32,
        policy: dice.pick(&[Policy::RoundRobin, Policy::Least, Policy::Sticky]),
        limits: Limits {
            per_worker: dice.pick(&[None, None, Some(1), Some(3)]),
            per_listener: dice.pick(&[None, None, Some(2)]),
        },
        readiness: dice.pick(&[
            Readiness::Listening,
            Readiness::Listening,
            Readiness::Notified,
            Readiness::Online,
        ]),
        restart: RestartSettings {
            policy: dice.pick(&[
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::OnFailure,
                RestartPolicy::Never,
            ]),
            limit: dice.pick(&[1, 3, 10, 100]),
            period: dice.pick(&[Duration::from_secs(5), Duration::from_secs(300)]),
            ..RestartSettings::default()
        },
        deadlines: Deadlines {
            start: dice.pick(&[Duration::from_secs(2), Duration::from_secs(60)]),
            drain: dice.pick(&[Duration::ZERO, Duration::from_secs(3), Duration::from_secs(8)]),
            drain_delay: dice.pick(&[Duration::ZERO, Duration::from_secs(1)]),
            ..Deadlines::default()
        },
        recycle: RecycleSettings {
            connections: dice.pick(&[None, None, None, Some(2)]),
            connections_jitter: dice.pick(&[0, 3]),
            lifetime: dice.pick(&[None, None, None, Some(Duration::from_secs(20))]),
            memory: dice.pick(&[None, Some(1_000)]),
        },
        hung: dice.pick(&[None, None, Some(Duration::from_secs(4))]),
        surge: dice.pick(&[1, 1, 2]),
        seed,
        ..Settings::default()
    }
}

/// What a class does that has nobody free; one that spills has an exclamation mark and then its target in its name.
fn route(dice: &mut Dice) -> Route {
    let names = ["one", "two!one", "three"];
    let count = dice.between(1, 3) as usize;
    let class = |name: &str, dice: &mut Dice| {
        let when_full = match name.split_once('!') {
            Some((_, other)) => WhenFull::SpillTo(other.into()),
            None => dice.pick(&[None, Some(())]).map_or(WhenFull::Wait, |()| WhenFull::Refuse),
        };
        let policy = dice.pick(&[Policy::RoundRobin, Policy::Least, Policy::Sticky]);
        Class::new(name, dice.between(1, 2) as u32).policy(policy).when_full(when_full)
    };
    let route = names[..count].iter().fold(Route::new(), |route, name| route.class(class(name, dice)));
    (0..4).fold(route, |route, host| {
        let rule = format!("10.0.0.{host}").parse().expect("a rule");
        route.rule(rule, names[dice.below(count as u64) as usize])
    })
}

/// The class that this one spills to.
pub(crate) fn spills_to(class: &Class) -> Option<&str> {
    class.name().split_once('!').map(|(_, other)| other)
}

/// One in three generations is bad; the others have their share of trouble.
fn mischief(dice: &mut Dice, generation: Generation) -> Behaviour {
    if generation.get() % 3 == 2 && dice.percent(70) {
        Behaviour::roll_bad(dice)
    } else {
        Behaviour::roll(dice)
    }
}

fn pause(dice: &mut Dice) -> Duration {
    match dice.below(4) {
        0 => Duration::ZERO,
        1 => dice.micros(0, 2_000),
        2 => dice.millis(1, 500),
        _ => dice.millis(500, 30_000),
    }
}

fn order(world: &mut World) -> Option<Event> {
    let worker = world.anyone()?;
    Some(match world.dice.below(24) {
        0..=5 => Event::Reload,
        6..=8 => Event::Scale { workers: world.dice.between(0, 5) as u32 },
        9..=11 => Event::Memory { worker, resident: world.dice.between(0, 2_000) },
        12 | 13 => Event::Disconnect { worker },
        14..=16 => Event::Kill { worker, signal: world.dice.pick(&[9, 15]) },
        17 => Event::Stop { urgency: world.dice.pick(&[Urgency::Graceful, Urgency::Fast]) },
        18 if world.dice.percent(30) => Event::DisconnectAll,
        _ => return None,
    })
}

/// Without further trouble every slot that was not given up is served within a while, and nothing is left to do.
fn comes_to_rest(world: &mut World) {
    world.calm_down();
    for _ in 0..4 {
        world.run_until(world.now + Duration::from_secs(60));
        world.after(Duration::ZERO, Happening::Arrive(1));
    }
    world.run_until(world.now + Duration::from_secs(180));
    let picture = world.primary.snapshot();
    if world.primary.is_finished() || picture.stopping {
        return;
    }
    assert_eq!(picture.reloading, None);
    let picture = match world.settings.recycle.lifetime {
        None => {
            assert_eq!(world.next(), None, "nothing is left to do: {picture:#?}");
            picture
        }
        Some(_) => between_two_recyclings(world),
    };
    let mut filled = 0;
    for slot in &picture.slots {
        match slot.state {
            SlotState::Filled(_) => filled += 1,
            SlotState::Done | SlotState::Errored => {}
            SlotState::Waiting(_) | SlotState::Open => panic!("{slot:?} is not served"),
        }
    }
    assert_eq!(picture.workers.len(), filled, "one worker for each slot: {picture:#?}");
    assert!(picture.workers.iter().all(|worker| worker.phase == Phase::Listening && !worker.hung));
    if filled > 0 {
        assert_eq!(world.unserved(), 0, "every client was served");
    }
}

/// Where workers come to their age there is always something left to do, but never for long.
fn between_two_recyclings(world: &mut World) -> Snapshot {
    for _ in 0..1_000 {
        let picture = world.primary.snapshot();
        let is_whole = |slot: &SlotSnapshot| !matches!(slot.state, SlotState::Waiting(_) | SlotState::Open);
        let is_quiet = picture.workers.iter().all(|worker| worker.phase == Phase::Listening)
            && picture.slots.iter().all(is_whole)
            && world.unserved() == 0;
        if is_quiet || world.next().is_none() {
            return picture;
        }
        world.advance();
    }
    panic!("a recycling does not come to its end: {:#?}", world.primary.snapshot());
}

/// A graceful stop ends within its deadlines, whatever the workers do.
fn stops(world: &mut World) {
    let Deadlines { drain_delay, drain, term, .. } = world.settings.deadlines;
    if !world.primary.is_finished() {
        world.order(Event::Stop { urgency: Urgency::Graceful });
    }
    world.run_until(world.now + drain_delay + drain + term * 2);
    assert!(world.primary.is_finished(), "it stops in time");
    assert_eq!(Watch::first_unsettled(&world.connections), None);
}
