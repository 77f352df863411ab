//! The elected relay stands still: another copy publishes, the woken one does no harm, and the backlog is told truly.

use std::time::Duration;

use proto::v1::*;
use tokio::time::Instant;

use crate::outbox::{assert_dense, published};
use crate::process::WriteService;
use crate::relay_crash::Barrier;
use crate::support::{World, create, database, lantern, until};

/// How long PostgreSQL lets a transaction stand idle, as `config` sets it.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// "Within a few seconds".
const SOON: Duration = Duration::from_secs(4);

/// Stores an order through this copy and returns how long its three events took into the feed.
async fn store_and_publish(service: &WriteService) -> Duration {
    service.orders().create_order(create(vec![lantern(1)], true)).await.unwrap();
    let stored = Instant::now();
    until("the order is published", async || {
        let head = service.feed().get_head(GetHeadRequest {}).await.unwrap().into_inner();
        (head.outbox_backlog == 0).then_some(stored.elapsed())
    })
    .await
}

/// Two copies over a store with what an order needs; the first one's relay is elected.
async fn two_copies() -> (local::testing::TestDatabase, sqlx::PgPool, WriteService, WriteService) {
    let (database, pool) = database().await;
    let first = WriteService::start(&database.url).await;
    until("a relay is elected", async || {
        let elected: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
                            WHERE datname = current_database() AND locktype = 'advisory' AND granted)",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        elected.then_some(())
    })
    .await;
    let second = WriteService::start(&database.url).await;
    let mut catalog = first.catalog();
    let customer = PutCustomerRequest { customer_id: "17850".into(), name: "Customer 17850".into() };
    catalog.put_customer(customer).await.unwrap();
    let product = PutProductRequest { product_id: "71053".into(), name: "WHITE METAL LANTERN".into() };
    catalog.put_product(product).await.unwrap();
    (database, pool, first, second)
}

/// Pauses the service at a moment when its relay has no transaction open.
async fn pause_between_moves(service: &WriteService, pool: &sqlx::PgPool) {
    let mut paused = false;
    until("the relay stands between two moves", async || {
        let idle: bool = sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                  AND application_name = 'write-service' AND state <> 'idle')",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        // Looked at while it was paused already: what it had sent has been worked off.
        if paused && idle {
            return Some(());
        }
        if paused {
            service.wake();
        } else {
            service.pause();
        }
        paused = !paused;
        None
    })
    .await;
}

#[tokio::test]
async fn paused_between_two_moves() {
    let (_database, pool, first, second) = two_copies().await;
    let mut events = 2;
    store_and_publish(&first).await;
    pause_between_moves(&first, &pool).await;
    let paused = Instant::now();
    // Time and again, beyond the limit that ends idle transactions.
    while paused.elapsed() < IDLE_LIMIT + Duration::from_secs(1) {
        let took = store_and_publish(&second).await;
        assert!(took < SOON, "published after {took:?}");
        events += 3;
    }
    first.wake();
    for service in [&first, &second, &first] {
        store_and_publish(service).await;
        events += 3;
    }
    assert_dense(&published(&pool).await, events + 3);
}

#[tokio::test]
async fn paused_in_the_middle_of_a_move() {
    let (database, pool, first, second) = two_copies().await;
    store_and_publish(&first).await;
    let mut barrier = Barrier::before("feed_head", &database.url, &pool).await;
    barrier.close().await;
    second.orders().create_order(create(vec![lantern(1)], true)).await.unwrap();
    barrier.reached().await;
    first.pause();
    // The statement ends, but its transaction stays open, and with it the lock of the head.
    barrier.open().await;
    let took = store_and_publish(&second).await;
    assert!(took < IDLE_LIMIT + SOON, "published after {took:?}");
    let took = store_and_publish(&second).await;
    assert!(took < SOON, "published after {took:?}");
    first.wake();
    for service in [&first, &second, &first] {
        store_and_publish(service).await;
    }
    assert_dense(&published(&pool).await, 2 + 7 * 3);
}

#[tokio::test]
async fn the_backlog_is_true_while_the_relay_stands_still() {
    let mut world = World::start().await;
    world.published().await;
    let mut fence = world.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM feed_head FOR UPDATE").execute(&mut *fence).await.unwrap();
    let (mut youngest, oldest) = (None, Instant::now());
    for _ in 0..5 {
        world.draft().await;
        youngest.get_or_insert_with(Instant::now);
    }
    let youngest = youngest.unwrap();
    until("the backlog is two seconds old", async || {
        let at_least = youngest.elapsed();
        let head = world.feed.get_head(GetHeadRequest {}).await.unwrap().into_inner();
        let at_most = oldest.elapsed();
        assert_eq!((head.head_position, head.outbox_backlog), (3, 10));
        let seconds = head.outbox_oldest_seconds;
        assert!(
            (at_least.as_secs_f64()..=at_most.as_secs_f64()).contains(&seconds),
            "{seconds} s is not between {at_least:?} and {at_most:?}"
        );
        (seconds > 2.0).then_some(())
    })
    .await;
    fence.rollback().await.unwrap();
    assert_eq!(world.published().await, 13);
    let head = world.feed.get_head(GetHeadRequest {}).await.unwrap().into_inner();
    assert!(head.outbox_oldest_seconds.abs() < f64::EPSILON, "{head:?}");
}
