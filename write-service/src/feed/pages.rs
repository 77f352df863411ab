//! SQL of the feed: events after a position, in order, and where the feed ends.

use futures_util::{Stream, TryStreamExt as _};
use proto::v1::RecordedEvent;
use sqlx::PgPool;
use uuid::Uuid;

use super::Filter;
use crate::codec::{self, StoredEvent};

/// Feed rows read at once at most. A row holds one append batch, so a page holds as many events as these batches: the limit
/// is on both.
const MAX_ROWS: i64 = 256;

/// Reads the feed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pages {
    pool: PgPool,
}

/// Events after a position.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    /// In position order; only those that were asked for.
    pub events: Vec<FeedEvent>,
    /// Every event up to here was looked at; the position asked for where there is nothing after it.
    pub through: i64,
}

/// An event with what a filter looks at.
#[derive(Clone, Debug)]
pub(super) struct FeedEvent {
    pub slice: i16,
    pub category: i16,
    pub recorded: RecordedEvent,
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

    /// The next events after `position` that `filter` accepts, some of the page size.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub(super) async fn after(&self, position: i64, filter: &Filter) -> Result<Page, sqlx::Error> {
        // First the rows of the feed, up to a page of events; then their events, each batch by primary key. Bytes of events that
        // are not asked for stay in the database, while their positions still count.
        let mut rows = sqlx::query!(
            r#"
            SELECT feed_row.position - feed_row.event_count + append.before + event.version - append.first_version + 1
                       AS "position!",
                   event.stream_id, event.version, event.slice, event.category, event.type AS type_name, event.schema,
                   CASE WHEN wanted.yes THEN event.metadata END AS metadata,
                   CASE WHEN wanted.yes THEN event.body END AS body
            FROM (
                SELECT position, event_count, stream_ids, first_versions, counts
                FROM (
                    SELECT position, event_count, stream_ids, first_versions, counts,
                           sum(event_count) OVER (ORDER BY position) - event_count AS events_before
                    FROM (
                        SELECT position, event_count, stream_ids, first_versions, counts FROM feed
                        WHERE position > $1 ORDER BY position LIMIT $2
                    ) AS next
                ) AS counted
                WHERE events_before < $3
                OFFSET 0
            ) AS feed_row
            CROSS JOIN LATERAL (
                SELECT stream_id, first_version, count, sum(count) OVER (ORDER BY place) - count AS before
                FROM unnest(feed_row.stream_ids, feed_row.first_versions, feed_row.counts) WITH ORDINALITY
                    AS append (stream_id, first_version, count, place)
                OFFSET 0
            ) AS append
            CROSS JOIN LATERAL (
                SELECT stream_id, version, slice, category, type, schema, metadata, body FROM event
                WHERE event.stream_id = append.stream_id
                  AND event.version >= append.first_version AND event.version < append.first_version + append.count
                OFFSET 0
            ) AS event
            CROSS JOIN LATERAL (
                SELECT event.slice BETWEEN $4 AND $5 AND (cardinality($6::smallint[]) = 0 OR event.category = ANY ($6)) AS yes
            ) AS wanted
            ORDER BY 1
            "#,
            position,
            MAX_ROWS,
            i64::try_from(super::PAGE).unwrap_or(i64::MAX),
            filter.slices.start(),
            filter.slices.end(),
            &filter.categories,
        )
        .fetch(&self.pool);
        let mut page = Page { events: Vec::new(), through: position };
        while let Some(row) = rows.try_next().await? {
            // The first row may begin at or before the position.
            if row.position <= position {
                continue;
            }
            page.through = row.position;
            let (Some(metadata), Some(body)) = (row.metadata, row.body) else {
                continue;
            };
            let stored = StoredEvent { type_name: row.type_name, schema: row.schema, metadata, body };
            let mut recorded =
                codec::decode_or_envelope(&stored, row.category.into(), row.stream_id, row.version);
            recorded.position = row.position;
            page.events.push(FeedEvent { slice: row.slice, category: row.category, recorded });
        }
        Ok(page)
    }

    /// Streams that `filter` accepts, estimated from the planner's statistics.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub(super) async fn estimated_streams(&self, filter: &Filter) -> Result<i64, sqlx::Error> {
        let streams = sqlx::query_scalar!(
            r#"
            SELECT CASE WHEN n_distinct < 0 THEN -n_distinct * reltuples ELSE n_distinct END::float8 AS "streams"
            FROM pg_stats JOIN pg_class ON pg_class.oid = 'event'::regclass
            WHERE tablename = 'event' AND attname = 'stream_id' AND schemaname = current_schema()
            "#
        )
        .fetch_optional(&self.pool)
        .await?
        .flatten()
        .unwrap_or(0.0);
        let share =
            f64::from(filter.slices.end() - filter.slices.start() + 1) / f64::from(proto::slice::COUNT);
        #[expect(clippy::cast_possible_truncation, reason = "an estimate")]
        let estimate = (streams * share).max(0.0) as i64;
        Ok(estimate)
    }

    /// Every event that `filter` accepts, of streams after `after`, stream by stream: one statement, one snapshot.
    pub(super) fn by_stream(
        &self,
        filter: Filter,
        after: Option<Uuid>,
    ) -> impl Stream<Item = Result<(Uuid, RecordedEvent), sqlx::Error>> + Send + use<> {
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
                yield (
                    row.stream_id,
                    codec::decode_or_envelope(&stored, row.category.into(), row.stream_id, row.version),
                );
            }
        }
    }
}
