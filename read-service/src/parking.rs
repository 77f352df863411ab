//! Streams set aside: their events could not be applied, so they wait, in order, and hold up nobody else.
//!
//! A parked stream is one record in the control index: whose, which version first, why, since when; no payload, because a retry
//! reads the stream afresh. Later events of the stream count as handled. A record is stored before any checkpoint passes it.
//!
//! A record *holds* its stream, unless a retry is releasing it, or the document has the version that was at fault: then whoever
//! parked it was late, and what another copy applies is not to be hidden by it. Such a record is loose: events are applied, and
//! the owner of the stream's slice ends it by a retry. Which streams have a record is remembered, so that others cost nothing;
//! that one still holds is asked, so that a retry by another copy of the service is noticed.
//!
//! - `fit`: as much of a stream as an index takes, and what is at fault.
//! - `retry`: a parked stream read afresh.

use std::collections::{BTreeSet, HashSet};

use proto::v1::StreamCategory;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::clock::Clock;

use crate::index::{Index, IndexError, Put};
use crate::projection::{Projection, time_text};

mod fit;
mod retry;

pub(crate) use fit::store;
pub use retry::{Lot, Retried, RetryError, retry};

/// Records read or written at a time.
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
    /// What is at fault.
    #[serde(flatten)]
    pub fault: Fault,
    /// When it was parked, in nanoseconds since 1970.
    #[serde(with = "time_text")]
    pub parked_at: i64,
    /// How often its events were tried.
    pub attempts: i64,
    /// A retry has applied its events: what follows is applied again.
    #[serde(default)]
    releasing: bool,
}

/// The first event of a stream that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its version.
    pub version: i64,
    /// Its place in the feed; 0 where it is not known.
    #[serde(default)]
    pub position: i64,
    /// Why; holds nothing of what callers wrote.
    pub error: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Parked,
}

impl ParkedStream {
    /// The same after another attempt that failed.
    fn again(self, fault: Fault) -> Self {
        // A place in the feed does not change.
        let known = if fault.version == self.fault.version { self.fault.position } else { 0 };
        let fault = Fault { position: fault.position.max(known), ..fault };
        Self { fault, attempts: self.attempts + 1, releasing: false, ..self }
    }
}

/// How many streams are parked for the index `target`, whichever copy of the service parked them.
///
/// # Errors
/// Where Elasticsearch fails.
pub async fn count(index: &Index, control: &str, target: &str) -> Result<i64, IndexError> {
    // Records are written without a refresh.
    index.refresh(control).await?;
    index.count(control, Some(&of_indices(&[target]))).await
}

/// The streams parked for some indices, at most `size`, by projection and key; those after the projection and key `after`.
///
/// # Errors
/// Where Elasticsearch fails.
pub async fn page(
    index: &Index,
    control: &str,
    targets: &[&str],
    after: Option<(&str, &str)>,
    size: usize,
) -> Result<Vec<ParkedStream>, IndexError> {
    index.refresh(control).await?;
    let mut body = json!({
        "size": size,
        "query": of_indices(targets),
        "sort": ["projection", "stream_key"],
        "track_total_hits": false,
    });
    if let Some((projection, stream_key)) = after {
        body["search_after"] = json!([projection, stream_key]);
    }
    let hits = index.search::<ParkedStream>(control, &body).await?.hits;
    Ok(hits.into_iter().filter_map(|hit| hit.source).collect())
}

/// Forgets the parked streams of an index that is gone.
///
/// # Errors
/// Where Elasticsearch fails.
pub async fn forget(index: &Index, control: &str, target: &str) -> Result<(), IndexError> {
    loop {
        index.refresh(control).await?;
        let body = json!({ "size": PAGE, "query": of_indices(&[target]), "_source": false });
        let page = index.search::<Value>(control, &body).await?.hits;
        if page.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = page.into_iter().map(|hit| hit.id).collect();
        index.remove_all(control, &ids).await?;
    }
}

