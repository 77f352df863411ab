//! How far an index has been fed: a record that only moves forward, changed by compare-and-set.
//!
//! It belongs to one physical index, known by its UUID, and to one event store. An index that was deleted and made
//! again has another UUID and is fed from the beginning; events of another store are never mixed in (the feed refuses
//! them).

use serde::{Deserialize, Serialize};

use crate::index::{Index, IndexError, LiveIndex, Stamp};
use crate::projection::time_text;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Fields {
    kind: Kind,
    projection: String,
    index: String,
    index_uuid: String,
    store_id: String,
    position: i64,
    #[serde(with = "time_text")]
    as_of: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Checkpoint,
}

/// The checkpoint of one index.
#[derive(Debug)]
pub struct Checkpoint {
    index: Index,
    control: String,
    id: String,
    stamp: Stamp,
    fields: Fields,
}

/// The checkpoint in the control index belongs to another index or store than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint was taken over for another index or another store")]
pub struct TakenOver;

/// Why a checkpoint was not moved.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// It is no longer this index's or this store's.
    #[error(transparent)]
    TakenOver(#[from] TakenOver),
}

impl Checkpoint {
    /// The checkpoint of this index, if it has one. One that was left by a deleted index of the same name starts
    /// over.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn find(index: &Index, control: &str, live: &LiveIndex) -> Result<Option<Self>, IndexError> {
        let id = id(live);
        loop {
            let Some(record) = index.record::<Fields>(control, &id).await? else { return Ok(None) };
            let mut checkpoint = Self {
                index: index.clone(),
                control: control.to_owned(),
                id: id.clone(),
                stamp: record.stamp,
                fields: record.value,
            };
            if checkpoint.fields.index_uuid == live.uuid {
                return Ok(Some(checkpoint));
            }
            tracing::warn!(
                index = live.name,
                feed.position = checkpoint.fields.position,
                "index was made anew, feeding it from the beginning"
            );
            let fields =
                Fields { index_uuid: live.uuid.clone(), position: 0, as_of: 0, ..checkpoint.fields.clone() };
            match checkpoint.write(fields).await {
                Ok(()) => return Ok(Some(checkpoint)),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the checkpoint of an index that has none, at the beginning of the store `store_id`; or finds the one
    /// that another copy made meanwhile.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn make(
        index: &Index,
        control: &str,
        projection: &str,
        live: &LiveIndex,
        store_id: &str,
    ) -> Result<Self, IndexError> {
        let fields = Fields {
            kind: Kind::Checkpoint,
            projection: projection.to_owned(),
            index: live.name.clone(),
            index_uuid: live.uuid.clone(),
            store_id: store_id.to_owned(),
            position: 0,
            as_of: 0,
        };
        match index.create(control, &id(live), &fields).await {
            Ok(stamp) => {
                Ok(Self { index: index.clone(), control: control.to_owned(), id: id(live), stamp, fields })
            }
            Err(error) if error.is_conflict() => {
                let found = Self::find(index, control, live).await?;
                found.ok_or_else(|| IndexError::Unavailable("checkpoint was removed".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Every event up to here is in the index, or its stream is parked.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.fields.position
    }

    /// The store that the position belongs to.
    #[must_use]
    pub fn store_id(&self) -> &str {
        &self.fields.store_id
    }

    /// When nothing was known to be missing beyond the position, in nanoseconds since 1970; 0 at the beginning.
    #[must_use]
    pub fn as_of(&self) -> i64 {
        self.fields.as_of
    }

    /// Moves the checkpoint to `position`. Where another copy moved it further, that stands.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or the record was taken over.
    pub async fn advance(&mut self, position: i64, as_of: i64) -> Result<(), AdvanceError> {
        while self.fields.position < position {
            let fields = Fields { position, as_of, ..self.fields.clone() };
            match self.write(fields).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_conflict() => self.reread().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn reread(&mut self) -> Result<(), AdvanceError> {
        let record = self.index.record::<Fields>(&self.control, &self.id).await?.ok_or(TakenOver)?;
        let same = record.value.index_uuid == self.fields.index_uuid
            && record.value.store_id == self.fields.store_id;
        if !same {
            return Err(TakenOver.into());
        }
        self.stamp = record.stamp;
        self.fields = record.value;
        Ok(())
    }

    async fn write(&mut self, fields: Fields) -> Result<(), IndexError> {
        self.stamp = self.index.replace(&self.control, &self.id, self.stamp, &fields).await?;
        self.fields = fields;
        Ok(())
    }
}

fn id(live: &LiveIndex) -> String {
    format!("checkpoint:{}", live.name)
}
