//! The tail: one reader per copy of the service follows the feed and hands each page to every subscriber that has caught up.
//!
//! A subscriber costs the database nothing while it keeps up. The ring is bounded: one that falls out of it reads from the
//! store again.

use std::sync::Arc;
use std::time::Duration;

use shared::backoff::Backoff;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::Filter;
use super::pages::{FeedEvent, Pages};
use crate::outbox::FEED_GREW;

/// Pages that the ring holds. A page has 1,000 to 3,000 events under load, of about 900 bytes each as they lie in memory: some
/// 30 MB at most.
const RING: usize = 12;
/// How long the reader waits for a wake-up before it looks by itself.
const POLL: Duration = Duration::from_secs(1);

/// A page of the tail, without a filter.
#[derive(Debug)]
pub(super) struct TailPage {
    /// The position before its first event.
    pub after: i64,
    pub through: i64,
    pub events: Vec<FeedEvent>,
}

/// The shared tail. Cheap to clone.
#[derive(Clone)]
pub struct Tail {
    ring: broadcast::Sender<Arc<TailPage>>,
    head: watch::Sender<i64>,
}

impl Tail {
    /// A tail that nobody feeds yet: see [`Self::run`].
    #[must_use]
    pub fn new() -> Self {
        Self { ring: broadcast::Sender::new(RING), head: watch::Sender::new(0) }
    }

    /// Pages from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<TailPage>> {
        self.ring.subscribe()
    }

    /// The newest position that the tail has seen.
    pub(super) fn head(&self) -> i64 {
        *self.head.borrow()
    }

    /// Follows the feed until `draining`. Survives the loss of the database.
    pub async fn run(self, pool: PgPool, pages: Pages, draining: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut position = None;
        loop {
            let begun = tokio::time::Instant::now();
            tokio::select! {
                outcome = self.follow(&pool, &pages, &mut position) => if let Err(error) = outcome {
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

    async fn follow(
        &self,
        pool: &PgPool,
        pages: &Pages,
        position: &mut Option<i64>,
    ) -> Result<(), sqlx::Error> {
        let mut wake_ups = PgListener::connect_with(pool).await?;
        wake_ups.listen(FEED_GREW).await?;
        let head = pages.head().await?.position;
        // Behind where it stood: the store was restored to an earlier point, and the positions are given anew.
        let mut after = position.filter(|position| *position <= head).unwrap_or(head);
        self.head.send_replace(head);
        let everything = Filter { slices: 0..=i16::MAX, categories: Vec::new() };
        loop {
            let page = pages.after(after, &everything).await?;
            if page.through > after {
                let page = TailPage { after, through: page.through, events: page.events };
                after = page.through;
                *position = Some(after);
                self.head.send_replace(after);
                // Without subscribers the page is not needed.
                let _ = self.ring.send(Arc::new(page));
                continue;
            }
            match tokio::time::timeout(POLL, wake_ups.recv()).await {
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}
