//! The feed from its head on, of all slices: orders, and customers for their names.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proto::v1::{RecordedEvent, StreamCategory};
use shared::backoff::Backoff;
use tokio::time::{sleep, timeout};

use crate::projector::Progress;
use crate::subscription::{Feed, FeedError, Item, Subscription};

/// Waits between attempts to find the head.
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Longest time to find the head: whoever begins to follow an order waits for it.
const HEAD_LIMIT: Duration = Duration::from_secs(2);

/// Reads the feed. Finds its head first.
pub struct Tail {
    feed: Feed,
    orders: Progress,
    backoff: Backoff,
    link: Link,
    interrupted: bool,
}

enum Link {
    Opening(BoxFuture<'static, Result<Subscription, FeedError>>),
    Open(Box<Subscription>),
}

/// What the feed says.
pub enum Told {
    /// From now on everything is told. What is read from the store after this, together with what is told, is complete.
    Opened,
    /// Events, in position order.
    Events(Vec<RecordedEvent>),
    /// Nothing new.
    Nothing,
    /// The feed does not answer; it is asked again.
    Interrupted(FeedError),
}

impl Tail {
    /// A tail that is yet to find the head, of the store that `orders` is fed from.
    pub fn new(feed: Feed, orders: Progress) -> Self {
        let link = Link::Opening(open(feed.clone(), orders.clone(), Duration::ZERO).boxed());
        Self { feed, orders, backoff: Backoff::new(RETRY_BASE, RETRY_MAX), link, interrupted: false }
    }

    /// Whether everything is told from now on, as far as is known.
    pub fn tells(&self) -> bool {
        matches!(self.link, Link::Open(_)) && !self.interrupted
    }

    /// Whether the feed did not answer when it was last asked.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// The next thing told. May be dropped and called again at any time without losing anything.
    ///
    /// # Errors
    /// Where what was read before does not go on: [`FeedError::is_of_other_history`].
    pub async fn next(&mut self) -> Result<Told, FeedError> {
        let told = self.hear().await?;
        match &told {
            Told::Interrupted(error) if !self.interrupted => {
                tracing::warn!(%error, "feed of watched orders interrupted");
                self.interrupted = true;
            }
            Told::Interrupted(_) => {}
            _ if self.interrupted => {
                tracing::info!("feed of watched orders is back");
                self.interrupted = false;
            }
            _ => {}
        }
        Ok(told)
    }

    async fn hear(&mut self) -> Result<Told, FeedError> {
        match &mut self.link {
            Link::Opening(opening) => match opening.await {
                Ok(subscription) => {
                    self.link = Link::Open(Box::new(subscription));
                    Ok(Told::Opened)
                }
                Err(error) if error.is_of_other_history() => Err(error),
                Err(error) => {
                    let again = open(self.feed.clone(), self.orders.clone(), self.backoff.next());
                    self.link = Link::Opening(again.boxed());
                    Ok(Told::Interrupted(error))
                }
            },
            Link::Open(subscription) => Ok(match subscription.next().await? {
                Item::Events { events, .. } => Told::Events(events),
                Item::Standing { .. } => Told::Nothing,
                Item::Interrupted(error) => Told::Interrupted(error),
            }),
        }
    }
}

/// A subscription after the head, which is not behind what the index was fed with.
async fn open(feed: Feed, orders: Progress, pause: Duration) -> Result<Subscription, FeedError> {
    sleep(pause).await;
    let indexed = orders.snapshot();
    let head = in_time(feed.head()).await?;
    if !indexed.store_id.is_empty() && indexed.store_id != head.store_id {
        return Err(FeedError::StoreChanged);
    }
    if indexed.applied_position > head.head_position {
        return Err(FeedError::PositionAhead);
    }
    let categories = vec![StreamCategory::Order, StreamCategory::Customer];
    if let Some(last) = indexed.last() {
        in_time(feed.still_has(last, &head.store_id, categories.clone())).await?;
    }
    Ok(feed.subscribe(head.head_position, &head.store_id, categories, None))
}

async fn in_time<T>(answer: impl Future<Output = Result<T, FeedError>>) -> Result<T, FeedError> {
    let answer = timeout(HEAD_LIMIT, answer).await;
    answer.unwrap_or_else(|_| Err(FeedError::Unavailable("timed out".to_owned())))
}
