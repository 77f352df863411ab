//! Which copy of the service projects which slices, and how far each slice is.
//!
//! The 1,024 slices are shared in 16 fixed ranges: a range is the unit of lease and checkpoint, one record in the control index
//! for each physical index. Records are changed by compare-and-set only. An owner writes its records at least every
//! [`Times::renew`]; a copy that has seen no such write for [`Times::expire`] on its own monotonic clock takes the range. The
//! owner itself stops at [`Times::hold`] after it sent the last write that succeeded, on its own clock: earlier, whatever lies
//! between. No times of two machines are compared. Should two copies project one range all the same, both do the
//! same work: documents cannot go back, and only one of them can move the checkpoint.
//!
//! - `share`: who should project what, decided from what all copies see.
//! - `record`: the record of a range.
//! - `place`: all records of an index, as anyone may read them.
//! - `write`: how an owner writes its records, beside its work where they are checkpoints.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use proto::v1::StreamCategory;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::index::{Index, IndexError, Put, Record, Stamp};
use crate::subscription::Mark;

mod share;
mod record;
mod place;
mod write;

pub use place::{Place, Sign};

use record::{RangeRecord, WholeCheckpoint};
use share::View;
use write::Written;

/// Number of ranges: enough that up to 16 copies share them evenly, few enough that all are read and written at once.
pub const RANGES: usize = 16;

/// First and last slice of these ranges.
#[must_use]
pub fn slices(ranges: RangeInclusive<usize>) -> (i32, i32) {
    let width = usize::from(proto::slice::COUNT) / RANGES;
    let slice = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    (slice(ranges.start() * width), slice((ranges.end() + 1) * width - 1))
}

/// The range that the slice of a stream lies in.
#[must_use]
pub fn range_of(category: StreamCategory, stream_key: &str) -> usize {
    usize::from(proto::slice::of(category, stream_key)) * RANGES / usize::from(proto::slice::COUNT)
}

/// How far a range of slices is. Times are nanoseconds since 1970, for people only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Every event up to here is stored, or its stream is parked.
    pub applied: i64,
    /// Every event up to here can be searched.
    pub visible: i64,
    /// Newest position of the feed known to whoever said so.
    pub head: i64,
    /// No event recorded before is known to be missing.
    pub as_of: i64,
    /// The same for searches.
    pub visible_as_of: i64,
    /// The last event that is stored, where one is known.
    pub last: Option<Mark>,
}

/// How far each range is.
pub type Standings = [Standing; RANGES];

/// The rhythm of leases.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Longest time between two looks at the records of all copies.
    pub look: Duration,
    /// Longest time between two writes of a record by its owner.
    pub renew: Duration,
    /// How long an owner projects after the last write.
    pub hold: Duration,
    /// How long a record may be seen unchanged before its owner counts as gone.
    pub expire: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(1),
            renew: Duration::from_secs(2),
            hold: Duration::from_secs(6),
            expire: Duration::from_secs(8),
        }
    }
}

/// The records belong to another index or store than before, or are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("checkpoint was taken over for another index or another store")]
pub struct TakenOver;

/// Why leases are not known.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// They are no longer this index's or this store's.
    #[error(transparent)]
    TakenOver(#[from] TakenOver),
}

/// Who projects some slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// First slice.
    pub first_slice: i32,
    /// Last slice.
    pub last_slice: i32,
    /// Name of the copy; empty where nobody does.
    pub copy: String,
    /// When the lease ends, unless it is renewed.
    pub expires_at: Instant,
}

/// The leases of one index as one copy sees and holds them.
pub struct Leases {
    place: Place,
    /// Name of this copy.
    me: String,
    times: Times,
    ids: Vec<String>,
    store_id: String,
    /// The repair before which this copy has forgotten what it had read.
    forgot: i64,
    ranges: Vec<Tenure>,
    due: Instant,
    ends: watch::Sender<Ends>,
    /// The write of checkpoints under way.
    saving: JoinSet<Written>,
    /// The last ones were not stored.
    unsaved: bool,
}

/// Until when a copy may project each range.
type Ends = [Option<Instant>; RANGES];

/// Which ranges a copy may project, for whoever does not have its leases at hand.
#[derive(Clone, Debug)]
pub struct Held(watch::Receiver<Ends>);

impl Held {
    /// Whether the copy may project this range now.
    #[must_use]
    pub fn includes(&self, range: usize) -> bool {
        self.0.borrow()[range].is_some_and(|end| Instant::now() < end)
    }
}

