//! How much a worker that serves well may do before it is replaced: connections, age, memory.
//!
//! Each worker draws its own [`Allowance`] so that workers that started together do not all come to their end together.
//! `reload.rs` replaces them one by one.

use std::time::Duration;

use crate::random::Random;
use crate::settings::RecycleSettings;

/// What one worker may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) connections: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) memory: Option<u64>,
}

impl Allowance {
    pub(crate) fn draw(settings: &RecycleSettings, random: &mut Random) -> Self {
        Allowance {
            connections: settings
                .connections
                .map(|least| least.saturating_add(random.up_to(settings.connections_jitter))),
            lifetime: settings.lifetime.map(|longest| random.jitter(longest)),
            memory: settings.memory.map(|most| most - random.up_to(most / 10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_its_own_share_within_the_bounds() {
        let settings = RecycleSettings {
            connections: Some(1_000),
            connections_jitter: 50,
            lifetime: Some(Duration::from_secs(3_600)),
            memory: Some(500),
        };
        let mut random = Random::new(3);
        let drawn: Vec<_> = (0..100).map(|_| Allowance::draw(&settings, &mut random)).collect();
        for Allowance { connections, lifetime, memory } in &drawn {
            assert!((1_000..=1_050).contains(&connections.unwrap()));
            assert!((2_700..=3_600).contains(&lifetime.unwrap().as_secs()));
            assert!((450..=500).contains(&memory.unwrap()));
        }
        assert!(drawn.windows(2).any(|two| two[0] != two[1]));
        assert_eq!(Allowance::draw(&RecycleSettings::default(), &mut random), Allowance::default());
    }
}
