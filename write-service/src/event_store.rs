//! The event store: streams of events in PostgreSQL.
//!
//! In: batches of appends, each answered by itself. Out: streams from a version on. Guaranteed: the events of an append are
//! stored whole or not at all, in one commit with the outbox row that announces them; a stream has neither twins nor holes.

use futures_util::TryStreamExt as _;
use proto::v1::{RecordedEvent, StreamCategory};
use sqlx::PgPool;
use thiserror::Error;
use uuid::Uuid;

use crate::codec::{self, StoredEvent, Unreadable};

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
    Stored,
    /// The stream does not have the expected version; nothing was stored.
    Conflict,
}

/// An event read by stream.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadEvent {
    /// As it is published; position 0 where it has none yet.
    pub recorded: RecordedEvent,
    /// Of the request that caused it, where it had a `request_id`.
    pub fingerprint: Option<Fingerprint>,
}

/// Why the store gave no answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database does not answer, or the answer was lost: of a write, the outcome is unknown.
    #[error("event store does not answer")]
    Down(#[source] sqlx::Error),
    /// A stored event cannot be read.
    #[error("event {version} of stream {stream_id} cannot be read: {source}")]
    #[expect(missing_docs, reason = "the text says it")]
    Unreadable { stream_id: Uuid, version: i64, source: Unreadable },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Down(error)
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

    /// Stores each append whose stream has the expected version, all of them in one transaction with their outbox row, and
    /// answers in the order given. At most one append per stream; `appends` must be sorted by stream, as batches that
    /// take their locks in one order never deadlock.
    ///
    /// # Errors
    /// [`StoreError::Down`]: whether the batch was stored is unknown.
    pub async fn append(&self, appends: &[Append]) -> Result<Vec<Outcome>, StoreError> {
        debug_assert!(appends.is_sorted_by(|a, b| a.stream_id < b.stream_id), "sorted, one per stream");
        let rows = Rows::of(appends);
        // One statement, so one round trip and one commit. `gate` inserts the first event of each append: it needs its
        // predecessor in the statement's snapshot, and at the primary key it meets whoever else appends after the same
        // version; the loser gets nothing. Only behind an open gate does `rest` insert the remaining events, which nobody can
        // contest: they would need a predecessor that is not committed yet. So an append is whole or absent.
        // The predecessor is a scalar subquery: with EXISTS a generic plan made on an empty table scans for every event.
        let stored = sqlx::query_scalar!(
            r#"
            WITH batch AS MATERIALIZED (
                SELECT nextval('outbox_id_seq') AS id
            ), head AS MATERIALIZED (
                SELECT stream_id, version, event_count, category, slice, type, schema, metadata, body, fingerprint
                FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::smallint[], $5::smallint[],
                            $6::text[], $7::smallint[], $8::bytea[], $9::bytea[], $10::bytea[])
                    AS head (stream_id, version, event_count, category, slice, type, schema, metadata, body, fingerprint)
            ), gate AS (
                INSERT INTO event (stream_id, version, batch_id, category, slice, type, schema, metadata, body, fingerprint)
                SELECT stream_id, version, (SELECT id FROM batch), category, slice, type, schema, metadata, body, fingerprint
                FROM head
                WHERE version = 1
                   OR (SELECT true FROM event predecessor
                       WHERE predecessor.stream_id = head.stream_id AND predecessor.version = head.version - 1)
                ON CONFLICT DO NOTHING
                RETURNING stream_id
            ), rest AS (
                INSERT INTO event (stream_id, version, batch_id, category, slice, type, schema, metadata, body, fingerprint)
                SELECT head.stream_id, tail.version, (SELECT id FROM batch), head.category, head.slice,
                       tail.type, tail.schema, tail.metadata, tail.body, head.fingerprint
                FROM unnest($11::uuid[], $12::bigint[], $13::text[], $14::smallint[], $15::bytea[], $16::bytea[])
                    AS tail (stream_id, version, type, schema, metadata, body)
                JOIN gate ON gate.stream_id = tail.stream_id
                JOIN head ON head.stream_id = tail.stream_id
            ), announced AS (
                INSERT INTO outbox (id, stream_ids, first_versions, counts, event_count)
                SELECT (SELECT id FROM batch), array_agg(stream_id ORDER BY stream_id),
                       array_agg(version ORDER BY stream_id), array_agg(event_count ORDER BY stream_id), sum(event_count)
                FROM head JOIN gate USING (stream_id)
                HAVING count(*) > 0
            )
            SELECT stream_id AS "stream_id!" FROM gate
            "#,
            &rows.stream_ids,
            &rows.versions,
            &rows.counts,
            &rows.categories,
            &rows.slices,
            &rows.types as &[&str],
            &rows.schemas,
            &rows.metadata as &[&[u8]],
            &rows.bodies as &[&[u8]],
            &rows.fingerprints as &[Option<&[u8]>],
            &rows.tail.stream_ids,
            &rows.tail.versions,
            &rows.tail.types as &[&str],
            &rows.tail.schemas,
            &rows.tail.metadata as &[&[u8]],
            &rows.tail.bodies as &[&[u8]],
        )
        .fetch_all(&self.pool)
        .await?;
        let mut stored = stored;
        stored.sort_unstable();
        let outcome = |append: &Append| match stored.binary_search(&append.stream_id) {
            Ok(_) => Outcome::Stored,
            Err(_) => Outcome::Conflict,
        };
        Ok(appends.iter().map(outcome).collect())
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
            SELECT event.version, event.type AS type_name, event.schema, event.metadata, event.body, event.fingerprint,
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
            events.push(ReadEvent { recorded, fingerprint });
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

/// The appends as columns: the first event of each, and the events behind them.
#[derive(Default)]
struct Rows<'a> {
    stream_ids: Vec<Uuid>,
    versions: Vec<i64>,
    counts: Vec<i32>,
    categories: Vec<i16>,
    slices: Vec<i16>,
    types: Vec<&'a str>,
    schemas: Vec<i16>,
    metadata: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
    fingerprints: Vec<Option<&'a [u8]>>,
    tail: Tail<'a>,
}

