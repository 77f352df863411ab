//! Whole documents, many to a request, each with its stream's version as external version.
//!
//! A document never goes back: a version that is stored already, or a later one, is [`ItemOutcome::AlreadyApplied`].
//! A refused item does not touch its neighbours.

use std::ops::Range;

use bytes::Bytes;
use serde::Serialize;

use super::items::{Item, Stamps};
use super::{Index, IndexError};

/// Documents gathered for one index, written as the request's body at once.
#[derive(Clone, Debug, Default)]
pub struct Bulk {
    body: Vec<u8>,
    /// Where each item ends in the body.
    ends: Vec<usize>,
}

/// Documents on their way. Clones share the bytes, so sending them again copies nothing.
#[derive(Clone, Debug)]
pub struct SealedBulk {
    body: Bytes,
    /// Where each item lies in the body.
    items: Vec<Range<usize>>,
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemOutcome {
    /// Stored.
    Applied,
    /// This version or a later one was stored before. Never to be repeated.
    AlreadyApplied,
    /// Not stored for now: too much work, a full disk, a shard on the move. Repeat this item alone.
    Later(IndexError),
    /// The document does not fit the mapping: repeating cannot help, others are not concerned.
    Unfit(IndexError),
    /// The index itself refuses writes: nothing can be stored.
    Closed(IndexError),
}

#[derive(Serialize)]
struct Action<'a> {
    index: Target<'a>,
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    version: i64,
    version_type: &'static str,
}

/// A document with the field `search`, which is derived from it.
#[derive(Serialize)]
struct Searchable<'a, D> {
    #[serde(flatten)]
    document: &'a D,
    #[serde(skip_serializing_if = "str::is_empty")]
    search: &'a str,
}

impl Bulk {
    /// An empty one with room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { body: Vec::with_capacity(bytes), ends: Vec::new() }
    }

    /// Adds a document; `search` are the words of its field `search`, left out where there are none.
    pub fn index(&mut self, id: &str, version: i64, document: &impl Serialize, search: &str) {
        self.add(Target { id, version, version_type: "external" }, document, search);
    }

    /// The same, which also replaces a document of the same version: for one that may have been wrong.
    pub fn rewrite(&mut self, id: &str, version: i64, document: &impl Serialize, search: &str) {
        self.add(Target { id, version, version_type: "external_gte" }, document, search);
    }

    fn add(&mut self, target: Target<'_>, document: &impl Serialize, search: &str) {
        self.line(&Action { index: target });
        self.line(&Searchable { document, search });
        self.ends.push(self.body.len());
    }

    fn line(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.body, value).expect("a struct of plain fields has a JSON form");
        self.body.push(b'\n');
    }

    /// Number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True where there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the request's body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Nothing is added any more.
    #[must_use]
    pub fn seal(self) -> SealedBulk {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let items = starts.zip(self.ends.iter().copied()).map(|(start, end)| start..end).collect();
        SealedBulk { body: self.body.into(), items }
    }
}

impl SealedBulk {
    /// Number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True where there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of the request's body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The first `items` documents and the others.
    #[must_use]
    pub fn split(&self, items: usize) -> (Self, Self) {
        let middle = self.items.get(items).map_or(self.body.len(), |item| item.start);
        let (first, second) = self.items.split_at(items);
        let second = second.iter().map(|item| item.start - middle..item.end - middle).collect();
        (
            Self { body: self.body.slice(..middle), items: first.to_vec() },
            Self { body: self.body.slice(middle..), items: second },
        )
    }

    /// Some of the documents, by their places in ascending order.
    #[must_use]
    pub fn only(&self, places: &[usize]) -> Self {
        let mut some = Bulk::default();
        for place in places {
            some.body.extend_from_slice(&self.body[self.items[*place].clone()]);
            some.ends.push(some.body.len());
        }
        some.seal()
    }
}

