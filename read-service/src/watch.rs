//! Orders that callers follow while they change.
//!
//! An order's id enters; its document leaves, now and after every change, with its customer's name of today. However many
//! follow however many orders, a copy of the service reads the feed once for all of them, from its head on and whatever slices it
//! projects, and asks Elasticsearch once for each order and each customer. While nobody follows anything it reads nothing.
//!
//! Versions come in order and none is left out for a reader who keeps up; who does not is shown the newest, has no queue, and
//! holds nobody up. The last state always comes. It comes from the feed, so it may be seen before `GetOrder` or a search shows it.
//! While the feed is away readers stay, and hear what they missed when it is back. Places and memory are bounded.
//!
//! - `tail`: the feed from its head on.
//! - `followed`: a document that is kept up with its stream.
//! - `recent`: the newest states of an order, from which readers take the next.
//! - `room`: the one task that has all of this.

mod tail;
mod followed;
mod recent;
mod room;

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use self::recent::Recent;
pub use self::recent::Shown;
use self::room::{Join, Room};
use crate::Aliases;
use crate::index::{Index, IndexError};
use crate::projector::Progress;
use crate::subscription::{Feed, FeedError};

/// Callers that may stand before the room.
const QUEUE: usize = 64;

/// What the room reads.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where an order is read first.
    pub index: Index,
    /// Names of its indices.
    pub aliases: Aliases,
    /// What happens to it.
    pub feed: Feed,
    /// Knows which store the index was fed from, and how far.
    pub orders: Progress,
}

/// How much may be followed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Readers.
    pub watchers: usize,
    /// Bytes of the orders that they follow.
    pub bytes: usize,
}

/// An order is not followed, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// There is no such order.
    #[error("order does not exist")]
    NotFound,
    /// Too much is followed.
    #[error("too much is followed")]
    Full,
    /// An event of the order cannot be read or applied.
    #[error("an event of the order cannot be read")]
    Unreadable,
    /// Neither the index nor the feed gave the order.
    #[error(transparent)]
    Index(IndexError),
    /// The feed did not give the order, or it belongs to another store, or to an earlier point of it.
    #[error(transparent)]
    Feed(FeedError),
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopped,
}

/// The orders that are followed. Clones share them.
#[derive(Clone, Debug)]
pub struct Watches {
    room: mpsc::Sender<Join>,
    places: Arc<Semaphore>,
}

impl Watches {
    /// Nobody follows anything yet. Call it inside the runtime.
    #[must_use]
    pub fn new(sources: Sources, limits: Limits) -> Self {
        let (room, joins) = mpsc::channel(QUEUE);
        tokio::spawn(Room::new(sources, limits.bytes).run(joins));
        Self { room, places: Arc::new(Semaphore::new(limits.watchers.min(Semaphore::MAX_PERMITS))) }
    }

    /// Follows an order from its state of now on.
    ///
    /// # Errors
    /// [`WatchError`], once it is known that there is no such state.
    pub async fn watch(&self, order_id: &str) -> Result<Watcher, WatchError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| WatchError::Full)?;
        let (reply, state) = oneshot::channel();
        let join = Join { order_id: order_id.to_owned(), reply };
        self.room.send(join).await.map_err(|_| WatchError::Stopped)?;
        let state = state.await.map_err(|_| WatchError::Stopped)??;
        let mut watcher = Watcher { state, version: 0, _place: place };
        watcher.ready().await?;
        Ok(watcher)
    }
}

/// A reader who follows an order.
#[derive(Debug)]
pub struct Watcher {
    state: watch::Receiver<Recent>,
    /// What was shown last.
    version: i64,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next state, when there is one: that of the next version, or the newest where the reader fell behind. May be dropped
    /// and called again.
    ///
    /// # Errors
    /// [`WatchError`]; nothing follows then.
    pub async fn next(&mut self) -> Result<Arc<Shown>, WatchError> {
        let shown = self.ready().await?;
        self.version = shown.order.version;
        Ok(shown)
    }

    async fn ready(&mut self) -> Result<Arc<Shown>, WatchError> {
        let version = self.version;
        let known = self.state.wait_for(|recent| recent.after(version).is_some()).await;
        let known = known.map_err(|_| WatchError::Stopped)?;
        known.after(version).unwrap_or(Err(WatchError::Stopped))
    }
}
