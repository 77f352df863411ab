//! How far a projection is, for everyone who asks: queries, waiting readers, metrics, administrators.
//!
//! Each index that is fed has its own [`IndexProgress`], which its projector writes. [`Progress`] shows that of the live index.
//!
//! A position is *applied* when every event up to it is stored in the index (seen by id, in real time) and *visible*
//! when a refresh has begun after that (seen by searches). Both hold for all slices, whichever copy projects them. Refreshing is
//! shared: whoever wants one waits for a refresh that begins after asking, and all who wait together get the same.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::clock::Clock;
use tokio::sync::watch;

use super::snapshot::{Snapshot, State, float};
use crate::index::{Index, IndexError};

mod awaited;
mod of_index;

pub use of_index::IndexProgress;

use awaited::Awaited;

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
    /// The next epoch of any of its indices.
    epochs: AtomicU64,
    /// What readers wait for in the live index.
    awaited: Awaited,
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
    under_way: bool,
}

impl Refreshes {
    fn number_under_way(&self) -> Option<u64> {
        self.under_way.then_some(self.begun)
    }
}

/// A refresh under way, until it is dropped.
struct UnderWay<'a> {
    refreshes: &'a watch::Sender<Refreshes>,
    number: u64,
}

impl<'a> UnderWay<'a> {
    fn begin(refreshes: &'a watch::Sender<Refreshes>) -> Self {
        let mut number = 0;
        refreshes.send_modify(|refreshes| {
            refreshes.begun += 1;
            refreshes.under_way = true;
            number = refreshes.begun;
        });
        Self { refreshes, number }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.refreshes.send_modify(|refreshes| refreshes.under_way = false);
    }
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
            epochs: AtomicU64::new(0),
            awaited: Awaited::default(),
            refreshes: watch::Sender::new(Refreshes {
                begun: 0,
                ended: 0,
                outcome: Ok(()),
                under_way: false,
            }),
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

    /// What stays the same for as long as no document changes whose slice lies in this range, where that is known.
    #[must_use]
    pub(crate) fn settled(&self, range: usize) -> Option<u64> {
        self.0.shown.borrow().settled(range)
    }

    /// From now on exactly these streams are waited for.
    pub(crate) fn wait_for<'a>(&self, keys: impl Iterator<Item = &'a str>) {
        self.0.awaited.only(keys);
    }

    /// The newest version of a stream which this copy stored in the live index since it is waited for; 0 where it stored none.
    #[must_use]
    pub(crate) fn stored(&self, key: &str) -> i64 {
        self.0.awaited.stored(key)
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
        let under_way = UnderWay::begin(&self.0.refreshes);
        let live = self.shown();
        let applied = live.begin_refresh();
        // What queries ask: should another index become live in between, that one is as wanted.
        let outcome = self.0.index.refresh(&self.0.alias).await;
        live.end_refresh(&applied, outcome.is_ok());
        self.0.refreshes.send_modify(|refreshes| {
            refreshes.ended = under_way.number;
            refreshes.outcome.clone_from(&outcome);
        });
        outcome
    }

    /// Waits until the refresh that is under way, if any, is over.
    async fn refreshed(&self) {
        let mut refreshes = self.0.refreshes.subscribe();
        let Some(number) = refreshes.borrow().number_under_way() else { return };
        // It is never closed while this is there.
        refreshes.wait_for(|refreshes| refreshes.number_under_way() != Some(number)).await.ok();
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
mod tests;
