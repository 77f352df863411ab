//! An event store that is not the one which was indexed: restored to an earlier point, written since, or made anew. The
//! projections halt, what they have is still answered and said to be old, and a rebuild brings them back.

use std::time::Duration;

use local::testing;
use proto::reason::Reason;
use proto::v1::rebuild::State;
use proto::v1::*;
use sqlx::{Connection as _, PgConnection};

use crate::questions::{Queries, SEARCHED, ask};
use crate::world::{PATIENCE, World, create};

const PROJECTIONS: [&str; 3] = ["orders", "customers", "products"];

async fn list(queries: &Queries) -> ListOrdersResponse {
    queries.clone().list_orders(ListOrdersRequest::default()).await.unwrap().into_inner()
}

/// The projections have stopped and say what to do; what they have is still answered, and said to be old.
async fn halted(world: &World, orders: i64, receipt: &OrderReceipt, reason: Reason) {
    testing::until(PATIENCE, "answers say how old they are", async || {
        let answer = list(&world.queries()).await;
        assert_eq!(answer.total_size, orders);
        answer.freshness.filter(|freshness| freshness.lag_seconds > 12.0)
    })
    .await;
    let orders = testing::until(PATIENCE, "the projection has halted", async || {
        let told = world.admin().list_projections(ListProjectionsRequest {}).await.ok()?.into_inner();
        let halted = |told: &Projection| told.name == "orders" && told.state() == projection::State::Halted;
        told.projections.into_iter().find(halted)
    })
    .await;
    assert!(orders.last_error.contains("rebuild the projections"), "{orders:?}");
    for question in SEARCHED {
        ask(world.queries(), question, receipt, true, Some(Duration::from_secs(2))).await.unwrap();
    }
    let watch = WatchOrderRequest { order_id: receipt.order_id.clone() };
    let refused = world.queries().watch_order(watch).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (reason.code(), Some(reason)));
}

/// Copies the store as it is now, which no service may use; gives the URL of the copy.
async fn copied(database_url: &str) -> String {
    let (server, name) = database_url.rsplit_once('/').unwrap();
    let mut postgres = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let copy = format!("CREATE DATABASE {name}_copy TEMPLATE {name}");
    // Connections of the service that has stopped may still be closing.
    testing::until(PATIENCE, "the store is copied", async || {
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy.clone())).execute(&mut postgres).await.ok()
    })
    .await;
    format!("{database_url}_copy")
}

/// Two orders that are indexed, a copy of the store from before the second, and that one.
async fn lost_by_a_copy() -> (World, String, OrderReceipt) {
    let mut world = World::start().await;
    world.create(create(1)).await;
    let before = world.stop_write().await;
    let copy = copied(&before).await;
    world.start_write(&before).await;
    let lost = world.create(create(2)).await;
    world.settle().await;
    (world, copy, lost)
}

/// What an operator is told to do, and that it is enough.
async fn rebuilt(world: &World, names: &[&str]) {
    let mut admin = world.admin();
    let mut begun = Vec::new();
    for name in names {
        let request = StartRebuildRequest { projection: (*name).into(), ..Default::default() };
        begun.push(admin.start_rebuild(request).await.unwrap().into_inner().rebuild.unwrap().rebuild_id);
    }
    for rebuild_id in begun {
        let mut told = admin.watch_rebuild(WatchRebuildRequest { rebuild_id }).await.unwrap().into_inner();
        let mut last = None;
        while let Some(message) = told.message().await.unwrap() {
            last = message.rebuild;
        }
        assert_eq!(last.as_ref().unwrap().state(), State::Succeeded, "{last:?}");
    }
    testing::until(PATIENCE, "the projections are live", async || {
        let told = world.admin().list_projections(ListProjectionsRequest {}).await.ok()?.into_inner();
        let well = |projection: &Projection| {
            let live = projection.state() == projection::State::Live;
            live && projection.last_error.is_empty() && projection.position == projection.head_position
        };
        told.projections.iter().all(well).then_some(())
    })
    .await;
}

/// So many orders are listed, each as the store has it, and what is written from now on is seen.
async fn goes_on(world: &World, orders: usize) {
    world.put_customer("17850", "Grace Hopper").await;
    world.put_product("71053", "WHITE METAL LANTERN").await;
    world.put_product("85123A", "WHITE HANGING HEART T-LIGHT HOLDER").await;
    let receipt = world.create(create(9)).await;
    for question in SEARCHED {
        ask(world.queries(), question, &receipt, true, Some(PATIENCE)).await.unwrap();
    }
    let listed = world.all_orders(OrderSort::Unspecified, 500).await;
    assert_eq!(listed.len(), orders + 1);
    for order in listed {
        let as_stored = Some(get_order_request::AsOf::AsOfVersion(order.version));
        let stored =
            GetOrderRequest { order_id: order.order_id.clone(), as_of: as_stored, ..Default::default() };
        let stored = world.queries().get_order(stored).await.unwrap().into_inner().order.unwrap();
        assert_eq!(stored.summary.as_ref(), Some(&order));
        let read = GetOrderRequest { order_id: order.order_id, ..Default::default() };
        let read = world.queries().get_order(read).await.unwrap().into_inner().order.unwrap();
        assert_eq!(read.lines, stored.lines);
    }
    let watch = WatchOrderRequest { order_id: receipt.order_id };
    let mut watched = world.queries().watch_order(watch).await.unwrap().into_inner();
    assert_eq!(
        watched.message().await.unwrap().unwrap().order.unwrap().summary.unwrap().version,
        receipt.version
    );
}

#[tokio::test]
async fn a_store_restored_to_an_earlier_point_halts_the_projections() {
    let (mut world, copy, lost) = lost_by_a_copy().await;
    world.stop_write().await;
    world.start_write(&copy).await;
    halted(&world, 2, &lost, Reason::PositionAhead).await;
    rebuilt(&world, &PROJECTIONS).await;
    goes_on(&world, 1).await;
}

#[tokio::test]
async fn a_store_restored_and_written_since_halts_the_projections() {
    let (mut world, copy, lost) = lost_by_a_copy().await;
    world.stop_read().await;
    world.stop_write().await;
    world.start_write(&copy).await;
    // Further than the index is: the positions of the order that was lost hold others now.
    world.create(create(3)).await;
    world.create(create(4)).await;
    world.start_read().await;
    halted(&world, 2, &lost, Reason::PositionAhead).await;
    // Nothing of the others was lost.
    rebuilt(&world, &["orders"]).await;
    goes_on(&world, 3).await;
}

#[tokio::test]
async fn another_store_halts_the_projections() {
    let mut world = World::start().await;
    let receipt = world.create(create(1)).await;
    world.settle().await;
    world.stop_write().await;
    let other = testing::database().await.unwrap();
    world.start_write(&other.url).await;
    halted(&world, 1, &receipt, Reason::StoreChanged).await;
    rebuilt(&world, &PROJECTIONS).await;
    goes_on(&world, 0).await;
}
