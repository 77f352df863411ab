//! Which indices of a projection there are: the one that answers, one that a rebuild fills, one that answered before.
//!
//! One record for each projection in the control index, changed by compare-and-set only. Every copy of the service looks at it
//! about once a second and feeds all of these indices, each with leases and checkpoints of its own. Queries go through the alias;
//! what they claim about their age follows this record, so that a copy that has not heard of a switch yet claims nothing false:
//!
//! - Before a switch a *hold* stands in the record. Owners of the live index's slices that see it stop applying and say so in their
//!   leases. An owner always looks here between its round of leases and the next thing it takes from the feed.
//! - When all have stopped and the other index includes everything up to the feed's head, the alias moves, in one call. That call
//!   wants a marker alias that whoever gives the hold up removes first: a copy that slept cannot switch too late.
//! - Then the record names the new live index, with the head as its *floor*: all up to there can be found in it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::index::{EnsureError, Index, IndexError, LiveIndex, Record, Stamp};
use crate::projection::Projection;
use crate::projector::Progress;

/// Index of leases, checkpoints, parked streams and rebuilds, behind the configured prefix.
pub const CONTROL: &str = "control";
const CONTROL_MAPPING: &str = include_str!("../index/control.json");

/// How often every copy looks, at least.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A control record whose content only this service reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept<B> {
    pub kind: String,
    pub projection: String,
    pub body: B,
}

/// The indices of a projection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indices {
    /// Physical name of the index that answers queries.
    pub live: String,
    /// Everything up to this position could be found in it when it became live.
    pub floor: i64,
    /// The index that a rebuild has filled and that is brought up to date.
    pub target: Option<String>,
    /// The index that answered before, kept up to date so that one can go back.
    pub previous: Option<Previous>,
    /// Set while a switch is under way.
    pub hold: Option<Hold>,
    /// The rebuild under way.
    pub rebuild: Option<String>,
    /// Indices that are no longer fed and are to be dropped.
    #[serde(default)]
    pub dropping: Vec<String>,
    /// Number in the name that was given last. None is given twice: what remembers a dropped index knows none that follows.
    #[serde(default)]
    pub numbered: u64,
    /// Counts repairs of documents: with each, projectors forget what they read before.
    #[serde(default)]
    pub mends: i64,
}

/// The index that answered before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Its physical name.
    pub index: String,
    /// Until when it is kept, in nanoseconds since 1970.
    pub until: i64,
}

/// A switch under way: nothing is applied to the live index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Different each time; also the end of the name of the marker alias.
    pub token: String,
    /// The index that shall be live.
    pub to: String,
    /// Everything up to this position can be found in it; known shortly before the alias moves.
    pub floor: Option<i64>,
}

impl Indices {
    /// Those that are fed.
    pub fn fed(&self) -> impl Iterator<Item = &str> {
        let previous = self.previous.as_ref().map(|previous| &previous.index);
        [Some(&self.live), self.target.as_ref(), previous].into_iter().flatten().map(String::as_str)
    }

    /// The same without feeding this index, which is to be dropped.
    #[must_use]
    pub fn without(mut self, index: &str) -> Self {
        self.target = self.target.filter(|target| target != index);
        self.previous = self.previous.filter(|previous| previous.index != index);
        if !index.is_empty() && !self.dropping.iter().any(|name| name == index) {
            self.dropping.push(index.to_owned());
        }
        self
    }

    /// The hold that forbids to apply anything to this index.
    #[must_use]
    pub fn hold_of(&self, index: &str) -> Option<&str> {
        self.hold.as_ref().filter(|_| index == self.live).map(|hold| hold.token.as_str())
    }
}

/// Reads and changes the record of one projection. Clones share what was last seen.
#[derive(Clone, Debug)]
pub struct Feeds {
    index: Index,
    control: String,
    alias: String,
    projection: &'static str,
    mapping: &'static str,
    progress: Progress,
    seen: watch::Sender<Indices>,
}