#[derive(Default)]
struct Tail<'a> {
    stream_ids: Vec<Uuid>,
    versions: Vec<i64>,
    types: Vec<&'a str>,
    schemas: Vec<i16>,
    metadata: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Rows<'a> {
    fn of(appends: &'a [Append]) -> Self {
        let mut rows = Self::default();
        for append in appends {
            let numbered = (append.expected_version + 1..).zip(&append.events);
            for (i, (version, event)) in numbered.enumerate() {
                if i == 0 {
                    rows.push_head(append, version, event);
                } else {
                    rows.tail.push(append.stream_id, version, event);
                }
            }
        }
        rows
    }

    fn push_head(&mut self, append: &'a Append, version: i64, event: &'a StoredEvent) {
        self.stream_ids.push(append.stream_id);
        self.versions.push(version);
        self.counts.push(i32::try_from(append.events.len()).unwrap_or(i32::MAX));
        self.categories.push(i16::try_from(append.category as i32).unwrap_or(0));
        self.slices.push(i16::try_from(append.slice).unwrap_or(0));
        self.types.push(&event.type_name);
        self.schemas.push(event.schema);
        self.metadata.push(&event.metadata);
        self.bodies.push(&event.body);
        self.fingerprints.push(append.fingerprint.as_ref().map(<[u8; 16]>::as_slice));
    }
}

impl<'a> Tail<'a> {
    fn push(&mut self, stream_id: Uuid, version: i64, event: &'a StoredEvent) {
        self.stream_ids.push(stream_id);
        self.versions.push(version);
        self.types.push(&event.type_name);
        self.schemas.push(event.schema);
        self.metadata.push(&event.metadata);
        self.bodies.push(&event.body);
    }
}
