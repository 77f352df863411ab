//! How far a projection is, for everyone who asks: queries, waiting readers, metrics, administrators.
//!
//! Each index that is fed has its own [`IndexProgress`], which its projector writes. [`Progress`] shows that of the live index.
//!
//! A position is *applied* when every event up to it is stored in the index (seen by id, in real time) and *visible*
//! when a refresh has begun after that (seen by searches). Both hold for all slices, whichever copy projects them. Refreshing is
//! shared: whoever wants one waits for a refresh that begins after asking, and all who wait together get the same.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::clock::Clock;
use tokio::sync::watch;

use super::batch::Part;
use super::snapshot::{Snapshot, State, float};
use crate::index::{Index, IndexError};
use crate::lease::{Owner, RANGES, Standing, Standings};

/// A projection's progress: that of its live index. Clones share it.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    projection: &'static str,
    index: Index,
    alias: String,
    clock: Clock,
    /// Where the live index stands.
    shown: watch::Sender<Snapshot>,
    all: Mutex<All>,
    refreshes: watch::Sender<Refreshes>,
    turn: tokio::sync::Mutex<()>,
}

/// Where each index stands that this copy feeds or shows.
#[derive(Debug, Default)]
struct All {
    /// Physical name of the live one; empty until it is known.
    live: String,
    by_index: HashMap<String, Snapshot>,
}

/// Refreshes are numbered; the last that ended is kept with its outcome.
#[derive(Debug)]
struct Refreshes {
    begun: u64,
    ended: u64,
    outcome: Result<(), IndexError>,
}

impl Progress {
    /// Progress of a projection that has not started; `alias` leads to its index.
    #[must_use]
    pub fn new(projection: &'static str, index: Index, alias: String, clock: Clock) -> Self {
        let now = clock.now_nanos();
        Self(Arc::new(Inner {
            projection,
            index,
            alias,
            clock,
            shown: watch::Sender::new(Snapshot::new(projection, now)),
            all: Mutex::default(),
            refreshes: watch::Sender::new(Refreshes { begun: 0, ended: 0, outcome: Ok(()) }),
            turn: tokio::sync::Mutex::new(()),
        }))
    }

    /// That of one of its indices.
    #[must_use]
    pub fn of(&self, index: &str) -> IndexProgress {
        IndexProgress { progress: self.clone(), index: index.to_owned() }
    }

    /// That of the index that is live now.
    pub(super) fn shown(&self) -> IndexProgress {
        self.of(&self.live())
    }

    /// From now on this index is live; everything up to `floor` can be found in it.
    pub(crate) fn show(&self, live: &str, floor: i64) {
        if self.live() == live {
            return;
        }
        live.clone_into(&mut self.all().live);
        self.of(live).change(|snapshot| {
            for range in &mut snapshot.ranges {
                range.applied = range.applied.max(floor);
                range.visible = range.visible.max(floor);
            }
            snapshot.recount();
        });
    }

    /// Forgets an index that is no longer fed.
    pub(crate) fn forget(&self, index: &str) {
        let mut all = self.all();
        if all.live != index {
            all.by_index.remove(index);
        }
    }

    fn unknown(&self, index: &str) -> Snapshot {
        let now = self.0.clock.now_nanos();
        Snapshot { index: index.to_owned(), ..Snapshot::new(self.0.projection, now) }
    }

    fn live(&self) -> String {
        self.all().live.clone()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live index is not known, because a dependency does not answer. True where that is news.
    pub(crate) fn waiting(&self, error: &str) -> bool {
        self.shown().waiting(error)
    }

    /// Stopped until a person has looked.
    pub(crate) fn halted(&self, error: &str) {
        self.shown().halted(error);
    }

    /// Where the projection stands now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.shown.borrow().clone()
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.0.shown.subscribe()
    }

    /// Seconds by which documents read by id are behind the event store now.
    #[must_use]
    pub fn lag_seconds(&self) -> f64 {
        self.0.shown.borrow().lag_seconds(self.0.clock.now_nanos())
    }

    /// Seconds by which searches are behind the event store now.
    #[must_use]
    pub fn visible_lag_seconds(&self) -> f64 {
        self.0.shown.borrow().visible_lag_seconds(self.0.clock.now_nanos())
    }

