//! Documents of one index against a fresh fold of their events.
//!
//! At first sight whole streams, as a scan gives them, are compared with their documents. The index is fed meanwhile: what seems
//! wrong then is looked at alone, until what is applied must be in it. Streams that are parked are right as far as they got. Nothing
//! here writes.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proto::v1::{RecordedEvent, StreamCategory};
use serde_json::Value;
use thiserror::Error;
use tokio::time::sleep;
use uuid::Uuid;

use crate::index::{Every, Found, IndexError, whole};
use crate::lease::{self, LeaseError, Place};
use crate::parking::Parking;
use crate::projection::Projection;
use crate::projector::fold_onto;
use crate::subscription::{Feed, FeedError, Readable, WholeStream};

/// Streams looked at alone at a time.
const ALONE: usize = 8;
/// Pause before a stream is looked at again whose events are not applied yet.
const AGAIN: Duration = Duration::from_millis(100);

/// The comparison could not be made.
#[derive(Debug, Error)]
pub(crate) enum CompareError {
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The feed failed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// How far the index is fed is not known.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// What became of a stream looked at alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its document is right.
    Right,
    /// It has none, as its first event cannot be applied.
    Absent,
    /// Something is wrong.
    Wrong(String),
}

/// What became of streams at first sight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Streams whose document is right.
    pub right: i64,
    /// Those of them whose document was compared whole.
    pub whole: i64,
    /// Streams to be looked at alone.
    pub doubtful: Vec<String>,
}

/// The index that is compared, and the events.
#[derive(Debug)]
pub(crate) struct Comparison<P> {
    feed: Feed,
    place: Place,
    projection: std::marker::PhantomData<fn() -> P>,
}

impl<P: Projection> Comparison<P> {
    /// That of the documents of `place` with the events of `feed`.
    pub fn new(feed: Feed, place: Place) -> Self {
        Self { feed, place, projection: std::marker::PhantomData }
    }

