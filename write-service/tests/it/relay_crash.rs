//! The service killed at every point of a relay's move: what follows is dense, in order, and whole.

use proto::v1::subscribe_response::Message;
use proto::v1::*;
use sqlx::{Connection as _, PgConnection, PgPool};
use tonic::Streaming;
use uuid::Uuid;
use write_service::event_store::{EventStore, Outcome};

use crate::event_store::append;
use crate::outbox::{assert_dense, published};
use crate::process::WriteService;
use crate::support::{PATIENCE, database, until};

const ROUNDS: i64 = 5;
/// Events appended in each round.
const EVENTS: i64 = 3 * (1 + 2 + 3);

/// Where a move is under way inside its statement: waiting before the first row that it writes to this table.
const HOLD: [(&str, &str); 3] = [
    ("outbox", "CREATE TRIGGER hold BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION hold()"),
    ("feed", "CREATE TRIGGER hold BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION hold()"),
    ("feed_head", "CREATE TRIGGER hold BEFORE UPDATE ON feed_head FOR EACH ROW EXECUTE FUNCTION hold()"),
];

/// Holds every move of a database at one of these places while it is locked.
pub struct Barrier {
    holder: PgConnection,
    pool: PgPool,
}

impl Barrier {
    /// Before the first row that a move writes to this table: `outbox` is after the lock of the head, `feed` after the
    /// deletes, `feed_head` after the inserts.
    pub async fn before(table: &str, database_url: &str, pool: &PgPool) -> Self {
        sqlx::raw_sql(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM pg_advisory_lock_shared(1);
                 PERFORM pg_advisory_unlock_shared(1);
                 IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
             END $$",
        )
        .execute(pool)
        .await
        .unwrap();
        let (_, trigger) = HOLD.iter().find(|(name, _)| *name == table).unwrap();
        sqlx::raw_sql(*trigger).execute(pool).await.unwrap();
        Self { holder: PgConnection::connect(database_url).await.unwrap(), pool: pool.clone() }
    }

    pub async fn close(&mut self) {
        sqlx::query("SELECT pg_advisory_lock(1)").execute(&mut self.holder).await.unwrap();
    }

    /// Waits until a move stands at the barrier.
    pub async fn reached(&self) {
        until("a move reaches the barrier", async || {
            let waits: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_stat_activity
                                WHERE datname = current_database() AND application_name = 'write-service'
                                  AND wait_event_type = 'Lock' AND wait_event = 'advisory')",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap();
            waits.then_some(())
        })
        .await;
    }

    pub async fn open(&mut self) {
        sqlx::query("SELECT pg_advisory_unlock(1)").execute(&mut self.holder).await.unwrap();
    }
}

/// A consumer of the feed that keeps its own position over every crash.
#[derive(Default)]
struct Consumer {
    position: i64,
    got: Vec<(i64, Uuid, i64)>,
}

impl Consumer {
    /// Subscribes after the own position and takes everything up to the head.
    async fn subscribe(&mut self, service: &WriteService) -> Streaming<SubscribeResponse> {
        let request = SubscribeRequest { after_position: self.position, ..Default::default() };
        let mut answers = service.feed().subscribe(request).await.unwrap().into_inner();
        while !matches!(self.take(&mut answers).await, Some(Message::CaughtUp(_))) {}
        answers
    }

    /// Takes what comes until the subscription breaks.
    async fn drain(&mut self, mut answers: Streaming<SubscribeResponse>) {
        while self.take(&mut answers).await.is_some() {}
    }

    async fn take(&mut self, answers: &mut Streaming<SubscribeResponse>) -> Option<Message> {
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer in time");
        let message = answer.ok()??.message?;
        if let Message::Batch(batch) = &message {
            for event in &batch.events {
                assert_eq!(event.position, self.position + 1, "nothing skipped, nothing twice");
                self.position = event.position;
                self.got.push((event.position, event.stream_key.parse().unwrap(), event.version));
            }
        }
        Some(message)
    }
}

/// Three batches onto the same streams, none of them published yet.
async fn append_round(store: &EventStore, streams: &[Uuid; 3], round: i64) {
    let mut writer = store.writer();
    for batch in 0..3 {
        let appends: Vec<_> = (1..)
            .zip(streams)
            .map(|(count, stream)| append(*stream, (3 * round + batch) * count, count))
            .collect();
        let outcomes = writer.append(&appends).await.unwrap();
        assert!(matches!(
            outcomes[..],
            [Outcome::Stored { .. }, Outcome::Stored { .. }, Outcome::Stored { .. }]
        ));
    }
}

/// Where the service is killed.
enum Place {
    /// At the barrier before this table.
    Barrier(&'static str),
    /// At this crash point.
    Point(&'static str),
}

async fn killed(place: Place) {
    let (database, pool) = database().await;
    let store = EventStore::new(pool.clone());
    let mut streams = std::array::from_fn(|_| Uuid::now_v7());
    streams.sort_unstable();
    let mut consumer = Consumer::default();
    let mut barrier = match place {
        Place::Barrier(table) => Some(Barrier::before(table, &database.url, &pool).await),
        Place::Point(_) => None,
    };
    for round in 0..ROUNDS {
        let mut dying = match place {
            Place::Barrier(_) => WriteService::start(&database.url).await,
            Place::Point(point) => WriteService::dying_at(point, &database.url).await,
        };
        if let Some(barrier) = &mut barrier {
            barrier.close().await;
        }
        let answers = consumer.subscribe(&dying).await;
        append_round(&store, &streams, round).await;
        if let Some(barrier) = &mut barrier {
            barrier.reached().await;
            dying.kill().await;
            barrier.open().await;
        } else {
            dying.died().await;
        }
        consumer.drain(answers).await;
        if !matches!(place, Place::Point("relay.committed")) {
            assert_eq!(consumer.position, round * EVENTS, "nothing is sent before the move is committed");
        }

        let mut restarted = WriteService::start(&database.url).await;
        let mut answers = consumer.subscribe(&restarted).await;
        while consumer.position < (round + 1) * EVENTS {
            consumer.take(&mut answers).await.unwrap();
        }
        restarted.kill().await;
        consumer.drain(answers).await;
    }
    let published = published(&pool).await;
    assert_dense(&published, usize::try_from(ROUNDS * EVENTS).unwrap());
    assert_eq!(consumer.got, published);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn killed_after_the_lock_of_the_head() {
    killed(Place::Barrier("outbox")).await;
}

#[tokio::test]
async fn killed_after_the_deletes() {
    killed(Place::Barrier("feed")).await;
}

#[tokio::test]
async fn killed_after_the_inserts() {
    killed(Place::Barrier("feed_head")).await;
}

#[tokio::test]
async fn killed_before_the_commit() {
    killed(Place::Point("relay.moved")).await;
}

#[tokio::test]
async fn killed_after_the_commit() {
    killed(Place::Point("relay.committed")).await;
}
