//! Latencies of one run.

use std::time::Duration;

/// Collects latencies; cheap to add to.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds all of another collection.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The latency that this share, 0 to 1, of all stays within; zero where there is none.
    pub fn quantile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the length"
        )]
        let index = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        Duration::from_micros(self.0.get(index).copied().unwrap_or(0).into())
    }
}
