//! Every error of the command services, through the client: code, reason, path or facts.

use std::time::{Duration, SystemTime};

use proto::reason::Reason;
use proto::v1::*;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{World, create, gbp, lantern, new_id, refusal};

/// Paths of the malformed fields.
#[track_caller]
fn paths(result: Result<OrderReceipt, Status>) -> Vec<String> {
    let status = result.unwrap_err();
    assert_eq!(refusal::<()>(Err(status.clone())), (Code::InvalidArgument, Reason::InvalidField));
    let details = status.get_details_bad_request().unwrap();
    details.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn every_malformed_field_of_a_create_is_named() {
    let mut world = World::start().await;
    let good = || create(vec![lantern(1)], true);
    let ahead = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let cases: Vec<(CreateOrderRequest, &[&str])> = vec![
        (CreateOrderRequest { order_id: "x".into(), ..good() }, &["order_id"]),
        (CreateOrderRequest { order_id: "0".repeat(37), ..good() }, &["order_id"]),
        (CreateOrderRequest { order_id: uuid::Uuid::nil().to_string(), ..good() }, &["order_id"]),
        (CreateOrderRequest { request_id: "9".repeat(1_000_000), ..good() }, &["request_id"]),
        (CreateOrderRequest { customer_id: String::new(), ..good() }, &["customer_id"]),
        (CreateOrderRequest { customer_id: "a b".into(), ..good() }, &["customer_id"]),
        (CreateOrderRequest { currency_code: "gbp".into(), ..good() }, &["currency_code"]),
        (CreateOrderRequest { reference: "r".repeat(65), ..good() }, &["reference"]),
        (CreateOrderRequest { reference: "a\0b".into(), ..good() }, &["reference"]),
        (CreateOrderRequest { delivery_country: "c".repeat(65), ..good() }, &["delivery_country"]),
        (CreateOrderRequest { placed_time: Some(ahead.into()), ..good() }, &["placed_time"]),
        (
            CreateOrderRequest {
                placed_time: Some(prost_types::Timestamp { seconds: -1, nanos: 0 }),
                ..good()
            },
            &["placed_time"],
        ),
        (create(vec![lantern(1); 2_001], false), &["items"]),
        (create(vec![], true), &["items"]),
        (
            create(vec![lantern(0), lantern(1), lantern(1_000_001)], false),
            &["items[0].quantity", "items[2].quantity"],
        ),
        (create(vec![NewItem { unit_price: None, ..lantern(1) }], false), &["items[0].unit_price"]),
        (
            create(vec![NewItem { unit_price: Some(gbp(-1)), ..lantern(1) }], false),
            &["items[0].unit_price.minor_units"],
        ),
        (create(vec![NewItem { unit_price: Some(gbp(i64::MAX)), ..lantern(2) }], false), &["items[0]"]),
        (
            create(vec![NewItem { unit_price: Some(gbp(i64::MAX)), ..lantern(1) }, lantern(1)], false),
            &["items"],
        ),
        (CreateOrderRequest::default(), &["customer_id", "currency_code"]),
    ];
    for (request, expected) in cases {
        assert_eq!(paths(world.create(request).await), expected);
    }
}

#[tokio::test]
async fn every_malformed_field_of_the_other_commands_is_named() {
    let mut world = World::start().await;
    let order_id = world.draft().await;
    let receipt = |receipt: Option<OrderReceipt>| receipt.unwrap();

    let add = AddItemRequest { order_id: "x".into(), ..Default::default() };
    let outcome = world.orders.add_item(add).await.map(|r| receipt(r.into_inner().receipt));
    assert_eq!(paths(outcome), ["order_id", "item"]);
    let change = ChangeItemQuantityRequest {
        order_id: order_id.clone(),
        expected_version: Some(0),
        ..Default::default()
    };
    let outcome = world.orders.change_item_quantity(change).await.map(|r| receipt(r.into_inner().receipt));
    assert_eq!(paths(outcome), ["expected_version", "line", "quantity"]);
    let remove = RemoveItemRequest { order_id: order_id.clone(), line: -1, ..Default::default() };
    let outcome = world.orders.remove_item(remove).await.map(|r| receipt(r.into_inner().receipt));
    assert_eq!(paths(outcome), ["line"]);
    assert_eq!(paths(world.submit("").await), ["order_id"]);
    let confirm =
        ConfirmOrderRequest { order_id: order_id.clone(), request_id: "x".into(), ..Default::default() };
    let outcome = world.orders.confirm_order(confirm).await.map(|r| receipt(r.into_inner().receipt));
    assert_eq!(paths(outcome), ["request_id"]);
    let ship = ShipOrderRequest {
        order_id: order_id.clone(),
        carrier: "\n".into(),
        tracking_number: "t".repeat(65),
        ..Default::default()
    };
    let outcome = world.orders.ship_order(ship).await.map(|r| receipt(r.into_inner().receipt));
    assert_eq!(paths(outcome), ["carrier", "tracking_number"]);
    let deliver = DeliverOrderRequest { order_id: "not a uuid".into(), ..Default::default() };
    let outcome = world.orders.deliver_order(deliver).await.map(|r| receipt(r.into_inner().receipt));
    assert_eq!(paths(outcome), ["order_id"]);
    for reason in [String::new(), "r".repeat(501)] {
        let cancel = CancelOrderRequest { order_id: order_id.clone(), reason, ..Default::default() };
        let outcome = world.orders.cancel_order(cancel).await.map(|r| receipt(r.into_inner().receipt));
        assert_eq!(paths(outcome), ["reason"]);
    }
}

#[tokio::test]
async fn every_rejection_has_its_code_and_reason() {
    let mut world = World::start().await;
    let missing = world.submit(&new_id()).await;
    assert_eq!(refusal(missing), (Code::NotFound, Reason::OrderNotFound));

    let order_id = world.draft().await;
    let existing =
        world.create(CreateOrderRequest { order_id: order_id.clone(), ..create(vec![], false) }).await;
    assert_eq!(refusal(existing), (Code::AlreadyExists, Reason::OrderExists));

    let stranger =
        world.create(CreateOrderRequest { customer_id: "nobody".into(), ..create(vec![], false) }).await;
    assert_eq!(refusal(stranger), (Code::FailedPrecondition, Reason::CustomerUnknown));

    let product = NewItem { product_id: "nothing".into(), ..lantern(1) };
    let status = world.create(create(vec![product], false)).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().metadata["product_id"], "nothing");
    assert_eq!(refusal::<()>(Err(status)), (Code::FailedPrecondition, Reason::ProductUnknown));

    let euros =
        NewItem { unit_price: Some(Money { currency_code: "EUR".into(), minor_units: 1 }), ..lantern(1) };
    let mixed = world.create(create(vec![euros], false)).await;
    assert_eq!(refusal(mixed), (Code::FailedPrecondition, Reason::CurrencyMismatch));

    let change =
        ChangeItemQuantityRequest { order_id: order_id.clone(), line: 9, quantity: 1, ..Default::default() };
    let no_line = world.orders.change_item_quantity(change).await;
    assert_eq!(refusal(no_line), (Code::FailedPrecondition, Reason::LineNotFound));

    let huge = NewItem { unit_price: Some(gbp(i64::MAX)), ..lantern(1) };
    let add = AddItemRequest { order_id: order_id.clone(), item: Some(huge), ..Default::default() };
    assert_eq!(refusal(world.orders.add_item(add).await), (Code::FailedPrecondition, Reason::TotalOverflow));

    let empty = world.create(create(vec![], false)).await.unwrap().order_id;
    assert_eq!(refusal(world.submit(&empty).await), (Code::FailedPrecondition, Reason::OrderEmpty));

    let full = world.create(create(vec![lantern(1); 2_000], false)).await.unwrap();
    let add = AddItemRequest { order_id: full.order_id, item: Some(lantern(1)), ..Default::default() };
    assert_eq!(refusal(world.orders.add_item(add).await), (Code::FailedPrecondition, Reason::TooManyLines));

    let status =
        world.orders.deliver_order(DeliverOrderRequest { order_id, ..Default::default() }).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().metadata["status"], "ORDER_STATUS_DRAFT");
    assert_eq!(refusal::<()>(Err(status)), (Code::FailedPrecondition, Reason::IllegalOrderState));
}

