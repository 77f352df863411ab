//! The batches under way, oldest first: the next one is folded while documents of the last one travel.
//!
//! A stream that is in both is folded on only when what the older one brought is stored or set aside: memory is never ahead of
//! the index, and what is parked holds back all that follows.

use std::collections::VecDeque;

use super::batch::{Batch, Stage};

/// Batches under way at a time.
const MOST: usize = 2;

/// Batches under way.
#[derive(Debug, Default)]
pub struct Course {
    batches: VecDeque<Batch>,
    /// Number of the first.
    first: usize,
}

/// What an older batch has of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing that is not stored.
    Nothing,
    /// A document on its way.
    Travelling,
    /// A fault for which it is to be parked.
    Refused,
}

impl Course {
    /// Whether another batch may begin.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.batches.len() < MOST
    }

    /// True where none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes a batch under way.
    pub fn begin(&mut self, batch: Batch) {
        self.batches.push_back(batch);
    }

    /// Ends the oldest.
    pub fn end(&mut self) -> Option<Batch> {
        let ended = self.batches.pop_front();
        self.first += usize::from(ended.is_some());
        ended
    }

    /// Drops all, whatever became of them.
    pub fn clear(&mut self) {
        self.first += self.batches.len();
        self.batches.clear();
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }

    /// The oldest.
    pub fn oldest(&mut self) -> Option<&mut Batch> {
        self.batches.front_mut()
    }

    /// The numbers of all of them.
    #[must_use]
    pub fn numbers(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.batches.len()
    }

    /// The one with this number.
    pub fn batch(&mut self, number: usize) -> &mut Batch {
        &mut self.batches[number - self.first]
    }

    /// What those before `number` have of this stream.
    #[must_use]
    pub fn earlier(&self, number: usize, key: &str) -> Earlier {
        for batch in self.batches.range(..number - self.first) {
            match batch.stage(key) {
                Some(_) if batch.refuses(key) => return Earlier::Refused,
                Some(Stage::Folding | Stage::Sent) => return Earlier::Travelling,
                Some(Stage::Done) | None => {}
            }
        }
        Earlier::Nothing
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::RecordedEvent;

    use super::*;
    use crate::parking::Fault;

    fn batch(keys: &[&str]) -> Batch {
        let event =
            |key: &&str| RecordedEvent { stream_key: (*key).to_owned(), version: 1, ..Default::default() };
        Batch::new("orders", keys.iter().map(event).collect(), Vec::new())
    }

    #[test]
    fn a_stream_waits_for_what_an_older_batch_has_of_it() {
        let mut course = Course::default();
        course.begin(batch(&["a", "b", "c"]));
        assert!(course.has_room());
        course.begin(batch(&["b", "c", "d"]));
        assert!(!course.has_room());
        assert_eq!(course.numbers(), 0..2);
        let earlier = |course: &Course| ["a", "b", "c", "d"].map(|key| course.earlier(1, key));
        let (nothing, travelling) = (Earlier::Nothing, Earlier::Travelling);
        assert_eq!(earlier(&course), [travelling, travelling, travelling, nothing]);
        let fault = Fault { version: 1, position: 1, error: "broken".to_owned() };
        let first = course.batch(0);
        first.sent(0);
        first.sent(1);
        first.stored(1, 1);
        first.refuse(2, fault);
        first.done(2);
        assert_eq!(earlier(&course), [travelling, nothing, Earlier::Refused, nothing]);
        assert_eq!(["a", "b", "c"].map(|key| course.batch(0).version(key)), [None, Some(1), None]);
        assert!(!course.batch(0).is_done());
        course.batch(0).stored(0, 1);
        assert!(course.batch(0).is_done());
        course.end().unwrap();
        assert_eq!((course.numbers(), earlier(&course)), (1..2, [nothing; 4]));
        course.clear();
        course.begin(batch(&["a"]));
        assert_eq!(course.numbers(), 2..3, "no number is given twice");
    }
}
