//! Indices, the aliases in front of them, and refresh.
//!
//! Queries use an alias, writers the physical name behind it. The first index of a projection has a fixed name, so
//! that two copies that start at once make one index; it is made together with its alias, so that neither is ever
//! there alone. A hash of the mapping is kept in the index: one that was made with another mapping is noticed at
//! start, not at the first refused document.

use std::collections::HashMap;
use std::time::Duration;

use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{Index, IndexError, WRITE_LIMIT};

/// The index behind an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveIndex {
    /// Physical name.
    pub name: String,
    /// Its UUID, given by Elasticsearch: another one of the same name is another index, and empty.
    pub uuid: String,
    /// Hash of the mapping that it was made with; empty where it was made by other hands.
    pub mapping_hash: String,
}

impl LiveIndex {
    /// True where it was made with this mapping.
    #[must_use]
    pub fn has(&self, mapping: &str) -> bool {
        definition(mapping, None).is_some_and(|(_, hash)| hash == self.mapping_hash)
    }
}

/// Hash of a mapping; empty where it is none.
#[must_use]
pub fn mapping_hash(mapping: &str) -> String {
    definition(mapping, None).map(|(_, hash)| hash).unwrap_or_default()
}

/// An index cannot be used as it is.
#[derive(Debug, Error)]
pub enum EnsureError {
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// More than one index stands behind the alias.
    #[error("alias {0} stands for more than one index")]
    Ambiguous(String),
    /// The index is there, but the alias does not lead to it.
    #[error("index {index} exists, but alias {alias} does not lead to it")]
    NoAlias {
        /// Physical name.
        index: String,
        /// The alias.
        alias: String,
    },
    /// The mapping is not JSON.
    #[error("mapping of {0} is not an object")]
    Mapping(String),
}

impl EnsureError {
    /// True where waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Index(error) if error.is_transient())
    }
}

/// What an index says of itself.
#[derive(Deserialize)]
pub(super) struct Described {
    pub settings: Settings,
    #[serde(default)]
    pub mappings: Mappings,
}

#[derive(Deserialize)]
pub(super) struct Settings {
    pub index: IndexSettings,
}

#[derive(Deserialize)]
pub(super) struct IndexSettings {
    uuid: String,
    /// Milliseconds since 1970.
    pub creation_date: String,
}

#[derive(Default, Deserialize)]
pub(super) struct Mappings {
    #[serde(rename = "_meta", default)]
    pub meta: Meta,
}

/// What this service wrote into the mapping; empty where other hands made the index.
#[derive(Default, Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    pub mapping_hash: String,
    /// Empty where it was not made for a rebuild.
    #[serde(default)]
    pub rebuild_id: String,
}

#[derive(Deserialize)]
struct Shards {
    #[serde(rename = "_shards")]
    shards: Failed,
}

#[derive(Deserialize)]
struct Failed {
    failed: u32,
}

