//! How long to wait before the next attempt: exponential, with full jitter.
//!
//! Full jitter draws each wait evenly from zero to the current bound, so that callers who failed together do not come back
//! together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

use std::time::Duration;

/// The waits between attempts of one operation.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    /// Bounds that start at `base`, double with each wait and stop at `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base: base.min(max), max, bound: base.min(max) }
    }

    /// The next wait, from zero to the current bound.
    #[expect(clippy::should_implement_trait, reason = "an endless sequence that is reset is no iterator")]
    pub fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = bound.saturating_mul(2).min(self.max);
        bound.mul_f64(rand::random_range(0.0..=1.0))
    }

    /// Starts over, after an attempt that succeeded.
    pub fn reset(&mut self) {
        self.bound = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_maximum_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(65));
        for bound in [10, 20, 40, 65, 65] {
            assert_eq!(backoff.bound, Duration::from_millis(bound));
            assert!(backoff.next() <= Duration::from_millis(bound));
        }
        backoff.reset();
        assert_eq!(backoff.bound, Duration::from_millis(10));
    }

    #[test]
    fn waits_spread_over_the_whole_range() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let waits: Vec<_> = (0..200).map(|_| backoff.next()).collect();
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(250)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(750)));
    }
}
