//! Events that cannot be read any more, as they lie in PostgreSQL: each sets its own stream aside, from the store to the index, until
//! they are put right.

use std::collections::BTreeMap;

use local::testing;
use proto::reason::Reason;
use proto::v1::get_order_request::AsOf;
use proto::v1::*;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tonic::Code;

use crate::world::{PATIENCE, World, create};

const ORDERS: usize = 24;
/// Versions of an order: submitted with four events, then confirmed and shipped.
const SUBMITTED: i64 = 4;
const CONFIRMED: i64 = 5;
const SHIPPED: i64 = 6;

const NO_BODY: &str = "event 5 has no body that this release knows";
const DAMAGED: &str = "the bytes of type OrderConfirmed, schema 1, are damaged";

/// What is done to a confirmation, why it is parked, and what is told where its stream is read.
const DAMAGES: [(&str, &str, &str); 3] = [
    ("body = '\\xffffffffffffffff'", NO_BODY, DAMAGED),
    ("metadata = '\\xffffffffffffffff'", "event 5 has a malformed field recorded_time", DAMAGED),
    ("type = 'OrderTeleported'", NO_BODY, "OrderTeleported"),
];

async fn confirm(world: &World, order_id: &str) {
    let request = ConfirmOrderRequest { order_id: order_id.into(), ..Default::default() };
    world.orders().confirm_order(request).await.unwrap();
    let request = ShipOrderRequest {
        order_id: order_id.into(),
        carrier: "Royal Mail".into(),
        tracking_number: "RM1".into(),
        ..Default::default()
    };
    world.orders().ship_order(request).await.unwrap();
}

/// The order as the index has it.
async fn indexed(world: &World, order_id: &str) -> Order {
    let get = GetOrderRequest { order_id: order_id.into(), ..Default::default() };
    world.queries().get_order(get).await.unwrap().into_inner().order.unwrap()
}

/// The order as its events up to this version say.
async fn folded(world: &World, order_id: &str, version: i64) -> Order {
    let as_of = Some(AsOf::AsOfVersion(version));
    let get = GetOrderRequest { order_id: order_id.into(), as_of, ..Default::default() };
    world.queries().get_order(get).await.unwrap().into_inner().order.unwrap()
}

/// Where the confirmation stands in the feed.
async fn position(world: &World, order_id: &str) -> i64 {
    let request = ReadStreamRequest {
        category: StreamCategory::Order.into(),
        stream_key: order_id.into(),
        from_version: CONFIRMED,
        to_version: CONFIRMED,
    };
    testing::until(PATIENCE, "it is published", async || {
        let mut read = world.feed().read_stream(request.clone()).await.ok()?.into_inner();
        let event = read.message().await.ok()??.events.pop()?;
        (event.position > 0).then_some(event.position)
    })
    .await
}

async fn parked(world: &World) -> Vec<ParkedStream> {
    let request = ListParkedStreamsRequest::default();
    world.admin().list_parked_streams(request).await.unwrap().into_inner().streams
}

async fn retry(world: &World, order_id: &str) -> Option<ParkedStream> {
    let request = RetryParkedStreamRequest {
        projection: "orders".into(),
        category: StreamCategory::Order.into(),
        stream_key: order_id.into(),
    };
    world.admin().retry_parked_stream(request).await.unwrap().into_inner().still_parked
}

#[tokio::test]
async fn an_event_that_is_damaged_in_the_store_sets_one_order_aside_until_it_is_put_right() {
    let mut world = World::start().await;
    let mut ids = Vec::new();
    for _ in 0..ORDERS {
        ids.push(world.create(create(1)).await.order_id);
    }
    world.settle().await;
    world.stop_read().await;
    for order_id in &ids {
        confirm(&world, order_id).await;
    }
    let mut positions = BTreeMap::new();
    for order_id in ids.iter().take(DAMAGES.len()) {
        positions.insert(order_id.clone(), position(&world, order_id).await);
    }

    let mut postgres = PgConnection::connect(world.database_url()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE whole AS SELECT * FROM event").execute(&mut postgres).await.unwrap();
    for (order_id, (damage, ..)) in ids.iter().zip(DAMAGES) {
        let event = format!("stream_id = '{order_id}' AND version = {CONFIRMED}");
        let update = AssertSqlSafe(format!("UPDATE event SET {damage} WHERE {event}"));
        assert_eq!(sqlx::raw_sql(update).execute(&mut postgres).await.unwrap().rows_affected(), 1);
    }
    world.restart_write().await;
    world.start_read().await;
    world.settle().await;

    // Each alone, with what comes before applied and what comes behind it waiting.
    let listed = parked(&world).await;
    let places: BTreeMap<_, _> =
        listed.iter().map(|parked| (parked.stream_key.clone(), parked.position)).collect();
    assert_eq!((listed.len(), &places), (DAMAGES.len(), &positions), "{listed:?}");
    for (order_id, (_, error, _)) in ids.iter().zip(DAMAGES) {
        let parked = listed.iter().find(|parked| parked.stream_key == *order_id).unwrap();
        assert_eq!((parked.projection.as_str(), parked.version, parked.attempts), ("orders", CONFIRMED, 1));
        assert_eq!(parked.error, error);
        let order = indexed(&world, &parked.stream_key).await;
        assert_eq!(order, folded(&world, &parked.stream_key, SUBMITTED).await);
    }
    for order_id in &ids[DAMAGES.len()..] {
        assert_eq!(indexed(&world, order_id).await, folded(&world, order_id, SHIPPED).await);
    }
    let next = world.create(create(2)).await;
    world.order(&next.order_id, &next.consistency_token).await.unwrap();

    // Nothing is decided on what cannot be read; a retry says why it is still parked.
    for (order_id, (.., why)) in ids.iter().zip(DAMAGES) {
        let deliver = DeliverOrderRequest { order_id: order_id.clone(), ..Default::default() };
        let refused = world.orders().deliver_order(deliver).await.unwrap_err();
        assert_eq!((refused.code(), Reason::of(&refused)), (Code::DataLoss, Some(Reason::EventUnreadable)));
        let still = retry(&world, order_id).await.unwrap();
        assert_eq!(
            (still.version, still.attempts, still.position),
            (CONFIRMED, 2, positions[order_id]),
            "{still:?}"
        );
        assert!(still.error.contains(why), "{still:?}");
    }

    let restore = "UPDATE event SET type = whole.type, metadata = whole.metadata, body = whole.body
        FROM whole WHERE event.stream_id = whole.stream_id AND event.version = whole.version";
    sqlx::raw_sql(restore).execute(&mut postgres).await.unwrap();
    for order_id in ids.iter().take(DAMAGES.len()) {
        assert_eq!(retry(&world, order_id).await, None);
        assert_eq!(indexed(&world, order_id).await, folded(&world, order_id, SHIPPED).await);
        let deliver = DeliverOrderRequest { order_id: order_id.clone(), ..Default::default() };
        let receipt = world.orders().deliver_order(deliver).await.unwrap().into_inner().receipt.unwrap();
        let read = world.order(order_id, &receipt.consistency_token).await.unwrap();
        assert_eq!(read.order.unwrap(), folded(&world, order_id, SHIPPED + 1).await);
    }
    assert_eq!(parked(&world).await, []);
}
