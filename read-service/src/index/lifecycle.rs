//! Indices made for a rebuild, moved behind the alias, dropped.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::schema::{Described, EnsureError, definition};
use super::{Index, IndexError, READ_LIMIT, WRITE_LIMIT};

/// An index that this service made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIndex {
    /// Physical name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
}

impl Index {
    /// Makes an index without an alias for a rebuild. False where another index has this name.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn make_for(&self, rebuild_id: &str, name: &str, mapping: &str) -> Result<bool, EnsureError> {
        let (mut body, _) = definition(mapping, None).ok_or_else(|| EnsureError::Mapping(name.to_owned()))?;
        body["mappings"]["_meta"]["rebuild_id"] = rebuild_id.into();
        self.make(name, &body).await?;
        let there = self.described(name, READ_LIMIT).await?;
        let ours = there.get(name).is_some_and(|index| index.mappings.meta.rebuild_id == rebuild_id);
        if ours {
            self.wait_until_started(name).await?;
        }
        Ok(ours)
    }

    /// The indices that this service made under names that begin like this.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn own_indices(&self, beginning: &str) -> Result<Vec<OwnIndex>, IndexError> {
        let all = self.described(&format!("{beginning}*"), READ_LIMIT).await?;
        let ours = all.into_iter().filter(|(_, index)| !index.mappings.meta.mapping_hash.is_empty());
        let own = |(name, index): (String, Described)| {
            let created_ms = index.settings.index.creation_date.parse().unwrap_or(i64::MAX);
            OwnIndex { name, created_ms }
        };
        Ok(ours.map(own).collect())
    }

    /// Adds another alias to an index.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn mark(&self, index: &str, alias: &str) -> Result<(), IndexError> {
        let body = json!({ "actions": [{ "add": { "index": index, "alias": alias } }] });
        self.json::<Value>(Method::Post, "/_aliases", Some(&body), WRITE_LIMIT).await.map(drop)
    }

    /// Takes it away again, where it is there.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn unmark(&self, index: &str, alias: &str) -> Result<(), IndexError> {
        let body =
            json!({ "actions": [{ "remove": { "index": index, "alias": alias, "must_exist": true } }] });
        match self.json::<Value>(Method::Post, "/_aliases", Some(&body), WRITE_LIMIT).await {
            Err(error) if !error.is_absent() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Moves the alias from one index to another, in one step for every query, as long as the other has the mark `mark`, which it
    /// loses.
    ///
    /// # Errors
    /// Where Elasticsearch fails. [`IndexError::is_absent`] where the alias leads elsewhere or the mark is gone.
    pub async fn move_alias(&self, alias: &str, from: &str, to: &str, mark: &str) -> Result<(), IndexError> {
        let body = json!({ "actions": [
            { "remove": { "index": to, "alias": mark, "must_exist": true } },
            { "remove": { "index": from, "alias": alias, "must_exist": true } },
            { "add": { "index": to, "alias": alias } },
        ] });
        self.json::<Value>(Method::Post, "/_aliases", Some(&body), WRITE_LIMIT).await.map(drop)
    }

    /// Deletes an index, where it is there.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn drop_index(&self, name: &str) -> Result<(), IndexError> {
        match self.call(Method::Delete, &format!("/{name}"), None, WRITE_LIMIT).await {
            Err(error) if !error.is_absent() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
