//! A parked stream read afresh, by any copy of the service, whoever projects its slice.
//!
//! The stream is read and its document stored. Then the record is marked as releasing: from now on the owner of the slice applies
//! what it is given. What it was given and skipped before is read with the stream once more; then the record goes. Removing it first
//! would lose what was skipped in between. Every change of the record is a compare-and-set, so a retry that meets another
//! retry, or the owner parking the stream anew, looks again. One that dies in between leaves a loose record.

use thiserror::Error;

use super::{ParkedStream, fit, record_id};
use crate::feeds::Feeds;
use crate::index::{Index, IndexError, Record};
use crate::projection::Projection;
use crate::subscription::{Feed, FeedError, Readable};

/// The parked streams of one index, and what it takes to retry them.
#[derive(Clone, Debug)]
pub struct Lot {
    /// Elasticsearch.
    pub index: Index,
    /// Where streams are read.
    pub feed: Feed,
    /// Tells when the index must not be written to.
    pub feeds: Feeds,
    /// Physical name of the index.
    pub target: String,
}

/// What a retry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// The stream is not parked.
    NotParked,
    /// All of it is applied; it is no longer parked.
    Applied,
    /// It is still parked.
    Still(ParkedStream),
}

/// A retry was not done. The stream is parked as before, or its record is loose.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RetryError {
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The feed failed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// Queries are about to be switched to another index: for a moment nothing may be written to this one.
    #[error("a switch to another index is under way")]
    Held,
}

/// Applies a parked stream from its beginning.
///
/// # Errors
/// [`RetryError`].
pub async fn retry<P: Projection>(lot: &Lot, stream_key: &str) -> Result<Retried, RetryError> {
    let (control, id) = (lot.feeds.control(), record_id(&lot.target, stream_key));
    let mut was_parked = false;
    loop {
        let Some(Record { stamp, value: parked }) = lot.index.record::<ParkedStream>(control, &id).await?
        else {
            return Ok(if was_parked { Retried::Applied } else { Retried::NotParked });
        };
        was_parked = true;
        let (written, retried) = match apply::<P>(lot, stream_key).await? {
            Some(fault) => {
                let still = parked.again(fault);
                let written = lot.index.replace(control, &id, stamp, &still).await.map(drop);
                (written, Some(Retried::Still(still)))
            }
            None if parked.releasing => (lot.index.remove(control, &id, stamp).await, Some(Retried::Applied)),
            None => {
                let releasing = ParkedStream { releasing: true, ..parked };
                (lot.index.replace(control, &id, stamp, &releasing).await.map(drop), None)
            }
        };
        match (written, retried) {
            (Ok(()), Some(retried)) => {
                tell::<P>(lot, stream_key, &retried);
                return Ok(retried);
            }
            (Ok(()), None) => {}
            (Err(error), _) if error.is_conflict() => {}
            (Err(error), _) => return Err(error.into()),
        }
    }
}

/// Stores as much of the stream as is in the feed; what is at fault where that is not all.
async fn apply<P: Projection>(lot: &Lot, stream_key: &str) -> Result<Option<super::Fault>, RetryError> {
    let mut stream = lot.feed.read_as_far(P::CATEGORY, stream_key, 1, 0).await?;
    // What has no place in the feed yet comes with it.
    if let Some(unpublished) = stream.events.iter().position(|event| event.position == 0) {
        stream = Readable { events: stream.events.drain(..unpublished).collect(), unreadable: None };
    }
    // After the stream was read: a switch that begins later includes all that was read.
    if lot.feeds.look().await?.hold_of(&lot.target).is_some() {
        return Err(RetryError::Held);
    }
    Ok(fit::store::<P>(&lot.index, &lot.target, stream_key, &stream).await?)
}

fn tell<P: Projection>(lot: &Lot, stream_key: &str, retried: &Retried) {
    let (projection, index) = (P::NAME, &lot.target);
    let outcome = match retried {
        Retried::Still(parked) => {
            let (version, error, attempts) = (parked.fault.version, &parked.fault.error, parked.attempts);
            tracing::warn!(projection, index, stream_key, version, error, attempts, "stream still parked");
            "still_parked"
        }
        Retried::Applied | Retried::NotParked => {
            tracing::info!(projection, index, stream_key, "parked stream applied");
            "applied"
        }
    };
    metrics::counter!("projection_parked_retries_total", "projection" => projection, "outcome" => outcome)
        .increment(1);
}
