//! How large bulks are and how many travel at a time: up gently while answers come quickly, down at once where they do not.

use std::time::Duration;

/// An answer that comes within this time asks for more.
const QUICK: Duration = Duration::from_millis(500);
/// An answer that takes longer than this asks for less: what waits for it waits too long.
const SLOW: Duration = Duration::from_secs(2);
/// Answers without a refusal before one more bulk may travel.
const PATIENCE: u32 = 8;

/// What a pace stays within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the smallest bulk that is aimed at.
    pub least_bytes: usize,
    /// Bytes of the largest.
    pub most_bytes: usize,
    /// Documents of the largest.
    pub most_documents: usize,
    /// Bulks that travel at a time.
    pub in_flight: usize,
}

impl Default for Bounds {
    /// Two at a time; 1 MB, as larger ones gain a few percent at most (ceiling, read side, hints 3 and 8), but one of 2 MB is a whole
    /// batch of real orders: only one would travel while the next batch is folded.
    fn default() -> Self {
        Self { least_bytes: 64 * 1024, most_bytes: 1024 * 1024, most_documents: 5_000, in_flight: 2 }
    }
}

/// The pace of one way into an index.
#[derive(Clone, Debug)]
pub struct Pace {
    bounds: Bounds,
    bytes: usize,
    /// Largest size that the server is not known to refuse.
    ceiling: usize,
    in_flight: usize,
    /// Answers since the last refusal.
    answered: u32,
}

impl Pace {
    /// The first: half of the largest bulks, all lanes.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let bytes = (bounds.most_bytes / 2).max(bounds.least_bytes);
        Self { bounds, bytes, ceiling: bounds.most_bytes, in_flight: bounds.in_flight.max(1), answered: 0 }
    }

    /// Whether a bulk of this size is to be closed.
    #[must_use]
    pub fn is_full(&self, bytes: usize, documents: usize) -> bool {
        bytes >= self.bytes || documents >= self.bounds.most_documents
    }

    /// Bytes at which a bulk is closed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bulks that may travel at a time.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// A bulk of so many bytes was taken whole after this time. Only full ones say something about size.
    pub fn answered(&mut self, bytes: usize, took: Duration) {
        self.answered = self.answered.saturating_add(1);
        if took > SLOW {
            self.resize(self.bytes - self.bytes / 4);
        } else if took <= QUICK && bytes >= self.bytes {
            self.resize(self.bytes + self.bytes / 8);
        }
        if self.answered.is_multiple_of(PATIENCE) {
            self.in_flight = (self.in_flight + 1).min(self.bounds.in_flight.max(1));
        }
    }

    /// Something was refused for now, or not answered.
    pub fn refused(&mut self) {
        self.answered = 0;
        self.resize(self.bytes / 2);
        self.in_flight = (self.in_flight / 2).max(1);
    }

    /// The server does not take so many bytes, and never will.
    pub fn too_large(&mut self, bytes: usize) {
        self.ceiling = self.ceiling.min(bytes / 2);
        self.resize(self.bytes);
    }

    fn resize(&mut self, bytes: usize) {
        let most = self.ceiling.max(1);
        self.bytes = bytes.clamp(self.bounds.least_bytes.min(most), most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;
    const BOUNDS: Bounds =
        Bounds { least_bytes: 64 * KIB, most_bytes: 2048 * KIB, most_documents: 100, in_flight: 4 };

    #[test]
    fn it_grows_gently_and_shrinks_at_once_within_bounds() {
        let mut pace = Pace::new(BOUNDS);
        assert_eq!((pace.bytes(), pace.in_flight()), (1024 * KIB, 4));
        pace.refused();
        assert_eq!((pace.bytes(), pace.in_flight()), (512 * KIB, 2));
        pace.answered(512 * KIB, Duration::from_millis(40));
        assert_eq!((pace.bytes(), pace.in_flight()), (576 * KIB, 2));
        for _ in 0..10 {
            pace.refused();
        }
        assert_eq!((pace.bytes(), pace.in_flight()), (64 * KIB, 1));
        for _ in 0..50 {
            pace.answered(2048 * KIB, Duration::from_millis(40));
        }
        assert_eq!((pace.bytes(), pace.in_flight()), (2048 * KIB, 4));
    }

    #[test]
    fn slow_answers_ask_for_less_and_small_bulks_for_nothing() {
        let mut pace = Pace::new(BOUNDS);
        pace.answered(10 * KIB, Duration::from_millis(1));
        pace.answered(1024 * KIB, Duration::from_secs(1));
        assert_eq!(pace.bytes(), 1024 * KIB);
        pace.answered(1024 * KIB, Duration::from_secs(3));
        assert_eq!(pace.bytes(), 768 * KIB);
    }

    #[test]
    fn what_is_too_large_once_is_not_tried_again() {
        let mut pace = Pace::new(BOUNDS);
        pace.too_large(100 * KIB);
        for _ in 0..50 {
            pace.answered(2048 * KIB, Duration::from_millis(1));
        }
        assert_eq!(pace.bytes(), 50 * KIB);
        assert!(pace.is_full(50 * KIB, 1) && pace.is_full(1, 100) && !pace.is_full(1, 1));
    }
}
