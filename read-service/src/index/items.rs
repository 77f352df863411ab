//! What Elasticsearch says of the items of a `_bulk`, each by itself.

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;

use super::{Index, IndexError, Stamp, WRITE_LIMIT};

/// What became of one item.
pub(super) struct Item {
    pub status: u16,
    /// Type of the error; empty where there is none.
    pub kind: String,
    /// The state that was written, where that was wanted.
    pub stamp: Option<Stamp>,
}

impl Item {
    /// The item was refused.
    pub fn refused(self) -> IndexError {
        match self {
            Self { status: 429, kind, .. } => IndexError::Overloaded(kind),
            Self { status, kind, .. } => IndexError::Refused { status, kind },
        }
    }
}

/// Whether to ask for the states that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamps {
    Wanted,
    Unwanted,
}

/// Why an item, or a document that was asked for, was refused.
#[derive(Deserialize)]
pub(super) struct Failure {
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    items: Vec<Action>,
}

#[derive(Deserialize)]
enum Action {
    #[serde(rename = "index", alias = "create", alias = "delete")]
    Done(Done),
}

#[derive(Deserialize)]
struct Done {
    status: u16,
    #[serde(rename = "_seq_no")]
    seq_no: Option<i64>,
    #[serde(rename = "_primary_term")]
    primary_term: Option<i64>,
    error: Option<Failure>,
}

impl Index {
    /// Sends so many items, written as the request's lines: what became of each, in their order.
    ///
    /// # Errors
    /// Where the request as a whole failed; some may be written then.
    pub(super) async fn items(
        &self,
        index: &str,
        lines: Bytes,
        count: usize,
        stamps: Stamps,
    ) -> Result<Vec<Item>, IndexError> {
        let more = match stamps {
            Stamps::Wanted => ",items.*._seq_no,items.*._primary_term",
            Stamps::Unwanted => "",
        };
        let path = format!("/{index}/_bulk?filter_path=items.*.status,items.*.error.type{more}");
        let answer = self.call(Method::Post, &path, Some(lines), WRITE_LIMIT).await?;
        let answer: Answer = serde_json::from_slice(&answer)?;
        if answer.items.len() != count {
            return Err(IndexError::Malformed("fewer outcomes than items".to_owned()));
        }
        let item = |Action::Done(Done { status, seq_no, primary_term, error })| {
            let kind = error.map(|error| error.kind).unwrap_or_default();
            let stamp = seq_no.zip(primary_term);
            let stamp = stamp.map(|(seq_no, primary_term)| Stamp { seq_no, primary_term });
            Item { status, kind, stamp }
        };
        Ok(answer.items.into_iter().map(item).collect())
    }
}
