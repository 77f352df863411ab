//! Whatever stops and starts again: once drained, every document is the fold of its events.

use proto::v1::get_order_request::AsOf;
use proto::v1::*;

use crate::world::{World, create};

/// Compares each order's document with a fresh fold of its events.
pub async fn assert_documents_equal_folds(world: &World, expected: usize) {
    let orders = world.all_orders(OrderSort::Unspecified, 100).await;
    assert_eq!(orders.len(), expected);
    for summary in orders {
        let order_id = summary.order_id.clone();
        let stored = GetOrderRequest { order_id: order_id.clone(), ..Default::default() };
        let stored = world.queries().get_order(stored).await.unwrap().into_inner().order.unwrap();
        let as_of = Some(AsOf::AsOfVersion(summary.version));
        let folded = GetOrderRequest { order_id: order_id.clone(), as_of, ..Default::default() };
        let folded = world.queries().get_order(folded).await.unwrap().into_inner().order.unwrap();
        assert_eq!(stored, folded);
        let history = GetOrderHistoryRequest { order_id };
        let history = world.queries().get_order_history(history).await.unwrap().into_inner().events;
        assert_eq!(Some(summary.version), history.last().map(|event| event.version), "nothing is missing");
    }
}

/// Moves an order on by as many steps as `steps` says.
async fn advance(world: &World, order_id: &str, steps: usize) {
    let order_id = order_id.to_owned();
    if steps > 0 {
        let request = ConfirmOrderRequest { order_id: order_id.clone(), ..Default::default() };
        world.orders().confirm_order(request).await.unwrap();
    }
    if steps > 1 {
        let request = ShipOrderRequest { order_id: order_id.clone(), ..Default::default() };
        world.orders().ship_order(request).await.unwrap();
    }
    if steps > 2 {
        let request = DeliverOrderRequest { order_id, ..Default::default() };
        world.orders().deliver_order(request).await.unwrap();
    }
}

#[tokio::test]
async fn the_read_service_goes_on_where_it_stopped() {
    let mut world = World::start().await;
    let mut orders = Vec::new();
    for round in 0..4 {
        for i in 0..10 {
            orders.push(world.create(create(i + 1)).await.order_id);
        }
        // Stopped at any moment of its work, not only when it has caught up.
        world.stop_read().await;
        for id in &orders[round * 10..round * 10 + 10] {
            advance(&world, id, round).await;
        }
        world.start_read().await;
    }
    world.settle().await;
    assert_documents_equal_folds(&world, 40).await;
}

#[tokio::test]
async fn reads_go_on_while_the_write_service_is_away_and_catch_up_when_it_is_back() {
    let mut world = World::start().await;
    let before = world.create(create(1)).await;
    world.order(&before.order_id, &before.consistency_token).await.unwrap();
    world.restart_write().await;
    let after = world.create(create(2)).await;
    let found = world.order(&after.order_id, &after.consistency_token).await.unwrap();
    assert_eq!(found.order.unwrap().summary.unwrap().version, 4);
    world.settle().await;
    assert_documents_equal_folds(&world, 2).await;
}
