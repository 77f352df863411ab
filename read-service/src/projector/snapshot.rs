//! Where a projection stands at one moment, and what that means for the age of answers.
//!
//! Lag is honest whichever part stands still: it counts from the recording of the oldest event known to be missing,
//! and where the feed is silent from the moment when it last said that none is.

use std::time::Duration;

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
    /// When events were last applied; 0 before.
    pub last_progress_at: i64,
    /// When the feed was last heard.
    pub(super) heard_at: i64,
    /// Recording of the oldest event known not to be applied.
    pub(super) missing_since: Option<i64>,
    /// Recording of the oldest applied event that no refresh has made visible, and none under way will.
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
            heard_at: now,
            missing_since: None,
            unrefreshed_since: None,
            refreshing_since: None,
        }
    }

    /// Seconds by which documents read by id are behind the event store at the time `now`; 0 where nothing is
    /// missing.
    #[must_use]
    pub fn lag_seconds(&self, now: i64) -> f64 {
        let silent = seconds(now, self.heard_at);
        match self.missing_since {
            Some(since) => seconds(now, since),
            None if silent > SILENCE.as_secs_f64() => silent,
            None => 0.0,
        }
    }

    /// Seconds by which searches are behind the event store at the time `now`; 0 where nothing is missing.
    #[must_use]
    pub fn visible_lag_seconds(&self, now: i64) -> f64 {
        let hidden = self.invisible_since().map_or(0.0, |since| seconds(now, since));
        self.lag_seconds(now).max(hidden)
    }

    /// Whether something applied waits for a refresh that is not yet under way.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.unrefreshed_since.is_some()
    }

    pub(super) fn invisible_since(&self) -> Option<i64> {
        self.refreshing_since.into_iter().chain(self.unrefreshed_since).min()
    }

    /// Nothing received waits: at the head, nothing is missing.
    pub(super) fn settle(&mut self) {
        if self.applied_position >= self.head_position {
            self.missing_since = None;
            self.state = State::Live;
        } else {
            self.state = State::CatchingUp;
        }
    }

    /// What is applied without a change of any document is visible with what was applied before.
    pub(super) fn show_unchanged(&mut self) {
        if self.invisible_since().is_none() {
            self.visible_position = self.applied_position;
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
