//! Today's names of customers and products, put into commands before they are decided.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use uuid::Uuid;

use super::CommandError;
use crate::catalog::{self, Entry, Kind};
use crate::codec::{self, Event};
use crate::event_store::{EventStore, StoreError};
use crate::order::{Command, Create, NewItem};

/// Names kept in memory, in bytes.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// How long a rename at another copy of the service can go unnoticed here.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// Looks names up. Only names that exist are remembered: an entry may be registered at any moment. Cheap to clone.
#[derive(Clone)]
pub(super) struct Names {
    store: EventStore,
    cache: Cache<Uuid, Arc<str>>,
}

impl Names {
    pub fn new(store: EventStore) -> Self {
        let cache = Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(|_, name: &Arc<str>| u32::try_from(name.len()).unwrap_or(u32::MAX).saturating_add(96))
            .time_to_live(FRESH_FOR)
            .build();
        Self { store, cache }
    }

    /// Fills in every name of the command; what is not registered stays `None`.
    pub async fn fill_in(&self, command: &mut Command) -> Result<(), CommandError> {
        match command {
            Command::Create(create) => {
                let Create { customer_id, customer_name, items, .. } = create;
                let customer = catalog::stream_id(Kind::Customer, customer_id);
                let products = items.iter().map(product_stream);
                let names = self.look_up(std::iter::once(customer).chain(products)).await?;
                *customer_name = names.get(&customer).map(ToString::to_string);
                for item in items {
                    item.product_name = names.get(&product_stream(item)).map(ToString::to_string);
                }
            }
            Command::AddItem(item) => {
                let product = product_stream(item);
                let names = self.look_up(std::iter::once(product)).await?;
                item.product_name = names.get(&product).map(ToString::to_string);
            }
            _ => {}
        }
        Ok(())
    }

    /// Remembers a name that was just stored or read.
    pub fn remember(&self, stream_id: Uuid, name: &str) {
        self.cache.insert(stream_id, Arc::from(name));
    }

    async fn look_up(
        &self,
        stream_ids: impl Iterator<Item = Uuid>,
    ) -> Result<HashMap<Uuid, Arc<str>>, CommandError> {
        let mut names = HashMap::new();
        let mut missing = Vec::new();
        for stream_id in stream_ids {
            match self.cache.get(&stream_id) {
                Some(name) => {
                    names.insert(stream_id, name);
                }
                None => missing.push(stream_id),
            }
        }
        if !missing.is_empty() {
            // Seldom, and large: it lives on the heap only when it is needed.
            Box::pin(self.read(missing, &mut names)).await?;
        }
        Ok(names)
    }

    /// Adds the names of these entries as they are stored.
    async fn read(
        &self,
        mut missing: Vec<Uuid>,
        names: &mut HashMap<Uuid, Arc<str>>,
    ) -> Result<(), CommandError> {
        missing.sort_unstable();
        missing.dedup();
        for (stream_id, recorded) in self.store.read_last(&missing).await? {
            let version = recorded.version;
            let event = codec::to_domain(recorded).map_err(|source| StoreError::Unreadable {
                stream_id,
                version,
                source,
            })?;
            // An order that took this id has no name: the entry counts as not registered.
            let Event::Catalog(event) = event else { continue };
            let Some(name) = catalog::evolve(Entry::None, &event) else {
                continue;
            };
            self.remember(stream_id, &name);
            names.insert(stream_id, Arc::from(name));
        }
        Ok(())
    }
}

fn product_stream(item: &NewItem) -> Uuid {
    catalog::stream_id(Kind::Product, &item.product_id)
}
