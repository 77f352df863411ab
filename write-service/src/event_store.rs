//! The event store: streams of events in PostgreSQL.
//!
//! In: batches of appends, each answered by itself. Out: streams from a version on. Guaranteed: the events of an append are
//! stored whole or not at all, in one commit with the outbox row that announces them; a stream has neither twins nor holes.

mod writer;

use futures_util::TryStreamExt as _;
use proto::v1::{RecordedEvent, StreamCategory};
use sqlx::PgPool;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;
use uuid::Uuid;

pub use self::writer::Writer;
use crate::codec::{self, StoredEvent, Unreadable};

/// SQLSTATE of a disk without room.
const DISK_FULL: &str = "53100";

/// Events to store after one version of one stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// The stream.
    pub stream_id: Uuid,
    /// What the stream belongs to.
    pub category: StreamCategory,
    /// The stream's slice.
    pub slice: u16,
    /// Version that the stream must have, 0 for a new one.
    pub expected_version: i64,
    /// The batch that stored the event of that version, where the caller has seen it. Another one there means that the store
    /// went back to an earlier point and that the stream has had another history since.
    pub predecessor: Option<i64>,
    /// Of the request, where it had a `request_id`.
    pub fingerprint: Option<Fingerprint>,
    /// At least one, in order.
    pub events: Vec<StoredEvent>,
}

/// First half of the SHA-256 of a request's content.
pub type Fingerprint = [u8; 16];

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, and on its way to the feed.
    Stored {
        /// The batch that stored it, see [`Append::predecessor`].
        batch_id: i64,
    },
    /// The stream does not have the expected version, or not the expected event there; nothing was stored.
    Conflict,
}

/// An event read by stream.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadEvent {
    /// As it is published; position 0 where it has none yet.
    pub recorded: RecordedEvent,
    /// Of the request that caused it, where it had a `request_id`.
    pub fingerprint: Option<Fingerprint>,
    /// The batch that stored it, see [`Append::predecessor`].
    pub batch_id: i64,
}

/// Why the store gave no answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database does not answer, or the answer was lost: of a write, the outcome is unknown.
    #[error("event store does not answer")]
    Down(#[source] sqlx::Error),
    /// The database has no room left, and said so: of a write, nothing was stored.
    #[error("event store is full")]
    Full(#[source] sqlx::Error),
    /// A stored event cannot be read.
    #[error("event {version} of stream {stream_id} cannot be read: {source}")]
    #[expect(missing_docs, reason = "the text says it")]
    Unreadable { stream_id: Uuid, version: i64, source: Unreadable },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // What ends the statement alone has undone it; what ends the connection may have come after the commit.
        let full = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
        match full.map(|error| (error.code(), error.severity())) {
            Some((DISK_FULL, PgSeverity::Error)) => Self::Full(error),
            _ => Self::Down(error),
        }
    }
}

/// The event store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventStore {
    pool: PgPool,
}

impl EventStore {
    /// The store in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// A way to append, on a connection of its own.
    #[must_use]
    pub fn writer(&self) -> Writer {
        Writer::new(&self.pool.connect_options())
    }

    /// Events `from_version` to `to_version` (0: to the end) of a stream, in order, with their positions.
    ///
    /// # Errors
    /// [`StoreError::Down`]; [`StoreError::Unreadable`] at the first event that cannot be read.
    pub async fn read(
        &self,
        stream_id: Uuid,
        from_version: i64,
        to_version: i64,
    ) -> Result<Vec<ReadEvent>, StoreError> {
        let to_version = if to_version == 0 { i64::MAX } else { to_version };
        // The batch holds its appends side by side: an event's position is that of the row's last event, less the events of
        // the appends behind its own, less those behind it in its own.
        let mut rows = sqlx::query!(
            r#"
            SELECT event.version, event.batch_id, event.type AS type_name, event.schema, event.metadata, event.body, event.fingerprint,
                   (SELECT feed.position - feed.event_count + before.count + event.version - first_version + 1
                    FROM feed,
                         unnest(feed.stream_ids, feed.first_versions, feed.counts) WITH ORDINALITY
                             AS append (stream_id, first_version, count, place),
                         LATERAL (SELECT coalesce(sum(earlier), 0)::bigint AS count
                                  FROM unnest(feed.counts[:place - 1]) AS earlier) AS before
                    WHERE feed.batch_id = event.batch_id AND append.stream_id = event.stream_id) AS position
            FROM event
            WHERE event.stream_id = $1 AND event.version BETWEEN $2 AND $3
            ORDER BY event.version
            "#,
            stream_id,
            from_version,
            to_version,
        )
        .fetch(&self.pool);
        let mut events = Vec::new();
        while let Some(row) = rows.try_next().await? {
            let stored = StoredEvent {
                type_name: row.type_name,
                schema: row.schema,
                metadata: row.metadata,
                body: row.body,
            };
            let version = row.version;
            let mut recorded = codec::decode(&stored).map_err(|source| StoreError::Unreadable {
                stream_id,
                version,
                source,
            })?;
            recorded.position = row.position.unwrap_or(0);
            let fingerprint = row.fingerprint.and_then(|bytes| Fingerprint::try_from(bytes).ok());
            events.push(ReadEvent { recorded, fingerprint, batch_id: row.batch_id });
        }
        Ok(events)
    }

    /// The last event of each of these streams that exists, in no order.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_last(&self, stream_ids: &[Uuid]) -> Result<Vec<(Uuid, RecordedEvent)>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT wanted.stream_id AS "stream_id!", last.version, last.type AS type_name, last.schema, last.metadata, last.body
            FROM unnest($1::uuid[]) AS wanted (stream_id)
            CROSS JOIN LATERAL (
                SELECT version, type, schema, metadata, body FROM event
                WHERE event.stream_id = wanted.stream_id ORDER BY version DESC LIMIT 1
            ) AS last
            "#,
            stream_ids,
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let (stream_id, version) = (row.stream_id, row.version);
                let stored = StoredEvent {
                    type_name: row.type_name,
                    schema: row.schema,
                    metadata: row.metadata,
                    body: row.body,
                };
                let recorded = codec::decode(&stored).map_err(|source| StoreError::Unreadable {
                    stream_id,
                    version,
                    source,
                })?;
                Ok((stream_id, recorded))
            })
            .collect()
    }
}
