//! What is to be said of a document at one moment.

use proto::v1::RecordedEvent;
use serde_json::Value;

use super::fields::differing_fields;
use crate::index::{Found, whole};
use crate::parking::ParkedStream;
use crate::projection::Projection;
use crate::projector::fold_onto;
use crate::subscription::Readable;

/// What is wrong with a document without a stream.
pub(crate) const NOBODYS: &str = "is nobody's: there is no such stream";

/// How a document differs from its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is none.
    Missing,
    /// It lacks events that were applied.
    Behind,
    /// Its version lies beyond its stream's end.
    Ahead,
    /// It is not the fold of its events.
    Different,
    /// There is no such stream.
    Orphan,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Behind, Self::Ahead, Self::Different, Self::Orphan];

    /// Its place among all.
    pub(crate) const fn place(self) -> usize {
        self as usize
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Behind => "behind",
            Self::Ahead => "ahead",
            Self::Different => "different",
            Self::Orphan => "orphan",
        }
    }
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// How it differs.
    pub kind: Kind,
    /// In words: versions and names of fields, never what they hold.
    pub detail: String,
}

/// What was read of a stream, without its document.
pub(super) struct Moment {
    /// Every event of its range of slices up to this position is in the index, or its stream is parked.
    pub applied: i64,
    /// Its events, as far as they can be read.
    pub stream: Readable,
    pub parked: Option<ParkedStream>,
}

/// What is to be said of a document at one moment.
pub(super) enum Judgement {
    Right,
    /// Right as far as it goes; it lacks events that are not applied yet.
    Later,
    Wrong(Difference),
}

impl Moment {
    /// Version of the last event that is known of.
    pub fn end(&self) -> i64 {
        let readable = self.stream.events.last().map_or(0, |event| event.version);
        self.stream.unreadable.as_ref().map_or(readable, |(version, _)| readable.max(*version))
    }

    /// The events up to a version.
    fn upto(&self, version: i64) -> &[RecordedEvent] {
        let (events, count) = (&self.stream.events, usize::try_from(version).unwrap_or(0));
        &events[..count.min(events.len())]
    }

    /// `goal` is the version that the document is to have reached.
    pub fn judge<P: Projection>(&self, goal: i64, found: Option<&Found<Value>>) -> Judgement {
        let wrong = |kind, detail| Judgement::Wrong(Difference { kind, detail });
        let version = found.map_or(0, |found| found.version);
        let kind = if found.is_some() { Kind::Behind } else { Kind::Missing };
        let parked_at = self.parked.as_ref().map(|parked| parked.fault.version);
        let unreadable = self.stream.unreadable.as_ref();
        if let Some(found) = found {
            let end = self.end();
            if end == 0 {
                return wrong(Kind::Orphan, NOBODYS.to_owned());
            }
            if let Some((at, error)) = unreadable.filter(|(at, _)| version >= *at) {
                return wrong(
                    Kind::Different,
                    format!("cannot be compared: event {at} cannot be read: {error}"),
                );
            }
            if version > end {
                return wrong(Kind::Ahead, format!("is ahead: version {version}, its stream ends at {end}"));
            }
            let differs = format!("differs from the fold of its events up to {version}");
            match folded::<P>(self.upto(version)) {
                Some(expected) if same::<P>(&expected, found) => {}
                Some(expected) => {
                    let fields = differing_fields(&stored_form::<P>(&expected), &found.source);
                    return wrong(Kind::Different, format!("{differs}: {fields}"));
                }
                None => return wrong(Kind::Different, format!("{differs}, which cannot be folded")),
            }
        }
        if version >= goal || parked_at.is_some_and(|parked_at| version + 1 >= parked_at) {
            return Judgement::Right;
        }
        let next = usize::try_from(version).ok().and_then(|version| self.stream.events.get(version));
        let Some(next) = next else {
            return match unreadable {
                Some((at, error)) => wrong(kind, format!("cannot go on: event {at} cannot be read: {error}")),
                None => Judgement::Right,
            };
        };
        // Not in the feed yet, or not applied yet.
        if !(1..=self.applied).contains(&next.position) {
            return Judgement::Later;
        }
        match parked_at {
            Some(parked_at) => {
                wrong(kind, format!("has version {version}, its stream is parked at {parked_at}"))
            }
            None if version == 0 => wrong(kind, "is missing".to_owned()),
            None => wrong(kind, format!("is behind: version {version}, event {} was applied", next.version)),
        }
    }

    /// The document with the events that are applied, at least those up to `version`, as far as they can be folded.
    pub fn right<P: Projection>(&self, version: i64) -> Option<P::Document> {
        let events = self.stream.events.iter();
        let applied = events.take_while(|event| (1..=self.applied).contains(&event.position)).last();
        let applied = applied.map_or(0, |event| event.version);
        let reached = self.parked.as_ref().map_or(applied, |parked| applied.min(parked.fault.version - 1));
        let version = if version > self.end() { reached } else { reached.max(version) };
        let mut document = None;
        // Where the fold stops, the document does.
        let _ = fold_onto::<P>(&mut document, self.upto(version));
        document
    }
}

/// The document of these events; `None` where there are none, or not all of them can be folded.
pub(super) fn folded<P: Projection>(events: &[RecordedEvent]) -> Option<P::Document> {
    let mut document = None;
    let (_, outcome) = fold_onto::<P>(&mut document, events);
    outcome.ok().and(document)
}

/// Whether the document is stored like this, field by field, at its version.
pub(super) fn same<P: Projection>(expected: &P::Document, found: &Found<Value>) -> bool {
    found.version == P::version(expected) && stored_form::<P>(expected) == found.source
}

/// A document as it has to be stored.
fn stored_form<P: Projection>(document: &P::Document) -> Value {
    whole(document, &P::search(document))
}
