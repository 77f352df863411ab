//! A document that is kept up with its stream: read once, then changed by each event that the feed tells of.
//!
//! What is read is the index's document, and behind it the stream: the index may lag, the stream does not. Reading begins after
//! the feed's tail was opened, so what is read and what is told leave nothing out; where a version is missing all the same, the
//! stream is read again.

use std::time::Duration;

use proto::v1::RecordedEvent;
use tokio::time::timeout;

use super::WatchError;
use crate::index::{Index, IndexError};
use crate::projection::{self, Projection};
use crate::subscription::{Feed, FeedError};

/// Longest time for the index's document: without it the whole stream is read.
const INDEX_LIMIT: Duration = Duration::from_secs(2);

/// A document, as far as it is known.
pub struct Followed<P: Projection> {
    document: Option<P::Document>,
    reading: bool,
    /// To be read again.
    due: bool,
    /// Newest version that the feed told of, and what it was when reading began.
    told: i64,
    told_before: i64,
}

/// What reading gave.
pub struct Reading<P: Projection> {
    pub key: String,
    document: Result<Option<P::Document>, IndexError>,
    /// Not asked for while the tail was not open.
    events: Option<Result<Vec<RecordedEvent>, FeedError>>,
}

impl<P: Projection> Followed<P> {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { document: None, reading: false, due: true, told: 0, told_before: 0 }
    }

    /// The document; `None` before it was read, or where there is none.
    pub fn document(&self) -> Option<&P::Document> {
        self.document.as_ref()
    }

    /// It must be read again.
    pub fn doubt(&mut self) {
        self.due = true;
    }

    /// The version after which to read, where that is due.
    pub fn begin_reading(&mut self) -> Option<i64> {
        if self.reading || !self.due {
            return None;
        }
        (self.reading, self.due, self.told_before) = (true, false, self.told);
        Some(self.version())
    }

    fn version(&self) -> i64 {
        self.document.as_ref().map_or(0, P::version)
    }

    /// The feed tells of an event. True where the document changed; where a version is missing, reading is due.
    pub fn hear(&mut self, event: &RecordedEvent) -> Result<bool, WatchError> {
        self.told = self.told.max(event.version);
        if self.reading || event.version <= self.version() {
            return Ok(false);
        }
        if event.version > self.version() + 1 {
            self.due = true;
            return Ok(false);
        }
        projection::apply::<P>(&mut self.document, event).map_err(|_| WatchError::Unreadable)?;
        Ok(true)
    }

    /// Takes what was read, and calls `changed` with each version that it makes. True where it should be read again at once,
    /// as the feed told of more meanwhile.
    ///
    /// # Errors
    /// Where nothing is known of the document, or an event cannot be read. That there is none is no error.
    pub fn take(
        &mut self,
        reading: Reading<P>,
        mut changed: impl FnMut(&P::Document),
    ) -> Result<bool, WatchError> {
        self.reading = false;
        let mut index_error = None;
        match reading.document {
            Ok(Some(document)) if self.document.is_none() => {
                changed(&document);
                self.document = Some(document);
            }
            Ok(_) => {}
            Err(error) => index_error = Some(error),
        }
        match reading.events {
            Some(Ok(events)) => {
                for event in events.iter().filter(|event| event.version > self.version()).collect::<Vec<_>>()
                {
                    projection::apply::<P>(&mut self.document, event).map_err(|_| WatchError::Unreadable)?;
                    if let Some(document) = &self.document {
                        changed(document);
                    }
                }
            }
            Some(Err(FeedError::Unreadable { .. })) => return Err(WatchError::Unreadable),
            missing => {
                self.due = true;
                if self.document.is_none() {
                    let unheard = || FeedError::Unavailable("not connected".to_owned());
                    let feed_error = missing.and_then(Result::err).unwrap_or_else(unheard);
                    return Err(index_error.map_or(WatchError::Feed(feed_error), WatchError::Index));
                }
            }
        }
        self.due |= self.told > self.version();
        Ok(self.due && self.told > self.told_before)
    }
}

/// Reads a document of which `version` is known, 0 for nothing; with its stream where that is wanted.
pub async fn read<P: Projection>(
    index: Index,
    alias: String,
    feed: Feed,
    key: String,
    version: i64,
    stream: bool,
) -> Reading<P> {
    let document = if version == 0 { indexed::<P>(&index, &alias, &key).await } else { Ok(None) };
    let known = document.as_ref().ok().and_then(Option::as_ref).map_or(version, P::version);
    let events = if stream { Some(feed.read_stream(P::CATEGORY, &key, known + 1, 0).await) } else { None };
    Reading { key, document, events }
}

/// The document of the index, unless other hands altered it.
async fn indexed<P: Projection>(
    index: &Index,
    alias: &str,
    key: &str,
) -> Result<Option<P::Document>, IndexError> {
    let found = timeout(INDEX_LIMIT, index.get::<P::Document>(alias, key)).await;
    let found = found.unwrap_or_else(|_| Err(IndexError::Unavailable("timed out".to_owned())))?;
    Ok(found.filter(|found| P::version(&found.source) == found.version).map(|found| found.source))
}
