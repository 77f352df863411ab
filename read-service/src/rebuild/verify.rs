//! The proof before the switch: counts both ways, and documents against a fresh fold of their events.
//!
//! The store is scanned once more. Every stream must have its document, at its version; up to 20,000 streams all documents are compared
//! whole, beyond that a random 20,000 and those changed since the scan. Then every document must have a stream. Streams that
//! are parked count as such.

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
use crate::compare::{Comparison, Keys, NOBODYS, Outcome};
use crate::projection::Projection;
use crate::subscription::Item;

/// Documents compared whole, unless there are fewer.
const COMPARED: u64 = 20_000;
/// Hashes of the streams that were looked at again since the scan, kept in memory so that each is looked at once.
const KNOWN: usize = 2_000_000;
/// Share of the verification that comparing streams with their documents is.
const STREAMS_SHARE: f64 = 0.8;
/// How often it is told how much is done.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Differences after which nothing more is looked for: the index is refused.
const ENOUGH: i64 = 1_000;

/// Compares the target with the events.
pub(super) async fn verify<P: Projection>(session: &Session, rebuild: &Rebuild) -> Result<Verified, Stop> {
    let subject = &session.subject;
    let target = subject.place(&rebuild.target_index).await?;
    let total = u64::try_from(rebuild.streams_done).unwrap_or(0);
    let mut check = Check::<'_, P> {
        subject,
        comparison: Arc::new(Comparison::new(subject.feed.clone(), target, None)),
        // Drawn anew each time, so that no document is safe from it.
        draw: RandomState::new(),
        total: total.max(1),
        verified: Verified::default(),
        told: Told { session, advance: Advance::begin(VERIFYING, 0.0), at: Instant::now() },
    };
    let mut keys = check.streams().await?;
    check.documents(&keys).await?;
    while let Some(mut next) = keys.next() {
        next.take_all(subject.feed.scan(P::CATEGORY, "").await?).await?;
        check.documents(&next).await?;
        keys = next;
    }
    if check.total > COMPARED {
        check.touched(rebuild.resume_position).await?;
    }
    Ok(check.verified)
}

/// A verification under way.
struct Check<'a, P> {
    subject: &'a Subject,
    comparison: Arc<Comparison<P>>,
    draw: RandomState,
    total: u64,
    verified: Verified,
    told: Told<'a>,
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
    /// Every stream has its document. Gives the keys of the streams, those of the first part.
    async fn streams(&mut self) -> Result<Keys, Stop> {
        let (mut keys, mut seen) = (Keys::new(), 0);
        let (total, draw) = (self.total, self.draw.clone());
        let sampled = move |key: &str| total <= COMPARED || draw.hash_one(key) % total < COMPARED;
        let comparison = self.comparison.clone();
        let mut sights = pin!(comparison.sights(self.subject.feed.scan(P::CATEGORY, "").await?, sampled));
        while let Some((page, sight)) = sights.try_next().await? {
            keys.take(&page.streams);
            seen += i64::try_from(page.streams.len()).unwrap_or(0);
            let total = i64::try_from(self.total).unwrap_or(i64::MAX);
            self.told.tell(STREAMS_SHARE * share(seen, total)).await?;
            if self.verified.different < ENOUGH {
                self.verified.expected += sight.right;
                self.verified.found += sight.right;
                self.verified.compared += sight.whole;
                self.look(sight.doubtful).await?;
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// Looks at streams alone.
    async fn look(&mut self, keys: Vec<String>) -> Result<(), Stop> {
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

    /// Every document has a stream.
    async fn documents(&mut self, keys: &Keys) -> Result<(), Stop> {
        let mut every = self.comparison.documents().await?;
        loop {
            let ids = every.next().await?;
            if ids.is_empty() {
                break;
            }
            self.told.tell(STREAMS_SHARE).await?;
            for id in self.comparison.orphans(ids, keys).await? {
                self.verified.found += 1;
                self.verified.differs(&id, NOBODYS);
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
                    if known.len() > KNOWN {
                        known.clear();
                    }
                    let keys = events.into_iter().map(|event| event.stream_key);
                    let keys = keys.filter(|key| known.insert(self.draw.hash_one(key.as_str()))).collect();
                    let (expected, found) = (self.verified.expected, self.verified.found);
                    self.look(keys).await?;
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
