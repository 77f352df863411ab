//! What subscribers cost: those that have caught up share one reader, so the database does not see how many they are.

use futures_util::future::join_all;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::subscribe_response::Message;
use proto::v1::*;
use tonic::Streaming;

use crate::support::{PATIENCE, World, connect, serve_at, until};

const ROUNDS: i64 = 30;
/// Drafts of two events, fewer in a round than the ring has pages.
const DRAFTS: i64 = 8;

struct Subscriber {
    answers: Streaming<SubscribeResponse>,
    position: i64,
}

impl Subscriber {
    /// Takes every event up to this position.
    async fn reach(&mut self, position: i64) {
        while self.position < position {
            match self.next().await {
                Message::Batch(batch) => {
                    for event in batch.events {
                        assert_eq!(event.position, self.position + 1);
                        self.position = event.position;
                    }
                }
                Message::FellBehind(_) => {
                    panic!("it fell behind: it reads from the store, which is not measured here")
                }
                Message::CaughtUp(_) | Message::Heartbeat(_) => {}
            }
        }
    }

    async fn next(&mut self) -> Message {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("an answer in time");
        answer.unwrap().unwrap().message.unwrap()
    }
}

/// What the database counted of a service from its start to its end.
#[derive(Debug)]
struct Cost {
    transactions: i64,
    feed_scans: i64,
}

/// What it costs that so many subscribers follow the same stream of appends.
async fn cost_of(subscribers: usize) -> Cost {
    let mut world = World::start().await;
    let head = world.published().await;
    let (address, lifecycle) = serve_at(&world.database.url).await;
    let connections = join_all((0..subscribers.div_ceil(20)).map(|_| connect(address))).await;
    let subscribe = |connection: &tonic::transport::Channel| {
        let mut feed = OrderFeedServiceClient::new(connection.clone());
        async move {
            let request = SubscribeRequest { after_position: head, ..Default::default() };
            let answers = feed.subscribe(request).await.unwrap().into_inner();
            let mut subscriber = Subscriber { answers, position: head };
            assert_eq!(subscriber.next().await, Message::CaughtUp(CaughtUp { position: head }));
            subscriber
        }
    };
    let mut following = join_all(connections.iter().cycle().take(subscribers).map(subscribe)).await;
    for _ in 0..ROUNDS {
        for _ in 0..DRAFTS {
            world.draft().await;
        }
        let head = world.published().await;
        join_all(following.iter_mut().map(|subscriber| subscriber.reach(head))).await;
    }
    assert!(following.iter().all(|subscriber| subscriber.position == head + ROUNDS * DRAFTS * 2));
    drop(following);

    // A session's counters are complete once it has ended.
    for lifecycle in [&lifecycle, &world.lifecycle] {
        lifecycle.drain();
        tokio::time::timeout(PATIENCE, lifecycle.stopped()).await.expect("it drains in time");
    }
    until("the service's sessions have ended", async || {
        let ended: bool = sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                                WHERE datname = current_database() AND application_name LIKE 'write-service%')",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap();
        ended.then_some(())
    })
    .await;
    let (transactions, feed_scans) = sqlx::query_as(
        "SELECT xact_commit, seq_scan + idx_scan FROM pg_stat_database, pg_stat_user_tables
         WHERE datname = current_database() AND relname = 'feed'",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    Cost { transactions, feed_scans }
}

#[tokio::test]
async fn two_hundred_subscribers_cost_the_database_no_more_than_one() {
    const MANY: usize = 200;
    let (one, many) = (cost_of(1).await, cost_of(MANY).await);
    // If each read for itself, it would look once a round or more. Before it has caught up it does: the head, a page, and
    // again while appends overtake it. Half a look a round tells the two apart, however slow the machine.
    let looks = i64::try_from(MANY - 1).unwrap() * ROUNDS / 2;
    assert!(many.feed_scans < one.feed_scans * 3 / 2 + looks, "{one:?}, {many:?}");
    assert!(many.transactions < one.transactions * 3 / 2 + looks, "{one:?}, {many:?}");
}
