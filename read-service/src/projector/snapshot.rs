//! Where a projection stands at one moment, and what that means for the age of answers.
//!
//! Lag is honest whichever part stands still: it counts from the recording of the oldest event known to be missing,
//! and where the feed is silent from the moment when it last said that none is. What other copies of the service project is known from
//! their checkpoints: it may be further, never less far.

use std::sync::Arc;
use std::time::Duration;

use crate::lease::{Owner, RANGES, Standing, Standings};
use crate::subscription::Mark;

/// A feed that is silent for longer than two heartbeats may hide events.
const SILENCE: Duration = Duration::from_secs(12);

/// What a projection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Applying events that are older than the feed's head.
    CatchingUp,
    /// At the head.
    Live,
    /// A dependency does not answer; retried by itself.
    Waiting,
    /// Stopped by something that a person must look at.
    Halted,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::CatchingUp, Self::Live, Self::Waiting, Self::Halted];

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CatchingUp => "catching_up",
            Self::Live => "live",
            Self::Waiting => "waiting",
            Self::Halted => "halted",
        }
    }
}

/// Where a projection stands. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the projection.
    pub projection: &'static str,
    /// Physical name of the index behind the alias; empty until Elasticsearch answered once.
    pub index: String,
    /// The event store; empty until it is known.
    pub store_id: String,
    /// What it is doing.
    pub state: State,
    /// Every event up to here is stored, or its stream is parked.
    pub applied_position: i64,
    /// Every event up to here can be searched.
    pub visible_position: i64,
    /// Newest known position of the feed.
    pub head_position: i64,
    /// Streams set aside.
    pub parked_streams: usize,
    /// The last thing that went wrong; empty where nothing is.
    pub last_error: String,
    /// When events were last applied by this copy; 0 before.
    pub last_progress_at: i64,
    /// Who projects which slices.
    pub owners: Arc<[Owner]>,
    /// Counts what this copy stored.
    pub(crate) stored: u64,
    /// Another one with each batch that begins and each change of leases, and never that of another index.
    pub(super) epoch: u64,
    /// A batch has begun, and documents may have changed that this copy does not count as stored yet.
    pub(super) writing: bool,
    /// How far each range of slices is.
    pub(super) ranges: Standings,
    /// Which of them this copy projects.
    pub(super) held: [bool; RANGES],
    /// Recording of the oldest event applied by this copy that no refresh has made visible, and none under way will.
    pub(super) unrefreshed_since: Option<i64>,
    /// The same for the refresh under way.
    pub(super) refreshing_since: Option<i64>,
}

impl Snapshot {
    /// Before anything is known, at the time `now`.
    pub(super) fn new(projection: &'static str, now: i64) -> Self {
        Self {
            projection,
            index: String::new(),
            store_id: String::new(),
            state: State::Waiting,
            applied_position: 0,
            visible_position: 0,
            head_position: 0,
            parked_streams: 0,
            last_error: String::new(),
            last_progress_at: 0,
            owners: Arc::new([]),
            stored: 0,
            epoch: 0,
            writing: true,
            ranges: [Standing { as_of: now, visible_as_of: now, ..Standing::default() }; RANGES],
            held: [false; RANGES],
            unrefreshed_since: None,
            refreshing_since: None,
        }
    }

    /// Seconds by which documents read by id are behind the event store at the time `now`; 0 where nothing is
    /// missing.
    #[must_use]
    pub fn lag_seconds(&self, now: i64) -> f64 {
        let lag = |range: &Standing| self.lag(range.applied, range.as_of, now);
        self.ranges.iter().map(lag).fold(0.0, f64::max)
    }

    /// Seconds by which searches are behind the event store at the time `now`; 0 where nothing is missing.
    #[must_use]
    pub fn visible_lag_seconds(&self, now: i64) -> f64 {
        let lag = |range: &Standing| self.lag(range.visible, range.visible_as_of, now);
        self.standings().iter().map(lag).fold(self.lag_seconds(now), f64::max)
    }

    /// Seconds since nothing was known to be missing, at the time `now`: by how much documents may be behind a store that is silent.
    #[must_use]
    pub fn age_seconds(&self, now: i64) -> f64 {
        self.ranges.iter().map(|range| seconds(now, range.as_of)).fold(0.0, f64::max)
    }

    fn lag(&self, position: i64, as_of: i64, now: i64) -> f64 {
        let age = seconds(now, as_of);
        let unknown = self.store_id.is_empty() || age > SILENCE.as_secs_f64();
        if unknown || position < self.head_position { age } else { 0.0 }
    }

    /// How far each range is, as others should know it.
    #[must_use]
    pub fn standings(&self) -> Standings {
        let hidden = self.invisible_since();
        std::array::from_fn(|range| {
            let mut standing = Standing { head: self.head_position, ..self.ranges[range] };
            if self.held[range] {
                standing.visible_as_of = hidden.map_or(standing.as_of, |hidden| hidden.min(standing.as_of));
            }
            standing
        })
    }

    /// What stays the same for as long as no document of this range changes; `None` where that is not known, as another copy projects
    /// it or something is about to change.
    #[must_use]
    pub(crate) fn settled(&self, range: usize) -> Option<u64> {
        (self.held[range] && !self.writing).then_some(self.epoch)
    }

    /// The newest event known to be stored.
    #[must_use]
    pub(crate) fn last(&self) -> Option<Mark> {
        self.ranges.iter().filter_map(|range| range.last).max()
    }

    /// Whether something applied by this copy waits for a refresh that is not yet under way.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.unrefreshed_since.is_some()
    }

    /// Whether this copy has yet to apply what the feed has for it.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.held_ranges().any(|range| self.ranges[range].applied < self.head_position)
    }

    pub(super) fn invisible_since(&self) -> Option<i64> {
        self.refreshing_since.into_iter().chain(self.unrefreshed_since).min()
    }

    pub(super) fn held_ranges(&self) -> impl Iterator<Item = usize> + use<> {
        let held = self.held;
        (0..RANGES).filter(move |range| held[*range])
    }

    /// An answer includes what all ranges include.
    pub(super) fn recount(&mut self) {
        self.applied_position = self.ranges.iter().map(|range| range.applied).min().unwrap_or(0);
        self.visible_position = self.ranges.iter().map(|range| range.visible).min().unwrap_or(0);
        let heads = self.ranges.iter().map(|range| range.head);
        self.head_position = heads.fold(self.head_position.max(self.applied_position), i64::max);
    }

    /// The feed is heard, and nothing that it gave waits.
    pub(super) fn settle(&mut self) {
        self.recount();
        self.state = if self.is_behind() { State::CatchingUp } else { State::Live };
    }

    /// What is applied without a change of any document is visible with what was applied before.
    pub(super) fn show_unchanged(&mut self) {
        if self.invisible_since().is_none() {
            for range in self.held_ranges() {
                self.ranges[range].visible = self.ranges[range].applied;
            }
        }
    }
}

fn seconds(now: i64, since: i64) -> f64 {
    float(now.saturating_sub(since).max(0)) / 1e9
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floats; seconds and positions this large need no last digit"
)]
pub(super) fn float(number: i64) -> f64 {
    number as f64
}
