//! The one source of wall-clock time: the system's, or one that stands still until a test moves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// Tells the time. Clones of a fixed clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Fixed(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that shows `nanos`, in nanoseconds since 1970, until it is [advanced](Self::advance).
    #[must_use]
    pub fn fixed(nanos: i64) -> Self {
        Self(Source::Fixed(Arc::new(AtomicI64::new(nanos))))
    }

    /// The time in nanoseconds since 1970-01-01T00:00:00Z; the nearest end of 1677 to 2262 outside that range.
    #[must_use]
    pub fn now_nanos(&self) -> i64 {
        match &self.0 {
            Source::System => system_nanos(),
            Source::Fixed(nanos) => nanos.load(Ordering::SeqCst),
        }
    }

    /// Moves a fixed clock forward; the system's clock moves by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Source::Fixed(nanos) = &self.0 {
            nanos.fetch_add(saturated(by.as_nanos()), Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one clock")]
fn system_nanos() -> i64 {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => saturated(since.as_nanos()),
        Err(before) => -saturated(before.duration().as_nanos()),
    }
}

fn saturated(nanos: u128) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_moves_only_when_told() {
        let clock = Clock::fixed(5);
        let same = clock.clone();
        assert_eq!(same.now_nanos(), 5);
        clock.advance(Duration::from_secs(1));
        assert_eq!(same.now_nanos(), 1_000_000_005);
    }

    #[test]
    fn the_system_clock_shows_this_century() {
        let clock = Clock::system();
        clock.advance(Duration::from_secs(1));
        assert!(clock.now_nanos() > 1_700_000_000_000_000_000);
    }
}