    /// Makes everything searchable that any copy of the service wrote before the call. All who ask while a refresh is
    /// under way share the next one. May be dropped at any time.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn request_refresh(&self) -> Result<(), IndexError> {
        let asked = self.0.refreshes.borrow().begun;
        let _turn = self.0.turn.lock().await;
        {
            let refreshes = self.0.refreshes.borrow();
            if refreshes.ended > asked {
                return refreshes.outcome.clone();
            }
        }
        let number = self.0.refreshes.borrow().begun + 1;
        self.0.refreshes.send_modify(|refreshes| refreshes.begun = number);
        let live = self.shown();
        let applied = live.begin_refresh();
        // What queries ask: should another index become live in between, that one is as wanted.
        let outcome = self.0.index.refresh(&self.0.alias).await;
        live.end_refresh(&applied, outcome.is_ok());
        self.0.refreshes.send_modify(|refreshes| {
            refreshes.ended = number;
            refreshes.outcome.clone_from(&outcome);
        });
        outcome
    }

    /// Sets the gauges of this projection.
    pub fn record_metrics(&self) {
        let snapshot = self.snapshot();
        let name = snapshot.projection;
        let gauge = |metric: &'static str| metrics::gauge!(metric, "projection" => name);
        gauge("projection_position").set(float(snapshot.applied_position));
        gauge("projection_head_position").set(float(snapshot.head_position));
        gauge("projection_lag_events").set(float(snapshot.head_position - snapshot.applied_position));
        gauge("projection_lag_seconds").set(self.visible_lag_seconds());
        gauge("projection_parked_streams")
            .set(float(i64::try_from(snapshot.parked_streams).unwrap_or(i64::MAX)));
        for state in State::ALL {
            metrics::gauge!("projection_state", "projection" => name, "state" => state.name())
                .set(if state == snapshot.state { 1.0 } else { 0.0 });
        }
    }
}

/// Progress of one index. Clones share it.
#[derive(Clone, Debug)]
pub struct IndexProgress {
    progress: Progress,
    index: String,
}

impl IndexProgress {
    /// Physical name of the index.
    #[must_use]
    pub fn index(&self) -> &str {
        &self.index
    }

