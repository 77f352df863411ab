//! What this copy reads of the feed: one subscription for adjacent ranges of slices that stand at about the same position.
//!
//! A lone copy that has caught up has one. Where ranges stand far apart, as after a copy was away for long, those that are
//! behind have a reader of their own, so that the others are not held up; once they have caught up, readers become one again, at the
//! position of the one behind: what is read twice changes nothing.

use std::ops::RangeInclusive;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use prost::Message as _;
use proto::v1::{RecordedEvent, SliceRange, StreamCategory};
use shared::clock::Clock;

use super::Limits;
use super::batch::{Batch, Part, recorded_at};
use crate::lease::{self, RANGES, Standings};
use crate::subscription::{Feed, FeedError, Item, Mark, Subscription};

/// Positions between ranges that are still read together: reading them twice costs less than another subscription.
const TOGETHER: i64 = 5_000;

/// Reads what the ranges of this copy lack.
pub struct Readers {
    feed: Feed,
    store_id: String,
    category: StreamCategory,
    clock: Clock,
    all: Vec<Reader>,
    /// The reader that is asked first, a different one each time: none waits for another that has much.
    turn: usize,
}

struct Reader {
    ranges: RangeInclusive<usize>,
    subscription: Subscription,
    /// What was given and not yet taken.
    events: Vec<RecordedEvent>,
    /// Their size.
    bytes: usize,
    through: i64,
    head: i64,
    /// When the feed last told what its store holds, in nanoseconds since 1970.
    heard_at: i64,
}

/// What the feed said, and for which ranges.
pub struct Heard {
    /// The ranges.
    pub ranges: RangeInclusive<usize>,
    /// Newest known position of the feed.
    pub head: i64,
    /// What was heard.
    pub what: What,
}

/// What the feed said.
pub enum What {
    /// Events, the oldest recorded at this time, to be taken with the next batch.
    Events(Option<i64>),
    /// There is nothing up to `through` that is not applied.
    Nothing {
        /// The position.
        through: i64,
        /// No event recorded before is missing then, in nanoseconds since 1970; `None` where that is not known.
        as_of: Option<i64>,
    },
    /// There is nothing new; what was given before is to be taken first.
    NothingNew,
    /// The connection was lost; it is made again.
    Interrupted(FeedError),
}

impl Readers {
    /// No readers yet, of events of `category` from the store `store_id`.
    #[must_use]
    pub fn new(feed: Feed, store_id: &str, category: StreamCategory, clock: Clock) -> Self {
        Self { feed, store_id: store_id.to_owned(), category, clock, all: Vec::new(), turn: 0 }
    }

    /// Whether every range that is read is among these.
    #[must_use]
    pub fn lie_within(&self, held: [bool; RANGES]) -> bool {
        self.all.iter().all(|reader| reader.ranges.clone().all(|range| held[range]))
    }

    /// Ends all subscriptions; what was given and not taken will be given again.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Reads the ranges in `held`, each from where it stands at the latest. Readers that fit stay.
    pub fn arrange(&mut self, held: [bool; RANGES], standings: &Standings) {
        let runs = runs(held, standings.map(|standing| standing.applied));
        if runs.len() == self.all.len() && runs.iter().zip(&self.all).all(|(run, old)| *run == old.ranges) {
            return;
        }
        let mut old = std::mem::take(&mut self.all);
        for run in runs {
            let reader = match old.iter().position(|reader| reader.ranges == run) {
                Some(place) => old.swap_remove(place),
                None => self.reader(run, standings),
            };
            self.all.push(reader);
        }
    }

    fn reader(&self, ranges: RangeInclusive<usize>, standings: &Standings) -> Reader {
        let read = &standings[ranges.clone()];
        let position = read.iter().map(|standing| standing.applied).min().unwrap_or(0);
        // A store that has the newest event still has those before it.
        let known = read.iter().filter_map(|standing| standing.last).max();
        let (first, last) = lease::slices(ranges.clone());
        let all = ranges == (0..=RANGES - 1);
        let slices = (!all).then_some(SliceRange { first, last });
        tracing::debug!(first, last, feed.position = position, "slices read");
        Reader {
            subscription: self
                .feed
                .subscribe(position, &self.store_id, vec![self.category], slices)
                .knowing(known),
            ranges,
            events: Vec::new(),
            bytes: 0,
            through: position,
            head: position,
            heard_at: self.clock.now_nanos(),
        }
    }

    /// What the feed says next. May be dropped at any time without losing anything; never ends where nothing is read.
    ///
    /// # Errors
    /// Where going on would be wrong: [`FeedError::is_of_other_history`].
    pub async fn next(&mut self) -> Result<Heard, FeedError> {
        if self.all.is_empty() {
            return std::future::pending().await;
        }
        self.turn = (self.turn + 1) % self.all.len();
        let (late, early) = self.all.split_at_mut(self.turn);
        let waits = early.iter_mut().chain(late).map(|reader| {
            async move {
                let item = reader.subscription.next().await;
                (reader, item)
            }
            .boxed()
        });
        let ((reader, item), _, _) = select_all(waits).await;
        let what = match item? {
            Item::Events { events, through, head } => {
                let oldest = events.first().and_then(recorded_at);
                reader.add(events, through, head);
                reader.heard_at = self.clock.now_nanos();
                What::Events(oldest)
            }
            Item::Standing { through, head, looked } => {
                reader.add(Vec::new(), through, head);
                if looked {
                    reader.heard_at = self.clock.now_nanos();
                }
                What::NothingNew
            }
            Item::Interrupted(error) => What::Interrupted(error),
        };
        let what = match what {
            What::Events(_) | What::NothingNew if reader.events.is_empty() => {
                What::Nothing { through: reader.through, as_of: reader.as_of() }
            }
            what => what,
        };
        Ok(Heard { ranges: reader.ranges.clone(), head: reader.head, what })
    }

