//! Streams set aside: their events could not be applied, so they wait, in order, and hold up nobody else.
//!
//! A parked stream is one record in the control index: whose, which version first, why, since when; no payload,
//! because a retry reads the stream afresh. Later events of the stream count as handled. A record is stored before
//! any checkpoint passes it. Which streams are parked is remembered, so that others cost nothing; that one still is,
//! is asked, so that a retry by another copy of the service is noticed.

use std::collections::HashSet;

use proto::v1::StreamCategory;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::clock::Clock;

use crate::index::{Index, IndexError};
use crate::projection::{Projection, time_text};

/// Records read at a time when listing.
const PAGE: usize = 1_000;

/// A stream set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedStream {
    kind: Kind,
    /// Name of the projection.
    pub projection: String,
    /// Physical name of the index that lacks its events.
    pub index: String,
    /// Name of the category, as in the contract.
    pub category: String,
    /// The `order_id`, `customer_id` or `product_id`.
    pub stream_key: String,
    /// First version that could not be applied.
    pub version: i64,
    /// Why.
    pub error: String,
    /// When it was parked, in nanoseconds since 1970.
    #[serde(with = "time_text")]
    pub parked_at: i64,
    /// How often its events were tried.
    pub attempts: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Parked,
}

/// How many streams are parked for the index `target`, whichever copy of the service parked them.
///
/// # Errors
/// Where Elasticsearch fails.
pub async fn count(index: &Index, control: &str, target: &str) -> Result<i64, IndexError> {
    // Records are written without a refresh.
    index.refresh(control).await?;
    index.count(control, Some(&of_index(target))).await
}

/// Finds the records of an index.
fn of_index(target: &str) -> Value {
    json!({ "bool": { "filter": [{ "term": { "kind": "parked" } }, { "term": { "index": target } }] } })
}

/// The parked streams of one index.
#[derive(Debug)]
pub struct Parking {
    index: Index,
    control: String,
    projection: &'static str,
    category: StreamCategory,
    target: String,
    clock: Clock,
    keys: HashSet<String>,
}

impl Parking {
    /// Reads which streams of the index `target` are parked.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn load<P: Projection>(
        index: Index,
        control: String,
        target: String,
        clock: Clock,
    ) -> Result<Self, IndexError> {
        let (projection, category) = (P::NAME, P::CATEGORY);
        let mut parking = Self { index, control, projection, category, target, clock, keys: HashSet::new() };
        parking.reload().await?;
        Ok(parking)
    }

    /// Reads again which streams are parked.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn reload(&mut self) -> Result<(), IndexError> {
        self.keys = self.list().await?.into_iter().map(|parked| parked.stream_key).collect();
        Ok(())
    }

    /// Number of streams that this copy knows to be parked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True where this copy knows of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the stream is parked.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn is_parked(&mut self, stream_key: &str) -> Result<bool, IndexError> {
        if !self.keys.contains(stream_key) {
            return Ok(false);
        }
        let record = self.index.record::<ParkedStream>(&self.control, &self.id(stream_key)).await?;
        if record.is_none() {
            self.keys.remove(stream_key);
        }
        Ok(record.is_some())
    }

    /// Whether a stream of the index `target` is parked, asked without loading which are.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn holds(
        index: &Index,
        control: &str,
        target: &str,
        stream_key: &str,
    ) -> Result<bool, IndexError> {
        Ok(index.record::<ParkedStream>(control, &record_id(target, stream_key)).await?.is_some())
    }

    /// Sets a stream aside, or counts another attempt where it is parked already.
    ///
    /// # Errors
    /// Where Elasticsearch fails; it may be parked then, and may be parked again.
    pub async fn park(
        &mut self,
        stream_key: &str,
        version: i64,
        error: &str,
    ) -> Result<ParkedStream, IndexError> {
        let id = self.id(stream_key);
        loop {
            let before = self.index.record::<ParkedStream>(&self.control, &id).await?;
            let attempts = before.as_ref().map_or(0, |before| before.value.attempts);
            let parked = ParkedStream {
                kind: Kind::Parked,
                projection: self.projection.to_owned(),
                index: self.target.clone(),
                category: self.category.as_str_name().to_owned(),
                stream_key: stream_key.to_owned(),
                version,
                error: error.to_owned(),
                parked_at: before
                    .as_ref()
                    .map_or_else(|| self.clock.now_nanos(), |before| before.value.parked_at),
                attempts: attempts + 1,
            };
            let seen = before.map(|before| before.stamp);
            match self.index.put(&self.control, &id, seen, &parked).await {
                Ok(_) => {
                    self.keys.insert(stream_key.to_owned());
                    return Ok(parked);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a stream back whose events have all been applied. Nothing happens where it is not parked.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or the record was changed meanwhile.
    pub async fn unpark(&mut self, stream_key: &str) -> Result<(), IndexError> {
        let id = self.id(stream_key);
        if let Some(record) = self.index.record::<ParkedStream>(&self.control, &id).await? {
            self.index.remove(&self.control, &id, record.stamp).await?;
        }
        self.keys.remove(stream_key);
        Ok(())
    }

    /// The parked streams of this index, by key.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn list(&self) -> Result<Vec<ParkedStream>, IndexError> {
        // Records are written without a refresh.
        self.index.refresh(&self.control).await?;
        let mut all: Vec<ParkedStream> = Vec::new();
        loop {
            let mut body = json!({
                "size": PAGE,
                "query": of_index(&self.target),
                "sort": ["stream_key"],
                "track_total_hits": false,
            });
            if let Some(last) = all.last() {
                body["search_after"] = json!([last.stream_key]);
            }
            let page = self.index.search::<ParkedStream>(&self.control, &body).await?.hits;
            let last = page.len() < PAGE;
            all.extend(page.into_iter().filter_map(|hit| hit.source));
            if last {
                return Ok(all);
            }
        }
    }

    fn id(&self, stream_key: &str) -> String {
        record_id(&self.target, stream_key)
    }
}

fn record_id(target: &str, stream_key: &str) -> String {
    format!("parked:{target}:{stream_key}")
}