/// A range as it was last seen or written.
struct Tenure {
    stamp: Stamp,
    record: RangeRecord,
    /// When this owner's latest write was first seen here.
    since: Instant,
    /// When this copy sent the write that its lease rests on.
    renewed: Option<Instant>,
}

impl Leases {
    /// The leases of an index, none of them held yet. Makes records that are not there, and starts those over that were left by
    /// a deleted index of the same name; `store_id` is asked for then.
    ///
    /// # Errors
    /// Where Elasticsearch or the store fails, or the records are of several stores.
    pub async fn open<E: From<LeaseError>>(
        place: Place,
        me: &str,
        times: Times,
        store_id: impl Future<Output = Result<String, E>>,
    ) -> Result<Self, E> {
        let ids = record::ids(&place.live.name);
        let mut found = place.find(&ids).await?;
        let ours = |record: &Record<RangeRecord>| record.value.index_uuid == place.live.uuid;
        if !found.iter().all(|record| record.as_ref().is_some_and(ours)) {
            let whole = WholeCheckpoint::find(&place).await.map_err(LeaseError::from)?;
            let known =
                found.iter().flatten().find(|record| ours(record)).map(|record| &record.value.store_id);
            let store_id = match known.or(whole.as_ref().map(|whole| &whole.store_id)) {
                Some(store_id) => store_id.clone(),
                None => store_id.await?,
            };
            let start = whole.map(|whole| whole.standing()).unwrap_or_default();
            let puts: Vec<_> = (0..RANGES)
                .filter(|range| !found[*range].as_ref().is_some_and(ours))
                .map(|range| Put {
                    id: ids[range].clone(),
                    seen: found[range].as_ref().map(|record| record.stamp),
                    value: RangeRecord::new(&place, &store_id, range, start),
                })
                .collect();
            tracing::info!(index = place.live.name, feed.position = start.applied, "new checkpoints");
            place.make(&puts).await?;
            found = place.find(&ids).await?;
        }
        let now = Instant::now();
        let tenures = found.into_iter().map(|record| {
            let Record { stamp, value: record } = record.filter(ours).ok_or(TakenOver)?;
            Ok(Tenure { stamp, record, since: now, renewed: None })
        });
        let ranges = tenures.collect::<Result<Vec<_>, TakenOver>>().map_err(LeaseError::from)?;
        let store_id = ranges[0].record.store_id.clone();
        Ok(Self {
            place,
            me: me.to_owned(),
            times,
            ids,
            store_id,
            forgot: 0,
            ranges,
            due: now,
            ends: watch::Sender::default(),
            saving: JoinSet::new(),
            unsaved: false,
        })
    }

    /// The store whose events the index holds.
    #[must_use]
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// How far each range is, as last recorded.
    #[must_use]
    pub fn recorded(&self) -> Standings {
        std::array::from_fn(|range| self.ranges[range].record.standing())
    }

    /// Which ranges this copy may project now.
    #[must_use]
    pub fn held(&self) -> [bool; RANGES] {
        let held = self.watch_held();
        std::array::from_fn(|range| held.includes(range))
    }

    /// The same at any time from now on.
    #[must_use]
    pub fn watch_held(&self) -> Held {
        Held(self.ends.subscribe())
    }

    fn tell_ends(&self) {
        let end = |range: usize| Some(self.ranges[range].renewed? + self.times.hold);
        self.ends.send_replace(std::array::from_fn(end));
    }

    /// Who projects what, adjacent ranges of one owner together.
    #[must_use]
    pub fn owners(&self) -> Vec<Owner> {
        let mut owners: Vec<Owner> = Vec::new();
        for (range, tenure) in self.ranges.iter().enumerate() {
            let (first_slice, last_slice) = slices(range..=range);
            let expires_at = tenure.renewed.unwrap_or(tenure.since) + self.times.expire;
            match owners.last_mut() {
                Some(last) if last.copy == tenure.record.owner => {
                    last.last_slice = last_slice;
                    last.expires_at = last.expires_at.min(expires_at);
                }
                _ => {
                    let copy = tenure.record.owner.clone();
                    owners.push(Owner { first_slice, last_slice, copy, expires_at });
                }
            }
        }
        owners
    }

