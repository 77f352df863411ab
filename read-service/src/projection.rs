//! The fold of the read side: what a document becomes when an event is added to it.
//!
//! A [`Projection`] mirrors the decider of the write side: a document type and a pure [`Projection::evolve`].
//! Recorded events of one stream enter in version order; a document leaves that equals the fold of those events,
//! whatever the batches were and however often the document went through its JSON form in between. Nothing here waits
//! or calls out.

use std::fmt;

use proto::v1::{RecordedEvent, StreamCategory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub mod order;
pub mod catalog;
pub mod search_text;
pub mod time_text;

pub use catalog::{CustomerDocument, Customers, ProductDocument, Products};
pub use order::{LineDocument, OrderDocument, Orders, Status};

#[cfg(test)]
mod tests;

/// One read model: a stream category folded into one kind of document, one document per stream.
pub trait Projection: Send + Sync + 'static {
    /// What a stream is folded into.
    type Document: Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + 'static;

    /// Its name, which is also the name of the index alias behind the configured prefix: "orders".
    const NAME: &'static str;
    /// The streams it is folded from.
    const CATEGORY: StreamCategory;
    /// Settings and mappings of its index as JSON.
    const MAPPING: &'static str;

    /// Adds the body of one event, the next of the document's stream; `None` is the document before its first event.
    ///
    /// [`apply`] checks stream and version and is what callers use.
    ///
    /// # Errors
    /// A [`FoldError`]; the document is then as it was.
    fn evolve(document: &mut Option<Self::Document>, event: &RecordedEvent) -> Result<(), FoldError>;

    /// Version of the last event in the document, from 1.
    fn version(document: &Self::Document) -> i64;

    /// Folded words by which the document is found, separated by spaces, for the field `search`; empty where it has
    /// none.
    fn search(_document: &Self::Document) -> String {
        String::new()
    }

    /// Whether no event can follow, so that it need not be kept in memory.
    fn is_final(_document: &Self::Document) -> bool {
        false
    }

    /// Rough size in memory, in bytes, for the cache of documents.
    fn weight(document: &Self::Document) -> usize;
}

/// An event cannot be added to a document. Texts hold names and numbers, never what callers wrote.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FoldError {
    /// The body is absent or of a type that this release does not know.
    #[error("event {version} has no body that this release knows")]
    UnknownBody {
        /// Version of the event.
        version: i64,
    },
    /// The body belongs to another category.
    #[error("event {version} is of a type that does not belong to its stream")]
    ForeignBody {
        /// Version of the event.
        version: i64,
    },
    /// The event is not the next of its stream.
    #[error("event {found} found where {expected} is next")]
    Gap {
        /// Version that is next.
        expected: i64,
        /// Version of the event.
        found: i64,
    },
    /// The event cannot happen in the state that the events before it left.
    #[error("event {version} cannot follow: {reason}")]
    Illegal {
        /// Version of the event.
        version: i64,
        /// Why.
        reason: &'static str,
    },
    /// A field is missing or out of range.
    #[error("event {version} has a malformed field {field}")]
    Malformed {
        /// Version of the event.
        version: i64,
        /// Name in the contract.
        field: &'static str,
    },
}

/// Adds the next event of the stream to its document.
///
/// # Errors
/// A [`FoldError`]; the document is then as it was.
pub fn apply<P: Projection>(
    document: &mut Option<P::Document>,
    event: &RecordedEvent,
) -> Result<(), FoldError> {
    if event.category() != P::CATEGORY {
        return Err(FoldError::ForeignBody { version: event.version });
    }
    let expected = document.as_ref().map_or(0, P::version) + 1;
    if event.version != expected {
        return Err(FoldError::Gap { expected, found: event.version });
    }
    P::evolve(document, event)
}

/// The document of a whole stream, or of its first events; `None` where there are none.
///
/// # Errors
/// The [`FoldError`] of the first event that cannot be added.
pub fn fold<'a, P: Projection>(
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> Result<Option<P::Document>, FoldError> {
    let mut document = None;
    for event in events {
        apply::<P>(&mut document, event)?;
    }
    Ok(document)
}

/// When the event was recorded, in nanoseconds since 1970.
///
/// # Errors
/// [`FoldError::Malformed`] where the event does not say.
fn recorded_at(event: &RecordedEvent) -> Result<i64, FoldError> {
    nanos(event.recorded_time.as_ref(), event.version, "recorded_time")
}

/// A timestamp that a `date_nanos` field can hold, in nanoseconds since 1970.
fn nanos(time: Option<&prost_types::Timestamp>, version: i64, field: &'static str) -> Result<i64, FoldError> {
    time.and_then(proto::time::to_nanos)
        .filter(|nanos| *nanos >= 0)
        .ok_or(FoldError::Malformed { version, field })
}