    /// Where the index stands now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let known = self.progress.all().by_index.get(&self.index).cloned();
        known.unwrap_or_else(|| self.progress.unknown(&self.index))
    }

    /// Changes where the index stands, and shows it where the index is live.
    fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        let mut all = self.progress.all();
        let live = all.live == self.index;
        let unknown = || self.progress.unknown(&self.index);
        let snapshot = all.by_index.entry(self.index.clone()).or_insert_with(unknown);
        let changed = change(snapshot);
        if live {
            self.progress.0.shown.send_replace(snapshot.clone());
        }
        changed
    }

    /// Makes everything searchable that any copy of the service wrote before the call.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub(super) async fn refresh(&self) -> Result<(), IndexError> {
        if self.progress.live() == self.index {
            return self.progress.request_refresh().await;
        }
        let applied = self.begin_refresh();
        let outcome = self.progress.0.index.refresh(&self.index).await;
        self.end_refresh(&applied, outcome.is_ok());
        outcome
    }

    fn begin_refresh(&self) -> Standings {
        let mut applied = Standings::default();
        self.change(|snapshot| {
            applied = snapshot.ranges;
            // What an earlier refresh left, dropped in its course, is taken along.
            snapshot.refreshing_since = snapshot.invisible_since();
            snapshot.unrefreshed_since = None;
        });
        applied
    }

    fn end_refresh(&self, applied: &Standings, done: bool) {
        self.change(|snapshot| {
            if done {
                for (range, before) in snapshot.ranges.iter_mut().zip(applied) {
                    range.visible = range.visible.max(before.applied);
                    range.visible_as_of = range.visible_as_of.max(before.as_of);
                }
                snapshot.recount();
            } else {
                snapshot.unrefreshed_since = snapshot.invisible_since();
            }
            snapshot.refreshing_since = None;
        });
    }

    /// The projector knows its store and how far the ranges of slices are.
    pub(super) fn opened(&self, store_id: &str, recorded: &Standings, parked: usize) {
        let now = self.progress.0.clock.now_nanos();
        self.change(|snapshot| {
            store_id.clone_into(&mut snapshot.store_id);
            // A new checkpoint says nothing about the time.
            let known = |time: i64| if time > 0 { time } else { now };
            for (range, recorded) in snapshot.ranges.iter_mut().zip(recorded) {
                *range = Standing {
                    // What was known when it became live stays true.
                    applied: recorded.applied.max(range.applied),
                    visible: recorded.visible.max(range.visible),
                    head: recorded.head,
                    as_of: known(recorded.as_of),
                    visible_as_of: known(recorded.visible_as_of),
                };
            }
            snapshot.held = [false; RANGES];
            snapshot.parked_streams = parked;
            snapshot.last_error.clear();
            snapshot.recount();
            snapshot.state = State::CatchingUp;
        });
    }

    /// What the records say: which ranges this copy projects, how far the others are, and who owns them.
    pub(super) fn shared(&self, held: [bool; RANGES], recorded: &Standings, owners: Vec<Owner>) {
        self.change(|snapshot| {
            for (range, recorded) in recorded.iter().enumerate() {
                let known = &mut snapshot.ranges[range];
                let new = held[range] && !snapshot.held[range];
                if held[range] && !new {
                    continue;
                }
                // What was applied stays applied, whoever did it.
                if recorded.applied >= known.applied && recorded.as_of > 0 {
                    (known.applied, known.as_of) = (recorded.applied, recorded.as_of);
                }
                if recorded.visible >= known.visible && recorded.visible_as_of > 0 {
                    (known.visible, known.visible_as_of) = (recorded.visible, recorded.visible_as_of);
                }
                known.head = known.head.max(recorded.head);
                // What its former owner wrote may lack a refresh.
                if new && known.visible < known.applied {
                    let hidden = known.visible_as_of;
                    snapshot.unrefreshed_since =
                        Some(snapshot.unrefreshed_since.map_or(hidden, |since| since.min(hidden)));
                }
            }
            snapshot.held = held;
            snapshot.owners = owners.into();
            snapshot.recount();
            // A copy that projects nothing hears of the head from the others only.
            let idle = !held.contains(&true) && snapshot.state == State::CatchingUp;
            let told = recorded.iter().all(|range| range.as_of > 0);
            if idle && told && snapshot.applied_position >= snapshot.head_position {
                snapshot.state = State::Live;
            }
        });
    }

    /// The feed gave events of these ranges, the oldest recorded at `oldest`, which are not applied yet.
    pub(super) fn received(&self, ranges: RangeInclusive<usize>, oldest: Option<i64>, head: i64) {
        self.change(|snapshot| {
            snapshot.head_position = snapshot.head_position.max(head);
            for range in &mut snapshot.ranges[ranges] {
                range.as_of = oldest.map_or(range.as_of, |oldest| oldest.min(range.as_of));
            }
        });
    }

    /// The feed has nothing for us in these ranges up to `through`, and ends at `head`; nothing received waits to be applied, and
    /// nothing recorded before `as_of` is missing, where that is known.
    pub(super) fn stands(&self, ranges: RangeInclusive<usize>, through: i64, head: i64, as_of: Option<i64>) {
        self.change(|snapshot| {
            snapshot.head_position = snapshot.head_position.max(head);
            for range in &mut snapshot.ranges[ranges] {
                range.applied = range.applied.max(through);
                range.as_of = as_of.unwrap_or(range.as_of);
            }
            snapshot.last_error.clear();
            snapshot.show_unchanged();
            snapshot.settle();
        });
    }

    /// The events of a batch were applied, the oldest recorded at `oldest`.
    pub(super) fn stored(&self, parts: &[Part], oldest: Option<i64>, parked: usize) {
        let now = self.progress.0.clock.now_nanos();
        self.change(|snapshot| {
            for part in parts {
                for range in &mut snapshot.ranges[part.ranges.clone()] {
                    range.applied = range.applied.max(part.through);
                    range.as_of = part.as_of.unwrap_or(range.as_of);
                }
            }
            snapshot.parked_streams = parked;
            snapshot.last_error.clear();
            match oldest {
                Some(oldest) => {
                    snapshot.last_progress_at = now;
                    snapshot.unrefreshed_since = snapshot.unrefreshed_since.or(Some(oldest));
                }
                None => snapshot.show_unchanged(),
            }
            snapshot.stored += 1;
            snapshot.settle();
        });
    }

    /// Number of streams set aside.
    pub(super) fn parked(&self, streams: usize) {
        self.change(|snapshot| snapshot.parked_streams = streams);
    }

    /// A dependency does not answer. True where that is news.
    pub(super) fn waiting(&self, error: &str) -> bool {
        self.change(|snapshot| {
            let news = snapshot.state != State::Waiting || snapshot.last_error != error;
            snapshot.state = State::Waiting;
            error.clone_into(&mut snapshot.last_error);
            news
        })
    }

    /// What was waited for is there again, unless something else is waited for since.
    pub(super) fn over(&self, error: &str) {
        self.change(|snapshot| {
            if snapshot.state == State::Waiting && snapshot.last_error == error {
                snapshot.last_error.clear();
                snapshot.settle();
            }
        });
    }

    /// Stopped until a person has looked.
    pub(super) fn halted(&self, error: &str) {
        self.change(|snapshot| {
            snapshot.state = State::Halted;
            error.clone_into(&mut snapshot.last_error);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn progress() -> (IndexProgress, Clock) {
        let clock = Clock::fixed(100 * SECOND);
        let index = Index::new("http://127.0.0.1:1").unwrap();
        let progress = Progress::new("orders", index, "orders".to_owned(), clock.clone());
        progress.show("i", 0);
        (progress.of("i"), clock)
    }

    fn assert_lag(progress: &IndexProgress, applied: f64, visible: f64) {
        let progress = &progress.progress;
        assert!((progress.lag_seconds() - applied).abs() < 1e-6, "{}", progress.lag_seconds());
        assert!(
            (progress.visible_lag_seconds() - visible).abs() < 1e-6,
            "{}",
            progress.visible_lag_seconds()
        );
    }

    /// This copy projects all ranges but the last, which another one recorded like this.
    fn open(progress: &IndexProgress, own: i64, others: Standing) {
        let mut recorded = [Standing { applied: own, visible: own, ..Standing::default() }; RANGES];
        recorded[RANGES - 1] = others;
        progress.opened("s", &recorded, 0);
        let mut held = [true; RANGES];
        held[RANGES - 1] = false;
        progress.shared(held, &recorded, vec![]);
    }

    fn recorded(position: i64, as_of: i64) -> Standing {
        Standing { applied: position, visible: position, head: position, as_of, visible_as_of: as_of }
    }

    fn all_but_last() -> RangeInclusive<usize> {
        0..=RANGES - 2
    }

    fn stored(progress: &IndexProgress, through: i64, oldest: i64, as_of: Option<i64>) {
        let part = Part { ranges: all_but_last(), through, head: through, as_of };
        progress.stored(&[part], Some(oldest), 0);
    }

    #[test]
    fn lag_counts_from_the_oldest_event_missing() {
        let (progress, clock) = progress();
        open(&progress, 0, recorded(9, 200 * SECOND));
        progress.received(all_but_last(), Some(97 * SECOND), 9);
        assert_lag(&progress, 3.0, 3.0);
        clock.advance(Duration::from_secs(10));
        assert_lag(&progress, 13.0, 13.0);
        stored(&progress, 9, 97 * SECOND, Some(110 * SECOND));
        assert_lag(&progress, 0.0, 13.0);
        let applied = progress.begin_refresh();
        stored(&progress, 10, 108 * SECOND, Some(110 * SECOND));
        progress.end_refresh(&applied, true);
        assert_eq!(progress.snapshot().visible_position, 9);
        assert!(progress.snapshot().is_dirty());
    }

    #[test]
    fn a_silent_feed_is_not_up_to_date() {
        let (progress, clock) = progress();
        open(&progress, 5, recorded(5, 200 * SECOND));
        progress.stands(all_but_last(), 5, 5, Some(clock.now_nanos()));
        clock.advance(Duration::from_secs(12));
        assert_lag(&progress, 0.0, 0.0);
        clock.advance(Duration::from_secs(1));
        assert_lag(&progress, 13.0, 13.0);
        progress.stands(all_but_last(), 5, 5, Some(clock.now_nanos()));
        assert_lag(&progress, 0.0, 0.0);
    }

    #[test]
    fn a_failed_refresh_makes_nothing_visible() {
        let (progress, _) = progress();
        open(&progress, 0, recorded(4, 100 * SECOND));
        stored(&progress, 4, 90 * SECOND, Some(95 * SECOND));
        let applied = progress.begin_refresh();
        progress.end_refresh(&applied, false);
        assert_eq!(progress.snapshot().visible_position, 0);
        assert!(progress.snapshot().is_dirty());
    }

    #[test]
    fn an_answer_includes_only_what_all_copies_have_recorded() {
        let (progress, clock) = progress();
        open(&progress, 5, recorded(3, 98 * SECOND));
        progress.stands(all_but_last(), 7, 7, Some(clock.now_nanos()));
        let snapshot = progress.snapshot();
        assert_eq!((snapshot.applied_position, snapshot.visible_position, snapshot.head_position), (3, 3, 7));
        assert_lag(&progress, 2.0, 2.0);
        // The other copy goes on, but what it wrote is not visible yet.
        let further = Standing { visible: 6, visible_as_of: 99 * SECOND, ..recorded(7, 100 * SECOND) };
        let held = progress.snapshot().held;
        progress.shared(held, &[further; RANGES], vec![]);
        assert_eq!((progress.snapshot().applied_position, progress.snapshot().visible_position), (7, 6));
        assert_lag(&progress, 0.0, 1.0);
        // A refresh by any copy shows the writes of all.
        let applied = progress.begin_refresh();
        progress.end_refresh(&applied, true);
        assert_eq!(progress.snapshot().visible_position, 7);
        assert_lag(&progress, 0.0, 0.0);
        // A record that has not changed for long hides whatever came since.
        clock.advance(Duration::from_secs(13));
        progress.stands(all_but_last(), 7, 7, Some(clock.now_nanos()));
        assert_lag(&progress, 13.0, 13.0);
    }

    #[test]
    fn a_range_that_is_taken_over_is_no_further_than_its_record() {
        let (progress, _) = progress();
        open(&progress, 9, recorded(4, 100 * SECOND));
        let further = Standing { visible: 5, visible_as_of: 90 * SECOND, ..recorded(6, 95 * SECOND) };
        progress.shared([true; RANGES], &[further; RANGES], vec![]);
        let snapshot = progress.snapshot();
        assert_eq!((snapshot.applied_position, snapshot.visible_position), (6, 5));
        assert!(snapshot.is_dirty(), "its last documents may lack a refresh");
    }

    #[tokio::test]
    async fn everyone_who_waits_gets_the_outcome() {
        let (progress, _) = progress();
        let (one, two) = tokio::join!(progress.refresh(), progress.refresh());
        assert!(matches!(one, Err(IndexError::Unavailable(_))), "{one:?}");
        assert!(two.is_err());
    }

    #[test]
    fn what_is_shown_follows_the_live_index_and_starts_at_its_floor() {
        let (old, _) = progress();
        open(&old, 7, recorded(7, 100 * SECOND));
        let shown = old.progress.clone();
        let new = shown.of("j");
        new.opened("s", &[recorded(5, 99 * SECOND); RANGES], 0);
        assert_eq!((shown.snapshot().index.as_str(), shown.snapshot().applied_position), ("i", 7));
        shown.show("j", 6);
        let now = shown.snapshot();
        assert_eq!((now.index.as_str(), now.applied_position, now.visible_position), ("j", 6, 6));
        // What goes on with the old one is not told any more.
        old.stands(0..=RANGES - 1, 9, 9, None);
        assert_eq!(shown.snapshot(), now);
        shown.show("j", 0);
        assert_eq!(shown.snapshot().applied_position, 6);
    }
}