    /// When the next round is due.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Looks at the records, then renews what is held, hands over what others have asked for, takes what nobody has, and asks for
    /// what is missing to an even share. What is held may have changed then. `standings` tells how far this copy is.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn round(&mut self, standings: &Standings) -> Result<(), LeaseError> {
        self.settle().await;
        let looked = self.look().await?;
        self.due = looked + self.times.look;
        let share::Plan { take, ask } = share::plan(&self.me, &self.views(looked));
        let mut writes = Vec::new();
        for (range, tenure) in self.ranges.iter().enumerate() {
            let record = &tenure.record;
            if record.owner == self.me {
                let next = match tenure.renewed {
                    Some(_) => record.clone().at(standings[range]),
                    // Made this copy's by its former owner, or by a write whose outcome was not heard.
                    None => record.clone(),
                }
                .having_forgotten(self.forgot);
                let renewed_lately =
                    tenure.renewed.is_some_and(|renewed| renewed.elapsed() < self.times.renew);
                if !record.heir.is_empty() || !renewed_lately || record.forgot != self.forgot {
                    let heir = if record.heir.is_empty() { &self.me } else { &record.heir };
                    writes.push((range, next.left_to(heir)));
                }
            } else if take.contains(&range) {
                writes.push((range, record.clone().left_to(&self.me)));
            } else if ask.contains(&range) {
                writes.push((range, record.clone().wanted_by(&self.me)));
            }
        }
        self.write(writes).await
    }

    /// Whether something is further than its checkpoint says.
    #[must_use]
    pub fn is_behind(&self, standings: &Standings) -> bool {
        (0..RANGES).any(|range| self.moved(range, standings))
    }

    /// Says in the ranges of this copy that it applies nothing while this hold lasts, and how far they are.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn stop_for(&mut self, hold: &str, standings: &Standings) -> Result<(), LeaseError> {
        self.settle().await;
        let moving = |range: &usize| {
            let Tenure { renewed, record, .. } = &self.ranges[*range];
            renewed.is_some() && record.held != hold
        };
        let writes = (0..RANGES).filter(moving).map(|range| {
            let record = self.ranges[range].record.clone().at(standings[range]).held_for(hold);
            (range, record.left_to(&self.me))
        });
        self.write(writes.collect()).await
    }

    /// Says in the ranges of this copy, with the next round, that what it had read before this repair is forgotten.
    pub fn say_forgotten(&mut self, mends: i64) {
        self.forgot = mends;
        self.due = Instant::now();
    }

    /// Stores how far the ranges are that this copy projects, and leaves them to others.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub async fn release(&mut self, standings: &Standings) -> Result<(), LeaseError> {
        self.settle().await;
        let held = (0..RANGES).filter(|range| self.ranges[*range].renewed.is_some());
        let writes = held.map(|range| {
            let record = self.ranges[range].record.clone();
            let heir = record.heir.clone();
            (range, record.at(standings[range]).left_to(&heir))
        });
        self.write(writes.collect()).await
    }

    fn moved(&self, range: usize, standings: &Standings) -> bool {
        let Tenure { renewed, record, .. } = &self.ranges[range];
        let (recorded, standing) = (record.standing(), &standings[range]);
        renewed.is_some() && (standing.applied > recorded.applied || standing.visible > recorded.visible)
    }

    fn views(&self, looked: Instant) -> [View<'_>; RANGES] {
        std::array::from_fn(|range| {
            let Tenure { record, since, .. } = &self.ranges[range];
            let seen_for = looked.saturating_duration_since(*since);
            let ends = if record.owner.is_empty() { Duration::ZERO } else { self.times.expire };
            let free = record.owner != self.me && seen_for >= ends;
            View {
                owner: if free { "" } else { &record.owner },
                heir: &record.heir,
                abandoned: free && seen_for >= ends + 2 * self.times.look,
            }
        })
    }

    /// Reads the records; gives the moment at which it asked for them.
    async fn look(&mut self) -> Result<Instant, LeaseError> {
        let asked = Instant::now();
        let found = self.place.find(&self.ids).await?;
        let now = Instant::now();
        for (tenure, found) in self.ranges.iter_mut().zip(found) {
            let Record { stamp, value: record } = found.ok_or(TakenOver)?;
            if record.index_uuid != self.place.live.uuid || record.store_id != self.store_id {
                return Err(TakenOver.into());
            }
            if (&record.owner, record.beat) != (&tenure.record.owner, tenure.record.beat) {
                tenure.since = now;
            }
            if record.owner != self.me {
                tenure.renewed = None;
            }
            (tenure.stamp, tenure.record) = (stamp, record);
        }
        self.tell_ends();
        Ok(asked)
    }
}

/// Removes the records of an index that is gone.
///
/// # Errors
/// Where Elasticsearch fails.
pub async fn forget(index: &Index, control: &str, name: &str) -> Result<(), IndexError> {
    index.remove_all(control, &record::ids(name)).await
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("me", &self.me).field("owners", &self.owners()).finish_non_exhaustive()
    }
}
