//! Lives of clusters that are told rather than rolled.

use std::time::Duration;

use everycore_core::*;

use super::dice::Dice;
use super::process::Behaviour;
use super::world::{Happening, Place, Script, Trace, World};

fn cluster(workers: u32, script: Script) -> World {
    let restart = RestartSettings { limit: 1_000, ..RestartSettings::default() };
    let settings = Settings { workers, restart, ..Settings::default() };
    let mut world = World::new(settings, None, Dice::new(1), script, Trace::Off);
    world.run_until(Time::new(Duration::from_secs(1)));
    world
}

/// Clients come, one every millisecond.
fn serve(world: &mut World, millis: u64) {
    for _ in 0..millis {
        world.after(Duration::ZERO, Happening::Arrive(1));
        world.run_until(world.now + Duration::from_millis(1));
    }
}

fn healthy(_: &mut Dice, _: Generation) -> Behaviour {
    Behaviour::Healthy
}

fn lost(world: &World) -> usize {
    world.connections.iter().filter(|&&place| place == Place::Lost).count()
}

fn everybody_is_served(world: &mut World) {
    world.run_until(world.now + Duration::from_secs(60));
    assert_eq!(world.unserved(), 0);
}

#[test]
fn healthy_workers_serve_everybody_in_equal_shares() {
    let mut world = cluster(4, healthy);
    serve(&mut world, 4_000);
    everybody_is_served(&mut world);
    assert_eq!(lost(&world), 0);
    for worker in world.primary.snapshot().workers {
        assert!((950..=1_050).contains(&worker.handed), "{worker:?}");
    }
}

#[test]
fn a_hundred_reloads_cost_nobody_anything() {
    let mut world = cluster(2, healthy);
    for _ in 0..100 {
        world.order(Event::Reload);
        serve(&mut world, 100);
    }
    everybody_is_served(&mut world);
    assert_eq!(lost(&world), 0);
    let picture = world.primary.snapshot();
    assert!(picture.workers.iter().all(|worker| worker.generation == picture.generation));
    assert!(picture.generation > Generation::new(5));
}

#[test]
fn a_bad_release_leaves_the_good_one_serving() {
    let good_then_bad: Script = |dice, generation| match generation.get() {
        1 => Behaviour::Healthy,
        _ => Behaviour::roll_bad(dice),
    };
    let mut world = cluster(2, good_then_bad);
    for _ in 0..5 {
        world.order(Event::Reload);
        serve(&mut world, 1_000);
        world.run_until(world.now + Duration::from_secs(70));
        assert_eq!(world.primary.snapshot().reloading, None);
    }
    everybody_is_served(&mut world);
    assert_eq!(lost(&world), 0);
    let workers: Vec<_> = world.primary.snapshot().workers.iter().map(|worker| worker.worker.get()).collect();
    assert_eq!(workers, [1, 2]);
}

#[test]
fn a_hundred_kills_cost_only_what_the_victims_had_taken() {
    let mut world = cluster(3, healthy);
    for _ in 0..100 {
        serve(&mut world, 100);
        let worker = world.anyone().unwrap();
        world.order(Event::Kill { worker, signal: 9 });
        world.run_until(world.now + Duration::from_secs(20));
    }
    everybody_is_served(&mut world);
    assert!(lost(&world) <= 200, "{} lost", lost(&world)); // a connection stays open for a few milliseconds
}

#[test]
fn a_worker_that_stands_still_keeps_nobody_waiting() {
    let first_hangs: Script = |_, _| Behaviour::HangsAfter(Duration::from_secs(1), None);
    let mut world = cluster(2, first_hangs);
    world.calm = true; // no more mischief, and so the second start of the same program is a healthy one
    world.order(Event::Scale { workers: 3 });
    world.calm = false;
    for _ in 0..3_000 {
        serve(&mut world, 1);
        let waiting =
            world.connections.iter().filter(|place| matches!(place, Place::Waiting | Place::Sent(_)));
        assert!(waiting.count() <= 6, "at {}", world.now);
    }
    assert_eq!(lost(&world), 0);
}

#[test]
fn workers_that_decline_pass_the_connection_on() {
    let mut world = cluster(2, |_, _| Behaviour::Declines);
    serve(&mut world, 1_000);
    everybody_is_served(&mut world);
    assert_eq!(lost(&world), 0);
}
