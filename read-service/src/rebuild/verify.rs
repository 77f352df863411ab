//! The proof before the switch: counts both ways, and documents against a fresh fold of their events.
//!
//! The store is scanned once more. A random 20,000 documents, or as many as is set, and those changed since the scan are compared
//! whole; where there are fewer, all. Then all documents are gone through: each must have a stream, and be at its version. Streams whose
//! document was not met are looked for in one more scan. Streams that are parked count as such.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::time::Instant;

use super::advance::{Advance, VERIFYING, share};
use super::record::{Rebuild, Verified};
use super::session::Session;
use super::{Stop, Subject};
use crate::compare::{Comparison, Keys, Met, NOBODYS, Outcome, version_of_fold};
use crate::demand::{self, Spells};
use crate::projection::Projection;
use crate::subscription::Item;

/// Hashes of the streams that were looked at again since the scan, kept in memory so that each is looked at once.
const KNOWN: usize = 2_000_000;
/// Share of the verification that going through the streams is; the rest is going through the documents.
const STREAMS_SHARE: f64 = 0.5;
/// How often it is told how much is done.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Differences after which nothing more is looked for: the index is refused.
const ENOUGH: i64 = 1_000;
/// Documents at another version than their stream that are kept in memory, to be looked at once all were gone through.
const DOUBTFUL: usize = 10_000;

/// Compares the target with the events.
pub(super) async fn verify<P: Projection>(session: &Session, rebuild: &Rebuild) -> Result<Verified, Stop> {
    let subject = &session.subject;
    let target = subject.place(&rebuild.target_index).await?;
    let mut check = Check::<'_, P> {
        subject,
        comparison: Arc::new(Comparison::new(subject.feed.clone(), target, None)),
        sample: Sample {
            draw: RandomState::new(),
            compared: subject.rules.compared,
            total: u64::try_from(rebuild.streams_done).unwrap_or(0).max(1),
        },
        verified: Verified::default(),
        told: Told { session, advance: Advance::begin(VERIFYING, 0.0), at: Instant::now() },
    };
    let mut keys = check.streams().await?;
    loop {
        check.documents(&mut keys).await?;
        check.missing(&keys).await?;
        let Some(mut next) = keys.next().filter(|_| !check.is_refused()) else { break };
        check.keys(&mut next).await?;
        keys = next;
    }
    if !check.sample.is_all() && !check.is_refused() {
        check.touched(rebuild.resume_position).await?;
    }
    Ok(check.verified)
}

/// A verification under way.
struct Check<'a, P> {
    subject: &'a Subject,
    comparison: Arc<Comparison<P>>,
    sample: Sample,
    verified: Verified,
    told: Told<'a>,
}

/// Which documents are compared whole.
#[derive(Clone)]
struct Sample {
    /// Drawn anew each time, so that no document is safe from it.
    draw: RandomState,
    /// How many, about.
    compared: u64,
    /// Number of all streams.
    total: u64,
}

impl Sample {
    fn is_all(&self) -> bool {
        self.total <= self.compared
    }

    fn has(&self, key: &str) -> bool {
        self.is_all() || self.hash(key) % self.total < self.compared
    }

    fn hash(&self, key: &str) -> u64 {
        self.draw.hash_one(key)
    }
}

/// What callers are told meanwhile.
struct Told<'a> {
    session: &'a Session,
    advance: Advance,
    at: Instant,
}

impl Told<'_> {
    /// Tells about once a second how much is done.
    async fn tell(&mut self, done: f64) -> Result<(), Stop> {
        if self.at.elapsed() >= TELL_EVERY {
            self.session.save(|rebuild| self.advance.tell(rebuild, done)).await?;
            self.at = Instant::now();
        }
        Ok(())
    }
}

