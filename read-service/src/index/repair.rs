//! What only the repair of an index does: documents deleted, and what is remembered of them.

use std::time::Duration;

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::items::{Item, Stamps};
use super::{Index, IndexError, Stamp, WRITE_LIMIT};

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
        let items = self.items(index, body.into(), 1, Stamps::Unwanted).await?;
        match items.into_iter().next() {
            Some(Item { status: 200, .. }) => Ok(true),
            Some(Item { status: 409, .. }) => Ok(false),
            // Of a document, not of an index.
            Some(Item { status: 404, kind, .. }) if kind.is_empty() => Ok(false),
            Some(item) => Err(item.refused()),
            None => Err(IndexError::Malformed("no outcome".to_owned())),
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
