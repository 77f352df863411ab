//! How far a projection is, for everyone who asks: queries, waiting readers, metrics, administrators.
//!
//! A position is *applied* when every event up to it is stored in the index (seen by id, in real time) and *visible*
//! when a refresh has begun after that (seen by searches). Refreshing is shared: whoever wants one waits for a
//! refresh that begins after asking, and all who wait together get the same.

use shared::clock::Clock;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

use super::snapshot::{Snapshot, State, float};
use crate::index::{Index, IndexError};

/// A projection's progress. Clones share it.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    index: Index,
    alias: String,
    clock: Clock,
    snapshot: watch::Sender<Snapshot>,
    applied: watch::Sender<i64>,
    refreshes: watch::Sender<Refreshes>,
    turn: Mutex<()>,
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
        let snapshot = Snapshot::new(projection, now);
        Self(Arc::new(Inner {
            index,
            alias,
            clock,
            snapshot: watch::Sender::new(snapshot),
            applied: watch::Sender::new(0),
            refreshes: watch::Sender::new(Refreshes { begun: 0, ended: 0, outcome: Ok(()) }),
            turn: Mutex::new(()),
        }))
    }

    /// Where the projection stands now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot.borrow().clone()
    }

    /// The applied position; changes whenever more is stored.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<i64> {
        self.0.applied.subscribe()
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.0.snapshot.subscribe()
    }

    /// Seconds by which documents read by id are behind the event store now.
    #[must_use]
    pub fn lag_seconds(&self) -> f64 {
        self.0.snapshot.borrow().lag_seconds(self.0.clock.now_nanos())
    }

    /// Seconds by which searches are behind the event store now.
    #[must_use]
    pub fn visible_lag_seconds(&self) -> f64 {
        self.0.snapshot.borrow().visible_lag_seconds(self.0.clock.now_nanos())
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
        let applied = self.begin_refresh();
        let outcome = self.0.index.refresh(&self.0.alias).await;
        self.end_refresh(applied, outcome.is_ok());
        self.0.refreshes.send_modify(|refreshes| {
            refreshes.ended = number;
            refreshes.outcome.clone_from(&outcome);
        });
        outcome
    }

    fn begin_refresh(&self) -> i64 {
        let mut applied = 0;
        self.0.snapshot.send_modify(|snapshot| {
            applied = snapshot.applied_position;
            // What an earlier refresh left, dropped in its course, is taken along.
            snapshot.refreshing_since = snapshot.invisible_since();
            snapshot.unrefreshed_since = None;
        });
        applied
    }

    fn end_refresh(&self, applied: i64, done: bool) {
        self.0.snapshot.send_modify(|snapshot| {
            if done {
                snapshot.visible_position = snapshot.visible_position.max(applied);
            } else {
                snapshot.unrefreshed_since = snapshot.invisible_since();
            }
            snapshot.refreshing_since = None;
        });
    }

    /// The projector knows its index, its store and where it goes on. What is in the index may lack a refresh.
    pub(super) fn opened(&self, index: &str, store_id: &str, position: i64, as_of: i64, parked: usize) {
        // A new checkpoint says nothing about the time.
        let as_of = if as_of > 0 { as_of } else { self.0.clock.now_nanos() };
        self.0.snapshot.send_modify(|snapshot| {
            index.clone_into(&mut snapshot.index);
            store_id.clone_into(&mut snapshot.store_id);
            snapshot.applied_position = position;
            snapshot.head_position = snapshot.head_position.max(position);
            snapshot.heard_at = as_of;
            snapshot.unrefreshed_since = Some(as_of);
            snapshot.parked_streams = parked;
            snapshot.last_error.clear();
            snapshot.state = State::CatchingUp;
        });
        self.tell_applied();
    }

    /// The index behind the alias is known.
    pub(super) fn found_index(&self, index: &str) {
        self.0.snapshot.send_modify(|snapshot| index.clone_into(&mut snapshot.index));
    }

    /// The feed gave events, the oldest recorded at `oldest`, which are not applied yet.
    pub(super) fn received(&self, oldest: Option<i64>, head: i64) {
        self.heard(|snapshot| {
            snapshot.head_position = snapshot.head_position.max(head);
            snapshot.missing_since = snapshot.missing_since.or(oldest);
        });
    }

    /// The feed has nothing for us up to `through`, and ends at `head`; nothing received waits to be applied.
    pub(super) fn stands(&self, through: i64, head: i64) {
        self.heard(|snapshot| {
            snapshot.head_position = snapshot.head_position.max(head);
            snapshot.applied_position = snapshot.applied_position.max(through);
            snapshot.last_error.clear();
            snapshot.show_unchanged();
            snapshot.settle();
        });
        self.tell_applied();
    }

    /// Events up to `through` were applied, recorded from `oldest` to `newest`.
    pub(super) fn stored(&self, through: i64, oldest: Option<i64>, newest: Option<i64>, parked: usize) {
        let now = self.0.clock.now_nanos();
        self.0.snapshot.send_modify(|snapshot| {
            snapshot.applied_position = snapshot.applied_position.max(through);
            snapshot.parked_streams = parked;
            snapshot.last_error.clear();
            match oldest {
                Some(oldest) => {
                    snapshot.last_progress_at = now;
                    snapshot.unrefreshed_since = snapshot.unrefreshed_since.or(Some(oldest));
                }
                None => snapshot.show_unchanged(),
            }
            snapshot.missing_since = newest;
            snapshot.settle();
        });
        self.tell_applied();
    }

    fn tell_applied(&self) {
        let applied = self.0.snapshot.borrow().applied_position;
        self.0.applied.send_if_modified(|told| std::mem::replace(told, applied) != applied);
    }

    /// Number of streams set aside.
    pub(super) fn parked(&self, streams: usize) {
        self.0.snapshot.send_modify(|snapshot| snapshot.parked_streams = streams);
    }

    /// A dependency does not answer. True where that is news.
    pub(super) fn waiting(&self, error: &str) -> bool {
        self.0.snapshot.send_if_modified(|snapshot| {
            let news = snapshot.state != State::Waiting || snapshot.last_error != error;
            snapshot.state = State::Waiting;
            error.clone_into(&mut snapshot.last_error);
            news
        })
    }

    /// Stopped until a person has looked.
    pub(super) fn halted(&self, error: &str) {
        self.0.snapshot.send_modify(|snapshot| {
            snapshot.state = State::Halted;
            error.clone_into(&mut snapshot.last_error);
        });
    }

    fn heard(&self, change: impl FnOnce(&mut Snapshot)) {
        let now = self.0.clock.now_nanos();
        self.0.snapshot.send_modify(|snapshot| {
            snapshot.heard_at = now;
            change(snapshot);
        });
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn progress() -> (Progress, Clock) {
        let clock = Clock::fixed(100 * SECOND);
        let index = Index::new("http://127.0.0.1:1").unwrap();
        (Progress::new("orders", index, "orders".to_owned(), clock.clone()), clock)
    }

    fn assert_lag(progress: &Progress, applied: f64, visible: f64) {
        assert!((progress.lag_seconds() - applied).abs() < 1e-6, "{}", progress.lag_seconds());
        assert!(
            (progress.visible_lag_seconds() - visible).abs() < 1e-6,
            "{}",
            progress.visible_lag_seconds()
        );
    }

    #[test]
    fn lag_counts_from_the_oldest_event_missing() {
        let (progress, clock) = progress();
        progress.opened("i", "s", 0, 100 * SECOND, 0);
        progress.0.snapshot.send_modify(|snapshot| snapshot.unrefreshed_since = None);
        progress.received(Some(97 * SECOND), 2);
        assert_lag(&progress, 3.0, 3.0);
        clock.advance(Duration::from_secs(10));
        assert_lag(&progress, 13.0, 13.0);
        progress.stored(2, Some(97 * SECOND), Some(99 * SECOND), 0);
        assert_lag(&progress, 0.0, 13.0);
        let applied = progress.begin_refresh();
        progress.stored(3, Some(108 * SECOND), None, 0);
        progress.end_refresh(applied, true);
        assert_eq!(progress.snapshot().visible_position, 2);
        assert_lag(&progress, 0.0, 2.0);
        assert!(progress.snapshot().is_dirty());
    }

    #[test]
    fn a_silent_feed_is_not_up_to_date() {
        let (progress, clock) = progress();
        progress.opened("i", "s", 5, 100 * SECOND, 0);
        progress.stands(5, 5);
        progress.0.snapshot.send_modify(|snapshot| snapshot.unrefreshed_since = None);
        clock.advance(Duration::from_secs(12));
        assert_lag(&progress, 0.0, 0.0);
        clock.advance(Duration::from_secs(1));
        assert_lag(&progress, 13.0, 13.0);
        progress.stands(5, 5);
        assert_lag(&progress, 0.0, 0.0);
    }

    #[test]
    fn a_failed_refresh_makes_nothing_visible() {
        let (progress, _) = progress();
        progress.opened("i", "s", 0, 100 * SECOND, 0);
        progress.stored(4, Some(90 * SECOND), Some(95 * SECOND), 0);
        let applied = progress.begin_refresh();
        progress.end_refresh(applied, false);
        assert_eq!(progress.snapshot().visible_position, 0);
        assert!(progress.snapshot().is_dirty());
    }

    #[tokio::test]
    async fn everyone_who_waits_gets_the_outcome() {
        let (progress, _) = progress();
        let (one, two) = tokio::join!(progress.request_refresh(), progress.request_refresh());
        assert!(matches!(one, Err(IndexError::Unavailable(_))), "{one:?}");
        assert!(two.is_err());
    }
}