#[tokio::test]
async fn an_order_cannot_take_the_stream_of_a_customer() {
    let mut world = World::start().await;
    let taken =
        write_service::catalog::stream_id(write_service::catalog::Kind::Customer, "17850").to_string();
    let outcome = world.create(CreateOrderRequest { order_id: taken.clone(), ..create(vec![], false) }).await;
    assert_eq!(refusal(outcome), (Code::AlreadyExists, Reason::OrderExists));
    assert_eq!(refusal(world.submit(&taken).await), (Code::NotFound, Reason::OrderNotFound));
}

#[tokio::test]
async fn a_store_that_does_not_answer_leaves_the_outcome_open() {
    let mut world = World::start().await;
    let id = world.draft().await;
    sqlx::query("ALTER TABLE event RENAME TO event_away").execute(&world.pool).await.unwrap();
    let status = world.submit(&id).await.unwrap_err();
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(!status.message().contains("event_away"), "internals stay inside: {}", status.message());
    assert_eq!(refusal::<()>(Err(status)), (Code::Unavailable, Reason::EventStoreDown));
    sqlx::query("ALTER TABLE event_away RENAME TO event").execute(&world.pool).await.unwrap();
    assert_eq!(world.submit(&id).await.unwrap().version, 3);
}

#[tokio::test]
async fn a_stored_event_that_cannot_be_read_is_data_loss() {
    let mut world = World::start().await;
    let id = world.draft().await;
    sqlx::query("UPDATE event SET body = '\\xffff' WHERE stream_id = $1::uuid AND version = 2")
        .bind(uuid::Uuid::parse_str(&id).unwrap())
        .execute(&world.pool)
        .await
        .unwrap();
    let (channel, _lifecycle) = crate::support::serve(&world.database.url).await;
    let mut cold = order_command_service_client::OrderCommandServiceClient::new(channel);
    let outcome = cold.submit_order(SubmitOrderRequest { order_id: id, ..Default::default() }).await;
    assert_eq!(refusal(outcome), (Code::DataLoss, Reason::EventUnreadable));
}

#[tokio::test]
async fn a_deadline_that_passes_is_said_so() {
    let mut world = World::start().await;
    let id = world.draft().await;
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut request = tonic::Request::new(SubmitOrderRequest { order_id: id.clone(), ..Default::default() });
    request.set_timeout(Duration::from_millis(300));
    let outcome = world.orders.submit_order(request).await;
    lock.rollback().await.unwrap();
    // The client's own timer may win the race to the same verdict, without our reason.
    let status = outcome.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    // The caller left in the middle; the order goes on, whichever way it went.
    let again = world.submit(&id).await;
    assert!(again.is_ok() || refusal(again).1 == Reason::IllegalOrderState);
    assert_eq!(world.history(&id).await.len(), 3);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused() {
    let mut world = World::start().await;
    let huge = CreateOrderRequest { reference: "r".repeat(5 * 1024 * 1024), ..create(vec![], false) };
    assert_eq!(refusal(world.create(huge).await), (Code::ResourceExhausted, Reason::MessageTooLarge));
}
