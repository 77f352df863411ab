//! How far a rebuild is, as people count it: percent and the time that is left. Neither goes back without a reason that is shown.

use std::ops::Range;

use tokio::time::Instant;

use super::record::Rebuild;

/// What the scan is of the whole. Shares are as large as stages are long with 100,000 orders.
pub const SCAN: Range<f64> = 0.0..60.0;
/// What catching up is.
pub const CATCHING_UP: Range<f64> = 60.0..65.0;
/// What the verification is.
pub const VERIFYING: Range<f64> = 65.0..97.0;

/// A stage under way.
#[derive(Clone, Debug)]
pub(super) struct Advance {
    of: Range<f64>,
    begun: Instant,
    /// Percent when it began.
    from: f64,
}

impl Advance {
    /// Begins to measure at this share of a stage, 0 to 1.
    pub fn begin(of: Range<f64>, share: f64) -> Self {
        let from = percent(&of, share);
        Self { of, begun: Instant::now(), from }
    }

    /// Tells that so much of the stage is done.
    pub fn tell(&self, rebuild: &mut Rebuild, share: f64) {
        self.tell_after(self.begun.elapsed().as_secs_f64(), rebuild, share);
    }

    fn tell_after(&self, seconds: f64, rebuild: &mut Rebuild, share: f64) {
        let now = percent(&self.of, share);
        rebuild.percent = rebuild.percent.max(now);
        let left = (100.0 - now) * seconds.max(0.001) / (now - self.from);
        // Longer only after an interruption, which is shown. Nothing was done yet: nothing is known.
        let interrupted = !rebuild.error.is_empty() || rebuild.eta_seconds == 0.0;
        if left.is_finite() && (interrupted || left < rebuild.eta_seconds) {
            rebuild.eta_seconds = left;
        }
        rebuild.error.clear();
    }
}

fn percent(of: &Range<f64>, share: f64) -> f64 {
    of.start + (of.end - of.start) * share.clamp(0.0, 1.0)
}

/// This of that, which may be unknown.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn share(done: i64, total: i64) -> f64 {
    if total > 0 { done as f64 / total as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(rebuild: &Rebuild, percent: f64, eta: f64) -> bool {
        (rebuild.percent - percent).abs() < 1e-6 && (rebuild.eta_seconds - eta).abs() < 1e-6
    }

    #[test]
    fn neither_percent_nor_time_go_back_without_a_reason() {
        let mut rebuild = Rebuild::default();
        let scan = Advance::begin(SCAN, 0.0);
        scan.tell_after(0.5, &mut rebuild, 0.0);
        assert!(is(&rebuild, 0.0, 0.0), "nothing is known: {rebuild:?}");
        scan.tell_after(6.0, &mut rebuild, 0.5);
        assert!(is(&rebuild, 30.0, 14.0), "{rebuild:?}");
        // Slower, and there are more than was thought.
        scan.tell_after(30.0, &mut rebuild, 0.4);
        assert!(is(&rebuild, 30.0, 14.0), "{rebuild:?}");
        scan.tell_after(31.0, &mut rebuild, 1.0);
        assert!(is(&rebuild, 60.0, 14.0), "{rebuild:?}");

        // Gone on from the middle, after something that is shown.
        rebuild.error = "waits".to_owned();
        let resumed = Advance::begin(VERIFYING, 0.0);
        resumed.tell_after(16.0, &mut rebuild, 0.5);
        assert!(is(&rebuild, 81.0, 19.0), "{rebuild:?}");
        assert_eq!(rebuild.error, "");
    }
}
