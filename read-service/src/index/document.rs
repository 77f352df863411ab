//! Documents by id, in real time: what has been written is seen, refreshed or not.

use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::items::Failure;
use super::{Index, IndexError, READ_LIMIT, Stamp, segment};

/// Most documents that one request asks for.
const MGET_DOCUMENTS: usize = 1_000;

/// A document that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<D> {
    /// Its version, which is the version of its stream.
    pub version: i64,
    /// Physical name of the index that holds it.
    pub index: String,
    /// Which state of it was seen.
    pub stamp: Stamp,
    /// The document.
    pub source: D,
}

#[derive(Deserialize)]
struct Answer<D> {
    #[serde(rename = "_index")]
    index: String,
    #[serde(default)]
    found: bool,
    #[serde(rename = "_version")]
    version: Option<i64>,
    #[serde(rename = "_seq_no")]
    seq_no: Option<i64>,
    #[serde(rename = "_primary_term")]
    primary_term: Option<i64>,
    #[serde(rename = "_source", default = "none")]
    source: Option<D>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Answers<D> {
    #[serde(bound(deserialize = "D: Deserialize<'de>"))]
    docs: Vec<Answer<D>>,
}

fn none<D>() -> Option<D> {
    None
}

impl Index {
    /// The document with this id, in real time; `None` where there is none. `target` is an alias of one index or its
    /// physical name.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or there is no such index.
    pub async fn get<D: DeserializeOwned>(
        &self,
        target: &str,
        id: &str,
    ) -> Result<Option<Found<D>>, IndexError> {
        // A path takes "." and ".." for steps, and an absent document is 404 there like an absent index.
        if id.bytes().all(|byte| byte == b'.') {
            return Ok(self.mget(target, &[id]).await?.pop().flatten());
        }
        let path = format!("/{target}/_doc/{}", segment(id));
        match self.json::<Answer<D>>(Method::Get, &path, None::<&()>, READ_LIMIT).await {
            Ok(answer) => found(answer),
            Err(IndexError::Refused { status: 404, kind }) if kind.is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The documents with these ids, in their order, in real time; `None` for each that is not there.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or there is no such index.
    pub async fn mget<D: DeserializeOwned>(
        &self,
        target: &str,
        ids: &[&str],
    ) -> Result<Vec<Option<Found<D>>>, IndexError> {
        let mut all = Vec::with_capacity(ids.len());
        for answer in self.multi_get(&format!("/{target}/_mget"), ids).await? {
            all.push(found(answer)?);
        }
        Ok(all)
    }

    /// The versions of the documents with these ids, in their order, in real time; `None` for each that is not there.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or there is no such index.
    pub async fn versions(&self, target: &str, ids: &[&str]) -> Result<Vec<Option<i64>>, IndexError> {
        let answers =
            self.multi_get::<serde::de::IgnoredAny>(&format!("/{target}/_mget?_source=false"), ids).await?;
        answers.into_iter().map(|answer| failure(&answer).map_or(Ok(answer.version), Err)).collect()
    }

    async fn multi_get<D: DeserializeOwned>(
        &self,
        path: &str,
        ids: &[&str],
    ) -> Result<Vec<Answer<D>>, IndexError> {
        let mut all = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MGET_DOCUMENTS) {
            let answers: Answers<D> =
                self.json(Method::Post, path, Some(&json!({ "ids": ids })), READ_LIMIT).await?;
            if answers.docs.len() != ids.len() {
                return Err(IndexError::Malformed("fewer documents than asked for".to_owned()));
            }
            all.extend(answers.docs);
        }
        Ok(all)
    }
}

fn found<D>(answer: Answer<D>) -> Result<Option<Found<D>>, IndexError> {
    if let Some(error) = failure(&answer) {
        return Err(error);
    }
    if !answer.found {
        return Ok(None);
    }
    match (answer.version, answer.source, answer.seq_no.zip(answer.primary_term)) {
        (Some(version), Some(source), Some((seq_no, primary_term))) => {
            let stamp = Stamp { seq_no, primary_term };
            Ok(Some(Found { version, index: answer.index, stamp, source }))
        }
        _ => Err(IndexError::Malformed("document without version or source".to_owned())),
    }
}

fn failure<D>(answer: &Answer<D>) -> Option<IndexError> {
    let kind = answer.error.as_ref()?.kind.clone();
    let status = if kind == "index_not_found_exception" { 404 } else { 500 };
    Some(IndexError::Refused { status, kind })
}
