//! The relay: committed outbox rows out, dense feed positions in.
//!
//! A number drawn while an append runs becomes visible out of order, so positions are given after the commit, behind one
//! lock: the row of `feed_head` is locked FIRST, then rows are taken from the outbox in id order, numbered, and the head is
//! moved, in one transaction. Two relays are therefore safe; one is elected, by an advisory lock, for economy, and the others
//! look after it.
//!
//! Guaranteed: every committed event gets one position, 1..N without hole; a stream's events keep their order; what was
//! acknowledged before another command was sent comes first.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use shared::backoff::Backoff;
use sqlx::postgres::PgListener;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Batches moved in one transaction at most.
const MAX_BATCHES: i64 = 1_000;
/// Pause between two moves: lets appends gather, so that the relay costs a few per cent of them and not a third.
const PACE: Duration = Duration::from_millis(5);
/// How long an idle relay waits for a wake-up before it looks by itself. The wake-up is an optimisation, this is the promise.
const POLL: Duration = Duration::from_millis(250);
/// How often a relay that is not elected tries again.
const CANDIDACY: Duration = Duration::from_secs(1);
/// Age of the oldest outbox row from which on a relay that is not elected moves rows too.
const OVERDUE: Duration = Duration::from_secs(1);
/// Key of the advisory lock by which one relay is elected; any constant will do.
const ELECTION: i64 = 0x6f72_6465_7273_0001;
/// Wakes the elected relay when another copy of the service has appended.
const APPENDED: &str = "order_appended";
/// Wakes the tail readers of every copy when the feed has grown; says its new head.
pub const FEED_GREW: &str = "order_feed_grew";

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many events were given their place; there may be more.
    Moved {
        /// Number of events.
        events: i64,
        /// The new head.
        head: i64,
    },
    /// The outbox was empty.
    Done,
}

/// Moves the outbox into the feed.
pub struct Relay {
    pool: PgPool,
    /// Notified after each append of this copy.
    appended: Arc<Notify>,
}

impl Relay {
    /// A relay over this database; `appended` wakes it.
    #[must_use]
    pub fn new(pool: PgPool, appended: Arc<Notify>) -> Self {
        Self { pool, appended }
    }

    /// Moves what is committed now, at most so many batches at once.
    ///
    /// # Errors
    /// Where the database does not answer: the step happened whole or not at all, and is safe to repeat.
    pub async fn step(&self) -> Result<Step, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let step = step(&mut connection).await;
        if step.is_err() {
            // It may be left inside of a transaction.
            connection.close_on_drop();
        }
        step
    }

    /// Runs until `draining`, then moves what is left and returns. Survives the loss of the database.
    pub async fn run(self, draining: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let begun = tokio::time::Instant::now();
            let outcome = tokio::select! {
                outcome = self.term() => outcome,
                () = draining.cancelled() => break,
            };
            if let Err(error) = outcome {
                tracing::warn!(error = %error, "relay lost its database connection");
            }
            if begun.elapsed() > CANDIDACY {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = draining.cancelled() => break,
            }
        }
        // Whoever stops last leaves an empty outbox, if the database lets it.
        while let Ok(Step::Moved { .. }) = self.step().await {}
    }

    /// One connection's time: a candidate, then the elected one.
    async fn term(&self) -> Result<(), sqlx::Error> {
        let mut session = self.pool.acquire().await?.detach();
        let outcome = match self.stand(&mut session).await {
            Ok(()) => self.relay(&mut session).await,
            Err(error) => Err(error),
        };
        session.close().await.ok();
        outcome
    }

    /// Waits to be elected. Meanwhile passes this copy's wake-ups on to whoever is, and does the elected relay's work where that
    /// one stands still: a paused process keeps its session, and with it the election, for as long as it is paused. The lock
    /// of the head makes it safe to move rows without being elected; a holder that was paused within a move loses it when
    /// PostgreSQL ends its idle transaction.
    async fn stand(&self, session: &mut PgConnection) -> Result<(), sqlx::Error> {
        loop {
            let standing = sqlx::query!(
                r#"
                SELECT pg_try_advisory_lock($1) AS "elected!",
                       coalesce((SELECT appended_at FROM outbox ORDER BY id LIMIT 1) < now() - make_interval(secs => $2), false)
                           AS "overdue!"
                "#,
                ELECTION,
                OVERDUE.as_secs_f64(),
            )
            .fetch_one(&mut *session)
            .await?;
            if standing.elected {
                tracing::info!("relay elected");
                return Ok(());
            }
            if standing.overdue {
                while let Step::Moved { events, head } = step(session).await? {
                    tracing::warn!(
                        events,
                        feed.position = head,
                        "the elected relay stands still, moved its rows"
                    );
                }
            }
            let next_try = tokio::time::Instant::now() + CANDIDACY;
            while tokio::time::timeout_at(next_try, self.appended.notified()).await.is_ok() {
                sqlx::query!("SELECT pg_notify($1, '')", APPENDED).execute(&mut *session).await?;
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// Moves on the connection that holds the election: one from the pool would cost each move a round trip more, and who loses
    /// it is no longer elected.
    async fn relay(&self, session: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut elsewhere = PgListener::connect_with(&self.pool).await?;
        elsewhere.listen(APPENDED).await?;
        loop {
            while let Step::Moved { .. } = step(session).await? {
                tokio::time::sleep(PACE).await;
            }
            tokio::select! {
                () = self.appended.notified() => {}
                notification = elsewhere.recv() => {
                    notification?;
                }
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}

/// Moves what is committed now: three round trips.
async fn step(connection: &mut PgConnection) -> Result<Step, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN; SELECT FROM feed_head FOR UPDATE").await?;
    // A statement of its own: its snapshot is taken behind the lock and sees all that the last holder moved. The wake-up is here
    // and nowhere else: one per move, not one per append.
    let moved = sqlx::query!(
        r#"
        WITH taken AS (
            DELETE FROM outbox
            WHERE id <= (SELECT max(id) FROM (SELECT id FROM outbox ORDER BY id LIMIT $1) AS oldest)
            RETURNING id, stream_ids, first_versions, counts, event_count
        ), placed AS (
            INSERT INTO feed (position, batch_id, stream_ids, first_versions, counts, event_count)
            SELECT (SELECT position FROM feed_head) + sum(event_count) OVER (ORDER BY id),
                   id, stream_ids, first_versions, counts, event_count
            FROM taken
            RETURNING position, event_count
        )
        UPDATE feed_head SET position = moved.head
        FROM (SELECT max(position) AS head, sum(event_count) AS events FROM placed HAVING count(*) > 0) AS moved
        RETURNING moved.head AS "head!", moved.events AS "events!", pg_notify($2, moved.head::text) AS "told!"
        "#,
        MAX_BATCHES,
        FEED_GREW,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(moved) = moved else {
        transaction.rollback().await?;
        return Ok(Step::Done);
    };
    shared::crash::point("relay.moved");
    transaction.commit().await?;
    shared::crash::point("relay.committed");
    counter!("relay_events_total").increment(moved.events.unsigned_abs());
    histogram!("relay_batch_events").record(f64::from(i32::try_from(moved.events).unwrap_or(i32::MAX)));
    Ok(Step::Moved { events: moved.events, head: moved.head })
}
