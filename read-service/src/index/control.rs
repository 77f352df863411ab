//! Records that several copies of the service change: by compare-and-set only, never by "last one wins".
//!
//! A record is made by `create`, which one of several callers wins, and replaced by `replace` with the [`Stamp`] last
//! read, which fails where anyone changed it since. `records` and `put_all` do the same for several records at once.

use elasticsearch::http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::items::{Failure, Item, Stamps};
use super::{Index, IndexError, READ_LIMIT, WRITE_LIMIT, segment};

/// Which state of a record was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub(super) seq_no: i64,
    pub(super) primary_term: i64,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<R> {
    /// What [`Index::replace`] wants to see unchanged.
    pub stamp: Stamp,
    /// The record.
    pub value: R,
}

/// A record to be made, or replaced where it is still as it was seen.
#[derive(Clone, Debug)]
pub struct Put<R> {
    /// Its id.
    pub id: String,
    /// What was seen; `None` where there was nothing.
    pub seen: Option<Stamp>,
    /// What it shall be.
    pub value: R,
}

#[derive(Deserialize)]
struct Stored<R> {
    #[serde(rename = "_seq_no")]
    seq_no: i64,
    #[serde(rename = "_primary_term")]
    primary_term: i64,
    #[serde(rename = "_source")]
    source: R,
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "_seq_no")]
    seq_no: i64,
    #[serde(rename = "_primary_term")]
    primary_term: i64,
}

