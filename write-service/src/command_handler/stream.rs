//! An order's stream, folded: the decider's state, the version, and every request that had an effect.

use std::collections::HashMap;

use proto::v1::StreamCategory;
use thiserror::Error;
use uuid::Uuid;

use super::{Identity, Receipt};
use crate::codec::{self, Event, Unreadable};
use crate::event_store::{Fingerprint, ReadEvent};
use crate::order::{self, Order};

/// Weight of an order in the cache before its lines and requests, in bytes.
pub(super) const BASE_WEIGHT: u32 = 512;
/// Bytes per line and per remembered request, estimated from the sizes of their keys, values and table slots.
const ENTRY_WEIGHT: u32 = 128;

/// An event of the stream that cannot be folded.
#[derive(Debug, Error)]
#[error("event {version} of stream {stream_id}: {source}")]
pub(super) struct StreamError {
    pub stream_id: Uuid,
    pub version: i64,
    pub source: Unreadable,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    order: Order,
    version: i64,
    /// The batch that stored the last event.
    batch_id: Option<i64>,
    /// The id belongs to a stream of another category.
    taken: bool,
    handled: HashMap<Uuid, Handled>,
    /// Entries when the cache last weighed it.
    weighed: usize,
}

/// A request that had an effect, and the answer it got.
#[derive(Clone, Debug)]
pub(super) struct Handled {
    pub fingerprint: Fingerprint,
    version: i64,
    status: order::Status,
    total: order::Money,
    lines: Vec<i32>,
}

impl Stream {
    pub fn fold(stream_id: Uuid, events: Vec<ReadEvent>) -> Result<Self, StreamError> {
        let mut stream = Self { order: order::initial(), ..Self::default() };
        for event in events {
            stream.apply_stored(stream_id, event)?;
        }
        Ok(stream)
    }

    /// Folds in `events`, which begin with the stream's own last one; `false` where they do not: then the store went back to an
    /// earlier point.
    pub fn continue_with(&mut self, stream_id: Uuid, events: Vec<ReadEvent>) -> Result<bool, StreamError> {
        let own = |event: &ReadEvent| {
            event.recorded.version == self.version && Some(event.batch_id) == self.batch_id
        };
        if self.version > 0 && !events.first().is_some_and(own) {
            return Ok(false);
        }
        let known = self.version;
        for event in events.into_iter().filter(|event| event.recorded.version > known) {
            self.apply_stored(stream_id, event)?;
        }
        Ok(true)
    }

    /// Folds in what was just stored by this batch and answers for it.
    pub fn record(
        &mut self,
        order_id: Uuid,
        identity: Option<Identity>,
        events: &[order::Event],
        batch_id: i64,
    ) -> Receipt {
        let before = self.version;
        self.batch_id = Some(batch_id);
        let mut lines = Vec::new();
        for event in events {
            lines.extend(added_line(event));
            self.apply(event, identity);
        }
        debug_assert_eq!(self.version, before + i64::try_from(events.len()).unwrap_or(0));
        Receipt {
            order_id,
            version: self.version,
            status: self.order.status().unwrap_or(order::Status::Draft),
            total: self.total(),
            lines,
            replayed: false,
        }
    }

    /// The answer to a command that changed nothing; `None` where there is no order.
    pub fn unchanged(&self, order_id: Uuid) -> Option<Receipt> {
        let status = self.order.status()?;
        Some(Receipt {
            order_id,
            version: self.version,
            status,
            total: self.total(),
            lines: vec![],
            replayed: false,
        })
    }

    pub fn order(&self) -> &Order {
        &self.order
    }

    pub fn version(&self) -> i64 {
        self.version
    }

    /// The batch that stored the last event, where there is one.
    pub fn batch_id(&self) -> Option<i64> {
        self.batch_id
    }

    pub fn is_taken(&self) -> bool {
        self.taken
    }

    pub fn handled(&self, request_id: Uuid) -> Option<&Handled> {
        self.handled.get(&request_id)
    }

    /// Whether it holds twice the entries that the cache knows of; if so, it counts as weighed anew.
    pub fn outgrew_its_weight(&mut self) -> bool {
        let outgrew = self.entries() > 2 * self.weighed + 8;
        if outgrew {
            self.weighed = self.entries();
        }
        outgrew
    }

    fn entries(&self) -> usize {
        self.order.lines_held()
            + self.handled.values().map(|handled| 1 + handled.lines.len() / 32).sum::<usize>()
    }

    fn total(&self) -> order::Money {
        self.order.total().cloned().unwrap_or(order::Money { currency: String::new(), minor_units: 0 })
    }

    fn apply_stored(&mut self, stream_id: Uuid, event: ReadEvent) -> Result<(), StreamError> {
        let version = event.recorded.version;
        self.batch_id = Some(event.batch_id);
        if event.recorded.category != i32::from(StreamCategory::Order) {
            self.taken = true;
            self.version = version;
            return Ok(());
        }
        let unreadable = |source| StreamError { stream_id, version, source };
        let identity = event
            .fingerprint
            .and_then(|fingerprint| Some((Uuid::try_parse(&event.recorded.request_id).ok()?, fingerprint)))
            .map(|(request_id, fingerprint)| Identity { request_id, fingerprint });
        match codec::to_domain(event.recorded).map_err(unreadable)? {
            Event::Order(event) => self.apply(&event, identity),
            Event::Catalog(_) => {
                return Err(unreadable(Unreadable::Misplaced { type_name: "catalog event".to_owned() }));
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: &order::Event, identity: Option<Identity>) {
        self.order = order::evolve(std::mem::take(&mut self.order), event);
        self.version += 1;
        let (Some(identity), Some(status)) = (identity, self.order.status()) else {
            return;
        };
        let total = self.total();
        let version = self.version;
        let handled = self.handled.entry(identity.request_id).or_insert_with(|| Handled {
            fingerprint: identity.fingerprint,
            version,
            status,
            total: total.clone(),
            lines: Vec::new(),
        });
        handled.version = version;
        handled.status = status;
        handled.total = total;
        handled.lines.extend(added_line(event));
    }
}

impl Handled {
    pub fn receipt(&self, order_id: Uuid) -> Receipt {
        Receipt {
            order_id,
            version: self.version,
            status: self.status,
            total: self.total.clone(),
            lines: self.lines.clone(),
            replayed: true,
        }
    }
}

pub(super) fn weight(stream: Option<&Stream>) -> u32 {
    let entries = stream.map_or(0, Stream::entries);
    BASE_WEIGHT.saturating_add(u32::try_from(entries).unwrap_or(u32::MAX).saturating_mul(ENTRY_WEIGHT))
}

fn added_line(event: &order::Event) -> Option<i32> {
    match event {
        order::Event::ItemAdded { line, .. } => Some(*line),
        _ => None,
    }
}
