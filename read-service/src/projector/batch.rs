//! What the feed gave, on its way into the index: events of all readers together, then folded by stream.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use proto::v1::RecordedEvent;
use tracing::Span;

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
    /// Trace of the batch, linked to those of the commands.
    pub span: Span,
    /// The events by stream, streams in the order of their first event.
    pub streams: Vec<StreamEvents>,
    /// Place of each stream.
    places: HashMap<Arc<str>, usize>,
    /// Streams that are not done.
    open: usize,
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
    /// A batch of these events for the projection with this name.
    #[must_use]
    pub fn new(projection: &'static str, events: Vec<RecordedEvent>, parts: Vec<Part>) -> Self {
        let span = tracing::info_span!("project", projection, events = events.len());
        for traceparent in traceparents(&events) {
            shared::telemetry::trace::link(&span, traceparent);
        }
        let oldest = events.iter().filter_map(recorded_at).min();
        let count = events.len();
        let (streams, places) = by_stream(events);
        let open = streams.len();
        Self { parts, events: count, oldest, span, streams, places, open, refusals: Vec::new() }
    }

    /// Up to which version the stream with this key is stored; `None` where that is not known.
    #[must_use]
    pub fn version(&self, key: &str) -> Option<i64> {
        self.places.get(key).and_then(|place| self.streams[*place].stored)
    }

    /// How far the stream with this key is; `None` where it is not in the batch.
    #[must_use]
    pub fn stage(&self, key: &str) -> Option<Stage> {
        self.places.get(key).map(|place| self.streams[*place].stage)
    }

    /// Takes the events of a stream: its document is on its way.
    pub fn sent(&mut self, place: usize) {
        self.streams[place].stage = Stage::Sent;
        self.streams[place].events = Vec::new();
    }

    /// Sets a stream aside, from the first of the versions that were refused.
    pub fn refuse(&mut self, place: usize, fault: Fault) {
        let stream = &mut self.streams[place];
        match stream.refusal.and_then(|refusal| self.refusals.get_mut(refusal)) {
            Some((_, known)) if known.version <= fault.version => {}
            Some((_, known)) => *known = fault,
            None => {
                stream.refusal = Some(self.refusals.len());
                self.refusals.push(((*stream.key).to_owned(), fault));
            }
        }
    }

    /// Whether the stream with this key is still to be set aside.
    #[must_use]
    pub fn refuses(&self, key: &str) -> bool {
        let refusal = self.places.get(key).and_then(|place| self.streams[*place].refusal);
        refusal.is_some_and(|refusal| refusal < self.refusals.len())
    }

    /// The stream is stored, up to this version at least.
    pub fn stored(&mut self, place: usize, version: i64) {
        self.streams[place].stored = Some(version);
        self.done(place);
    }

    /// Everything of the stream is stored or refused.
    pub fn done(&mut self, place: usize) {
        let stream = &mut self.streams[place];
        self.open -= usize::from(stream.stage != Stage::Done);
        stream.stage = Stage::Done;
        stream.events = Vec::new();
    }

    /// Whether all streams are done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.open == 0
    }
}

/// Trace contexts of the commands, each once, a bounded number.
fn traceparents(events: &[RecordedEvent]) -> Vec<&str> {
    let mut traceparents: Vec<&str> = Vec::new();
    for RecordedEvent { traceparent, .. } in events {
        if traceparents.len() == MAX_LINKS {
            break;
        }
        if !traceparent.is_empty() && !traceparents.contains(&traceparent.as_str()) {
            traceparents.push(traceparent);
        }
    }
    traceparents
}

/// When the event was recorded, in nanoseconds since 1970.
pub fn recorded_at(event: &RecordedEvent) -> Option<i64> {
    event.recorded_time.as_ref().and_then(proto::time::to_nanos)
}

/// How far a stream of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its events are to be folded.
    Folding,
    /// Its document is on its way.
    Sent,
    /// Everything of it is stored or refused.
    Done,
}

/// The events of one stream in a batch, in version order, perhaps with repeats.
#[derive(Debug)]
pub struct StreamEvents {
    /// Key of the stream.
    pub key: Arc<str>,
    /// Its events, at least one until they are folded.
    pub events: Vec<RecordedEvent>,
    /// How far it is.
    pub stage: Stage,
    /// Up to which version it is stored, where that is known.
    stored: Option<i64>,
    /// Place of its fault among the refusals, the last of which are parked first.
    refusal: Option<usize>,
}

fn by_stream(events: Vec<RecordedEvent>) -> (Vec<StreamEvents>, HashMap<Arc<str>, usize>) {
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    let mut streams: Vec<StreamEvents> = Vec::new();
    for event in events {
        if let Some(place) = places.get(event.stream_key.as_str()) {
            streams[*place].events.push(event);
        } else {
            let key: Arc<str> = event.stream_key.as_str().into();
            places.insert(key.clone(), streams.len());
            streams.push(StreamEvents {
                key,
                events: vec![event],
                stage: Stage::Folding,
                stored: None,
                refusal: None,
            });
        }
    }
    (streams, places)
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
        let batch = Batch::new("orders", events.into(), vec![]);
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
        let events: Vec<_> = (0..200).map(traced).collect();
        let linked = traceparents(&events);
        assert_eq!((linked.len(), linked[31]), (MAX_LINKS, "t31"));
    }
}
