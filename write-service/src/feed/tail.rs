//! The tail: one reader per copy of the service follows the feed and hands each page to every subscriber that has caught up.
//!
//! A subscriber costs the database nothing while it keeps up, and while there is none the pages are not read. The ring is
//! bounded in bytes: a subscriber that falls out of it reads from the store again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::backoff::Backoff;
use shared::clock::Clock;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Filter;
use super::events::Events;
use super::pages::{self, Pages};
use crate::outbox::FEED_GREW;

/// Memory that the ring may take: some 40,000 events of the ordinary kind.
const RING_BYTES: usize = 16 * 1024 * 1024;
/// How long the reader waits for a wake-up before it looks by itself.
const POLL: Duration = Duration::from_secs(1);
/// In place of the feed's head: one reads until nothing follows.
const UNKNOWN: i64 = i64::MAX;

/// A page of the tail, without a filter.
#[derive(Debug)]
pub(super) struct TailPage {
    /// The position before its first event.
    pub after: i64,
    pub through: i64,
    pub events: Events,
}

/// What the tail has seen last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// The newest position.
    pub head: i64,
    /// How often the store was found at an earlier point than before.
    pub restores: u64,
}

/// Where a subscriber goes on.
#[derive(Debug)]
pub(super) enum Next {
    /// With this page, which holds what follows its position.
    Page(Arc<TailPage>),
    /// Nothing follows yet.
    Wait,
    /// In the store: what follows is not in the ring, or no longer.
    Store,
}

/// The shared tail. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tail {
    ring: Arc<Mutex<Ring>>,
    news: Arc<watch::Sender<News>>,
    /// When the store was last looked at, in nanoseconds since 1970.
    looked_at: Arc<AtomicI64>,
    clock: Clock,
}

/// Consecutive pages, the newest last.
#[derive(Debug, Default)]
struct Ring {
    pages: VecDeque<Arc<TailPage>>,
    bytes: usize,
}

