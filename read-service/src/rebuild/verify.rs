//! The proof before the switch: counts both ways, and documents against a fresh fold of their events.
//!
//! The store is scanned once more. Every stream must have its document, at its version; up to 20,000 streams all documents are compared
//! whole, beyond that a random 20,000 and those changed since the scan. Then every document must have a stream. The new index is
//! fed meanwhile: what seems wrong is looked at again, alone, once its events have surely been applied. Streams that
//! are parked count as such.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use tokio::time::sleep;

use super::record::{Rebuild, Verified};
use super::session::Session;
use super::{Stop, Subject};
use crate::index::{Found, whole};
use crate::lease::{self, Place};
use crate::parking::Parking;
use crate::projection::Projection;
use crate::projector::fold_onto;
use crate::subscription::{FeedError, Item, WholeStream};

/// Documents compared whole, unless there are fewer.
const COMPARED: u64 = 20_000;
/// Keys kept in memory at a time, 8 bytes each: with more streams the documents are gone through more than once.
const KEYS: usize = 2_000_000;
/// Streams looked at alone at a time.
const ALONE: usize = 8;
/// Differences after which nothing more is looked for: the index is refused.
const ENOUGH: i64 = 1_000;
/// Pause before a stream is looked at again whose events are not applied yet.
const AGAIN: Duration = Duration::from_millis(100);

/// Compares the target with the events.
pub(super) async fn verify<P: Projection>(session: &Session, rebuild: &Rebuild) -> Result<Verified, Stop> {
    let subject = &session.subject;
    let target = subject.place(&rebuild.target_index).await?;
    let (control, clock) = (subject.feeds.control().to_owned(), subject.clock.clone());
    let name = rebuild.target_index.clone();
    let parking = Parking::load::<P>(subject.index.clone(), control, name, clock).await?;
    let parked: HashSet<_> = parking.list().await?.into_iter().map(|parked| parked.stream_key).collect();
    let total = u64::try_from(rebuild.streams_done).unwrap_or(0);
    let mut check = Check::<'_, P> {
        subject,
        target,
        parked,
        // Drawn anew each time, so that no document is safe from it.
        draw: RandomState::new(),
        total: total.max(1),
        verified: Verified::default(),
        document: std::marker::PhantomData,
    };
    let parts =
        u64::try_from(usize::try_from(total).unwrap_or(usize::MAX).div_ceil(KEYS).max(1)).unwrap_or(1);
    for part in 0..parts {
        let keys = check.streams(part, parts).await?;
        check.documents(&keys, part, parts).await?;
    }
    if check.total > COMPARED {
        check.touched(rebuild.resume_position).await?;
    }
    Ok(check.verified)
}

/// A verification under way.
struct Check<'a, P: Projection> {
    subject: &'a Subject,
    target: Place,
    parked: HashSet<String>,
    draw: RandomState,
    total: u64,
    verified: Verified,
    document: std::marker::PhantomData<P>,
}

/// What became of a stream looked at alone.
enum Outcome {
    /// Its document is right.
    Right,
    /// It has none, as its first event cannot be applied.
    Absent,
    /// Something is wrong.
    Wrong(String),
}

