//! SQL of the feed: events after a position, in order, and where the feed ends.

use futures_util::{Stream, TryStreamExt as _};
use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::Filter;
use super::events::Events;
use crate::codec::{self, Published, StoredEvent};

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

/// A page on its way; the reading ends when this is dropped.
#[derive(Debug)]
pub(super) struct Reading(AbortOnDropHandle<Result<Page, sqlx::Error>>);

impl Reading {
    /// The page.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn page(self) -> Result<Page, sqlx::Error> {
        self.0.await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed))
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

    /// Reads the next events after `position` that `filter` accepts, some of the page size; the reading ends when it is dropped.
    ///
    /// It runs beside the caller, so that the next page is on its way while one is sent, and outside of the caller's span, which
    /// would be entered anew for every row.
    pub(super) fn read_after(&self, position: i64, filter: &Filter) -> Reading {
        let (pages, filter) = (self.clone(), filter.clone());
        Reading(AbortOnDropHandle::new(tokio::spawn(async move { pages.after(position, &filter).await })))
    }

    /// The next events after `position` that `filter` accepts, some of the page size.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub(super) async fn after(&self, position: i64, filter: &Filter) -> Result<Page, sqlx::Error> {
        // The rows of the feed that end within a page, at least one, and their events by primary key, in feed order as a nested loop
        // finds them: sorting in the database, or summing there what stands before each append, takes as long as the rest. An
        // append whose events are lost still counts. Bytes of events that are not asked for stay in the database.
        let rows = sqlx::query!(
            r#"
            SELECT feed_row.position AS last_position, feed_row.event_count, append.place AS "place!", append.count AS "count!",
                   event.version - append.first_version AS "offset?", event.version AS "version?", event.stream_id AS "stream_id?",
                   event.slice AS "slice?", event.category AS "category?", event.type AS "type_name?", event.schema AS "schema?",
                   CASE WHEN wanted THEN event.metadata END AS "metadata?", CASE WHEN wanted THEN event.body END AS "body?"
            FROM (
                SELECT position, event_count, stream_ids, first_versions, counts FROM feed
                WHERE position > $1 AND position <= greatest($1 + $2, (SELECT min(position) FROM feed WHERE position > $1))
                ORDER BY position
                OFFSET 0
            ) AS feed_row
            CROSS JOIN LATERAL unnest(feed_row.stream_ids, feed_row.first_versions, feed_row.counts) WITH ORDINALITY
                AS append (stream_id, first_version, count, place)
            LEFT JOIN LATERAL (
                SELECT stream_id, version, slice, category, type, schema, metadata, body,
                       slice BETWEEN $3 AND $4 AND (cardinality($5::smallint[]) = 0 OR category = ANY ($5)) AS wanted
                FROM event
                WHERE event.stream_id = append.stream_id
                  AND event.version >= append.first_version AND event.version < append.first_version + append.count
                OFFSET 0
            ) AS event ON true
            "#,
            position,
            i64::try_from(super::PAGE).unwrap_or(i64::MAX),
            filter.slices.start(),
            filter.slices.end(),
            &filter.categories,
        );
        let mut rows = rows.fetch_all(&self.pool).await?;
        // They are: no database promises it, and positions depend on it.
        rows.sort_by_key(|row| (row.last_position, row.place, row.version));
        let mut page = Page { events: Events::default(), through: position };
        let mut place = 0;
        let (mut before_append, mut before_next) = (0, 0);
        for row in rows {
            if row.last_position > page.through {
                page.through = row.last_position;
                (place, before_next) = (0, row.last_position - i64::from(row.event_count));
            }
            if row.place > place {
                place = row.place;
                (before_append, before_next) = (before_next, before_next + i64::from(row.count));
            }
            let (Some(offset), Some(version), Some(stream_id)) = (row.offset, row.version, row.stream_id)
            else {
                continue;
            };
            let (Some(slice), Some(category)) = (row.slice, row.category) else { continue };
            let (Some(type_name), Some(schema)) = (row.type_name, row.schema) else { continue };
            let (Some(metadata), Some(body)) = (row.metadata, row.body) else { continue };
            let event_position = before_append + offset + 1;
            // The first row may begin at or before the position.
            if event_position > position {
                let stored = StoredEvent { type_name, schema, metadata, body };
                let event = codec::publish(stored, category.into(), stream_id, version);
                page.events.push(event_position, slice, category, &event);
            }
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