/// Finds the records of some indices.
fn of_indices(targets: &[&str]) -> Value {
    json!({ "bool": { "filter": [{ "term": { "kind": "parked" } }, { "terms": { "index": targets } }] } })
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
    /// Streams that have a record.
    keys: HashSet<String>,
    /// Those of them that it does not hold.
    loose: BTreeSet<String>,
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
        let (keys, loose) = (HashSet::new(), BTreeSet::new());
        let mut parking = Self { index, control, projection, category, target, clock, keys, loose };
        parking.reload().await?;
        Ok(parking)
    }

    /// Reads again which streams are parked.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn reload(&mut self) -> Result<(), IndexError> {
        let all = self.list().await?;
        self.loose
            .extend(all.iter().filter(|parked| parked.releasing).map(|parked| parked.stream_key.clone()));
        self.keys = all.into_iter().map(|parked| parked.stream_key).collect();
        self.loose.retain(|key| self.keys.contains(key));
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

    /// Looks which of these streams are held now; to be called before their events are folded, and after they were read.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn look<'a>(&mut self, keys: impl IntoIterator<Item = &'a str>) -> Result<(), IndexError> {
        let keys: Vec<&str> = keys.into_iter().filter(|key| self.keys.contains(*key)).collect();
        for keys in keys.chunks(PAGE) {
            let ids: Vec<_> = keys.iter().map(|key| self.id(key)).collect();
            let records = self.index.records::<ParkedStream>(&self.control, &ids).await?;
            let versions = self.index.versions(&self.target, keys).await?;
            for ((key, record), version) in keys.iter().zip(records).zip(versions) {
                self.loose.remove(*key);
                match record.map(|record| record.value) {
                    None => {
                        self.keys.remove(*key);
                    }
                    Some(parked) if parked.releasing || version.unwrap_or(0) >= parked.fault.version => {
                        self.loose.insert((*key).to_owned());
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the stream was held at the last look, or has been parked since.
    #[must_use]
    pub fn is_parked(&self, stream_key: &str) -> bool {
        self.keys.contains(stream_key) && !self.loose.contains(stream_key)
    }

    /// Streams whose records do not hold them: a retry was left unfinished, or whoever parked them was late.
    pub fn loose(&self) -> impl Iterator<Item = &str> {
        self.loose.iter().map(String::as_str)
    }

    /// The record of a stream of the index `target`, where it has one, asked without loading which have.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn find(
        index: &Index,
        control: &str,
        target: &str,
        stream_key: &str,
    ) -> Result<Option<ParkedStream>, IndexError> {
        let record = index.record::<ParkedStream>(control, &record_id(target, stream_key)).await?;
        Ok(record.map(|record| record.value))
    }

    /// Sets a stream aside.
    ///
    /// # Errors
    /// As [`Self::park_all`].
    pub async fn park(&mut self, stream_key: &str, fault: &Fault) -> Result<(), IndexError> {
        self.park_all(&[(stream_key.to_owned(), fault.clone())]).await
    }

    /// Sets streams aside, each once; counts another attempt where one is parked already.
    ///
    /// # Errors
    /// Where Elasticsearch fails; some may be parked then, and may be parked again.
    pub async fn park_all(&mut self, faults: &[(String, Fault)]) -> Result<(), IndexError> {
        let mut left: Vec<_> = faults.iter().collect();
        while !left.is_empty() {
            let ids: Vec<_> = left.iter().map(|(key, _)| self.id(key)).collect();
            let before = self.index.records::<ParkedStream>(&self.control, &ids).await?;
            let puts = ids.into_iter().zip(before).zip(&left).map(|((id, before), (key, fault))| {
                let (seen, value) = match before {
                    Some(before) => (Some(before.stamp), before.value.again(fault.clone())),
                    None => (None, self.parked(key, fault)),
                };
                Put { id, seen, value }
            });
            let puts: Vec<_> = puts.collect();
            let outcomes = self.index.put_all(&self.control, &puts).await?;
            let mut again = Vec::new();
            for ((put, outcome), fault) in puts.into_iter().zip(outcomes).zip(left) {
                match outcome {
                    Ok(_) => self.has_parked(put.value),
                    Err(error) if error.is_conflict() => again.push(fault),
                    Err(error) => return Err(error),
                }
            }
            left = again;
        }
        Ok(())
    }

    fn parked(&self, stream_key: &str, fault: &Fault) -> ParkedStream {
        ParkedStream {
            kind: Kind::Parked,
            projection: self.projection.to_owned(),
            index: self.target.clone(),
            category: self.category.as_str_name().to_owned(),
            stream_key: stream_key.to_owned(),
            fault: fault.clone(),
            parked_at: self.clock.now_nanos(),
            attempts: 1,
            releasing: false,
        }
    }

    fn has_parked(&mut self, parked: ParkedStream) {
        let ParkedStream { projection, index, stream_key, fault, attempts, .. } = parked;
        let Fault { version, position, error } = fault;
        tracing::warn!(projection, index, stream_key, version, position, error, attempts, "stream parked");
        if attempts == 1 {
            metrics::counter!("projection_streams_parked_total", "projection" => self.projection)
                .increment(1);
        }
        self.loose.remove(&stream_key);
        self.keys.insert(stream_key);
    }

    /// The parked streams of this index, by key.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn list(&self) -> Result<Vec<ParkedStream>, IndexError> {
        let mut all: Vec<ParkedStream> = Vec::new();
        loop {
            let after = all.last().map(|last| (last.projection.as_str(), last.stream_key.as_str()));
            let page = page(&self.index, &self.control, &[&self.target], after, PAGE).await?;
            let last = page.len() < PAGE;
            all.extend(page);
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
