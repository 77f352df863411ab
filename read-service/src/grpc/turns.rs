//! How many searches are under way at once.
//!
//! A search enters and gets its turn, at once or after others; where too many wait already, or its turn does not come in time, it
//! is refused. Elasticsearch then holds no more than it works on, whoever asks, and reads by id, which take no turn, are not
//! behind searches.

use std::sync::Arc;

use proto::reason::{Error, Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Searches that may wait for each that is under way.
const WAITING: usize = 15;

/// Hands out turns. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// A place for each search that waits or is under way.
    places: Arc<Semaphore>,
    /// A turn for each that is under way.
    turns: Arc<Semaphore>,
}

/// The right to search, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Turns {
    /// So many turns at once.
    pub fn new(at_once: usize) -> Self {
        let places = at_once.saturating_mul(1 + WAITING).min(Semaphore::MAX_PERMITS);
        let turns = at_once.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), turns: Arc::new(Semaphore::new(turns)) }
    }

    /// A turn, by `until` at the latest.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub async fn take(&self, until: Instant) -> Result<Turn, Error> {
        let full = || Error::new(Reason::Overloaded, "too many searches are under way");
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| full())?;
        let turn = timeout_at(until, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| full())?.map_err(|_| full())?;
        Ok(Turn { _place: place, _turn: turn })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_finds_no_place_or_waits_too_long_is_refused() {
        let turns = Turns::new(2);
        let soon = Instant::now() + Duration::from_millis(500);
        let held = (turns.take(soon).await.unwrap(), turns.take(soon).await.unwrap());
        let waiting: Vec<_> = (0..30)
            .map(|_| {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(soon).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        let refused = turns.take(soon).await.unwrap_err();
        assert_eq!((refused.reason(), Instant::now() < soon), (Reason::Overloaded, true));
        drop(held.0);
        for search in waiting {
            search.await.unwrap().unwrap();
        }
        let other = turns.take(soon).await.unwrap();
        assert_eq!(turns.take(soon).await.unwrap_err().reason(), Reason::Overloaded);
        assert!(Instant::now() >= soon);
        drop((held.1, other));
        turns.take(soon).await.expect("a turn that is free is taken at once");
    }
}
