//! The documents that events are folded onto: kept in memory where they fit, else read from the index in one request.
//!
//! A document is taken out while it is folded and comes back only when it is stored, so that memory is never ahead of
//! the index.

use std::collections::HashMap;

use moka::future::Cache;
use serde_json::Value;

use super::batch::StreamEvents;
use crate::index::{Found, Index, IndexError};
use crate::projection::Projection;

/// Documents of one index by key.
pub struct Documents<P: Projection> {
    index: Index,
    target: String,
    cache: Cache<String, P::Document>,
}

impl<P: Projection> Documents<P> {
    /// Those of the index `target`, of which at most `cache_bytes` are kept.
    #[must_use]
    pub fn new(index: Index, target: String, cache_bytes: u64) -> Self {
        let weigh = |key: &String, document: &P::Document| {
            u32::try_from(key.len() + P::weight(document)).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(cache_bytes).weigher(weigh).build();
        Self { index, target, cache }
    }

    /// The documents of these streams; those that do not exist are left out, as are streams that begin in the batch:
    /// if such a one is there all the same, the index says so when it is written.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn take(
        &self,
        streams: &[StreamEvents<'_>],
    ) -> Result<HashMap<String, P::Document>, IndexError> {
        let mut documents = HashMap::with_capacity(streams.len());
        let mut absent = Vec::new();
        for stream in streams {
            match self.cache.remove(stream.key).await {
                Some(document) => {
                    documents.insert(stream.key.to_owned(), document);
                }
                None if stream.events[0].version > 1 => absent.push(stream.key),
                None => {}
            }
        }
        if !absent.is_empty() {
            let found = self.read(&absent).await?;
            let found = absent.into_iter().map(str::to_owned).zip(found);
            documents.extend(found.filter_map(|(key, document)| Some((key, document?))));
        }
        Ok(documents)
    }

    async fn read(&self, keys: &[&str]) -> Result<Vec<Option<P::Document>>, IndexError> {
        match self.index.mget::<P::Document>(&self.target, keys).await {
            Ok(found) => Ok(found.into_iter().map(|found| found.and_then(Self::sound)).collect()),
            // A document that was altered by other hands must not stop all others: it counts as absent and is folded
            // anew.
            Err(IndexError::Malformed(_)) => {
                let found = self.index.mget::<Value>(&self.target, keys).await?;
                Ok(found
                    .into_iter()
                    .map(|found| {
                        let Found { version, index, source } = found?;
                        let source = serde_json::from_value(source).ok()?;
                        Self::sound(Found { version, index, source })
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
    pub async fn keep(&self, key: &str, document: P::Document) {
        if !P::is_final(&document) {
            self.cache.insert(key.to_owned(), document).await;
        }
    }

    /// Forgets all documents.
    pub fn forget_all(&self) {
        self.cache.invalidate_all();
    }

    /// Forgets a document.
    pub async fn forget(&self, key: &str) {
        self.cache.invalidate(key).await;
    }
}