impl<P: Projection> Check<'_, P> {
    /// Whether enough is wrong.
    fn is_refused(&self) -> bool {
        self.verified.different >= ENOUGH
    }

    fn spells(&self) -> Spells {
        Spells::new(self.subject.demand.clone())
    }

    /// Compares documents with their streams, those of the sample. Gives the keys of the streams, those of the first part.
    async fn streams(&mut self) -> Result<Keys, Stop> {
        let (mut keys, mut seen) = (Keys::new(), 0);
        let sample = self.sample.clone();
        let spells = self.spells();
        let scan = self.subject.feed.scan(P::CATEGORY, "").await?;
        let comparison = self.comparison.clone();
        let mut sights = pin!(comparison.sights(scan, move |key: &str| sample.has(key), spells));
        while let Some((page, sight)) = sights.try_next().await? {
            let streams = page.streams.iter().map(|stream| stream.key.as_str());
            keys.take(streams.zip(sight.versions));
            seen += page.streams.len();
            self.told.tell(STREAMS_SHARE * self.share(seen)).await?;
            self.verified.expected += sight.right;
            self.verified.found += sight.right;
            self.verified.compared += sight.right;
            self.look(sight.doubtful).await?;
        }
        keys.sort();
        Ok(keys)
    }

    /// Takes the keys of another part.
    async fn keys(&self, keys: &mut Keys) -> Result<(), Stop> {
        let mut scan = self.subject.feed.scan(P::CATEGORY, "").await?;
        let mut spells = self.spells();
        while let Some(page) = scan.next().await? {
            for (number, stream) in page.streams.iter().enumerate() {
                if keys.has_part(&stream.key) {
                    demand::step(number).await;
                    keys.take([(stream.key.as_str(), version_of_fold::<P>(stream).unwrap_or(0))]);
                }
            }
            spells.pause().await;
        }
        keys.sort();
        Ok(())
    }

    /// Looks at streams alone.
    async fn look(&mut self, keys: Vec<String>) -> Result<(), Stop> {
        if self.is_refused() {
            return Ok(());
        }
        for (key, outcome) in self.comparison.look(keys).await? {
            self.verified.compared += 1;
            match outcome {
                Outcome::Right => {
                    self.verified.expected += 1;
                    self.verified.found += 1;
                }
                Outcome::Absent => {}
                Outcome::Wrong(difference) => {
                    self.verified.expected += 1;
                    self.verified.differs(&key, difference.detail);
                }
            }
        }
        Ok(())
    }

    /// The same for streams that are counted elsewhere.
    async fn look_again(&mut self, keys: Vec<String>) -> Result<(), Stop> {
        let (expected, found) = (self.verified.expected, self.verified.found);
        self.look(keys).await?;
        (self.verified.expected, self.verified.found) = (expected, found);
        Ok(())
    }

    /// Looks at these; those of the sample are counted already.
    async fn look_at_all(&mut self, keys: Vec<String>) -> Result<(), Stop> {
        let (counted, others) = keys.into_iter().partition(|key| self.sample.has(key));
        self.look_again(counted).await?;
        self.look(others).await
    }

    /// Every document has a stream, and is at its version.
    async fn documents(&mut self, keys: &mut Keys) -> Result<(), Stop> {
        let mut every = self.comparison.documents().await?;
        let mut spells = self.spells();
        let (mut seen, mut doubtful) = (0, Vec::new());
        loop {
            let documents = every.next().await?;
            if documents.is_empty() || self.is_refused() {
                break;
            }
            seen += documents.len();
            let done = keys.share(self.share(seen));
            self.told.tell(STREAMS_SHARE + (1.0 - STREAMS_SHARE) * done).await?;
            let mut strangers = Vec::new();
            for (id, version) in documents {
                match keys.meet(&id, version) {
                    Met::Known | Met::Elsewhere => {}
                    Met::AtVersion if self.sample.has(&id) => {}
                    Met::AtVersion => {
                        self.verified.expected += 1;
                        self.verified.found += 1;
                    }
                    Met::AtOther => doubtful.push(id),
                    Met::Stranger => strangers.push(id),
                }
            }
            for id in self.comparison.orphans(strangers).await? {
                self.verified.found += 1;
                self.verified.differs(&id, NOBODYS);
            }
            if doubtful.len() >= DOUBTFUL {
                self.look_at_all(std::mem::take(&mut doubtful)).await?;
            }
            spells.pause().await;
        }
        // What Elasticsearch keeps for it goes by itself, too.
        every.close().await.ok();
        // Not before: a look may wait, and the view of the index does not last.
        self.look_at_all(doubtful).await
    }

    /// Every stream has a document.
    async fn missing(&mut self, keys: &Keys) -> Result<(), Stop> {
        if keys.unmet() == 0 {
            return Ok(());
        }
        let mut scan = self.subject.feed.scan(P::CATEGORY, "").await?;
        let mut spells = self.spells();
        while let Some(page) = scan.next().await?.filter(|_| !self.is_refused()) {
            let streams = page.streams.into_iter().map(|stream| stream.key);
            self.look_at_all(streams.filter(|key| keys.is_unmet(key)).collect()).await?;
            spells.pause().await;
        }
        Ok(())
    }

    /// Every stream changed since the scan began.
    async fn touched(&mut self, since: i64) -> Result<(), Stop> {
        let head = self.subject.feed.head().await?.head_position;
        let mut events = self.subject.feed.subscribe(since, "", vec![P::CATEGORY], None);
        let mut known: HashSet<u64> = HashSet::new();
        let mut spells = self.spells();
        while events.position() < head {
            match events.next().await? {
                Item::Events { events, .. } => {
                    if known.len() > KNOWN {
                        known.clear();
                    }
                    let keys = events.into_iter().map(|event| event.stream_key);
                    let keys = keys.filter(|key| known.insert(self.sample.hash(key))).collect();
                    // Counted already, or newer than the count.
                    self.look_again(keys).await?;
                    spells.pause().await;
                }
                Item::Standing { .. } => {}
                Item::Interrupted(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// So many of all streams.
    fn share(&self, seen: usize) -> f64 {
        let total = i64::try_from(self.sample.total).unwrap_or(i64::MAX);
        share(i64::try_from(seen).unwrap_or(total), total).min(1.0)
    }
}