impl<P: Projection> Check<'_, P> {
    /// Every stream has its document. Gives the hashes of the keys in this part, in order.
    async fn streams(&mut self, part: u64, parts: u64) -> Result<Vec<u64>, Stop> {
        let mut keys = Vec::new();
        let mut scan = self.subject.feed.scan(P::CATEGORY, "").await?;
        while let Some(page) = scan.next().await? {
            let of_part = page.streams.iter().map(|stream| self.draw.hash_one(&stream.key));
            keys.extend(of_part.filter(|hash| hash % parts == part));
            if part == 0 && self.verified.different < ENOUGH {
                self.page(&page.streams).await?;
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    async fn page(&mut self, streams: &[WholeStream]) -> Result<(), Stop> {
        let ids: Vec<&str> = streams.iter().map(|stream| stream.key.as_str()).collect();
        let versions = self.subject.index.versions(&self.target.live.name, &ids).await?;
        let sampled = |key: &str| self.total <= COMPARED || self.draw.hash_one(key) % self.total < COMPARED;
        let (mut alone, mut compared) = (Vec::new(), Vec::new());
        for (stream, version) in streams.iter().zip(versions) {
            let expected = folded::<P>(stream);
            let last = expected.as_ref().map_or(0, P::version);
            if version.unwrap_or(0) != last || self.parked.contains(&stream.key) {
                alone.push(stream.key.as_str());
                continue;
            }
            let Some(expected) = expected else { continue };
            self.verified.expected += 1;
            self.verified.found += 1;
            if sampled(&stream.key) {
                compared.push((stream.key.as_str(), expected));
            }
        }
        let ids: Vec<&str> = compared.iter().map(|(key, _)| *key).collect();
        let found = self.subject.index.mget::<Value>(&self.target.live.name, &ids).await?;
        for ((key, expected), found) in compared.iter().zip(found) {
            if same::<P>(expected, found.as_ref()) {
                self.verified.compared += 1;
            } else {
                self.verified.expected -= 1;
                self.verified.found -= 1;
                alone.push(key);
            }
        }
        self.look(&alone).await
    }

    /// Looks at streams alone.
    async fn look(&mut self, keys: &[&str]) -> Result<(), Stop> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let check = &*self;
        let looks = stream::iter(keys).map(|key| async move {
            let outcome = check.alone(&key).await?;
            Ok::<_, Stop>((key, outcome))
        });
        let outcomes: Vec<_> = looks.buffered(ALONE).boxed().try_collect().await?;
        for (key, outcome) in outcomes {
            self.verified.compared += 1;
            match outcome {
                Outcome::Right => {
                    self.verified.expected += 1;
                    self.verified.found += 1;
                }
                Outcome::Absent => {}
                Outcome::Wrong(what) => {
                    self.verified.expected += 1;
                    self.verified.differs(&key, what);
                }
            }
        }
        Ok(())
    }

    /// Reads a stream and its document until the document includes what has been applied.
    async fn alone(&self, key: &str) -> Result<Outcome, Stop> {
        let Subject { index, feed, .. } = self.subject;
        loop {
            // Before the document: what is applied then must be in it.
            let applied = self.applied(key).await?;
            let found = index.mget::<Value>(&self.target.live.name, &[key]).await?.pop().flatten();
            let events = match feed.read_stream(P::CATEGORY, key, 1, 0).await {
                Ok(events) => events,
                Err(FeedError::Unreadable(error)) => return Ok(Outcome::Wrong(error)),
                Err(error) => return Err(error.into()),
            };
            let last = events.last().map_or(0, |event| event.version);
            let version = found.as_ref().map_or(0, |found| found.version);
            if version > last {
                return Ok(Outcome::Wrong(format!("is ahead: version {version}, its stream ends at {last}")));
            }
            let upto = usize::try_from(version).unwrap_or(0);
            let before = events.iter().take(upto).cloned().collect();
            let stream = WholeStream { key: key.to_owned(), events: before };
            if let Some(found) = &found
                && !folded::<P>(&stream).is_some_and(|expected| same::<P>(&expected, Some(found)))
            {
                return Ok(Outcome::Wrong(format!("differs from the fold of its events up to {version}")));
            }
            let Some(missing) = events.get(upto) else { return Ok(Outcome::Right) };
            // Not in the feed yet, or not applied yet.
            if missing.position == 0 || missing.position > applied {
                sleep(AGAIN).await;
                continue;
            }
            if self.is_parked(key).await? {
                return Ok(if version == 0 { Outcome::Absent } else { Outcome::Right });
            }
            let next = missing.version;
            return Ok(Outcome::Wrong(if version == 0 {
                "is missing".to_owned()
            } else {
                format!("is behind: version {version}, event {next} was applied")
            }));
        }
    }

    /// Every event of this stream up to here is applied.
    async fn applied(&self, key: &str) -> Result<i64, Stop> {
        let signs = self.target.signs().await?;
        Ok(signs
            .get(lease::range_of(P::CATEGORY, key))
            .and_then(Option::as_ref)
            .map_or(0, |sign| sign.position))
    }

    async fn is_parked(&self, key: &str) -> Result<bool, Stop> {
        let (control, name) = (self.subject.feeds.control(), &self.target.live.name);
        Ok(Parking::holds(&self.subject.index, control, name, key).await?)
    }

    /// Every document has a stream.
    async fn documents(&mut self, keys: &[u64], part: u64, parts: u64) -> Result<(), Stop> {
        let (index, name) = (&self.subject.index, &self.target.live.name);
        index.refresh(name).await?;
        let mut every = index.every(name).await?;
        loop {
            let ids = every.next().await?;
            if ids.is_empty() {
                break;
            }
            for id in &ids {
                let hash = self.draw.hash_one(id);
                if hash % parts != part || keys.binary_search(&hash).is_ok() {
                    continue;
                }
                // New since the scan, or nobody's.
                let begun = match self.subject.feed.read_stream(P::CATEGORY, id, 1, 1).await {
                    Ok(events) => !events.is_empty(),
                    Err(FeedError::Refused(_)) => false,
                    Err(error) => return Err(error.into()),
                };
                if !begun {
                    self.verified.found += 1;
                    self.verified.differs(id, "is nobody's: there is no such stream");
                }
            }
        }
        // What Elasticsearch keeps for it goes by itself, too.
        every.close().await.ok();
        Ok(())
    }

    /// Every stream changed since the scan began.
    async fn touched(&mut self, since: i64) -> Result<(), Stop> {
        let head = self.subject.feed.head().await?.head_position;
        let mut events = self.subject.feed.subscribe(since, "", vec![P::CATEGORY], None);
        let mut known: HashSet<u64> = HashSet::new();
        while events.position() < head {
            match events.next().await? {
                Item::Events { events, .. } => {
                    let mut keys: Vec<&str> = events.iter().map(|event| event.stream_key.as_str()).collect();
                    if known.len() > KEYS {
                        known.clear();
                    }
                    keys.retain(|key| known.insert(self.draw.hash_one(key)));
                    let (expected, found) = (self.verified.expected, self.verified.found);
                    self.look(&keys).await?;
                    // They are counted already, or are newer than the count.
                    (self.verified.expected, self.verified.found) = (expected, found);
                }
                Item::Standing { .. } => {}
                Item::Interrupted(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What the document of a stream must be; of one that cannot be folded whole, as far as it can.
fn folded<P: Projection>(stream: &WholeStream) -> Option<P::Document> {
    let mut document = None;
    // Where the fold stops, the stream is to be parked; that is looked at alone.
    let _ = fold_onto::<P>(&mut document, &stream.events);
    document
}

/// Whether the document is stored like this, field by field, at its version.
fn same<P: Projection>(expected: &P::Document, found: Option<&Found<Value>>) -> bool {
    found.is_some_and(|found| {
        found.version == P::version(expected) && whole(expected, &P::search(expected)) == found.source
    })
}
