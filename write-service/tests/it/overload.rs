//! More than the service can take: surplus is refused at once or slowed down, and nothing is half done.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use proto::reason::Reason;
use proto::v1::execute_commands_request::Command;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::*;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::time::timeout;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{PATIENCE, World, create, lantern, new_id, refusal};

/// Small commands that one MiB has room for: each weighs 11 KiB.
const ROOM: usize = 1024 / 11;

/// Until it is rolled back, appends wait; reads go on.
async fn stall(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE event IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    lock
}

fn order() -> CreateOrderRequest {
    CreateOrderRequest { request_id: new_id(), ..create(vec![lantern(1)], true) }
}

/// Waits until an append waits for the lock.
async fn waiting_for_the_lock(pool: &PgPool) {
    let waits = async {
        let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(pool).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("an append waits");
}

#[tokio::test]
async fn single_calls_beyond_the_budget_are_refused_while_the_others_wait() {
    let world = World::start_with(|config| config.command_memory = 1).await;
    let lock = stall(&world.pool).await;
    let mut calls: FuturesUnordered<_> = (0..ROOM + 60)
        .map(|_| {
            let (mut client, order) = (world.orders.clone(), order());
            async move { (client.create_order(order.clone()).await, order) }
        })
        .collect();
    let mut refused = Vec::new();
    while refused.len() < 60 {
        let (outcome, order) = timeout(PATIENCE, calls.next()).await.unwrap().unwrap();
        let status = outcome.as_ref().unwrap_err().clone();
        assert_eq!(refusal(outcome), (Code::ResourceExhausted, Reason::Overloaded));
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
        refused.push(order);
    }
    assert!(futures_util::poll!(calls.next()).is_pending(), "whoever found room waits for the store");
    lock.rollback().await.unwrap();
    let accepted: Vec<_> = timeout(PATIENCE, calls.collect()).await.unwrap();
    assert_eq!(accepted.len(), ROOM);
    assert!(accepted.iter().all(|(outcome, _)| outcome.is_ok()));
    // Come back later, as told.
    for order in refused {
        world.orders.clone().create_order(order).await.unwrap();
    }
    let orders: i64 = sqlx::query_scalar("SELECT count(DISTINCT stream_id) FROM event WHERE category = 1")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(orders, i64::try_from(ROOM + 60).unwrap());
}

#[tokio::test]
async fn a_stream_of_commands_is_slowed_down_and_not_refused() {
    let mut world = World::start_with(|config| config.command_memory = 1).await;
    let lock = stall(&world.pool).await;
    let requests = (0..3 * ROOM as u64)
        .map(|sequence| ExecuteCommandsRequest { sequence, command: Some(Command::CreateOrder(order())) });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut answers = world.orders.execute_commands(requests).await.unwrap().into_inner();
    waiting_for_the_lock(&world.pool).await;
    // The stream has taken all there is.
    let refused = world.create(order()).await;
    assert_eq!(refusal(refused), (Code::ResourceExhausted, Reason::Overloaded));
    lock.rollback().await.unwrap();
    let mut answered = 0;
    while let Some(answer) = timeout(PATIENCE, answers.message()).await.unwrap().unwrap() {
        assert!(matches!(answer.outcome, Some(Outcome::Receipt(_))), "{answer:?}");
        answered += 1;
    }
    assert_eq!(answered, 3 * ROOM);
}

#[tokio::test]
async fn whoever_hangs_up_leaves_the_order_whole() {
    let mut world = World::start().await;
    let id = world.draft().await;
    for round in 0..5 {
        let lock = stall(&world.pool).await;
        let add = AddItemRequest { order_id: id.clone(), item: Some(lantern(1)), ..Default::default() };
        let mut client = world.orders.clone();
        let call = tokio::spawn(async move { client.add_item(add).await });
        waiting_for_the_lock(&world.pool).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        lock.rollback().await.unwrap();
        // Whether the abandoned item was stored or not: the next one follows what is there.
        let add = AddItemRequest { order_id: id.clone(), item: Some(lantern(2)), ..Default::default() };
        let receipt = world.orders.add_item(add).await.unwrap().into_inner().receipt.unwrap();
        let versions: Vec<_> = world.history(&id).await.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=receipt.version).collect::<Vec<_>>(), "round {round}");
    }
}

#[tokio::test]
async fn scans_are_bounded_and_leave_room_for_everyone_else() {
    let mut world = World::start_with(|config| config.database_connections = 8).await;
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE event IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut scans = Vec::new();
    for _ in 0..2 {
        scans.push(world.feed.scan(ScanRequest::default()).await.unwrap().into_inner());
    }
    let outcome = world.feed.scan(ScanRequest::default()).await;
    let retry = outcome.as_ref().unwrap_err().get_details_retry_info().unwrap().retry_delay;
    assert_eq!(refusal(outcome), (Code::ResourceExhausted, Reason::Overloaded));
    assert!(retry.is_some_and(|delay| delay > Duration::ZERO));
    world.feed.get_head(GetHeadRequest {}).await.unwrap();
    lock.rollback().await.unwrap();
    for mut scan in scans {
        let mut last = None;
        while let Some(answer) = timeout(PATIENCE, scan.message()).await.unwrap().unwrap() {
            last = answer.resume_position;
        }
        assert!(last.is_some());
    }
    world.feed.scan(ScanRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_connection_has_so_many_calls_under_way_and_no_more() {
    let mut world = World::start_with(|config| config.server.concurrent_streams = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(world.feed.subscribe(SubscribeRequest::default()).await.unwrap());
    }
    let mut feed = world.feed.clone();
    let mut waits = Box::pin(feed.subscribe(SubscribeRequest::default()));
    let mut elsewhere = world.connect_anew().await;
    for _ in 0..50 {
        elsewhere.get_head(GetHeadRequest {}).await.unwrap();
        assert!(futures_util::poll!(&mut waits).is_pending(), "a fourth call on the same connection");
    }
    held.pop();
    timeout(PATIENCE, waits).await.expect("a call ended, so one may begin").unwrap();
}
