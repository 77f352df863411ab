//! Appends: whole batches, one statement, on a connection that does nothing else.

use std::io::ErrorKind;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Append, Outcome, StoreError};
use crate::codec::StoredEvent;

/// How long the database may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to answer a batch: longer than it gives a statement itself, so only a database that stands still exceeds it.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);

/// Appends on a connection of its own, which it makes when it needs one. A pool would cost each batch a round trip more.
#[derive(Debug)]
pub struct Writer {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Writer {
    pub(super) fn new(options: &PgConnectOptions) -> Self {
        // Of its own accord PostgreSQL plans each batch anew: that there are few appends makes such a plan seem cheaper than one for
        // any number, and planning takes three times as long as storing them. The plan for any number is right for all: it hashes
        // what it joins and looks predecessors up by their key.
        let options = options.clone().options([("plan_cache_mode", "force_generic_plan")]);
        Self { options, connection: None }
    }

    /// Stores each append whose stream has the expected version, all of them in one transaction with their outbox row, and
    /// answers in the order given. At most one append per stream; `appends` must be sorted by stream, as batches that
    /// take their locks in one order never deadlock.
    ///
    /// # Errors
    /// [`StoreError::Down`]: whether the batch was stored is unknown; [`StoreError::Full`]: nothing of it was. The next call
    /// connects anew.
    pub async fn append(&mut self, appends: &[Append]) -> Result<Vec<Outcome>, StoreError> {
        // Taken out: a call that fails or is dropped leaves no connection in an unknown state behind.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let outcomes = timeout(ANSWER_LIMIT, append(&mut connection, appends)).await;
        let outcomes = outcomes.map_err(|_| sqlx::Error::Io(ErrorKind::TimedOut.into()))??;
        self.connection = Some(connection);
        Ok(outcomes)
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        timeout(CONNECT_LIMIT, self.options.connect()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

async fn append(connection: &mut PgConnection, appends: &[Append]) -> Result<Vec<Outcome>, sqlx::Error> {
    debug_assert!(appends.is_sorted_by(|a, b| a.stream_id < b.stream_id), "sorted, one per stream");
    let rows = Rows::of(appends);
    // One statement, so one round trip and one commit. `gate` inserts the first event of each append: it needs its
    // predecessor in the statement's snapshot, and at the primary key it meets whoever else appends after the same
    // version; the loser gets nothing. Only behind an open gate does `rest` insert the remaining events, which nobody can
    // contest: they would need a predecessor that is not committed yet. So an append is whole or absent.
    // The predecessor is a scalar subquery: with EXISTS a generic plan made on an empty table scans for every event. Where the
    // caller knows the predecessor's batch, it must be that one.
    let stored = sqlx::query!(
        r#"
        WITH batch AS MATERIALIZED (
            SELECT nextval('outbox_id_seq') AS id
        ), head AS MATERIALIZED (
            SELECT stream_id, version, predecessor, event_count, category, slice, type, schema, metadata, body, fingerprint
            FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[], $5::smallint[], $6::smallint[],
                        $7::text[], $8::smallint[], $9::bytea[], $10::bytea[], $11::bytea[])
                AS head (stream_id, version, predecessor, event_count, category, slice, type, schema, metadata, body, fingerprint)
        ), gate AS (
            INSERT INTO event (stream_id, version, batch_id, category, slice, type, schema, metadata, body, fingerprint)
            SELECT stream_id, version, (SELECT id FROM batch), category, slice, type, schema, metadata, body, fingerprint
            FROM head
            WHERE version = 1
               OR (SELECT coalesce(event.batch_id = head.predecessor, true) FROM event
                   WHERE event.stream_id = head.stream_id AND event.version = head.version - 1)
            ON CONFLICT DO NOTHING
            RETURNING stream_id
        ), rest AS (
            INSERT INTO event (stream_id, version, batch_id, category, slice, type, schema, metadata, body, fingerprint)
            SELECT head.stream_id, tail.version, (SELECT id FROM batch), head.category, head.slice,
                   tail.type, tail.schema, tail.metadata, tail.body, head.fingerprint
            FROM unnest($12::uuid[], $13::bigint[], $14::text[], $15::smallint[], $16::bytea[], $17::bytea[])
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
        SELECT stream_id AS "stream_id!", (SELECT id FROM batch) AS "batch_id!" FROM gate
        "#,
        &rows.stream_ids,
        &rows.versions,
        &rows.predecessors as &[Option<i64>],
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
    .fetch_all(connection)
    .await?;
    let batch_id = stored.first().map_or(0, |row| row.batch_id);
    let mut stored: Vec<_> = stored.into_iter().map(|row| row.stream_id).collect();
    stored.sort_unstable();
    let outcome = |append: &Append| match stored.binary_search(&append.stream_id) {
        Ok(_) => Outcome::Stored { batch_id },
        Err(_) => Outcome::Conflict,
    };
    Ok(appends.iter().map(outcome).collect())
}

/// The appends as columns: the first event of each, and the events behind them.
#[derive(Default)]
struct Rows<'a> {
    stream_ids: Vec<Uuid>,
    versions: Vec<i64>,
    predecessors: Vec<Option<i64>>,
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
        self.predecessors.push(append.predecessor);
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
