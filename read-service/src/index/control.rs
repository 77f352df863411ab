//! Records that several copies of the service change: by compare-and-set only, never by "last one wins".
//!
//! A record is made by `create`, which one of several callers wins, and replaced by `replace` with the [`Stamp`] last
//! read, which fails where anyone changed it since.

use elasticsearch::http::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Index, IndexError, READ_LIMIT, WRITE_LIMIT, segment};

/// Which state of a record was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    seq_no: i64,
    primary_term: i64,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<R> {
    /// What [`Index::replace`] wants to see unchanged.
    pub stamp: Stamp,
    /// The record.
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

    /// Removes a record that is still as it was seen.
    ///
    /// # Errors
    /// [`IndexError::is_conflict`] where it was changed since; otherwise where Elasticsearch fails.
    pub async fn remove(&self, index: &str, id: &str, seen: Stamp) -> Result<(), IndexError> {
        let path = format!("/{index}/_doc/{}?{}", segment(id), condition(seen));
        self.call(Method::Delete, &path, None, WRITE_LIMIT).await?;
        Ok(())
    }
}

fn condition(seen: Stamp) -> String {
    format!("if_seq_no={}&if_primary_term={}", seen.seq_no, seen.primary_term)
}
