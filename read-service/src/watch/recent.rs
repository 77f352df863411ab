//! The newest states of an order. Readers who keep up find the next version here, others the newest.

use std::collections::VecDeque;
use std::sync::Arc;

use super::WatchError;
use crate::projection::{OrderDocument, Orders, Projection as _};

/// States kept for readers who are about to come: several versions often come at once.
const STATES: usize = 16;
/// Bytes of them, beyond which only the newest is kept.
const BYTES: usize = 64 * 1024;

/// An order as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The order.
    pub order: OrderDocument,
    /// Its customer's name of today, where it is known.
    pub customer_name: Option<String>,
}

/// States of one order by rising version, and why none follows.
#[derive(Debug, Default)]
pub struct Recent {
    states: VecDeque<(Arc<Shown>, usize)>,
    bytes: usize,
    ended: Option<WatchError>,
}

impl Recent {
    /// Adds the newest state.
    pub fn push(&mut self, shown: Shown) {
        let bytes = Self::weight(&shown.order);
        self.bytes += bytes;
        self.states.push_back((Arc::new(shown), bytes));
        while self.states.len() > STATES || self.bytes > BYTES && self.states.len() > 1 {
            self.bytes -= self.states.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Keeps the newest state only.
    pub fn keep_newest(&mut self) {
        if let Some(newest) = self.states.pop_back() {
            self.bytes = newest.1;
            self.states = VecDeque::from([newest]);
        }
    }

    /// Size of a state.
    pub fn weight(order: &OrderDocument) -> usize {
        Orders::weight(order)
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Nothing follows.
    pub fn end(&mut self, error: WatchError) {
        self.ended = Some(error);
    }

    /// Size of the states.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What comes after a version; version 0 is before the first look, which sees the newest.
    pub fn after(&self, version: i64) -> Option<Result<Arc<Shown>, WatchError>> {
        let behind = self.states.partition_point(|(shown, _)| shown.order.version <= version);
        let next = self.states.get(behind);
        let follows = |shown: &Shown| version > 0 && shown.order.version == version + 1;
        let next = next.filter(|(shown, _)| follows(shown)).or(self.states.back());
        match next.filter(|(shown, _)| shown.order.version > version) {
            Some((shown, _)) => Some(Ok(Arc::clone(shown))),
            None => self.ended.clone().map(Err),
        }
    }
}
