//! What a query finds.

use std::collections::HashMap;
use std::time::Duration;

use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Index, IndexError, READ_LIMIT};

/// The answer to a search. `D` is what `_source` is read into.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchAnswer<D> {
    /// In the order asked for.
    pub hits: Vec<Hit<D>>,
    /// How many documents matched, at least, where `total_is_exact` is false.
    pub total: i64,
    /// False where counting stopped at `track_total_hits`.
    pub total_is_exact: bool,
    /// The object `aggregations`, null where none were asked for.
    pub aggregations: Value,
}

/// A document that was found.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Hit<D> {
    /// Its id: the stream's key.
    #[serde(rename = "_id")]
    pub id: String,
    /// Physical name of the index that holds it.
    #[serde(rename = "_index")]
    pub index: String,
    /// Its version, which is the version of its stream.
    #[serde(rename = "_version", default)]
    pub version: i64,
    /// The document, as far as asked for.
    #[serde(rename = "_source", default = "none", bound(deserialize = "D: Deserialize<'de>"))]
    pub source: Option<D>,
    /// Values of the sort keys; `search_after` takes them as they are. Times of `date_nanos` are whole nanoseconds
    /// since 1970.
    #[serde(default)]
    pub sort: Vec<Value>,
    /// Marked texts by field.
    #[serde(default)]
    pub highlight: HashMap<String, Vec<String>>,
}

fn none<D>() -> Option<D> {
    None
}

#[derive(Deserialize)]
struct Answer<D> {
    timed_out: bool,
    #[serde(bound(deserialize = "D: Deserialize<'de>"))]
    hits: Hits<D>,
    #[serde(default)]
    aggregations: Value,
}

#[derive(Deserialize)]
struct Hits<D> {
    total: Option<Total>,
    #[serde(bound(deserialize = "D: Deserialize<'de>"))]
    hits: Vec<Hit<D>>,
}

#[derive(Deserialize)]
struct Total {
    value: i64,
    relation: String,
}

#[derive(Deserialize)]
struct Counted {
    count: i64,
}

impl Index {
    /// How many documents a search would find: all, or those that match `query`.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn count(&self, target: &str, query: Option<&Value>) -> Result<i64, IndexError> {
        let body = query.map(|query| serde_json::json!({ "query": query }));
        let answer: Counted =
            self.json(Method::Post, &format!("/{target}/_count"), body.as_ref(), READ_LIMIT).await?;
        Ok(answer.count)
    }

    /// Searches; `target` is an alias or a physical name, `body` the request as JSON. An answer is whole or it is an
    /// error.
    ///
    /// # Errors
    /// Where Elasticsearch fails, refuses the request, or could not search all of the index in time.
    pub async fn search<D: DeserializeOwned>(
        &self,
        target: &str,
        body: &Value,
    ) -> Result<SearchAnswer<D>, IndexError> {
        self.search_within(target, body, READ_LIMIT).await
    }

    /// The same, for as long as `limit`: Elasticsearch then stops searching too.
    ///
    /// # Errors
    /// As [`Index::search`].
    pub async fn search_within<D: DeserializeOwned>(
        &self,
        target: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<SearchAnswer<D>, IndexError> {
        // Partial results can be refused here only, not in the body.
        let path = format!(
            "/{target}/_search?allow_partial_search_results=false&version=true&timeout={}ms",
            limit.as_millis().max(1)
        );
        let answer: Answer<D> = self.json(Method::Post, &path, Some(body), limit).await?;
        if answer.timed_out {
            return Err(IndexError::Unavailable("search timed out".to_owned()));
        }
        let total = answer.hits.total;
        Ok(SearchAnswer {
            hits: answer.hits.hits,
            total_is_exact: total.as_ref().is_none_or(|total| total.relation == "eq"),
            total: total.map_or(0, |total| total.value),
            aggregations: answer.aggregations,
        })
    }
}
