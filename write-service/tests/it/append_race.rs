//! The append statement raced for a minute: no twin, no hole, every append whole or absent, and all of it published.
//!
//! The minute is long; named so, the test begins among the first and the others run beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use write_service::event_store::{Append, EventStore, Outcome, StoreError, Writer};
use write_service::outbox::Relay;

use crate::event_store::append;
use crate::outbox::{assert_dense, published};
use crate::support::database;

const MINUTE: Duration = Duration::from_mins(1);
const STREAMS: usize = 150;
const BATCHERS: u64 = 3;
/// Appends in a batch at most; each has one to four events.
const APPENDS: usize = 100;
/// Pause between two blows against the batcher whose backend is killed.
const BLOW: Duration = Duration::from_millis(200);
const VICTIM: &str = "victim";

/// A small generator of its own for each batcher: a race must not depend on luck shared between the racers.
struct Luck(u64);

impl Luck {
    fn new(batcher: u64) -> Self {
        Self(batcher.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

/// An append that was sent.
struct Attempt {
    stream_id: Uuid,
    expected_version: i64,
    count: i64,
    /// `None` where the backend died under it.
    outcome: Option<Outcome>,
}

fn is_stored(outcome: Option<Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Stored { .. }))
}

struct Batcher {
    store: EventStore,
    writer: Writer,
    luck: Luck,
    /// Sorted, and the version that each is believed to have.
    streams: Vec<(Uuid, i64)>,
    /// By the mark that its events carry.
    attempts: HashMap<Uuid, Attempt>,
}

impl Batcher {
    async fn race(mut self, end: Instant) -> HashMap<Uuid, Attempt> {
        while Instant::now() < end {
            let batch = self.batch();
            let appends: Vec<_> = batch.iter().map(|(_, append)| append.clone()).collect();
            let outcomes = match self.writer.append(&appends).await {
                Ok(outcomes) => outcomes.into_iter().map(Some).collect(),
                Err(StoreError::Down(error)) => {
                    assert!(killed(&error), "{error}");
                    vec![None; batch.len()]
                }
                Err(error) => panic!("{error}"),
            };
            for ((place, append), outcome) in batch.into_iter().zip(outcomes) {
                let Append { stream_id, expected_version, fingerprint, events, .. } = append;
                let count = i64::try_from(events.len()).unwrap();
                if is_stored(outcome) {
                    self.streams[place].1 = expected_version + count;
                }
                let attempt = Attempt { stream_id, expected_version, count, outcome };
                self.attempts.insert(Uuid::from_bytes(fingerprint.unwrap()), attempt);
            }
            self.look().await;
        }
        self.attempts
    }

    /// One to a hundred appends to different streams, sorted; every fifth one after a wrong version.
    fn batch(&mut self) -> Vec<(usize, Append)> {
        let size = 1 + self.luck.below(APPENDS);
        let mut places: Vec<_> = (0..STREAMS).collect();
        for i in 0..size {
            let other = i + self.luck.below(STREAMS - i);
            places.swap(i, other);
        }
        places.truncate(size);
        places.sort_unstable();
        let to_append = |place: usize| {
            let (stream_id, version) = self.streams[place];
            let wrong = [version + 1, version - 1, 0][self.luck.below(3)].max(0);
            let expected_version = if self.luck.below(5) == 0 { wrong } else { version };
            let count = i64::try_from(1 + self.luck.below(4)).unwrap();
            let mark = Some(Uuid::now_v7().into_bytes());
            (place, Append { fingerprint: mark, ..append(stream_id, expected_version, count) })
        };
        places.into_iter().map(to_append).collect()
    }

    /// Looks at what the others have stored.
    async fn look(&mut self) {
        let ids: Vec<_> = self.streams.iter().map(|(id, _)| *id).collect();
        // The victim's backend may be killed while it looks; it looks again after the next batch.
        let Ok(last) = self.store.read_last(&ids).await else { return };
        for (stream_id, event) in last {
            let place = self.streams.binary_search_by_key(&stream_id, |(id, _)| *id).unwrap();
            self.streams[place].1 = event.version;
        }
    }
}

/// Whether this is how a statement ends whose backend is terminated.
fn killed(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().as_deref() == Some("57P01"),
        sqlx::Error::Io(_) => true,
        _ => false,
    }
}