#[derive(Deserialize)]
struct Found<R> {
    #[serde(flatten)]
    stored: Option<Stored<R>>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct AllFound<R> {
    #[serde(bound(deserialize = "R: Deserialize<'de>"))]
    docs: Vec<Found<R>>,
}

impl From<Written> for Stamp {
    fn from(written: Written) -> Self {
        Self { seq_no: written.seq_no, primary_term: written.primary_term }
    }
}

impl Index {
    /// The record with this id, in real time; `None` where there is none.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or there is no such index.
    pub async fn record<R: DeserializeOwned>(
        &self,
        index: &str,
        id: &str,
    ) -> Result<Option<Record<R>>, IndexError> {
        let path = format!("/{index}/_doc/{}", segment(id));
        match self.json::<Stored<R>>(Method::Get, &path, None::<&()>, READ_LIMIT).await {
            Ok(Stored { seq_no, primary_term, source }) => {
                Ok(Some(Record { stamp: Stamp { seq_no, primary_term }, value: source }))
            }
            // An absent record has no error.type, an absent index has.
            Err(IndexError::Refused { status: 404, kind }) if kind.is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The records with these ids, in their order, in real time; `None` for each that is not there.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or there is no such index.
    pub async fn records<R: DeserializeOwned>(
        &self,
        index: &str,
        ids: &[String],
    ) -> Result<Vec<Option<Record<R>>>, IndexError> {
        let path = format!("/{index}/_mget");
        let found: AllFound<R> =
            self.json(Method::Post, &path, Some(&json!({ "ids": ids })), READ_LIMIT).await?;
        if found.docs.len() != ids.len() {
            return Err(IndexError::Malformed("fewer records than asked for".to_owned()));
        }
        let record = |found: Found<R>| match (found.error, found.stored) {
            (Some(Failure { kind }), _) => {
                let status = if kind == "index_not_found_exception" { 404 } else { 500 };
                Err(IndexError::Refused { status, kind })
            }
            (None, Some(Stored { seq_no, primary_term, source })) => {
                Ok(Some(Record { stamp: Stamp { seq_no, primary_term }, value: source }))
            }
            (None, None) => Ok(None),
        };
        found.docs.into_iter().map(record).collect()
    }

    /// Makes or replaces records, each by itself: an outcome for each, in their order, as [`Self::create`] or
    /// [`Self::replace`] would give it.
    ///
    /// # Errors
    /// Where the request as a whole failed. After [`IndexError::Unavailable`] some may be written.
    pub async fn put_all<R: Serialize>(
        &self,
        index: &str,
        puts: &[Put<R>],
    ) -> Result<Vec<Result<Stamp, IndexError>>, IndexError> {
        let mut body = Vec::new();
        for Put { id, seen, value } in puts {
            let action = match seen {
                None => json!({ "create": { "_id": id } }),
                Some(Stamp { seq_no, primary_term }) => {
                    json!({ "index": { "_id": id, "if_seq_no": seq_no, "if_primary_term": primary_term } })
                }
            };
            serde_json::to_writer(&mut body, &action)?;
            body.push(b'\n');
            serde_json::to_writer(&mut body, value)?;
            body.push(b'\n');
        }
        let items = self.items(index, body.into(), puts.len(), Stamps::Wanted).await?;
        let outcome = |item: Item| match item {
            Item { status: 200 | 201, stamp: Some(stamp), .. } => Ok(stamp),
            item => Err(item.refused()),
        };
        Ok(items.into_iter().map(outcome).collect())
    }

    /// Makes a record.
    ///
    /// # Errors
    /// [`IndexError::is_conflict`] where it is there already; otherwise where Elasticsearch fails.
    pub async fn create(&self, index: &str, id: &str, value: &impl Serialize) -> Result<Stamp, IndexError> {
        let path = format!("/{index}/_create/{}", segment(id));
        let written: Written = self.json(Method::Put, &path, Some(value), WRITE_LIMIT).await?;
        Ok(written.into())
    }

    /// Replaces a record that is still as it was seen.
    ///
    /// # Errors
    /// [`IndexError::is_conflict`] where it was changed or removed since; otherwise where Elasticsearch fails.
    pub async fn replace(
        &self,
        index: &str,
        id: &str,
        seen: Stamp,
        value: &impl Serialize,
    ) -> Result<Stamp, IndexError> {
        let path = format!("/{index}/_doc/{}?{}", segment(id), condition(seen));
        let written: Written = self.json(Method::Put, &path, Some(value), WRITE_LIMIT).await?;
        Ok(written.into())
    }

    /// Replaces a record that is still as it was seen, or makes it where none was.
    ///
    /// # Errors
    /// As [`Self::create`] and [`Self::replace`].
    pub async fn put(
        &self,
        index: &str,
        id: &str,
        seen: Option<Stamp>,
        value: &impl Serialize,
    ) -> Result<Stamp, IndexError> {
        match seen {
            None => self.create(index, id, value).await,
            Some(seen) => self.replace(index, id, seen, value).await,
        }
    }

    /// Removes a record that is still as it was seen.
    ///
    /// # Errors
    /// [`IndexError::is_conflict`] where it was changed since; otherwise where Elasticsearch fails.
    pub async fn remove(&self, index: &str, id: &str, seen: Stamp) -> Result<(), IndexError> {
        let path = format!("/{index}/_doc/{}?{}", segment(id), condition(seen));
        self.call(Method::Delete, &path, None, WRITE_LIMIT).await?;
        Ok(())
    }

    /// Removes records, as far as they are there, whatever they hold.
    ///
    /// # Errors
    /// Where Elasticsearch fails; some may be removed then.
    pub async fn remove_all(&self, index: &str, ids: &[String]) -> Result<(), IndexError> {
        let line = |id: &String| format!("{}\n", json!({ "delete": { "_id": id } }));
        let body: String = ids.iter().map(line).collect();
        let items = self.items(index, body.into(), ids.len(), Stamps::Unwanted).await?;
        let failed = items.into_iter().find(|item| !matches!(item.status, 200 | 404));
        failed.map_or(Ok(()), |item| Err(item.refused()))
    }
}

fn condition(seen: Stamp) -> String {
    format!("if_seq_no={}&if_primary_term={}", seen.seq_no, seen.primary_term)
}
