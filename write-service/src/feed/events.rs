//! Published events as wire bytes, and the answers that carry them: encoded once, whoever gets them.

use bytes::{BufMut as _, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use proto::encoded::Encoded;
use proto::v1::{EventBatch, ScanResponse};

use super::{Filter, PAGE};
use crate::codec::Published;

/// Number of `RecordedEvent.position`.
const POSITION: u32 = 1;
/// Number of `EventBatch.events` and of `ScanResponse.events`: an event is encoded alike for both.
const EVENTS: u32 = 1;
/// Number of `SubscribeResponse.batch`.
const BATCH: u32 = 1;

/// Events in order, each as an entry of a repeated field.
#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    bytes: BytesMut,
    marks: Vec<Mark>,
}

/// What is known of an event without reading it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: i64,
    slice: i16,
    category: i16,
    /// Where its bytes end.
    end: usize,
}

impl Events {
    /// Adds an event; position 0 is none.
    pub fn push(&mut self, position: i64, slice: i16, category: i16, event: &Published) {
        let of_position = if position == 0 { 0 } else { 1 + encoded_len_varint(position.unsigned_abs()) };
        let length = of_position + event.envelope.len() + event.body.len();
        encode_key(EVENTS, WireType::LengthDelimited, &mut self.bytes);
        encode_varint(length as u64, &mut self.bytes);
        if position != 0 {
            encode_key(POSITION, WireType::Varint, &mut self.bytes);
            encode_varint(position.unsigned_abs(), &mut self.bytes);
        }
        self.bytes.put_slice(&event.envelope);
        self.bytes.put_slice(&event.body);
        self.marks.push(Mark { position, slice, category, end: self.bytes.len() });
    }

    /// Puts them in the order of their positions.
    pub fn sort(&mut self) {
        if self.marks.is_sorted_by_key(|mark| mark.position) {
            return;
        }
        let mut start = 0;
        let starts = self.marks.iter().map(|mark| (std::mem::replace(&mut start, mark.end), *mark));
        let mut placed: Vec<_> = starts.collect();
        placed.sort_unstable_by_key(|(_, mark)| mark.position);
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        for ((start, mark), sorted) in placed.into_iter().zip(&mut self.marks) {
            bytes.put_slice(&self.bytes[start..mark.end]);
            *sorted = Mark { end: bytes.len(), ..mark };
        }
        self.bytes = bytes;
    }

    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Memory that they take.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.marks.capacity() * size_of::<Mark>()
    }

    /// Takes the events from the `first` on out; those before stay.
    pub fn split_off(&mut self, first: usize) -> Self {
        let start = self.start(first);
        let bytes = self.bytes.split_off(start);
        let mut marks = self.marks.split_off(first);
        for mark in &mut marks {
            mark.end -= start;
        }
        Self { bytes, marks }
    }

    /// Answers with those beyond `position` that `filter` accepts, a page in each; the last one reaches `through`.
    pub fn batches(&self, position: i64, filter: &Filter, through: i64, head: i64) -> Vec<Encoded> {
        let mut answers = Vec::with_capacity(1 + self.len() / PAGE);
        let mut events = BytesMut::with_capacity(self.bytes.len());
        let (mut count, mut start, mut last) = (0, 0, position);
        for mark in &self.marks {
            if mark.position > position && filter.accepts(mark.slice, mark.category) {
                if count == PAGE {
                    answers.push(batch(&events, last, head));
                    events.clear();
                    count = 0;
                }
                events.put_slice(&self.bytes[start..mark.end]);
                count += 1;
                last = mark.position;
            }
            start = mark.end;
        }
        answers.push(batch(&events, through, head));
        answers
    }

    /// A `ScanResponse` with all of them; `rest` is the message without them.
    pub fn scan_response(&self, rest: &ScanResponse) -> Encoded {
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + rest.encoded_len());
        bytes.put_slice(&self.bytes);
        bytes.put_slice(&rest.encode_to_vec());
        Encoded::new(bytes.freeze())
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).and_then(|before| self.marks.get(before)).map_or(0, |mark| mark.end)
    }
}