    /// Compares streams with their documents: `whole` says which content and all, others by version.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn sight(
        &self,
        streams: &[WholeStream],
        whole: impl Fn(&str) -> bool,
    ) -> Result<Sight, CompareError> {
        let Place { index, live, .. } = &self.place;
        let mut sight = Sight::default();
        let (mut by_version, mut by_content) = (Vec::new(), Vec::new());
        for WholeStream { key, events } in streams {
            match folded::<P>(events) {
                Some(document) if whole(key) => by_content.push((key.as_str(), document)),
                Some(document) => by_version.push((key.as_str(), P::version(&document))),
                None => sight.doubtful.push(key.clone()),
            }
        }
        let ids: Vec<&str> = by_version.iter().map(|(key, _)| *key).collect();
        let versions = index.versions(&live.name, &ids).await?;
        for ((key, expected), version) in by_version.into_iter().zip(versions) {
            if version == Some(expected) {
                sight.right += 1;
            } else {
                sight.doubtful.push(key.to_owned());
            }
        }
        let ids: Vec<&str> = by_content.iter().map(|(key, _)| *key).collect();
        let found = index.mget::<Value>(&live.name, &ids).await?;
        for ((key, expected), found) in by_content.into_iter().zip(found) {
            if found.is_some_and(|found| same::<P>(&expected, &found)) {
                sight.right += 1;
                sight.whole += 1;
            } else {
                sight.doubtful.push(key.to_owned());
            }
        }
        Ok(sight)
    }

    /// Looks at streams alone: an outcome for each, in their order.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn look(&self, keys: Vec<String>) -> Result<Vec<(String, Outcome)>, CompareError> {
        let looks = stream::iter(keys).map(|key| async move {
            let outcome = self.alone(&key).await?;
            Ok::<_, CompareError>((key, outcome))
        });
        looks.buffered(ALONE).boxed().try_collect().await
    }

    /// Reads a stream and its document until the document includes what has been applied.
    async fn alone(&self, key: &str) -> Result<Outcome, CompareError> {
        let Place { index, control, live, .. } = &self.place;
        let mut end = None;
        loop {
            // Before the document: what is applied then must be in it.
            let applied = self.applied(key).await?;
            let found = index.mget::<Value>(&live.name, &[key]).await?.pop().flatten();
            let Readable { events, unreadable } = self.feed.read_as_far(P::CATEGORY, key, 1, 0).await?;
            let last = events.last().map_or(0, |event| event.version);
            let version = found.as_ref().map_or(0, |found| found.version);
            if version > last {
                if let Some((_, error)) = unreadable {
                    return Ok(Outcome::Wrong(error));
                }
                return Ok(Outcome::Wrong(format!("is ahead: version {version}, its stream ends at {last}")));
            }
            let upto = usize::try_from(version).unwrap_or(0);
            if let Some(found) = &found
                && !folded::<P>(&events[..upto.min(events.len())])
                    .is_some_and(|expected| same::<P>(&expected, found))
            {
                return Ok(Outcome::Wrong(format!("differs from the fold of its events up to {version}")));
            }
            let (next, position) = match (events.get(upto), unreadable) {
                (Some(missing), _) => (missing.version, missing.position),
                (None, None) => return Ok(Outcome::Right),
                // Where it stands in the feed cannot be read; not behind what was the end when it was met.
                (None, Some((version, _))) => {
                    let head = match end {
                        Some(end) => end,
                        None => self.feed.head().await?.head_position,
                    };
                    (version, *end.insert(head))
                }
            };
            if Parking::holds(index, control, &live.name, key).await? {
                return Ok(if version == 0 { Outcome::Absent } else { Outcome::Right });
            }
            // Not in the feed yet, or not applied yet.
            if position == 0 || position > applied {
                sleep(AGAIN).await;
                continue;
            }
            return Ok(Outcome::Wrong(if version == 0 {
                "is missing".to_owned()
            } else {
                format!("is behind: version {version}, event {next} was applied")
            }));
        }
    }

    /// Every event of this stream up to here is applied.
    async fn applied(&self, key: &str) -> Result<i64, CompareError> {
        let signs = self.place.signs().await?;
        let sign = signs.get(lease::range_of(P::CATEGORY, key)).and_then(Option::as_ref);
        Ok(sign.map_or(0, |sign| sign.position))
    }

    /// Goes through the documents that are there now.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn documents(&self) -> Result<Every, CompareError> {
        let Place { index, live, .. } = &self.place;
        index.refresh(&live.name).await?;
        Ok(index.every(&live.name).await?)
    }

    /// Of these documents, those that no stream has: neither one of the keys nor one that is newer.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn orphans(&self, ids: Vec<String>, keys: &Keys) -> Result<Vec<String>, CompareError> {
        let unknown = ids.into_iter().filter(|id| !keys.may_have(id));
        let looks = stream::iter(unknown).map(|id| async move {
            let there = self.is_stream(&id).await?;
            Ok::<_, CompareError>((!there).then_some(id))
        });
        let looked: Vec<_> = looks.buffered(ALONE).boxed().try_collect().await?;
        Ok(looked.into_iter().flatten().collect())
    }

    /// Whether there is a stream with exactly this key.
    async fn is_stream(&self, key: &str) -> Result<bool, FeedError> {
        if !may_be_key(P::CATEGORY, key) {
            return Ok(false);
        }
        match self.feed.read_stream(P::CATEGORY, key, 1, 1).await {
            Ok(events) => Ok(!events.is_empty()),
            Err(FeedError::Unreadable { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Keys of streams, as hashes of 8 bytes each. Where they are too many for the memory they are taken in parts, one after the other.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Drawn anew each time, so that no key is safe from a twin.
    draw: RandomState,
    part: u64,
    parts: u64,
    hashes: Vec<u64>,
}

impl Keys {
    /// Those of one part of several, none yet.
    pub fn of(part: u64, parts: u64) -> Self {
        Self { draw: RandomState::new(), part, parts: parts.max(1), hashes: Vec::new() }
    }

    /// Takes the keys of these streams.
    pub fn take(&mut self, streams: &[WholeStream]) {
        let hashes = streams.iter().map(|stream| self.draw.hash_one(stream.key.as_str()));
        let (part, parts) = (self.part, self.parts);
        self.hashes.extend(hashes.filter(|hash| hash % parts == part));
    }

    /// To be called once all are taken.
    pub fn sort(&mut self) {
        self.hashes.sort_unstable();
    }

    /// Whether a key is among them, or in another part.
    fn may_have(&self, key: &str) -> bool {
        let hash = self.draw.hash_one(key);
        hash % self.parts != self.part || self.hashes.binary_search(&hash).is_ok()
    }
}

/// Whether the feed can know a stream by this key, in the one form that ids of documents have.
fn may_be_key(category: StreamCategory, key: &str) -> bool {
    match category {
        StreamCategory::Order => Uuid::try_parse(key).is_ok_and(|id| id.to_string() == key),
        _ => !key.is_empty(),
    }
}

/// The document of these events; `None` where there are none, or not all of them can be folded.
fn folded<P: Projection>(events: &[RecordedEvent]) -> Option<P::Document> {
    let mut document = None;
    let (_, outcome) = fold_onto::<P>(&mut document, events);
    outcome.ok().and(document)
}

/// Whether the document is stored like this, field by field, at its version.
fn same<P: Projection>(expected: &P::Document, found: &Found<Value>) -> bool {
    found.version == P::version(expected) && whole(expected, &P::search(expected)) == found.source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_have_uuids_of_one_form() {
        let id = "0190b6a0-0000-7000-8000-00000000000a";
        assert!(may_be_key(StreamCategory::Order, id));
        for other in ["0190B6A0-0000-7000-8000-00000000000A", "0190b6a0000070008000-00000000000a", "orphan"] {
            assert!(!may_be_key(StreamCategory::Order, other), "{other}");
        }
        assert!(may_be_key(StreamCategory::Customer, "17850"));
    }

    #[test]
    fn every_key_is_in_one_part() {
        let streams: Vec<_> =
            (0..100).map(|n| WholeStream { key: format!("key {n}"), events: Vec::new() }).collect();
        let mut parts: Vec<_> = (0..3).map(|part| Keys::of(part, 3)).collect();
        for keys in &mut parts {
            keys.take(&streams);
            keys.sort();
            assert!(streams.iter().all(|stream| keys.may_have(&stream.key)));
        }
        assert!(parts.iter().any(|keys| !keys.may_have("another")));
        assert!(parts.iter().all(|keys| keys.hashes.len() < 100));
    }
}