/// Terminates the victim's backend now and then while it works.
async fn strike(mut connection: PgConnection, end: Instant) {
    let mut blows = tokio::time::interval(BLOW);
    while Instant::now() < end {
        blows.tick().await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = $1 AND state = 'active'",
        )
        .bind(VICTIM)
        .execute(&mut connection)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn batchers_race_for_a_minute_and_leave_no_twin_no_hole_and_no_half_append() {
    let (database, pool) = database().await;
    let end = Instant::now() + MINUTE;
    let mut streams: Vec<_> = (0..STREAMS).map(|_| (Uuid::now_v7(), 0)).collect();
    streams.sort_unstable();
    let batcher = |number: u64, pool: PgPool| {
        let store = EventStore::new(pool);
        Batcher {
            writer: store.writer(),
            store,
            luck: Luck::new(number),
            streams: streams.clone(),
            attempts: HashMap::new(),
        }
    };
    let stop = CancellationToken::new();
    let relaying = tokio::spawn(Relay::new(pool.clone(), Arc::new(Notify::new())).run(stop.clone()));
    let options: PgConnectOptions = database.url.parse().unwrap();
    let victims = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.application_name(VICTIM));
    let victim = tokio::spawn(batcher(0, victims).race(end));
    let racing: Vec<_> =
        (1..=BATCHERS).map(|number| tokio::spawn(batcher(number, pool.clone()).race(end))).collect();
    strike(PgConnection::connect(&database.url).await.unwrap(), end).await;

    let struck = victim.await.unwrap();
    let unknown = struck.values().filter(|attempt| attempt.outcome.is_none()).count();
    assert!(unknown > 0, "no blow hit an append");
    let mut attempts = struck;
    for batcher in racing {
        let others = batcher.await.unwrap();
        assert!(others.values().all(|attempt| attempt.outcome.is_some()), "only the victim was struck");
        attempts.extend(others);
    }
    stop.cancel();
    relaying.await.unwrap();

    let stored = stored(&pool).await;
    for (mark, attempt) in &attempts {
        let Attempt { stream_id, expected_version, count, outcome } = attempt;
        let whole = (*stream_id, expected_version + 1, expected_version + count, *count);
        match outcome {
            Some(Outcome::Stored { .. }) => assert_eq!(stored.get(mark), Some(&whole)),
            Some(Outcome::Conflict) => assert_eq!(stored.get(mark), None),
            None => assert!(stored.get(mark).is_none_or(|found| *found == whole)),
        }
    }
    assert!(stored.keys().all(|mark| attempts.contains_key(mark)));
    let won = attempts.values().filter(|attempt| is_stored(attempt.outcome)).count();
    assert!(won > 0 && won + unknown < attempts.len(), "some were stored and some were refused");

    // The streams are dense and all of them are in the feed.
    let events = stored.values().map(|(_, _, _, count)| count).sum::<i64>();
    assert_dense(&published(&pool).await, usize::try_from(events).unwrap());
    let (announced, deadlocks): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM outbox), deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((announced, deadlocks), (0, 0));
}

/// What is stored of each append, by its mark: stream, first and last version, number of events.
async fn stored(pool: &PgPool) -> HashMap<Uuid, (Uuid, i64, i64, i64)> {
    let rows: Vec<(Uuid, Uuid, i64, i64, i64)> = sqlx::query_as(
        "SELECT encode(fingerprint, 'hex')::uuid, stream_id, min(version), max(version), count(*)
         FROM event GROUP BY fingerprint, stream_id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let found = rows.len();
    let stored: HashMap<_, _> = rows
        .into_iter()
        .map(|(mark, stream, first, last, count)| (mark, (stream, first, last, count)))
        .collect();
    assert_eq!(stored.len(), found, "an append has one stream");
    stored
}