/// A `SubscribeResponse` with a batch of these encoded events.
fn batch(events: &[u8], through_position: i64, head: i64) -> Encoded {
    let head_position = head.max(through_position);
    let rest = EventBatch { events: Vec::new(), through_position, head_position }.encode_to_vec();
    let mut bytes = BytesMut::with_capacity(16 + events.len() + rest.len());
    encode_key(BATCH, WireType::LengthDelimited, &mut bytes);
    encode_varint((events.len() + rest.len()) as u64, &mut bytes);
    bytes.put_slice(events);
    bytes.put_slice(&rest);
    Encoded::new(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use proto::v1::subscribe_response::Message as Answer;
    use proto::v1::{RecordedEvent, SubscribeResponse};

    use super::*;

    fn event(version: i64) -> RecordedEvent {
        RecordedEvent { stream_key: "s".into(), version, actor: "a".repeat(200), ..RecordedEvent::default() }
    }

    fn published(version: i64) -> Published {
        let bytes = event(version).encode_to_vec();
        let (envelope, body) = bytes.split_at(3);
        Published { envelope: envelope.to_vec(), body: body.to_vec() }
    }

    fn everything() -> Filter {
        Filter { slices: 0..=1023, categories: Vec::new() }
    }

    fn decoded(answers: &[Encoded]) -> Vec<EventBatch> {
        let batch = |answer: &Encoded| {
            let answer = SubscribeResponse::decode(answer.encode_to_vec().as_slice()).unwrap();
            let Some(Answer::Batch(batch)) = answer.message else { panic!("{answer:?}") };
            batch
        };
        answers.iter().map(batch).collect()
    }

    #[test]
    fn batches_are_pages_of_what_is_wanted() {
        let mut events = Events::default();
        let last = i64::try_from(PAGE).unwrap() + 300;
        for position in 1..=last {
            let slice = i16::try_from(position % 2).unwrap();
            events.push(position, slice, 1, &published(position));
        }
        let all = decoded(&events.batches(0, &everything(), last + 5, 0));
        let positions: Vec<_> = all.iter().flat_map(|b| &b.events).map(|event| event.position).collect();
        assert_eq!(positions, (1..=last).collect::<Vec<_>>());
        let ends: Vec<_> =
            all.iter().map(|b| (b.events.len(), b.through_position, b.head_position)).collect();
        let page = i64::try_from(PAGE).unwrap();
        assert_eq!(ends, [(PAGE, page, page), (300, last + 5, last + 5)]);
        assert_eq!(all[0].events[1], RecordedEvent { position: 2, ..event(2) });

        let odd = Filter { slices: 1..=1, categories: vec![1] };
        let some = decoded(&events.batches(100, &odd, last, last + 9));
        let positions: Vec<_> = some.iter().flat_map(|b| &b.events).map(|event| event.position).collect();
        assert_eq!(positions, (101..=last).step_by(2).collect::<Vec<_>>());
        assert_eq!((some[0].through_position, some[0].head_position), (last, last + 9));
        let none = decoded(&events.batches(last, &everything(), last, last));
        assert_eq!((none.len(), none[0].events.len()), (1, 0));
    }

    #[test]
    fn events_are_sorted_by_their_positions() {
        let mut events = Events::default();
        for position in [3, 1, 4, 2] {
            events.push(position, 0, 1, &published(position));
        }
        events.sort();
        let batch = &decoded(&events.batches(0, &everything(), 4, 4))[0];
        let expected: Vec<_> =
            (1..=4).map(|position| RecordedEvent { position, ..event(position) }).collect();
        assert_eq!(batch.events, expected);
        assert_eq!(decoded(&events.batches(2, &everything(), 4, 4))[0].events, expected[2..]);
    }

    #[test]
    fn a_scan_response_is_split_between_events() {
        let mut events = Events::default();
        (1..=5).for_each(|version| events.push(0, 0, 1, &published(version)));
        let rest = events.split_off(3);
        let answer = |events: &Events| {
            let rest = ScanResponse { cursor: "c".into(), ..ScanResponse::default() };
            ScanResponse::decode(events.scan_response(&rest).encode_to_vec().as_slice()).unwrap()
        };
        assert_eq!(
            (answer(&events).events, answer(&events).cursor),
            ((1..=3).map(event).collect(), "c".into())
        );
        assert_eq!(answer(&rest).events, [event(4), event(5)]);
        assert_eq!(answer(&rest.clone().split_off(0)).events.len(), 2);
    }
}
