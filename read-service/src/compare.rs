//! Documents of one index against a fresh fold of their events.
//!
//! At first sight whole streams, as a scan gives them, are compared with their documents. The index is fed meanwhile: what seems
//! wrong then is looked at alone, until what is applied must be in it. What is not applied yet is no difference, and a stream that is
//! parked is right as far as it could be applied. Nothing here writes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use proto::v1::StreamCategory;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::demand::{self, Spells};
use crate::index::{Every, IndexError, Stamp};
use crate::lease::{self, LeaseError, Place, RANGES};
use crate::parking::Parking;
use crate::projection::Projection;
use crate::subscription::{Feed, FeedError, Page, Readable, Scan, WholeStream};
use crate::task::unwound;

mod judge;
mod fields;
mod keys;

pub(crate) use judge::NOBODYS;
pub use judge::{Difference, Kind};
pub(crate) use keys::{Keys, Met};

use judge::{Judgement, Moment, folded, same};

/// Pages of a scan compared at a time: Elasticsearch and the fold do not wait for each other.
const PAGES: usize = 4;
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
    /// Its document is right, as far as its events are applied.
    Right,
    /// It has none, as none of its events is applied.
    Absent,
    /// Something is wrong.
    Wrong(Difference),
}

/// A stream looked at alone.
#[derive(Clone, Debug)]
pub(crate) struct Look<D> {
    pub outcome: Outcome,
    /// Version and state of the document that was found.
    pub found: Option<(i64, Stamp)>,
    /// Where something is wrong, the document that would be right: with what is applied, and no less than what was found.
    pub right: Option<D>,
}

/// What became of streams at first sight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Streams whose document is right.
    pub right: i64,
    /// The version that the document of each stream should have, in their order; 0 where it was compared, or is to be looked at
    /// alone.
    pub versions: Vec<i64>,
    /// Streams to be looked at alone.
    pub doubtful: Vec<String>,
}

/// The index that is compared, and the events.
#[derive(Debug)]
pub(crate) struct Comparison<P> {
    feed: Feed,
    place: Place,
    patience: Option<Duration>,
    /// For each range of slices its checkpoint as last seen, and since when.
    checkpoints: Mutex<[Option<(i64, Instant)>; RANGES]>,
    projection: std::marker::PhantomData<fn() -> P>,
}

impl<P: Projection> Comparison<P> {
    /// That of the documents of `place` with the events of `feed`. Where checkpoints stand still for as long as `patience`, what they
    /// do not include is not waited for.
    pub fn new(feed: Feed, place: Place, patience: Option<Duration>) -> Self {
        let checkpoints = Mutex::default();
        Self { feed, place, patience, checkpoints, projection: std::marker::PhantomData }
    }

    /// The index that is compared.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Compares all streams of a scan with their documents, page by page in its order, those that `whole` chooses. Pages are compared
    /// while the caller is busy with one, one alone while questions are asked, and none while `spells` rest; dropping it ends that.
    pub fn sights(
        self: Arc<Self>,
        scan: Scan,
        whole: impl Fn(&str) -> bool + Clone + Send + Sync + 'static,
        spells: Spells,
    ) -> impl Stream<Item = Result<(Page, Sight), CompareError>> {
        // Read by pages under way, written to while none may be.
        let rests = Arc::new(RwLock::new(()));
        let pages = stream::try_unfold((scan, spells), move |(mut scan, mut spells)| {
            let rests = Arc::clone(&rests);
            async move {
                if spells.is_disturbing() {
                    let _alone = rests.write().await;
                    spells.rest().await;
                }
                let page = scan.next().await?;
                let works = rests.read_owned().await;
                Ok::<_, CompareError>(page.map(|page| ((page, works), (scan, spells))))
            }
        });
        let sighted = move |(page, works): (Page, OwnedRwLockReadGuard<()>)| {
            let (comparison, whole) = (self.clone(), whole.clone());
            let sight = async move {
                let _works = works;
                let sight = comparison.sight(&page.streams, whole).await?;
                Ok((page, sight))
            };
            let task = AbortOnDropHandle::new(tokio::spawn(sight.in_current_span()));
            async { unwound(task.await) }
        };
        pages.map_ok(sighted).try_buffered(PAGES)
    }

