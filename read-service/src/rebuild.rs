//! Builds a projection again in a new index, proves it equal to the events, and switches every query over in one step.
//!
//! A request enters; what leaves is a live index that was proven, or the old one untouched. Everything that was reached is stored in
//! a record before the next begins, changed by compare-and-set only. One copy of the service works on a rebuild, with a beat as
//! in leases: where it dies, another goes on from the record. What a copy does that slept too long does no harm: documents have
//! versions, indices have names of their own, and a switch wants a mark that is gone.
//!
//! - `record`: what is known of a rebuild.
//! - `desk`: start, look, pause, resume, cancel, roll back: what callers ask for.
//! - `session`: the one copy that works on it.
//! - `advance`: percent and the time that is left.
//! - `work`: the stages, one after the other.
//! - `scan`: every stream folded once, every document indexed once.
//! - `verify`: counts and documents against a fresh fold.
//! - `switch`: the hold, the alias, the way back.
//! - `keeper`: one task per projection: picks up rebuilds, ends grace periods, drops what nobody names.

use std::time::Duration;

use proto::v1::StreamCategory;

use crate::compare::CompareError;
use crate::demand::Demand;
use crate::feeds::Feeds;
use crate::index::{EnsureError, Index, IndexError};
use crate::lease::{LeaseError, Place, Times};
use crate::projection::Projection;
use crate::projector::Tools;
use crate::subscription::{Feed, FeedError};
use shared::clock::Clock;

mod record;
mod desk;
mod session;
mod advance;
mod work;
mod scan;
mod verify;
mod switch;
mod keeper;

pub use desk::{Desk, DeskError, Wish};
pub(crate) use keeper::run;
pub use record::{Difference, Rebuild, Stage, Verified};

/// What a rebuild works with, whatever the projection.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub index: Index,
    pub feed: Feed,
    pub feeds: Feeds,
    pub clock: Clock,
    /// Name of this copy of the service.
    pub copy: String,
    pub times: Times,
    pub demand: Demand,
    pub rules: Rules,
    pub projection: &'static str,
    pub category: StreamCategory,
    pub mapping: &'static str,
}

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long the index that answered before is kept up to date after a switch.
    pub grace: Duration,
    /// Age from which an index of ours that no record names is dropped.
    pub orphan_age: Duration,
    /// Documents that are compared whole in the proof before the switch, unless there are fewer.
    pub compared: u64,
    /// Rebuild without being asked where the live index was made with another mapping.
    pub on_other_mapping: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            grace: Duration::from_mins(30),
            orphan_age: Duration::from_mins(45),
            compared: 20_000,
            on_other_mapping: false,
        }
    }
}

impl Subject {
    /// That of a projection.
    pub fn of<P: Projection>(tools: &Tools, rules: Rules) -> Self {
        Self {
            index: tools.index.clone(),
            feed: tools.feed.clone(),
            feeds: tools.feeds.clone(),
            clock: tools.clock.clone(),
            copy: tools.copy.clone(),
            times: tools.limits.leases,
            demand: tools.demand.clone(),
            rules,
            projection: P::NAME,
            category: P::CATEGORY,
            mapping: P::MAPPING,
        }
    }

    /// Where the leases of an index lie.
    async fn place(&self, name: &str) -> Result<Place, Stop> {
        let live = self.index.live(name).await?;
        let live = live.ok_or_else(|| Stop::Fail(format!("index {name} is gone")))?;
        let control = self.feeds.control().to_owned();
        Ok(Place { index: self.index.clone(), control, live, projection: self.projection })
    }
}

/// Why the work on a rebuild stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A dependency does not answer; the same stage is tried again.
    Wait(String),
    /// It is paused.
    Paused,
    /// It is cancelled.
    Cancelled,
    /// It cannot succeed.
    Fail(String),
    /// Another copy works on it.
    Lost,
}

impl From<IndexError> for Stop {
    fn from(error: IndexError) -> Self {
        match &error {
            IndexError::Refused { status: 400..=404, .. } => Self::Fail(error.to_string()),
            _ => Self::Wait(error.to_string()),
        }
    }
}

impl From<EnsureError> for Stop {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::Index(error) => error.into(),
            error => Self::Fail(error.to_string()),
        }
    }
}

impl From<FeedError> for Stop {
    fn from(error: FeedError) -> Self {
        let text = error.to_string();
        if error.is_of_other_history() { Self::Fail(text) } else { Self::Wait(text) }
    }
}

impl From<LeaseError> for Stop {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Index(error) => error.into(),
            LeaseError::TakenOver(error) => Self::Fail(error.to_string()),
        }
    }
}

impl From<CompareError> for Stop {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::Index(error) => error.into(),
            CompareError::Feed(error) => error.into(),
            CompareError::Lease(error) => error.into(),
        }
    }
}