    /// What is known of each reader's ranges when everything that was taken is stored.
    pub fn heard(&self) -> impl Iterator<Item = Heard> {
        self.all.iter().map(|reader| {
            let what = match reader.events.first() {
                Some(event) => What::Events(recorded_at(event)),
                None => What::Nothing { through: reader.through, as_of: reader.as_of() },
            };
            Heard { ranges: reader.ranges.clone(), head: reader.head, what }
        })
    }

    /// Whether there is a batch that is not worth waiting for more: full, or all that the feed has.
    #[must_use]
    pub fn is_whole(&self, limits: &Limits) -> bool {
        let all = self.all.iter().all(|reader| reader.through >= reader.head);
        self.is_full(limits) || (all && self.all.iter().any(|reader| !reader.events.is_empty()))
    }

    /// Whether there are as many events as are folded together.
    #[must_use]
    pub fn is_full(&self, limits: &Limits) -> bool {
        let events: usize = self.all.iter().map(|reader| reader.events.len()).sum();
        let bytes: usize = self.all.iter().map(|reader| reader.bytes).sum();
        events >= limits.batch_events || bytes >= limits.batch_bytes
    }

    /// The batch, for the projection with this name; `None` where there are no events.
    pub fn take(&mut self, projection: &'static str) -> Option<Batch> {
        let mut events = Vec::new();
        let mut parts = Vec::new();
        for reader in self.all.iter_mut().filter(|reader| !reader.events.is_empty()) {
            let as_of = reader.as_of().or_else(|| reader.events.last().and_then(recorded_at));
            let lasts = lasts(self.category, &reader.ranges, &reader.events);
            let Reader { ranges, through, head, .. } = reader;
            parts.push(Part { ranges: ranges.clone(), through: *through, head: *head, as_of, lasts });
            reader.bytes = 0;
            events.append(&mut reader.events);
        }
        (!events.is_empty()).then(|| Batch::new(projection, events, parts))
    }
}

impl Reader {
    /// Nothing recorded before is missing once all that was given is applied; `None` where more is known to follow.
    fn as_of(&self) -> Option<i64> {
        (self.through >= self.head).then_some(self.heard_at)
    }

    fn add(&mut self, events: Vec<RecordedEvent>, through: i64, head: i64) {
        // In memory an event takes more than on the wire.
        let weight = |event: &RecordedEvent| size_of::<RecordedEvent>() + event.encoded_len();
        self.bytes += events.iter().map(weight).sum::<usize>();
        self.events.extend(events);
        self.through = self.through.max(through);
        self.head = self.head.max(head).max(self.through);
    }
}

/// The last of these events in each range that has one.
fn lasts(
    category: StreamCategory,
    ranges: &RangeInclusive<usize>,
    events: &[RecordedEvent],
) -> Vec<(usize, Mark)> {
    let mut lasts: Vec<(usize, Mark)> = Vec::new();
    for event in events.iter().rev() {
        let range = lease::range_of(category, &event.stream_key);
        if !lasts.iter().any(|(known, _)| *known == range) {
            lasts.extend(Mark::of(event).map(|mark| (range, mark)));
        }
        if lasts.len() == ranges.clone().count() {
            break;
        }
    }
    lasts
}

/// Adjacent ranges that are read together.
fn runs(held: [bool; RANGES], applied: [i64; RANGES]) -> Vec<RangeInclusive<usize>> {
    let mut runs: Vec<RangeInclusive<usize>> = Vec::new();
    for range in (0..RANGES).filter(|range| held[*range]) {
        let joins = runs.last().is_some_and(|run| {
            let positions = applied[run.clone()].iter().chain([&applied[range]]);
            let (least, most) =
                positions.fold((i64::MAX, 0), |(least, most), p| (least.min(*p), most.max(*p)));
            run.end() + 1 == range && most - least <= TOGETHER
        });
        match runs.last_mut() {
            Some(run) if joins => *run = *run.start()..=range,
            _ => runs.push(range..=range),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_together_where_they_lie_together_and_stand_together() {
        let all = [true; RANGES];
        assert_eq!(runs(all, [7; RANGES]), [0..=15]);
        assert_eq!(runs([false; RANGES], [7; RANGES]), []);
        let mut some = all;
        some[4] = false;
        assert_eq!(runs(some, [7; RANGES]), [0..=3, 5..=15]);
        let mut apart = [100_000; RANGES];
        apart[8] = 0;
        assert_eq!(runs(all, apart), [0..=7, 8..=8, 9..=15]);
        apart[8] = 100_000 - TOGETHER;
        assert_eq!(runs(all, apart), [0..=15]);
        // Not even step by step do ranges far apart become one.
        let steps = std::array::from_fn(|range| i64::try_from(range).unwrap() * 4_000);
        assert!(runs(all, steps).len() >= 8);
    }
}
