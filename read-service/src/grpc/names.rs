//! Today's names of customers, for answers about one order: read by id like the order, but only where this copy has not read them
//! lately or cannot know that they are the same still.
//!
//! A name is kept for as long as this copy projects the customer's slice and applies nothing: whoever changes the document is this copy
//! itself then, so what is kept is what Elasticsearch would answer. A document that is repaired past the projector is seen after
//! [`KEPT_FOR`].

use std::time::Duration;

use moka::sync::Cache;
use proto::v1::StreamCategory;

use crate::index::{Index, IndexError};
use crate::lease;
use crate::projection::CustomerDocument;
use crate::projector::Progress;

/// Names that are kept; each takes some hundred bytes.
const KEPT: u64 = 20_000;
/// Longest time for which one is.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// Finds names of customers. Clones share what is kept.
#[derive(Clone, Debug)]
pub(super) struct CustomerNames {
    index: Index,
    alias: String,
    customers: Progress,
    kept: Cache<String, Kept>,
}

/// A name, and what [`Progress::settled`] said before it was read.
#[derive(Clone, Debug)]
struct Kept {
    epoch: u64,
    name: Option<String>,
}

impl CustomerNames {
    /// The names behind `alias`, which `customers` tells about.
    pub fn new(index: Index, alias: String, customers: Progress) -> Self {
        let kept = Cache::builder().max_capacity(KEPT).time_to_live(KEPT_FOR).build();
        Self { index, alias, customers, kept }
    }

    /// The name of a customer; `None` where the customer is not known.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn today(&self, customer_id: &str) -> Result<Option<String>, IndexError> {
        let epoch = self.customers.settled(lease::range_of(StreamCategory::Customer, customer_id));
        let kept = epoch.and_then(|epoch| self.kept.get(customer_id).filter(|kept| kept.epoch == epoch));
        if let Some(kept) = kept {
            return Ok(kept.name);
        }
        let name = self.read(customer_id).await?;
        if let Some(epoch) = epoch {
            self.kept.insert(customer_id.to_owned(), Kept { epoch, name: name.clone() });
        }
        Ok(name)
    }

    /// The same, read in any case: for who knows of a change, by whatever way it came.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn read(&self, customer_id: &str) -> Result<Option<String>, IndexError> {
        let found = self.index.get::<CustomerDocument>(&self.alias, customer_id).await?;
        Ok(found.map(|found| found.source.name))
    }
}
