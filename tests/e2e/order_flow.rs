//! Place an order, find it, follow it to its end, read its past.

use proto::v1::get_order_request::AsOf;
use proto::v1::*;

use crate::world::{World, create};

#[tokio::test]
async fn an_order_is_found_as_soon_as_it_is_placed() {
    let world = World::start().await;
    let receipt = world.create(create(6)).await;
    let token = receipt.consistency_token.clone();

    let answer = world.order(&receipt.order_id, &token).await.unwrap();
    let order = answer.order.unwrap();
    let summary = order.summary.clone().unwrap();
    assert_eq!((summary.version, summary.status()), (4, OrderStatus::Submitted));
    assert_eq!((summary.customer_name.as_str(), summary.item_count), ("Ada Lovelace", 2));
    assert_eq!(summary.total.as_ref().unwrap().minor_units, 6 * 339 + 255);
    assert_eq!(order.lines[0].product_name, "WHITE METAL LANTERN");
    assert_eq!(order.lines[0].subtotal.as_ref().unwrap().minor_units, 6 * 339);
    assert!(!answer.freshness.unwrap().stale);

    let consistency = Some(Consistency { tokens: vec![token], ..Default::default() });
    let list = ListOrdersRequest {
        customer_id: "17850".into(),
        consistency: consistency.clone(),
        ..Default::default()
    };
    let listed = world.queries().list_orders(list).await.unwrap().into_inner();
    assert_eq!(listed.orders, std::slice::from_ref(&summary));
    assert_eq!((listed.total_size, listed.total_is_exact), (1, true));

    for query in ["lantern ada", "LANTREN", "lovel", "536365", "5363", "85123a", "hanging white"] {
        let search = SearchOrdersRequest {
            query: query.into(),
            consistency: consistency.clone(),
            ..Default::default()
        };
        let found = world.queries().search_orders(search).await.unwrap().into_inner();
        assert_eq!(found.hits.len(), 1, "{query}");
        assert_eq!(found.hits[0].order.as_ref(), Some(&summary), "{query}");
    }
}

#[tokio::test]
async fn an_order_is_read_as_it_stood() {
    let world = World::start().await;
    let id = world.create(create(1)).await.order_id;
    world.put_customer("17850", "Grace Hopper").await;
    let confirm = ConfirmOrderRequest { order_id: id.clone(), ..Default::default() };
    world.orders().confirm_order(confirm).await.unwrap();
    let ship = ShipOrderRequest {
        order_id: id.clone(),
        carrier: "Royal Mail".into(),
        tracking_number: "RM1".into(),
        ..Default::default()
    };
    let shipped = world.orders().ship_order(ship).await.unwrap().into_inner().receipt.unwrap();

    let now = world.order(&id, &shipped.consistency_token).await.unwrap().order.unwrap();
    assert_eq!(
        now.summary.as_ref().unwrap().customer_name,
        "Ada Lovelace",
        "the name is a fact of the order"
    );
    assert_eq!((now.carrier.as_str(), now.tracking_number.as_str()), ("Royal Mail", "RM1"));

    let history = GetOrderHistoryRequest { order_id: id.clone() };
    let history = world.queries().get_order_history(history).await.unwrap().into_inner().events;
    assert_eq!(history.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);

    let as_of = async |as_of| {
        let request = GetOrderRequest { order_id: id.clone(), as_of: Some(as_of), ..Default::default() };
        world.queries().get_order(request).await.unwrap().into_inner().order.unwrap()
    };
    let submitted = as_of(AsOf::AsOfVersion(4)).await;
    assert_eq!(submitted.summary.as_ref().unwrap().status(), OrderStatus::Submitted);
    let confirmed = as_of(AsOf::AsOfTime(history[4].recorded_time.unwrap())).await;
    assert_eq!(confirmed.summary.as_ref().unwrap().status(), OrderStatus::Confirmed);
    // The document and the fold of the events are the same order.
    let folded = as_of(AsOf::AsOfVersion(6)).await;
    assert_eq!(
        Order { customer_current_name: String::new(), ..now },
        Order { customer_current_name: String::new(), ..folded }
    );
}

#[tokio::test]
async fn a_renamed_customer_shows_beside_the_name_on_the_order() {
    let world = World::start().await;
    let receipt = world.create(create(1)).await;
    let renamed = world.put_customer("17850", "Grace Hopper").await;
    let consistency =
        Some(Consistency { tokens: vec![receipt.consistency_token.clone(), renamed], ..Default::default() });
    let request = GetOrderRequest { order_id: receipt.order_id, consistency, ..Default::default() };
    let order = world.queries().get_order(request).await.unwrap().into_inner().order.unwrap();
    assert_eq!(order.summary.unwrap().customer_name, "Ada Lovelace");
    assert_eq!(order.customer_current_name, "Grace Hopper");
}

#[tokio::test]
async fn a_watcher_sees_every_state_to_the_end() {
    let world = World::start().await;
    let receipt = world.create(create(1)).await;
    world.order(&receipt.order_id, &receipt.consistency_token).await.unwrap();
    let watch = WatchOrderRequest { order_id: receipt.order_id.clone() };
    let mut answers = world.queries().watch_order(watch).await.unwrap().into_inner();
    let mut next = async || answers.message().await.unwrap().unwrap().order.unwrap().summary.unwrap();
    assert_eq!(next().await.version, 4);
    let confirm = ConfirmOrderRequest { order_id: receipt.order_id, ..Default::default() };
    world.orders().confirm_order(confirm).await.unwrap();
    let confirmed = next().await;
    assert_eq!((confirmed.version, confirmed.status()), (5, OrderStatus::Confirmed));
}
