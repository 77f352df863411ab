//! Commands through the client: the whole life of an order, and the same request twice.

use proto::reason::Reason;
use proto::token::ConsistencyToken;
use proto::v1::*;
use tonic::Code;

use crate::support::{World, create, lantern, new_id, refusal};

#[tokio::test]
async fn an_order_lives_its_whole_life() {
    let mut world = World::start().await;
    let receipt = world.create(create(vec![lantern(6)], false)).await.unwrap();
    assert_eq!(
        (receipt.version, receipt.status(), receipt.lines.as_slice()),
        (2, OrderStatus::Draft, &[1][..])
    );
    assert_eq!(receipt.total.as_ref().unwrap().minor_units, 6 * 339);
    let id = receipt.order_id;

    let item = Some(lantern(1));
    let added = AddItemRequest { order_id: id.clone(), item, ..Default::default() };
    let added = world.orders.add_item(added).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((added.version, added.lines.as_slice()), (3, &[2][..]));

    let change =
        ChangeItemQuantityRequest { order_id: id.clone(), line: 1, quantity: 7, ..Default::default() };
    let changed = world.orders.change_item_quantity(change).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(changed.total.unwrap().minor_units, 8 * 339);

    let remove = RemoveItemRequest { order_id: id.clone(), line: 2, ..Default::default() };
    world.orders.remove_item(remove).await.unwrap();
    let submitted = world.submit(&id).await.unwrap();
    assert_eq!((submitted.version, submitted.status()), (6, OrderStatus::Submitted));
    world
        .orders
        .confirm_order(ConfirmOrderRequest { order_id: id.clone(), ..Default::default() })
        .await
        .unwrap();
    let ship = ShipOrderRequest {
        order_id: id.clone(),
        carrier: "Royal Mail".into(),
        tracking_number: "RM1".into(),
        ..Default::default()
    };
    world.orders.ship_order(ship).await.unwrap();
    let deliver = DeliverOrderRequest { order_id: id.clone(), ..Default::default() };
    let delivered = world.orders.deliver_order(deliver).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((delivered.version, delivered.status()), (9, OrderStatus::Delivered));
    let token = ConsistencyToken::decode(&delivered.consistency_token).unwrap();
    assert_eq!(token, ConsistencyToken { category: StreamCategory::Order, key: id.clone(), version: 9 });

    let versions: Vec<_> = world.history(&id).await.iter().map(|event| event.version).collect();
    assert_eq!(versions, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn names_are_those_of_command_time() {
    let mut world = World::start().await;
    let id = world.draft().await;
    world.put_customer("17850", "Ada Lovelace").await;
    world.put_product("71053", "BLACK METAL LANTERN").await;
    let add = AddItemRequest { order_id: id.clone(), item: Some(lantern(1)), ..Default::default() };
    world.orders.add_item(add).await.unwrap();
    let bodies: Vec<_> = world.history(&id).await.into_iter().filter_map(|event| event.body).collect();
    let [
        recorded_event::Body::OrderCreated(created),
        recorded_event::Body::ItemAdded(before),
        recorded_event::Body::ItemAdded(after),
    ] = &bodies[..]
    else {
        panic!("{bodies:?}")
    };
    assert_eq!(created.customer_name, "Customer 17850");
    assert_eq!(before.product_name, "WHITE METAL LANTERN");
    assert_eq!(after.product_name, "BLACK METAL LANTERN");
}

#[tokio::test]
async fn an_order_without_a_placed_time_is_placed_when_it_is_recorded() {
    let mut world = World::start().await;
    let id = world.draft().await;
    let history = world.history(&id).await;
    let Some(recorded_event::Body::OrderCreated(created)) = &history[0].body else { panic!("{history:?}") };
    assert_eq!(created.placed_time, history[0].recorded_time);
}

#[tokio::test]
async fn the_same_request_twice_is_stored_once_and_answered_alike() {
    let mut world = World::start().await;
    let request = CreateOrderRequest { request_id: new_id(), ..create(vec![lantern(1), lantern(2)], true) };
    let first = world.create(request.clone()).await.unwrap();
    assert_eq!(first.order_id, request.request_id, "the request_id becomes the order_id");
    // The order moves on; the repeat still gets the first answer.
    let cancel = CancelOrderRequest {
        order_id: first.order_id.clone(),
        request_id: new_id(),
        reason: "no".into(),
        ..Default::default()
    };
    let cancelled = world.orders.cancel_order(cancel.clone()).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(cancelled.version, 5);
    let repeated = world.create(request.clone()).await.unwrap();
    assert_eq!(repeated, OrderReceipt { replayed: true, ..first.clone() });
    let repeated = world.orders.cancel_order(cancel).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(repeated, OrderReceipt { replayed: true, ..cancelled });
    assert_eq!(world.history(&first.order_id).await.len(), 5);

    let other = CreateOrderRequest { reference: "other".into(), ..request };
    assert_eq!(refusal(world.create(other).await), (Code::AlreadyExists, Reason::RequestIdReused));
}

#[tokio::test]
async fn a_repeat_is_recognised_by_another_copy_of_the_service() {
    let mut world = World::start().await;
    let request = CreateOrderRequest { request_id: new_id(), ..create(vec![lantern(1), lantern(2)], true) };
    let first = world.create(request.clone()).await.unwrap();
    let (channel, _lifecycle) = crate::support::serve(&world.database.url).await;
    let mut other = order_command_service_client::OrderCommandServiceClient::new(channel);
    let repeated = other.create_order(request).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(repeated, OrderReceipt { replayed: true, ..first });
}

#[tokio::test]
async fn a_rejected_or_idle_request_is_decided_anew() {
    let mut world = World::start().await;
    let id = world.create(create(vec![], false)).await.unwrap().order_id;
    let submit = SubmitOrderRequest { order_id: id.clone(), request_id: new_id(), ..Default::default() };
    let refused = world.orders.submit_order(submit.clone()).await;
    assert_eq!(refusal(refused), (Code::FailedPrecondition, Reason::OrderEmpty));
    let add = AddItemRequest { order_id: id.clone(), item: Some(lantern(1)), ..Default::default() };
    world.orders.add_item(add).await.unwrap();
    let receipt = world.orders.submit_order(submit).await.unwrap().into_inner().receipt.unwrap();
    assert!(!receipt.replayed);
}

#[tokio::test]
async fn a_stale_copy_answers_from_the_store() {
    let mut world = World::start().await;
    let id = world.draft().await;
    let (channel, _lifecycle) = crate::support::serve(&world.database.url).await;
    let mut other = order_command_service_client::OrderCommandServiceClient::new(channel);
    other.submit_order(SubmitOrderRequest { order_id: id.clone(), ..Default::default() }).await.unwrap();
    // This copy still holds the draft: what it would refuse or store by it would be wrong.
    let confirm = ConfirmOrderRequest { order_id: id.clone(), ..Default::default() };
    let confirmed = world.orders.confirm_order(confirm).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!(confirmed.version, 4);
    let ship = ShipOrderRequest { order_id: id.clone(), ..Default::default() };
    let shipped = other.ship_order(ship).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((shipped.version, shipped.status()), (5, OrderStatus::Shipped));
}

#[tokio::test]
async fn expected_version_guards_every_command_on_an_order() {
    let mut world = World::start().await;
    let order_id = world.draft().await;
    let stale =
        ConfirmOrderRequest { order_id: order_id.clone(), expected_version: Some(1), ..Default::default() };
    let status = world.orders.confirm_order(stale).await.unwrap_err();
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::Aborted, "VERSION_CONFLICT"));
    assert_eq!(
        (info.metadata["expected_version"].as_str(), info.metadata["current_version"].as_str()),
        ("1", "2")
    );
    let right = SubmitOrderRequest { order_id, expected_version: Some(2), ..Default::default() };
    assert_eq!(world.orders.submit_order(right).await.unwrap().into_inner().receipt.unwrap().version, 3);
}
