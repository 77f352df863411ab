//! What the control index says about a range of slices: who projects it, and how far it is. One record for both, so that
//! whoever lost the lease cannot move the checkpoint.

use serde::{Deserialize, Serialize};

use super::{Place, RANGES, Standing};
use crate::index::IndexError;
use crate::projection::time_text;
use crate::subscription::Mark;

/// The record of one range of one physical index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RangeRecord {
    kind: Kind,
    projection: String,
    index: String,
    pub index_uuid: String,
    pub store_id: String,
    first_slice: i32,
    last_slice: i32,
    /// Who projects it; empty where nobody does.
    pub owner: String,
    /// Who asks the owner for it; empty where nobody does.
    pub heir: String,
    /// The hold for which its owner has stopped; empty where it never did.
    #[serde(default)]
    pub held: String,
    /// The repair before which its owner has forgotten all documents that it had read.
    #[serde(default)]
    pub forgot: i64,
    /// Counts the writes of the owner: a wish of another copy is no sign of the owner's life.
    pub beat: i64,
    pub position: i64,
    visible_position: i64,
    head_position: i64,
    #[serde(with = "time_text")]
    as_of: i64,
    #[serde(with = "time_text")]
    visible_as_of: i64,
    /// Unknown to releases that did not compare it.
    #[serde(default)]
    last: Option<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Range,
}

impl RangeRecord {
    /// A range that nobody owns.
    pub fn new(place: &Place, store_id: &str, range: usize, standing: Standing) -> Self {
        let (first_slice, last_slice) = super::slices(range..=range);
        let record = Self {
            kind: Kind::Range,
            projection: place.projection.to_owned(),
            index: place.live.name.clone(),
            index_uuid: place.live.uuid.clone(),
            store_id: store_id.to_owned(),
            first_slice,
            last_slice,
            owner: String::new(),
            heir: String::new(),
            held: String::new(),
            forgot: 0,
            beat: 0,
            position: 0,
            visible_position: 0,
            head_position: 0,
            as_of: 0,
            visible_as_of: 0,
            last: None,
        };
        record.at(standing)
    }

    /// The record with another standing. A checkpoint never goes back.
    pub fn at(self, standing: Standing) -> Self {
        Self {
            position: self.position.max(standing.applied),
            visible_position: self.visible_position.max(standing.visible),
            head_position: self.head_position.max(standing.head),
            as_of: standing.as_of,
            visible_as_of: standing.visible_as_of,
            last: standing.last.max(self.last),
            ..self
        }
    }

    /// The record as its owner leaves it to `owner`: itself, another copy or, where it is empty, whoever takes it.
    pub fn left_to(self, owner: &str) -> Self {
        Self { owner: owner.to_owned(), heir: String::new(), beat: self.beat + 1, ..self }
    }

    /// The record with the wish of another copy to own the range.
    pub fn wanted_by(self, heir: &str) -> Self {
        Self { heir: heir.to_owned(), ..self }
    }

    /// The record of an owner that has stopped for a hold.
    pub fn held_for(self, hold: &str) -> Self {
        Self { held: hold.to_owned(), ..self }
    }

    /// The record of an owner that has forgotten what it had read before this repair.
    pub fn having_forgotten(self, mends: i64) -> Self {
        Self { forgot: mends, ..self }
    }

    /// How far the range is.
    pub fn standing(&self) -> Standing {
        Standing {
            applied: self.position,
            visible: self.visible_position,
            head: self.head_position,
            as_of: self.as_of,
            visible_as_of: self.visible_as_of,
            last: self.last,
        }
    }
}

/// Ids of the records of an index, in the order of the ranges.
pub(super) fn ids(index: &str) -> Vec<String> {
    (0..RANGES).map(|range| format!("range:{index}:{:04}", super::slices(range..=range).0)).collect()
}

/// The checkpoint of a release that did not share slices: all of them began where it stood. It is read, never written: copies
/// of that release may still run.
#[derive(Debug, Deserialize)]
pub(super) struct WholeCheckpoint {
    index_uuid: String,
    pub store_id: String,
    position: i64,
    #[serde(with = "time_text")]
    as_of: i64,
}

impl WholeCheckpoint {
    /// That of this index, where there is one.
    pub async fn find(place: &Place) -> Result<Option<Self>, IndexError> {
        let id = format!("checkpoint:{}", place.live.name);
        let record = place.index.record::<Self>(&place.control, &id).await?.map(|record| record.value);
        Ok(record.filter(|checkpoint| checkpoint.index_uuid == place.live.uuid))
    }

    /// How far each range is at least.
    pub fn standing(&self) -> Standing {
        let Self { position: applied, as_of, .. } = *self;
        Standing { applied, visible: 0, head: applied, as_of, visible_as_of: as_of, last: None }
    }
}
