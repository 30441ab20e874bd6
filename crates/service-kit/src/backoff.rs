//! How long to wait before trying again: exponential, capped, with full jitter.
//!
//! Full jitter (anything between zero and the cap of this attempt) spreads a fleet that failed
//! together better than a fixed delay with a little noise. The arithmetic is pure: the random number
//! is an argument, so a device's delays can be replayed. Invariant: no delay exceeds `max`.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempt: 0 }
    }

    /// The longest delay that `attempt` (counted from 0) may get.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        // 2^31 times any first delay of a microsecond or more is past every sensible cap.
        let factor = 1_u32 << attempt.min(31);
        self.first.saturating_mul(factor).min(self.max)
    }

    /// The delay for `attempt`, given a random number in `0.0..1.0` (others are clamped).
    pub fn delay(&self, attempt: u32, unit_random: f64) -> Duration {
        let share = if unit_random.is_finite() { unit_random.clamp(0.0, 1.0) } else { 1.0 };
        let ceiling = self.ceiling(attempt);
        // The product may round up past a ceiling that f64 cannot hold exactly.
        Duration::try_from_secs_f64(ceiling.as_secs_f64() * share).unwrap_or(ceiling).min(ceiling)
    }

    /// The next delay, with a random number of this process.
    #[expect(clippy::should_implement_trait, reason = "a delay always exists, so no Option")]
    pub fn next(&mut self) -> Duration {
        let delay = self.delay(self.attempt, crate::random::unit());
        self.attempt = self.attempt.saturating_add(1);
        delay
    }

    /// Call after success: the next failure starts from the first delay.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ceiling_doubles_until_the_cap() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let ceilings: Vec<u128> = (0..6).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000]);
    }

    proptest! {
        #[test]
        fn no_delay_exceeds_its_ceiling_or_the_cap(
            first_us in 0_u64..10_000_000, max_us in 0_u64..3_600_000_000,
            attempt in any::<u32>(), random in any::<f64>(),
        ) {
            let backoff =
                Backoff::new(Duration::from_micros(first_us), Duration::from_micros(max_us));
            let delay = backoff.delay(attempt, random);
            prop_assert!(delay <= backoff.ceiling(attempt));
            prop_assert!(delay <= Duration::from_micros(max_us));
        }

        #[test]
        fn a_reset_starts_again_at_the_first_delay(tries in 0_usize..50) {
            let first = Duration::from_millis(50);
            let mut backoff = Backoff::new(first, Duration::from_secs(30));
            for _ in 0..tries { backoff.next(); }
            backoff.reset();
            prop_assert!(backoff.next() <= first);
        }
    }
}