/// The stored form of a document with the words of its field `search`.
///
/// # Panics
/// Where the document has no JSON form, which one of plain fields has.
#[must_use]
pub fn whole(document: &impl Serialize, search: &str) -> serde_json::Value {
    let whole = serde_json::to_value(Searchable { document, search });
    whole.expect("a struct of plain fields has a JSON form")
}

impl Index {
    /// Writes the documents into the index with this physical name: an outcome for each, in their order.
    ///
    /// # Errors
    /// Where the request as a whole failed. After [`IndexError::Unavailable`] some may be stored: the same bytes may
    /// be sent again.
    pub async fn bulk(&self, index: &str, bulk: &SealedBulk) -> Result<Vec<ItemOutcome>, IndexError> {
        let items = self.items(index, bulk.body.clone(), bulk.len(), Stamps::Unwanted).await?;
        Ok(items.into_iter().map(outcome).collect())
    }
}

fn outcome(item: Item) -> ItemOutcome {
    let Item { status, kind, .. } = item;
    let refused = |kind| IndexError::Refused { status, kind };
    match (status, kind.as_str()) {
        (200 | 201, _) => ItemOutcome::Applied,
        (409, "version_conflict_engine_exception") => ItemOutcome::AlreadyApplied,
        (429, _) => ItemOutcome::Later(IndexError::Overloaded(kind)),
        (400, "index_closed_exception") | (401 | 403 | 404, _) => ItemOutcome::Closed(refused(kind)),
        (400, _) => ItemOutcome::Unfit(refused(kind)),
        _ => ItemOutcome::Later(refused(kind)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_are_lines_of_their_own() {
        let mut bulk = Bulk::default();
        for id in ["a", "b", "c"] {
            bulk.index(id, 3, &json!({ "name": id }), "");
        }
        bulk.index("d", 1, &json!({ "name": "d" }), "d e");
        let sealed = bulk.seal();
        let c = concat!(
            r#"{"index":{"_id":"c","version":3,"version_type":"external"}}"#,
            "\n",
            r#"{"name":"c"}"#,
            "\n"
        );
        let d = concat!(
            r#"{"index":{"_id":"d","version":1,"version_type":"external"}}"#,
            "\n",
            r#"{"name":"d","search":"d e"}"#,
            "\n",
        );
        let (first, second) = sealed.split(2);
        assert_eq!((first.len(), second.len(), second.body), (2, 2, Bytes::from([c, d].concat())));
        let (_, last) = sealed.split(3);
        let (all, none) = last.split(1);
        assert_eq!((all.body, none.is_empty()), (d.into(), true));
        let some = sealed.only(&[1, 3]);
        assert_eq!(some.only(&[1]).body, d);
        assert_eq!(some.bytes(), c.len() + d.len());
    }

    #[test]
    fn status_and_type_decide() {
        let outcome = |status, kind: &str| outcome(Item { status, kind: kind.to_owned(), stamp: None });
        assert_eq!(outcome(201, ""), ItemOutcome::Applied);
        assert_eq!(outcome(409, "version_conflict_engine_exception"), ItemOutcome::AlreadyApplied);
        assert!(matches!(outcome(429, "es_rejected_execution_exception"), ItemOutcome::Later(_)));
        assert!(matches!(outcome(429, "cluster_block_exception"), ItemOutcome::Later(_)));
        assert!(matches!(outcome(503, "unavailable_shards_exception"), ItemOutcome::Later(_)));
        assert!(matches!(outcome(400, "strict_dynamic_mapping_exception"), ItemOutcome::Unfit(_)));
        assert!(matches!(outcome(400, "document_parsing_exception"), ItemOutcome::Unfit(_)));
        assert!(matches!(outcome(400, "index_closed_exception"), ItemOutcome::Closed(_)));
        assert!(matches!(outcome(403, "cluster_block_exception"), ItemOutcome::Closed(_)));
        assert!(matches!(outcome(404, "index_not_found_exception"), ItemOutcome::Closed(_)));
    }
}
