//! Registering and renaming customers and products.

use std::sync::Arc;

use uuid::Uuid;

use super::{ATTEMPTS, CommandError, CommandHandler};
use crate::catalog::{self, Entry, Kind};
use crate::codec::{self, Envelope, Event, Unreadable};
use crate::event_store::{Append, Outcome, StoreError};

/// A name for an entry.
#[derive(Clone, Debug)]
pub struct Put {
    /// Customer or product.
    pub kind: Kind,
    /// Its id.
    pub key: String,
    /// Its name from now on.
    pub name: String,
    /// The authenticated subject, or "anonymous".
    pub actor: Arc<str>,
    /// W3C trace context, empty where there is none.
    pub traceparent: Arc<str>,
}

/// What a [`Put`] did; each carries the entry's version after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Change {
    Registered { version: i64 },
    Renamed { version: i64 },
    Unchanged { version: i64 },
}

impl Change {
    /// The entry's version after the change.
    #[must_use]
    pub fn version(self) -> i64 {
        let (Self::Registered { version } | Self::Renamed { version } | Self::Unchanged { version }) = self;
        version
    }
}

impl CommandHandler {
    /// Registers or renames an entry.
    ///
    /// # Errors
    /// See [`CommandError`]; never a rejection.
    pub async fn put(&self, put: Put) -> Result<Change, CommandError> {
        let stream_id = catalog::stream_id(put.kind, &put.key);
        let mut current = 0;
        for _ in 0..ATTEMPTS {
            let (entry, version) = self.load_entry(stream_id).await?;
            current = version;
            let events = catalog::decide(&entry, put.kind, &put.key, &put.name);
            let Some(event) = events.into_iter().next() else {
                return Ok(Change::Unchanged { version });
            };
            let append = self.encode_entry(&put, stream_id, version, event);
            if let Outcome::Stored { .. } = self.appender.append(append).await? {
                self.names.remember(stream_id, &put.name);
                let version = version + 1;
                return Ok(if entry.is_none() {
                    Change::Registered { version }
                } else {
                    Change::Renamed { version }
                });
            }
        }
        Err(CommandError::VersionConflict { expected: None, current })
    }

    /// The entry and its version: its last event says both.
    async fn load_entry(&self, stream_id: Uuid) -> Result<(Entry, i64), CommandError> {
        let Some((_, recorded)) = self.store.read_last(&[stream_id]).await?.pop() else {
            return Ok((Entry::None, 0));
        };
        let version = recorded.version;
        let unreadable = |source| StoreError::Unreadable { stream_id, version, source };
        match codec::to_domain(recorded).map_err(unreadable)? {
            Event::Catalog(event) => Ok((catalog::evolve(Entry::None, &event), version)),
            Event::Order(_) => {
                Err(unreadable(Unreadable::Misplaced { type_name: "order event".to_owned() }).into())
            }
        }
    }

    fn encode_entry(&self, put: &Put, stream_id: Uuid, version: i64, event: catalog::Event) -> Append {
        let category = codec::category(put.kind);
        let envelope = Envelope {
            event_id: Uuid::now_v7(),
            category,
            key: put.key.clone(),
            version: version + 1,
            recorded_at: self.clock.now_nanos() / 1_000 * 1_000,
            actor: put.actor.to_string(),
            request_id: None,
            traceparent: put.traceparent.to_string(),
        };
        Append {
            stream_id,
            category,
            slice: proto::slice::of(category, &put.key),
            expected_version: version,
            // The entry was read just now.
            predecessor: None,
            fingerprint: None,
            events: vec![codec::encode(Event::Catalog(event), envelope)],
        }
    }
}
