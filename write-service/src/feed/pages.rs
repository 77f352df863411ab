//! SQL of the feed: events after a position, in order, and where the feed ends.

use std::collections::HashMap;
use std::ops::Range;

use futures_util::{Stream, TryStreamExt as _};
use sqlx::{PgConnection, PgExecutor, PgPool};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::events::Events;
use super::{Filter, PAGE};
use crate::codec::{self, Published, StoredEvent};

/// Events whose feed rows are read at once on a long way: the rows are small, and what follows from them is read page by page.
const ROWS_AHEAD: usize = 16 * PAGE;

/// Blocks of the table, 8 kB each, from which the number of streams is estimated: some 50,000 events.
const SAMPLE_BLOCKS: f64 = 2_000.0;

/// Reads the feed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages {
    pool: PgPool,
}

/// Events after a position.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// In position order; only those that were asked for.
    pub events: Events,
    /// Every event up to here was looked at; the position asked for where there is nothing after it.
    pub through: i64,
}

/// Where the feed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Position of the last event, 0 where there is none.
    pub position: i64,
    /// Changes when the store is created anew.
    pub store_id: Uuid,
}

/// What is stored and not yet in the feed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlog {
    /// Number of events.
    pub events: i64,
    /// Age of the oldest, 0 where there is none.
    pub oldest_seconds: f64,
}

/// A row of the feed: the appends of a batch, side by side.
struct FeedRow {
    /// Of its last event.
    position: i64,
    batch_id: i64,
    event_count: i32,
    stream_ids: Vec<Uuid>,
    first_versions: Vec<i64>,
    counts: Vec<i32>,
}

/// Where the events of a batch stand in the feed: by stream, the versions of its append and the position of the first.
struct Places(Vec<(Uuid, Range<i64>, i64)>);

impl FeedRow {
    /// The position before its first event.
    fn after(&self) -> i64 {
        self.position - i64::from(self.event_count)
    }

    fn places(&self) -> Places {
        let mut position = self.after() + 1;
        let counts = self.counts.iter().map(|count| i64::from(*count));
        let appends = self.stream_ids.iter().zip(&self.first_versions).zip(counts);
        let places = appends.map(|((stream_id, first), count)| {
            let place = (*stream_id, *first..first + count, position);
            position += count;
            place
        });
        let mut places: Vec<_> = places.collect();
        places.sort_unstable_by_key(|(stream_id, ..)| *stream_id);
        Places(places)
    }
}

impl Places {
    /// The position of an event; `None` where the batch did not announce it.
    fn of(&self, stream_id: Uuid, version: i64) -> Option<i64> {
        let index = self.0.binary_search_by_key(&stream_id, |(stream_id, ..)| *stream_id).ok()?;
        let (_, versions, position) = self.0.get(index)?;
        versions.contains(&version).then(|| position + version - versions.start)
    }
}