    /// Compares streams with their documents, those that `whole` chooses.
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
        let mut chosen = Vec::new();
        for (number, WholeStream { key, events }) in streams.iter().enumerate() {
            demand::step(number).await;
            let version = match folded::<P>(events) {
                Some(document) if whole(key) => {
                    chosen.push((key.as_str(), document));
                    0
                }
                Some(document) => P::version(&document),
                None => {
                    sight.doubtful.push(key.clone());
                    0
                }
            };
            sight.versions.push(version);
        }
        let ids: Vec<&str> = chosen.iter().map(|(key, _)| *key).collect();
        let found = index.mget::<Value>(&live.name, &ids).await?;
        for ((key, expected), found) in chosen.into_iter().zip(found) {
            if found.is_some_and(|found| same::<P>(&expected, &found)) {
                sight.right += 1;
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
            let outcome = self.alone(&key).await?.outcome;
            Ok::<_, CompareError>((key, outcome))
        });
        looks.buffered(ALONE).boxed().try_collect().await
    }

    /// Reads a stream and its document until the document includes what was applied when the look began.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn alone(&self, key: &str) -> Result<Look<P::Document>, CompareError> {
        let Place { index, control, live, .. } = &self.place;
        let mut goal = None;
        loop {
            // In this order: what is applied is in the document, what is in the document is in the stream.
            let (applied, moves) = self.applied(key).await?;
            let found = index.mget::<Value>(&live.name, &[key]).await?.pop().flatten();
            let stream = self.events(key).await?;
            let parked = Parking::find(index, control, &live.name, key).await?;
            let at = Moment { applied, stream, parked };
            let goal = *goal.get_or_insert(at.end());
            let outcome = match at.judge::<P>(goal, found.as_ref()) {
                // It moves with the next checkpoint.
                Judgement::Later if moves => {
                    sleep(AGAIN).await;
                    continue;
                }
                Judgement::Later | Judgement::Right => match found {
                    Some(_) => Outcome::Right,
                    None => Outcome::Absent,
                },
                Judgement::Wrong(difference) => Outcome::Wrong(difference),
            };
            // Between the reads a parked stream may have been taken back, or the document have been put right.
            if let Outcome::Wrong(_) = outcome {
                let now = index.versions(&live.name, &[key]).await?.pop().flatten();
                if now != found.as_ref().map(|found| found.version) {
                    continue;
                }
            }
            let right = match outcome {
                Outcome::Wrong(_) => at.right::<P>(found.as_ref().map_or(0, |found| found.version)),
                Outcome::Right | Outcome::Absent => None,
            };
            return Ok(Look { outcome, found: found.map(|found| (found.version, found.stamp)), right });
        }
    }

    /// Up to where every event of this stream is applied, and whether to wait for more.
    async fn applied(&self, key: &str) -> Result<(i64, bool), CompareError> {
        let range = lease::range_of(P::CATEGORY, key);
        let signs = self.place.signs().await?;
        let position = signs.get(range).and_then(Option::as_ref).map_or(0, |sign| sign.position);
        let mut checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match checkpoints[range] {
            Some((last, since)) if last == position => since,
            _ => Instant::now(),
        };
        checkpoints[range] = Some((position, since));
        Ok((position, self.patience.is_none_or(|patience| since.elapsed() < patience)))
    }

    /// The events of the stream with exactly this key, as far as they can be read.
    async fn events(&self, key: &str) -> Result<Readable, FeedError> {
        if !may_be_key(P::CATEGORY, key) {
            return Ok(Readable::default());
        }
        self.feed.read_as_far(P::CATEGORY, key, 1, 0).await
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

    /// Sequence number of the newest document that is there now; -1 where there is none.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn last_write(&self) -> Result<i64, CompareError> {
        let Place { index, live, .. } = &self.place;
        index.refresh(&live.name).await?;
        Ok(index.last_written(&live.name).await?)
    }

    /// Of these documents, those that no stream has.
    ///
    /// # Errors
    /// [`CompareError`].
    pub async fn orphans(&self, ids: Vec<String>) -> Result<Vec<String>, CompareError> {
        let looks = stream::iter(ids).map(|id| async move {
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

/// The version that the document of a whole stream has; `None` where not all events can be folded.
pub(crate) fn version_of_fold<P: Projection>(stream: &WholeStream) -> Option<i64> {
    folded::<P>(&stream.events).map(|document| P::version(&document))
}

/// Whether the feed can know a stream by this key, in the one form that ids of documents have.
fn may_be_key(category: StreamCategory, key: &str) -> bool {
    match category {
        StreamCategory::Order => Uuid::try_parse(key).is_ok_and(|id| id.to_string() == key),
        _ => !key.is_empty(),
    }
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
}
