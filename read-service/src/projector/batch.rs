//! What the feed gave, on its way into the index: events of all readers together, then folded by stream.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use proto::v1::RecordedEvent;

use crate::parking::Fault;
use crate::projection::{FoldError, Projection, apply};
use crate::subscription::Mark;

/// Most traces of commands that the trace of a batch is linked to.
const MAX_LINKS: usize = 32;

/// Events gathered from the feed, until everything in them is stored.
#[derive(Debug)]
pub struct Batch {
    /// What is done when all of it is stored.
    pub parts: Vec<Part>,
    /// Number of events.
    pub events: usize,
    /// When the oldest was recorded, in nanoseconds since 1970.
    pub oldest: Option<i64>,
    /// Trace contexts of the commands, each once, a bounded number.
    pub traceparents: Vec<String>,
    /// The events by stream, streams in the order of their first event.
    pub streams: Vec<StreamEvents>,
    /// Streams to set aside, and why.
    pub refusals: Vec<(String, Fault)>,
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
    /// The last event of each range that has one in the batch.
    pub lasts: Vec<(usize, Mark)>,
}

impl Batch {
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
        let count = events.len();
        Self { parts, events: count, oldest, traceparents, streams: by_stream(events), refusals: Vec::new() }
    }

    /// Sets a stream aside, from the first of the versions that were refused.
    pub fn refuse(&mut self, place: usize, fault: Fault) {
        let key = &self.streams[place].key;
        match self.refusals.iter_mut().find(|(refused, _)| refused == key) {
            Some((_, known)) if known.version <= fault.version => {}
            Some((_, known)) => *known = fault,
            None => self.refusals.push((key.clone(), fault)),
        }
    }

    /// Everything of the stream is stored or refused.
    pub fn done(&mut self, place: usize) {
        let stream = &mut self.streams[place];
        stream.done = true;
        stream.events = Vec::new();
    }

    /// Leaves out the streams that are done. Places of the others change.
    pub fn keep_undone(&mut self) {
        self.streams.retain(|stream| !stream.done);
    }
}

/// When the event was recorded, in nanoseconds since 1970.
pub fn recorded_at(event: &RecordedEvent) -> Option<i64> {
    event.recorded_time.as_ref().and_then(proto::time::to_nanos)
}

/// The events of one stream in a batch, in version order, perhaps with repeats.
#[derive(Debug)]
pub struct StreamEvents {
    /// Key of the stream.
    pub key: String,
    /// Its events, at least one until it is done.
    pub events: Vec<RecordedEvent>,
    done: bool,
}

fn by_stream(events: Vec<RecordedEvent>) -> Vec<StreamEvents> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut streams: Vec<StreamEvents> = Vec::new();
    for event in events {
        if let Some(place) = places.get(&event.stream_key) {
            streams[*place].events.push(event);
        } else {
            let key = event.stream_key.clone();
            places.insert(key.clone(), streams.len());
            streams.push(StreamEvents { key, events: vec![event], done: false });
        }
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
        let batch = Batch::new(events.into(), vec![]);
        let streams: Vec<_> = batch
            .streams
            .iter()
            .map(|stream| (&*stream.key, stream.events.iter().map(|event| event.version).collect::<Vec<_>>()))
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
        let batch = Batch::new((0..200).map(traced).collect(), vec![]);
        assert_eq!(batch.traceparents.len(), MAX_LINKS);
        assert_eq!(batch.traceparents[31], "t31");
    }
}
