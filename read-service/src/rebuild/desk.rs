//! What callers ask for: start, look, pause, resume, cancel, roll back. Any copy of the service answers.

use thiserror::Error;
use uuid::Uuid;

use super::record::{self, Rebuild};
use super::switch::switch;
use super::{Stop, Subject};
use crate::feeds::Indices;
use crate::index::{EnsureError, IndexError, Record};

/// Namespace of the ids of rebuilds that callers gave a `request_id`.
const REQUESTS: Uuid = Uuid::from_u128(0x6f1d_6a3e_3f0b_4f5c_9a54_50b7_1c1e_52d1);

/// Rebuilds of one projection.
#[derive(Clone, Debug)]
pub struct Desk {
    subject: Subject,
}

/// Something that a caller wants of a rebuild under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Wish {
    Pause,
    Resume,
    Cancel,
}

/// A request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeskError {
    /// Another rebuild of the projection is under way.
    #[error("rebuild {0} is under way")]
    Running(String),
    /// There is no previous index.
    #[error("there is no previous index to go back to")]
    NoPrevious,
    /// A switch could not be done now.
    #[error("{0}")]
    NotNow(String),
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl From<EnsureError> for DeskError {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::Index(error) => Self::Index(error),
            error => Self::NotNow(error.to_string()),
        }
    }
}

impl Desk {
    pub(crate) fn new(subject: Subject) -> Self {
        Self { subject }
    }

    /// What its rebuilds work with.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Name of the projection.
    #[must_use]
    pub fn projection(&self) -> &'static str {
        self.subject.projection
    }

    /// The index that answered before, while it is kept, as this copy last saw.
    #[must_use]
    pub fn previous_index(&self) -> Option<String> {
        let seen = self.subject.feeds.subscribe();
        seen.borrow().previous.as_ref().map(|previous| previous.index.clone())
    }

    /// Starts a rebuild. The same `request_id` gives the same rebuild; an empty one always another.
    ///
    /// # Errors
    /// [`DeskError::Running`] where another one is under way.
    pub async fn start(
        &self,
        request_id: &str,
        dry_run: bool,
        max_streams_per_second: i32,
    ) -> Result<Rebuild, DeskError> {
        let Subject { index, feeds, clock, projection, .. } = &self.subject;
        let id = match request_id {
            "" => Uuid::now_v7(),
            given => Uuid::new_v5(&REQUESTS, format!("{projection}:{given}").as_bytes()),
        }
        .to_string();
        feeds.establish().await?;
        let rebuild = Rebuild {
            rebuild_id: id.clone(),
            projection: (*projection).to_owned(),
            dry_run,
            max_streams_per_second,
            started_at: clock.now_nanos(),
            ..Rebuild::default()
        };
        let seen = match record::find(index, feeds.control(), &id).await? {
            Some(seen) => seen,
            None => match record::store(index, feeds.control(), None, &rebuild).await {
                Ok(stamp) => Record { stamp, value: rebuild },
                Err(error) if error.is_conflict() => {
                    let absent = || IndexError::Unavailable("the rebuild's record is gone".to_owned());
                    record::find(index, feeds.control(), &id).await?.ok_or_else(absent)?
                }
                Err(error) => return Err(error.into()),
            },
        };
        if seen.value.stage.is_ended() {
            return Ok(seen.value);
        }
        let taken = feeds
            .change(|indices| {
                let free = indices.rebuild.is_none() && indices.hold.is_none();
                free.then(|| Indices { rebuild: Some(id.clone()), ..indices.clone() })
            })
            .await?;
        match taken.rebuild {
            Some(under_way) if under_way == id => Ok(seen.value),
            Some(under_way) => {
                // Nobody was told of it.
                index.remove(feeds.control(), &format!("rebuild:{id}"), seen.stamp).await.ok();
                Err(DeskError::Running(under_way))
            }
            None => Err(DeskError::NotNow("the projection is being rolled back".to_owned())),
        }
    }

    /// The rebuild with this id, where it is one of this projection.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn find(&self, id: &str) -> Result<Option<Rebuild>, DeskError> {
        let found = record::find(&self.subject.index, self.subject.feeds.control(), id).await;
        let found = match found {
            Err(error) if error.is_absent() => None,
            found => found?,
        };
        Ok(found.map(|found| found.value).filter(|rebuild| rebuild.projection == self.subject.projection))
    }

    /// Tells a rebuild what is wanted of it; one that has ended stays as it is.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn wish(&self, id: &str, wish: Wish) -> Result<Option<Rebuild>, DeskError> {
        let Subject { index, feeds, .. } = &self.subject;
        loop {
            let Some(seen) = record::find(index, feeds.control(), id).await? else { return Ok(None) };
            if seen.value.stage.is_ended() {
                return Ok(Some(seen.value));
            }
            let mut next = seen.value;
            match wish {
                Wish::Pause => next.paused = true,
                Wish::Resume => next.paused = false,
                Wish::Cancel => next.cancel = true,
            }
            match record::store(index, feeds.control(), Some(seen.stamp), &next).await {
                Ok(_) => return Ok(Some(next)),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes the previous index live again.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn roll_back(&self) -> Result<(), DeskError> {
        let indices = self.subject.feeds.look().await?;
        if let Some(under_way) = indices.rebuild {
            return Err(DeskError::Running(under_way));
        }
        let previous = indices.previous.ok_or(DeskError::NoPrevious)?.index;
        let subject = self.subject.clone();
        // A caller who leaves does not leave a switch half done.
        let switched = tokio::spawn(async move { switch(&subject, &previous, None).await }).await;
        match switched {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(Stop::Wait(error) | Stop::Fail(error))) => Err(DeskError::NotNow(error)),
            Ok(Err(_)) | Err(_) => Err(DeskError::NotNow("the switch was interrupted".to_owned())),
        }
    }
}