impl Index {
    /// The index behind the alias, or with this physical name; `None` where there is none.
    ///
    /// # Errors
    /// [`EnsureError::Ambiguous`], or where Elasticsearch fails.
    pub async fn live(&self, alias: &str) -> Result<Option<LiveIndex>, EnsureError> {
        let described = match self.described(alias, WRITE_LIMIT).await {
            Ok(described) => described,
            Err(error) if error.is_absent() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut described = described.into_iter();
        match (described.next(), described.next()) {
            (Some((name, index)), None) => Ok(Some(LiveIndex {
                name,
                uuid: index.settings.index.uuid,
                mapping_hash: index.mappings.meta.mapping_hash,
            })),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => Err(EnsureError::Ambiguous(alias.to_owned())),
        }
    }

    /// The index behind the alias; where there is none, it is made first, under the name `first`. Safe to be called
    /// by many at once. It may have been made with another mapping: see [`LiveIndex::has`].
    ///
    /// # Errors
    /// Where Elasticsearch fails, or what is there cannot be used as it is.
    pub async fn ensure(&self, alias: &str, first: &str, mapping: &str) -> Result<LiveIndex, EnsureError> {
        let (body, _) =
            definition(mapping, Some(alias)).ok_or_else(|| EnsureError::Mapping(first.to_owned()))?;
        let mut live = self.live(alias).await?;
        if live.is_none() {
            self.make(first, &body).await?;
            live = self.live(alias).await?;
        }
        match live {
            Some(live) => {
                self.wait_until_started(&live.name).await?;
                Ok(live)
            }
            None => Err(EnsureError::NoAlias { index: first.to_owned(), alias: alias.to_owned() }),
        }
    }

    /// Makes an index without an alias where it is not there; where it is, adds the mapping's fields that it lacks.
    ///
    /// # Errors
    /// Where Elasticsearch fails, or a field is there with another type.
    pub async fn ensure_plain(&self, name: &str, mapping: &str) -> Result<(), EnsureError> {
        let (body, _) = definition(mapping, None).ok_or_else(|| EnsureError::Mapping(name.to_owned()))?;
        self.make(name, &body).await?;
        let body = serde_json::to_vec(&body["mappings"]).map_err(IndexError::from)?;
        self.call(Method::Put, &format!("/{name}/_mapping"), Some(body.into()), WRITE_LIMIT).await?;
        Ok(())
    }

    /// The indices behind an alias, with a name, or with names that match a pattern.
    pub(super) async fn described(
        &self,
        names: &str,
        limit: Duration,
    ) -> Result<HashMap<String, Described>, IndexError> {
        let fields = ["settings.index.uuid", "settings.index.creation_date", "mappings._meta"];
        let path = format!("/{names}?filter_path={}", fields.map(|field| format!("*.{field}")).join(","));
        self.json(Method::Get, &path, None::<&()>, limit).await
    }

    /// Until its shard has started, an index that is there refuses to be read.
    pub(super) async fn wait_until_started(&self, name: &str) -> Result<(), IndexError> {
        let path =
            format!("/_cluster/health/{name}?wait_for_status=yellow&timeout=20s&filter_path=timed_out");
        self.call(Method::Get, &path, None, WRITE_LIMIT).await?;
        Ok(())
    }

    pub(super) async fn make(&self, name: &str, body: &Value) -> Result<(), IndexError> {
        match self.json::<Value>(Method::Put, &format!("/{name}"), Some(body), WRITE_LIMIT).await {
            Err(error) if !error.is_conflict() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Makes every write that was acknowledged before the call searchable.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn refresh(&self, target: &str) -> Result<(), IndexError> {
        let answer: Shards =
            self.json(Method::Post, &format!("/{target}/_refresh"), None::<&()>, WRITE_LIMIT).await?;
        match answer.shards.failed {
            0 => Ok(()),
            failed => Err(IndexError::Unavailable(format!("refresh failed on {failed} shards"))),
        }
    }
}

/// The request that makes the index, and the hash of its mapping, which does not depend on spaces and line ends.
pub(super) fn definition(mapping: &str, alias: Option<&str>) -> Option<(Value, String)> {
    let mut body: Value = serde_json::from_str(mapping).ok()?;
    let digest = Sha256::digest(body.get("mappings")?.to_string());
    let hash = digest.iter().take(8).fold(String::new(), |hash, byte| format!("{hash}{byte:02x}"));
    body["mappings"].as_object_mut()?.insert("_meta".to_owned(), json!({ "mapping_hash": hash }));
    if let Some(alias) = alias {
        body.as_object_mut()?.insert("aliases".to_owned(), json!({ alias: {} }));
    }
    Some((body, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_ignores_form_only() {
        let hash = |mapping| definition(mapping, None).unwrap().1;
        assert_eq!(hash(r#"{"mappings":{"a":1,"b":2}}"#), hash(r#"{ "mappings": { "b": 2, "a": 1 } }"#));
        assert_ne!(hash(r#"{"mappings":{"a":1}}"#), hash(r#"{"mappings":{"a":2}}"#));
    }
}
