//! The documents that events are folded onto: kept in memory where they fit, else read from the index, as many in one request as
//! take a bounded amount of memory.
//!
//! A document is taken out while it is folded and comes back only when it is stored, so that memory is never ahead of
//! the index.

use std::sync::Arc;

use serde_json::Value;

use super::recent::Recent;
use crate::index::{Found, Index, IndexError};
use crate::projection::Projection;

/// Documents of one index by key.
pub struct Documents<P: Projection> {
    index: Index,
    target: String,
    cache: Recent<P::Document>,
    part: usize,
}

/// Bytes of documents that are read at a time, about.
const READ_BYTES: usize = 2 * 1024 * 1024;
/// Documents that are read at a time: at first, while nothing is known of their size, and always.
const FEW: usize = 64;
const LEAST: usize = 8;
const MOST: usize = 1_000;

/// How many documents to read next, when the last `documents` took so many bytes.
fn next_part(part: usize, documents: usize, bytes: usize) -> usize {
    let fit = READ_BYTES.saturating_mul(documents) / bytes.max(1);
    fit.min(part * 2).clamp(LEAST, MOST)
}

impl<P: Projection> Documents<P> {
    /// Those of the index `target`, of which at most `cache_bytes` are kept.
    #[must_use]
    pub fn new(index: Index, target: String, cache_bytes: usize) -> Self {
        Self { index, target, cache: Recent::new(cache_bytes, P::weight), part: FEW }
    }

    /// Takes the document of this stream out of memory.
    pub fn cached(&mut self, key: &str) -> Option<P::Document> {
        self.cache.take(key)
    }

    /// How many documents may be read at a time, so that they take a bounded amount of memory.
    pub fn part(&self) -> usize {
        self.part
    }

    /// The documents of these streams from the index, in their order; `None` for each that is not there.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<P::Document>>, IndexError> {
        let documents = self.get(keys).await?;
        let bytes: usize = documents.iter().flatten().map(P::weight).sum();
        self.part = next_part(self.part, documents.len(), bytes);
        Ok(documents)
    }

    async fn get(&self, keys: &[&str]) -> Result<Vec<Option<P::Document>>, IndexError> {
        match self.index.mget::<P::Document>(&self.target, keys).await {
            Ok(found) => Ok(found.into_iter().map(|found| found.and_then(Self::sound)).collect()),
            // A document that was altered by other hands must not stop all others: it counts as absent and is folded
            // anew.
            Err(IndexError::Malformed(_)) => {
                let found = self.index.mget::<Value>(&self.target, keys).await?;
                Ok(found
                    .into_iter()
                    .map(|found| {
                        let Found { version, index, stamp, source } = found?;
                        let source = serde_json::from_value(source).ok()?;
                        Self::sound(Found { version, index, stamp, source })
                    })
                    .collect())
            }
            Err(error) => Err(error),
        }
    }

    /// The document, unless its version as a field differs from its version in the index: then other hands wrote it.
    fn sound(found: Found<P::Document>) -> Option<P::Document> {
        (P::version(&found.source) == found.version).then_some(found.source)
    }

    /// Keeps a document that is stored as it is, unless no event can follow.
    pub fn keep(&mut self, key: Arc<str>, document: P::Document) {
        if !P::is_final(&document) {
            self.cache.keep(key, document);
        }
    }

    /// Forgets all documents.
    pub fn forget_all(&mut self) {
        self.cache.forget_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_as_large_as_its_documents_allow() {
        assert_eq!(next_part(64, 64, 64 * 1024), 128, "small ones: more, but not all at once");
        assert_eq!(next_part(800, 800, 800 * 1024), 1_000);
        assert_eq!(next_part(64, 64, 64 * 100 * 1024), 20);
        assert_eq!(next_part(64, 64, 64 * 10 * 1024 * 1024), 8);
        assert_eq!(next_part(64, 64, 0), 128, "none of them there");
    }
}