impl Tail {
    /// A tail that nobody feeds yet: see [`Self::run`].
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { ring: Arc::default(), news: Arc::default(), looked_at: Arc::default(), clock }
    }

    /// Tells when there is news. Pages are kept while anyone listens.
    pub(super) fn join(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// The newest position that the tail has seen.
    pub(super) fn head(&self) -> i64 {
        self.news.borrow().head
    }

    /// When the store was last seen to end at [`Self::head`], in nanoseconds since 1970.
    pub(super) fn looked_at(&self) -> i64 {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// Where one goes on that has everything up to `position`.
    pub(super) fn next(&self, position: i64) -> Next {
        let head = self.head();
        let ring = self.ring();
        match ring.pages.get(ring.pages.partition_point(|page| page.through <= position)) {
            Some(page) if page.after <= position => Next::Page(Arc::clone(page)),
            None if head <= position => Next::Wait,
            Some(_) | None => Next::Store,
        }
    }

    /// Follows the feed until `draining`. Survives the loss of the database.
    pub async fn run(self, pool: PgPool, pages: Pages, draining: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let begun = tokio::time::Instant::now();
            tokio::select! {
                outcome = self.follow(&pool, &pages) => if let Err(error) = outcome {
                    tracing::warn!(error = %error, "tail reader lost the feed");
                },
                () = draining.cancelled() => return,
            }
            if begun.elapsed() > POLL {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = draining.cancelled() => return,
            }
        }
    }

    async fn follow(&self, pool: &PgPool, pages: &Pages) -> Result<(), sqlx::Error> {
        let mut wake_ups = PgListener::connect_with(pool).await?;
        wake_ups.listen(FEED_GREW).await?;
        let head = pages.head().await?.position;
        if head < self.head() {
            // The store was restored to an earlier point, and positions are given anew.
            self.forget();
            self.news.send_modify(|news| *news = News { head, restores: news.restores + 1 });
        }
        let everything = Filter { slices: 0..=i16::MAX, categories: Vec::new() };
        // Its own: each return to the pool costs a round trip, and one that is kept is missing there.
        let mut connection = pool.acquire().await?.detach();
        let mut announced = UNKNOWN;
        loop {
            let after = self.head();
            let asked_at = self.clock.now_nanos();
            if self.news.receiver_count() > 0 {
                let page = pages::after(&mut connection, after, &everything).await?;
                self.looked_at.store(asked_at, Ordering::Relaxed);
                if page.through > after {
                    let through = page.through;
                    self.keep(TailPage { after, through, events: page.events });
                    if through < announced {
                        continue;
                    }
                }
            } else {
                let head = pages.head().await?.position;
                self.looked_at.store(asked_at, Ordering::Relaxed);
                // Who joined meanwhile may need what lies between.
                if head > after && self.news.receiver_count() == 0 {
                    self.forget();
                    self.news.send_modify(|news| news.head = head);
                }
            }
            announced = self.announced(&mut wake_ups).await?;
        }
    }

    /// Where the feed is said to end, once that lies beyond what the tail has seen; unknown where nothing is said for long.
    async fn announced(&self, wake_ups: &mut PgListener) -> Result<i64, sqlx::Error> {
        let until = Instant::now() + POLL;
        loop {
            let Ok(notice) = timeout_at(until, wake_ups.recv()).await else { return Ok(UNKNOWN) };
            let head = notice?.payload().parse().unwrap_or(UNKNOWN);
            if head > self.head() {
                return Ok(head);
            }
        }
    }

    fn keep(&self, page: TailPage) {
        let head = page.through;
        {
            let mut ring = self.ring();
            ring.bytes += page.events.memory();
            ring.pages.push_back(Arc::new(page));
            while ring.bytes > RING_BYTES
                && ring.pages.len() > 1
                && let Some(oldest) = ring.pages.pop_front()
            {
                ring.bytes -= oldest.events.memory();
            }
        }
        self.news.send_modify(|news| news.head = head);
    }

    fn forget(&self) {
        *self.ring() = Ring::default();
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        // Every change of it is whole before anything can panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Published;

    fn page(after: i64, through: i64, bytes: usize) -> TailPage {
        let mut events = Events::default();
        for position in after + 1..=through {
            events.push(position, 0, 1, &Published { envelope: vec![0; bytes], body: Vec::new() });
        }
        TailPage { after, through, events }
    }

    #[test]
    fn one_goes_on_in_the_ring_or_in_the_store() {
        let tail = Tail::new(Clock::fixed(0));
        assert!(matches!(tail.next(0), Next::Wait));
        tail.keep(page(10, 15, 10));
        tail.keep(page(15, 20, 10));
        assert!(matches!(tail.next(9), Next::Store), "before the ring");
        assert!(matches!(tail.next(10), Next::Page(page) if page.after == 10));
        assert!(matches!(tail.next(14), Next::Page(page) if page.after == 10));
        assert!(matches!(tail.next(15), Next::Page(page) if page.after == 15));
        assert!(matches!(tail.next(20), Next::Wait));
        assert!(matches!(tail.next(25), Next::Wait), "ahead of the tail, which has not looked yet");
        tail.forget();
        assert!(matches!(tail.next(19), Next::Store));
        assert!(matches!(tail.next(20), Next::Wait));
    }

    #[test]
    fn the_ring_is_bounded_in_bytes() {
        let tail = Tail::new(Clock::fixed(0));
        for i in 0..40 {
            tail.keep(page(i, i + 1, 1024 * 1024));
        }
        assert!((2..=16).contains(&tail.ring().pages.len()), "{}", tail.ring().pages.len());
        assert!(tail.ring().bytes <= RING_BYTES);
        tail.keep(page(40, 41, 2 * RING_BYTES));
        assert_eq!(tail.ring().pages.len(), 1, "a page larger than the ring is kept alone");
    }
}