impl Feeds {
    /// Those of a projection, whose names of indices begin with `prefix`; what is seen is told to `progress`.
    #[must_use]
    pub fn new<P: Projection>(index: Index, prefix: &str, progress: Progress) -> Self {
        Self {
            index,
            control: format!("{prefix}{CONTROL}"),
            alias: format!("{prefix}{}", P::NAME),
            projection: P::NAME,
            mapping: P::MAPPING,
            progress,
            seen: watch::Sender::new(Indices::default()),
        }
    }

    /// Name of the control index.
    #[must_use]
    pub fn control(&self) -> &str {
        &self.control
    }

    /// What queries ask.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Tells of every change that this copy sees; without a live index before the first look.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Indices> {
        self.seen.subscribe()
    }

    /// Finds the projection's indices; makes what is not there. What the alias leads to is live, unless a switch is under way.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or what is there cannot be used.
    pub async fn establish(&self) -> Result<Indices, EnsureError> {
        self.index.ensure_plain(&self.control, CONTROL_MAPPING).await?;
        let LiveIndex { name: live, .. } =
            self.index.ensure(&self.alias, &format!("{}-v1-1", self.alias), self.mapping).await?;
        loop {
            let seen = self.read().await?;
            let settled = |indices: &Indices| indices.live == live || indices.hold.is_some();
            let stored = match seen {
                Some(seen) if settled(&seen.value) => break,
                Some(seen) => {
                    tracing::warn!(
                        projection = self.projection,
                        index = live,
                        "alias was moved by other hands"
                    );
                    let target = seen.value.target.clone().filter(|target| *target != live);
                    let previous = seen.value.previous.clone().filter(|previous| previous.index != live);
                    let moved = Indices { live: live.clone(), floor: 0, target, previous, ..seen.value };
                    self.write(Some(seen.stamp), moved).await
                }
                None => self.write(None, Indices { live: live.clone(), ..Indices::default() }).await,
            };
            match stored {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(self.look().await?)
    }

    /// The indices now, also told to everyone who asks this copy.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or nothing was established.
    pub async fn look(&self) -> Result<Indices, IndexError> {
        let indices = self.known().await?.value;
        self.tell(&indices);
        Ok(indices)
    }

    /// Changes the record; `change` says what it shall be, or nothing where it shall stay. Gives what it then is.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or nothing was established.
    pub async fn change(
        &self,
        mut change: impl FnMut(&Indices) -> Option<Indices>,
    ) -> Result<Indices, IndexError> {
        loop {
            let seen = self.known().await?;
            let Some(next) = change(&seen.value) else { return Ok(seen.value) };
            match self.write(Some(seen.stamp), next.clone()).await {
                Ok(()) => {
                    self.tell(&next);
                    return Ok(next);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn tell(&self, indices: &Indices) {
        self.progress.show(&indices.live, indices.floor);
        self.seen.send_if_modified(|seen| {
            let news = seen != indices;
            seen.clone_from(indices);
            news
        });
    }

    /// What was established.
    async fn known(&self) -> Result<Record<Indices>, IndexError> {
        let gone =
            || IndexError::Unavailable("the record of the projection's indices is not there".to_owned());
        self.read().await?.ok_or_else(gone)
    }

    async fn read(&self) -> Result<Option<Record<Indices>>, IndexError> {
        kept(&self.index, &self.control, &self.id()).await
    }

    async fn write(&self, seen: Option<Stamp>, body: Indices) -> Result<(), IndexError> {
        let kept = Kept { kind: "feeds".to_owned(), projection: self.projection.to_owned(), body };
        self.index.put(&self.control, &self.id(), seen, &kept).await.map(drop)
    }

    fn id(&self) -> String {
        format!("feeds:{}", self.projection)
    }
}

/// The content of a control record; `None` where there is none.
pub(crate) async fn kept<B: DeserializeOwned>(
    index: &Index,
    control: &str,
    id: &str,
) -> Result<Option<Record<B>>, IndexError> {
    let record = index.record::<Kept<B>>(control, id).await?;
    Ok(record.map(|record| Record { stamp: record.stamp, value: record.value.body }))
}
