//! Every document of an index, in pages: as it was at one moment, or in the order in which they were written.

use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Index, IndexError, READ_LIMIT};

/// Documents in a page.
const PAGE: usize = 2_000;
/// How long Elasticsearch keeps what a page needs until the next is asked for.
const KEEP: &str = "2m";

/// Goes through an index. To be closed at the end; forgotten, it ends by itself.
#[derive(Clone, Debug)]
pub struct Every {
    index: Index,
    view: String,
    after: Option<Value>,
}

#[derive(Deserialize)]
struct Opened {
    id: String,
}

#[derive(Deserialize)]
struct Answer {
    pit_id: String,
    timed_out: bool,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_version")]
    version: i64,
    sort: Value,
}

impl Index {
    /// The ids and versions of all documents that can be searched now.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn every(&self, name: &str) -> Result<Every, IndexError> {
        let path = format!("/{name}/_pit?keep_alive={KEEP}");
        let opened: Opened = self.json(Method::Post, &path, None::<&()>, READ_LIMIT).await?;
        Ok(Every { index: self.clone(), view: opened.id, after: None })
    }

    /// Ids of documents that can be searched, with the sequence numbers of their last writes, after one such number and up to another,
    /// in their order. The numbers stay while the documents do.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn written(
        &self,
        name: &str,
        after: i64,
        until: i64,
        size: usize,
    ) -> Result<Vec<(String, i64)>, IndexError> {
        let range = json!({ "range": { "_seq_no": { "gt": after, "lte": until } } });
        self.by_writes(name, &range, "asc", size).await
    }

    /// The sequence number of the newest document that can be searched; -1 where there is none.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn last_written(&self, name: &str) -> Result<i64, IndexError> {
        let newest = self.by_writes(name, &json!({ "match_all": {} }), "desc", 1).await?;
        Ok(newest.last().map_or(-1, |(_, number)| *number))
    }

    async fn by_writes(
        &self,
        name: &str,
        query: &Value,
        order: &str,
        size: usize,
    ) -> Result<Vec<(String, i64)>, IndexError> {
        let body = json!({
            "size": size,
            "_source": false,
            "track_total_hits": false,
            "query": query,
            "sort": [{ "_seq_no": order }],
        });
        let numbered = |hit: super::Hit<Value>| {
            let number = hit.sort.first().and_then(Value::as_i64);
            let none = || IndexError::Malformed("document without a sequence number".to_owned());
            number.map(|number| (hit.id, number)).ok_or_else(none)
        };
        self.search::<Value>(name, &body).await?.hits.into_iter().map(numbered).collect()
    }
}

impl Every {
    /// The next documents, by id and version; none at the end.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn next(&mut self) -> Result<Vec<(String, i64)>, IndexError> {
        let mut body = json!({
            "size": PAGE,
            "_source": false,
            "version": true,
            "track_total_hits": false,
            "pit": { "id": self.view, "keep_alive": KEEP },
            "sort": ["_shard_doc"],
        });
        if let Some(after) = &self.after {
            body["search_after"].clone_from(after);
        }
        let path = "/_search?allow_partial_search_results=false";
        let answer = self.index.json(Method::Post, path, Some(&body), READ_LIMIT).await;
        // Whoever took too long for a page, or a node that began anew, has to begin anew.
        let gone = || IndexError::Unavailable("the view of the index has ended".to_owned());
        let answer: Answer = answer.map_err(|error| if error.is_absent() { gone() } else { error })?;
        if answer.timed_out {
            return Err(IndexError::Unavailable("search timed out".to_owned()));
        }
        self.view = answer.pit_id;
        if let Some(last) = answer.hits.hits.last() {
            self.after = Some(last.sort.clone());
        }
        Ok(answer.hits.hits.into_iter().map(|hit| (hit.id, hit.version)).collect())
    }

    /// Gives back what Elasticsearch kept for it.
    ///
    /// # Errors
    /// Where Elasticsearch fails; it then ends by itself.
    pub async fn close(self) -> Result<(), IndexError> {
        let body = json!({ "id": self.view });
        self.index.json::<Value>(Method::Delete, "/_pit", Some(&body), READ_LIMIT).await.map(drop)
    }
}