impl Pages {
    /// The feed in this database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Where the feed ends.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn head(&self) -> Result<Head, sqlx::Error> {
        let row = sqlx::query!("SELECT feed_head.position, store.store_id FROM feed_head CROSS JOIN store")
            .fetch_one(&self.pool)
            .await?;
        Ok(Head { position: row.position, store_id: row.store_id })
    }

    /// Where the feed ends and what awaits its position, of one moment.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn head_and_backlog(&self) -> Result<(Head, Backlog), sqlx::Error> {
        // One statement, one snapshot: an empty backlog means that everything stored before lies below the head.
        let row = sqlx::query!(
            r#"
            SELECT feed_head.position, store.store_id, backlog.events AS "events!", backlog.oldest_seconds AS "oldest_seconds!"
            FROM feed_head CROSS JOIN store CROSS JOIN (
                SELECT coalesce(sum(event_count), 0)::bigint AS events,
                       coalesce(extract(epoch FROM now() - min(appended_at)), 0)::float8 AS oldest_seconds
                FROM outbox
            ) AS backlog
            "#
        )
        .fetch_one(&self.pool)
        .await?;
        let head = Head { position: row.position, store_id: row.store_id };
        Ok((head, Backlog { events: row.events, oldest_seconds: row.oldest_seconds.max(0.0) }))
    }

    /// Page after page of the events after `position` that `filter` accepts, until there is nothing more or the receiver is dropped.
    ///
    /// It reads beside the caller, so that the next page is on its way while one is sent, and outside of the caller's span, which
    /// would be entered anew for every row.
    pub(super) fn read_on(
        &self,
        position: i64,
        filter: &Filter,
    ) -> mpsc::Receiver<Result<Page, sqlx::Error>> {
        let (pages, filter) = (self.clone(), filter.clone());
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            if let Err(error) = pages.send_all(position, &filter, &sender).await {
                sender.send(Err(error)).await.ok();
            }
        });
        receiver
    }

    async fn send_all(
        &self,
        mut position: i64,
        filter: &Filter,
        sender: &mpsc::Sender<Result<Page, sqlx::Error>>,
    ) -> Result<(), sqlx::Error> {
        loop {
            let rows = rows_after(&self.pool, position, ROWS_AHEAD).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut rows = rows.as_slice();
            while let Some(first) = rows.first() {
                let end = first.after() + i64::try_from(PAGE).unwrap_or(i64::MAX);
                let (now, later) = rows.split_at(rows.partition_point(|row| row.position <= end).max(1));
                rows = later;
                let page = events_of(&self.pool, now, position, filter).await?;
                position = page.through;
                if sender.send(Ok(page)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Streams that `filter` accepts: counted while there are few, beyond that estimated from a random part of the table.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub(super) async fn estimated_streams(&self, filter: &Filter) -> Result<i64, sqlx::Error> {
        let counted = sqlx::query!(
            r#"
            SELECT part.percent AS "percent!", streams.count AS "count!"
            FROM (
                SELECT least(100, 100 * $1::float8 * current_setting('block_size')::float8
                             / greatest(1, pg_relation_size('event')))::real AS percent
            ) AS part
            CROSS JOIN LATERAL (
                SELECT count(*) FROM event TABLESAMPLE SYSTEM (part.percent)
                WHERE version = 1
                  AND slice BETWEEN $2 AND $3 AND (cardinality($4::smallint[]) = 0 OR category = ANY ($4))
            ) AS streams
            "#,
            SAMPLE_BLOCKS,
            *filter.slices.start(),
            *filter.slices.end(),
            &filter.categories,
        )
        .fetch_one(&self.pool)
        .await?;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "an estimate")]
        let estimate = (counted.count as f64 * 100.0 / f64::from(counted.percent)).round() as i64;
        Ok(estimate)
    }

    /// Every event that `filter` accepts, of streams after `after`, stream by stream: one statement, one snapshot.
    pub(super) fn by_stream(
        &self,
        filter: Filter,
        after: Option<Uuid>,
    ) -> impl Stream<Item = Result<(Uuid, Published), sqlx::Error>> + Send + use<> {
        let pool = self.pool.clone();
        async_stream::try_stream! {
            let mut rows = sqlx::query!(
                r#"
                SELECT stream_id, version, category, type AS type_name, schema, metadata, body FROM event
                WHERE ($1::uuid IS NULL OR stream_id > $1)
                  AND slice BETWEEN $2 AND $3 AND (cardinality($4::smallint[]) = 0 OR category = ANY ($4))
                ORDER BY stream_id, version
                "#,
                after,
                *filter.slices.start(),
                *filter.slices.end(),
                &filter.categories,
            )
            .fetch(&pool);
            while let Some(row) = rows.try_next().await? {
                let stored =
                    StoredEvent { type_name: row.type_name, schema: row.schema, metadata: row.metadata, body: row.body };
                yield (row.stream_id, codec::publish(stored, row.category.into(), row.stream_id, row.version));
            }
        }
    }
}

/// The next events after `position` that `filter` accepts, some of the page size.
///
/// # Errors
/// Where the database does not answer.
pub(super) async fn after(
    connection: &mut PgConnection,
    position: i64,
    filter: &Filter,
) -> Result<Page, sqlx::Error> {
    let rows = rows_after(&mut *connection, position, PAGE).await?;
    events_of(connection, &rows, position, filter).await
}

/// The feed's rows after `position` that end within so many events, at least one where there is one.
async fn rows_after(
    database: impl PgExecutor<'_>,
    position: i64,
    events: usize,
) -> Result<Vec<FeedRow>, sqlx::Error> {
    sqlx::query_as!(
        FeedRow,
        r#"
        SELECT position, batch_id, event_count, stream_ids, first_versions, counts FROM feed
        WHERE position > $1 AND position <= greatest($1 + $2, (SELECT min(position) FROM feed WHERE position > $1))
        ORDER BY position
        "#,
        position,
        i64::try_from(events).unwrap_or(i64::MAX),
    )
    .fetch_all(database)
    .await
}

/// The events of these rows beyond `position` that `filter` accepts.
async fn events_of(
    database: impl PgExecutor<'_>,
    rows: &[FeedRow],
    position: i64,
    filter: &Filter,
) -> Result<Page, sqlx::Error> {
    let mut page = Page { events: Events::default(), through: position };
    let Some(last) = rows.last() else { return Ok(page) };
    page.through = last.position;
    let places: HashMap<_, _> = rows.iter().map(|row| (row.batch_id, row.places())).collect();
    let batch_ids: Vec<_> = rows.iter().map(|row| row.batch_id).collect();
    // Batch by batch, each in a subquery of its own: for all at once, a plan made while the table was empty reads the whole of
    // it. What is not asked for stays in the database.
    let mut events = sqlx::query!(
        r#"
        SELECT event.batch_id, event.stream_id, event.version, event.slice, event.category, event.type AS type_name,
               event.schema, event.metadata, event.body
        FROM unnest($1::bigint[]) AS batch (id)
        CROSS JOIN LATERAL (
            SELECT batch_id, stream_id, version, slice, category, type, schema, metadata, body FROM event
            WHERE batch_id = batch.id
              AND slice BETWEEN $2 AND $3 AND (cardinality($4::smallint[]) = 0 OR category = ANY ($4))
            OFFSET 0
        ) AS event
        "#,
        &batch_ids,
        filter.slices.start(),
        filter.slices.end(),
        &filter.categories,
    )
    .fetch(database);
    // One by one: thousands of small parts that are held at a time and dropped together keep the allocator busy.
    while let Some(event) = events.try_next().await? {
        let place = places.get(&event.batch_id).and_then(|places| places.of(event.stream_id, event.version));
        // The first row may begin at or before the position.
        let Some(place) = place.filter(|place| *place > position) else { continue };
        let (stream_id, version) = (event.stream_id, event.version);
        let stored = StoredEvent {
            type_name: event.type_name,
            schema: event.schema,
            metadata: event.metadata,
            body: event.body,
        };
        let published = codec::publish(stored, event.category.into(), stream_id, version);
        page.events.push(place, event.slice, event.category, &published);
    }
    page.events.sort();
    Ok(page)
}
