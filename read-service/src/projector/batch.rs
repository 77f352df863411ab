//! What the feed gave, on its way into the index: events of all readers together, then folded by stream.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use proto::v1::RecordedEvent;

use crate::projection::{FoldError, Projection, apply};

/// Most traces of commands that the trace of a batch is linked to.
const MAX_LINKS: usize = 32;

/// Events gathered from the feed, until everything in them is stored.
#[derive(Debug)]
pub struct Batch<P: Projection> {
    /// What is done when all of it is stored.
    pub parts: Vec<Part>,
    /// Number of events.
    pub events: usize,
    /// When the oldest was recorded, in nanoseconds since 1970.
    pub oldest: Option<i64>,
    /// Trace contexts of the commands, each once, a bounded number.
    pub traceparents: Vec<String>,
    /// How far it is.
    pub stage: Stage<P>,
}

/// How far a batch takes some ranges of slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The ranges.
    pub ranges: RangeInclusive<usize>,
    /// Every event of theirs up to here is in the batch or was handled before.
    pub through: i64,
    /// Newest known position of the feed.
    pub head: i64,
    /// No event recorded before is known to be missing then, in nanoseconds since 1970.
    pub as_of: Option<i64>,
}

/// How far a batch is.
#[derive(Debug)]
pub enum Stage<P: Projection> {
    /// As the feed gave it.
    Received(Vec<RecordedEvent>),
    /// Folded; what is stored has been taken out.
    Folded(Folded<P>),
}

/// What a batch changes.
#[derive(Debug)]
pub struct Folded<P: Projection> {
    /// Documents to store, each once.
    pub writes: Vec<Write<P>>,
    /// Streams to set aside.
    pub refusals: Vec<Refusal>,
}

/// A changed document.
#[derive(Debug)]
pub struct Write<P: Projection> {
    /// Key of the stream, which is the document's id.
    pub key: String,
    /// First version that the stored document lacks.
    pub first_version: i64,
    /// The document.
    pub document: P::Document,
}

/// A stream that cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Key of the stream.
    pub key: String,
    /// First version that cannot be applied.
    pub version: i64,
    /// Why.
    pub error: String,
}

impl<P: Projection> Batch<P> {
    /// A batch of these events.
    #[must_use]
    pub fn new(events: Vec<RecordedEvent>, parts: Vec<Part>) -> Self {
        let mut traceparents: Vec<String> = Vec::new();
        for event in &events {
            if traceparents.len() == MAX_LINKS {
                break;
            }
            if !event.traceparent.is_empty() && !traceparents.contains(&event.traceparent) {
                traceparents.push(event.traceparent.clone());
            }
        }
        let oldest = events.iter().filter_map(recorded_at).min();
        Self { parts, events: events.len(), oldest, traceparents, stage: Stage::Received(events) }
    }
}

/// When the event was recorded, in nanoseconds since 1970.
pub fn recorded_at(event: &RecordedEvent) -> Option<i64> {
    event.recorded_time.as_ref().and_then(proto::time::to_nanos)
}

impl<P: Projection> Default for Folded<P> {
    fn default() -> Self {
        Self { writes: Vec::new(), refusals: Vec::new() }
    }
}

impl<P: Projection> Folded<P> {
    /// Sets a stream aside.
    pub fn refuse(&mut self, key: &str, version: i64, error: String) {
        self.refusals.push(Refusal { key: key.to_owned(), version, error });
    }
}

/// The events of one stream in a batch, in version order, perhaps with repeats.
#[derive(Debug)]
pub struct StreamEvents<'a> {
    /// Key of the stream.
    pub key: &'a str,
    /// Its events, at least one.
    pub events: Vec<&'a RecordedEvent>,
}

/// The events by stream, streams in the order of their first event.
#[must_use]
pub fn by_stream(events: &[RecordedEvent]) -> Vec<StreamEvents<'_>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut streams: Vec<StreamEvents<'_>> = Vec::new();
    for event in events {
        let key = event.stream_key.as_str();
        let place = *places.entry(key).or_insert_with(|| {
            streams.push(StreamEvents { key, events: Vec::new() });
            streams.len() - 1
        });
        streams[place].events.push(event);
    }
    streams
}

/// The first version that is missing between a document of version `from` and these events; `None` where none is.
#[must_use]
pub fn gap<'a>(from: i64, events: impl IntoIterator<Item = &'a RecordedEvent>) -> Option<i64> {
    let mut next = from + 1;
    for event in events {
        match event.version {
            version if version == next => next += 1,
            version if version > next => return Some(next),
            _ => {}
        }
    }
    None
}

/// Adds the events to the document, those apart that it has already. Says whether it changed.
///
/// # Errors
/// The first event that cannot be added, and why; the document then holds those before it.
pub fn fold_onto<'a, P: Projection>(
    document: &mut Option<P::Document>,
    events: impl IntoIterator<Item = &'a RecordedEvent>,
) -> (bool, Result<(), (i64, FoldError)>) {
    let mut changed = false;
    for event in events {
        if document.as_ref().is_some_and(|document| P::version(document) >= event.version) {
            continue;
        }
        if let Err(error) = apply::<P>(document, event) {
            return (changed, Err((event.version, error)));
        }
        changed = true;
    }
    (changed, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &str, version: i64) -> RecordedEvent {
        RecordedEvent { stream_key: key.to_owned(), version, ..RecordedEvent::default() }
    }

    #[test]
    fn streams_come_in_the_order_of_their_first_event() {
        let events = [event("b", 1), event("a", 4), event("b", 2), event("a", 4)];
        let streams: Vec<_> = by_stream(&events)
            .iter()
            .map(|stream| (stream.key, stream.events.iter().map(|event| event.version).collect::<Vec<_>>()))
            .collect();
        assert_eq!(streams, [("b", vec![1, 2]), ("a", vec![4, 4])]);
    }

    #[test]
    fn a_gap_is_seen_at_either_end_and_inside() {
        for (from, versions, missing) in [
            (0, vec![1, 2, 3], None),
            (2, vec![1, 2, 3], None),
            (5, vec![1, 2, 3], None),
            (0, vec![2], Some(1)),
            (1, vec![2, 2, 4], Some(3)),
            (1, vec![3], Some(2)),
        ] {
            let events: Vec<_> = versions.iter().map(|version| event("a", *version)).collect();
            assert_eq!(gap(from, &events), missing, "{from} {versions:?}");
        }
    }

    #[test]
    fn traces_are_linked_once_and_not_without_end() {
        let traced = |i: usize| RecordedEvent { traceparent: format!("t{}", i / 2), ..event("a", 1) };
        let batch = Batch::<crate::projection::Orders>::new((0..200).map(traced).collect(), vec![]);
        assert_eq!(batch.traceparents.len(), MAX_LINKS);
        assert_eq!(batch.traceparents[31], "t31");
    }
}
