//! What only the repair of an index does: documents deleted, and what is remembered of them.

use std::time::Duration;

use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Index, IndexError, Stamp, WRITE_LIMIT};

#[derive(Deserialize)]
struct Answer {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    delete: Done,
}

#[derive(Deserialize)]
struct Done {
    status: u16,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "type")]
    kind: String,
}

impl Index {
    /// Deletes a document that is still as it was seen. False where it is not.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn erase(&self, index: &str, id: &str, seen: Stamp) -> Result<bool, IndexError> {
        let Stamp { seq_no, primary_term } = seen;
        let action = json!({ "delete": { "_id": id, "if_seq_no": seq_no, "if_primary_term": primary_term } });
        // As a bulk of one: a path takes ids of dots for steps, and would name the index.
        let mut body = serde_json::to_vec(&action)?;
        body.push(b'\n');
        let path = format!("/{index}/_bulk?filter_path=items.*.status,items.*.error.type");
        let answer = self.call(Method::Post, &path, Some(body.into()), WRITE_LIMIT).await?;
        let answer: Answer = serde_json::from_slice(&answer)?;
        let [Item { delete: Done { status, error } }] = &answer.items[..] else {
            return Err(IndexError::Malformed("not one outcome".to_owned()));
        };
        let kind = error.as_ref().map(|error| error.kind.clone()).unwrap_or_default();
        match status {
            200 => Ok(true),
            409 => Ok(false),
            // Of a document, not of an index.
            404 if kind.is_empty() => Ok(false),
            429 => Err(IndexError::Overloaded(kind)),
            status => Err(IndexError::Refused { status: *status, kind }),
        }
    }

    /// How long an index remembers which versions were deleted; `None` is Elasticsearch's own rule. They go with the first refresh
    /// after that.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn keep_tombstones(&self, index: &str, time: Option<Duration>) -> Result<(), IndexError> {
        let time = time.map(|time| format!("{}ms", time.as_millis()));
        let body = json!({ "index.gc_deletes": time });
        self.json::<Value>(Method::Put, &format!("/{index}/_settings"), Some(&body), WRITE_LIMIT)
            .await
            .map(drop)
    }
}
