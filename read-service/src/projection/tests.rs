//! Given events, then a document: the folds, and what they have in common.

use proptest::prelude::*;
use proto::v1::recorded_event::Body;
use proto::v1::{
    CustomerRegistered, CustomerRenamed, ItemAdded, ItemQuantityChanged, ItemRemoved, Money, OrderCancelled,
    OrderConfirmed, OrderCreated, OrderDelivered, OrderShipped, OrderSubmitted, ProductRegistered,
    ProductRenamed, RecordedEvent, StreamCategory,
};

use super::*;

const SECOND: i64 = 1_000_000_000;

fn event(category: StreamCategory, version: i64, body: impl Into<Option<Body>>) -> RecordedEvent {
    RecordedEvent {
        category: category.into(),
        stream_key: "k".to_owned(),
        version,
        recorded_time: Some(proto::time::from_nanos(version * SECOND)),
        body: body.into(),
        ..RecordedEvent::default()
    }
}

/// The bodies as events 1, 2, 3, ... of one stream.
fn stream(category: StreamCategory, bodies: impl IntoIterator<Item = Body>) -> Vec<RecordedEvent> {
    (1..).zip(bodies).map(|(version, body)| event(category, version, body)).collect()
}

fn given<P: Projection>(bodies: impl IntoIterator<Item = Body>) -> Result<P::Document, FoldError> {
    fold::<P>(&stream(P::CATEGORY, bodies)).map(|document| document.expect("events were given"))
}

fn money(minor_units: i64) -> Money {
    Money { currency_code: "GBP".to_owned(), minor_units }
}

fn created() -> Body {
    Body::OrderCreated(OrderCreated {
        order_id: "k".to_owned(),
        customer_id: "17850".to_owned(),
        customer_name: "José Müller".to_owned(),
        currency_code: "GBP".to_owned(),
        reference: "536365".to_owned(),
        delivery_country: "United Kingdom".to_owned(),
        placed_time: Some(proto::time::from_nanos(500_000_001)),
    })
}

fn added(line: i32, quantity: i32, unit_price: i64) -> Body {
    Body::ItemAdded(ItemAdded {
        line,
        product_id: format!("P{line}"),
        product_name: format!("PRODUCT {line}"),
        quantity,
        unit_price: Some(money(unit_price)),
        subtotal: Some(money(i64::from(quantity).saturating_mul(unit_price))),
    })
}

fn changed(line: i32, quantity: i32) -> Body {
    Body::ItemQuantityChanged(ItemQuantityChanged { line, quantity })
}

fn removed(line: i32) -> Body {
    Body::ItemRemoved(ItemRemoved { line })
}

fn submitted(total: i64) -> Body {
    Body::OrderSubmitted(OrderSubmitted { total: Some(money(total)) })
}

fn confirmed() -> Body {
    Body::OrderConfirmed(OrderConfirmed {})
}

fn shipped() -> Body {
    Body::OrderShipped(OrderShipped { carrier: "DHL".to_owned(), tracking_number: "T1".to_owned() })
}

fn delivered() -> Body {
    Body::OrderDelivered(OrderDelivered {})
}

fn cancelled() -> Body {
    Body::OrderCancelled(OrderCancelled { reason: "changed my mind".to_owned() })
}

#[test]
fn an_order_through_its_life() {
    let document = given::<Orders>([
        created(),
        added(1, 6, 255),
        added(2, 1, 1_000),
        changed(1, 2),
        removed(2),
        added(3, 10, 50),
        submitted(1_010),
        confirmed(),
        shipped(),
        delivered(),
    ])
    .unwrap();
    insta::assert_json_snapshot!(document, @r#"
    {
      "order_id": "k",
      "version": 10,
      "reference": "536365",
      "customer_id": "17850",
      "customer_name": "José Müller",
      "status": "delivered",
      "currency": "GBP",
      "total": 1010,
      "item_count": 2,
      "unit_count": 12,
      "delivery_country": "United Kingdom",
      "placed_at": "1970-01-01T00:00:00.500000001Z",
      "updated_at": "1970-01-01T00:00:10Z",
      "submitted_at": "1970-01-01T00:00:07Z",
      "confirmed_at": "1970-01-01T00:00:08Z",
      "shipped_at": "1970-01-01T00:00:09Z",
      "delivered_at": "1970-01-01T00:00:10Z",
      "carrier": "DHL",
      "tracking_number": "T1",
      "lines": [
        {
          "line": 1,
          "product_id": "P1",
          "product_name": "PRODUCT 1",
          "quantity": 2,
          "unit_price": 255,
          "subtotal": 510
        },
        {
          "line": 3,
          "product_id": "P3",
          "product_name": "PRODUCT 3",
          "quantity": 10,
          "unit_price": 50,
          "subtotal": 500
        }
      ]
    }
    "#);
    assert_eq!(Orders::search(&document), "536365 jose muller product 1 3");
    assert!(Orders::is_final(&document));
}

#[test]
fn an_order_can_be_cancelled_until_it_is_shipped() {
    for before in
        [vec![], vec![added(1, 1, 1), submitted(1)], vec![added(1, 1, 1), submitted(1), confirmed()]]
    {
        let bodies = [vec![created()], before, vec![cancelled()]].concat();
        let document = given::<Orders>(bodies).unwrap();
        assert_eq!(
            (document.status, document.cancel_reason.as_str()),
            (Status::Cancelled, "changed my mind")
        );
        assert_eq!(document.cancelled_at, Some(document.updated_at));
    }
}

#[test]
fn what_cannot_follow_is_refused_and_changes_nothing() {
    let draft = || vec![created(), added(1, 6, 255)];
    let gone = || [draft(), vec![submitted(1_530), confirmed(), shipped()]].concat();
    let cases = [
        (vec![], added(1, 1, 1), "the order was not created"),
        (draft(), created(), "the order was created before"),
        (draft(), added(1, 1, 1), "the line's number was given before"),
        (draft(), changed(2, 1), "the order has no such line"),
        (draft(), removed(2), "the order has no such line"),
        (draft(), submitted(1_531), "the total submitted is not the sum of the lines"),
        (draft(), added(2, 2, i64::MAX), "the total passes the largest amount"),
        (draft(), added(2, 1, i64::MAX), "the total passes the largest amount"),
        (draft(), confirmed(), "the order's status does not allow it"),
        (draft(), shipped(), "the order's status does not allow it"),
        (draft(), delivered(), "the order's status does not allow it"),
        (gone(), added(2, 1, 1), "the order's status does not allow it"),
        (gone(), submitted(1_530), "the order's status does not allow it"),
        (gone(), cancelled(), "the order's status does not allow it"),
    ];
    for (before, body, reason) in cases {
        let events = stream(StreamCategory::Order, before);
        let mut document = fold::<Orders>(&events).unwrap();
        let held = document.clone();
        let version = i64::try_from(events.len()).unwrap() + 1;
        let refused = apply::<Orders>(&mut document, &event(StreamCategory::Order, version, body));
        assert_eq!(refused, Err(FoldError::Illegal { version, reason }));
        assert_eq!(document, held, "{reason}");
    }
}

#[test]
fn unknown_foreign_and_malformed_events_are_refused() {
    let order = || fold::<Orders>(&stream(StreamCategory::Order, [created()])).unwrap();
    let refused = |event: RecordedEvent| apply::<Orders>(&mut order(), &event).unwrap_err();
    let renamed = Body::CustomerRenamed(CustomerRenamed::default());
    assert_eq!(refused(event(StreamCategory::Order, 2, None)), FoldError::UnknownBody { version: 2 });
    assert_eq!(refused(event(StreamCategory::Order, 2, renamed)), FoldError::ForeignBody { version: 2 });
    assert_eq!(
        refused(event(StreamCategory::Customer, 2, confirmed())),
        FoldError::ForeignBody { version: 2 }
    );
    assert_eq!(
        refused(event(StreamCategory::Order, 3, cancelled())),
        FoldError::Gap { expected: 2, found: 3 }
    );
    let timeless = RecordedEvent { recorded_time: None, ..event(StreamCategory::Order, 2, cancelled()) };
    assert_eq!(refused(timeless), FoldError::Malformed { version: 2, field: "recorded_time" });
    let priceless = Body::ItemAdded(ItemAdded { line: 1, quantity: 1, ..ItemAdded::default() });
    let malformed = FoldError::Malformed { version: 2, field: "unit_price" };
    assert_eq!(refused(event(StreamCategory::Order, 2, priceless)), malformed);
}

#[test]
fn names_are_those_of_the_last_event() {
    let registered =
        CustomerRegistered { customer_id: "17850".to_owned(), name: "Customer 17850".to_owned() };
    let renamed = CustomerRenamed { customer_id: "17850".to_owned(), name: "José".to_owned() };
    let customer =
        given::<Customers>([Body::CustomerRegistered(registered.clone()), Body::CustomerRenamed(renamed)])
            .unwrap();
    let expected = CustomerDocument {
        customer_id: "17850".to_owned(),
        version: 2,
        name: "José".to_owned(),
        registered_at: SECOND,
        updated_at: 2 * SECOND,
    };
    assert_eq!(customer, expected);
    let twice = [Body::CustomerRegistered(registered.clone()), Body::CustomerRegistered(registered)];
    let reason = "it was registered before";
    assert_eq!(given::<Customers>(twice), Err(FoldError::Illegal { version: 2, reason }));

    let registered = ProductRegistered { product_id: "85123A".to_owned(), name: "HOLDER".to_owned() };
    let renamed = ProductRenamed { product_id: "85123A".to_owned(), name: "WHITE HOLDER".to_owned() };
    let product =
        given::<Products>([Body::ProductRegistered(registered), Body::ProductRenamed(renamed.clone())])
            .unwrap();
    assert_eq!((product.name.as_str(), product.version), ("WHITE HOLDER", 2));
    let reason = "it was not registered";
    assert_eq!(
        given::<Products>([Body::ProductRenamed(renamed)]),
        Err(FoldError::Illegal { version: 1, reason })
    );
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        1 => Just(created()),
        6 => (1..9_i32, 1..5_i32, 0..1_000_i64).prop_map(|(line, quantity, price)| added(line, quantity, price)),
        3 => (1..9_i32, 1..5_i32).prop_map(|(line, quantity)| changed(line, quantity)),
        2 => (1..9_i32).prop_map(removed),
        1 => Just(confirmed()),
        1 => Just(shipped()),
        1 => Just(delivered()),
        1 => Just(cancelled()),
    ]
}

proptest! {
    /// Whatever happened, a document that went through its JSON form after every event is the one that did not,
    /// refusals leave it alone, and its sums are those of its lines.
    #[test]
    fn the_json_form_suffices_to_fold_on(bodies in prop::collection::vec(any_body(), 0..40), submit_at in 1..40_usize) {
        let mut kept = None;
        let mut reread: Option<OrderDocument> = None;
        let mut version = 1;
        for (i, body) in std::iter::once(created()).chain(bodies).enumerate() {
            let total = kept.as_ref().map_or(0, |order: &OrderDocument| order.total);
            let body = if i == submit_at { submitted(total) } else { body };
            let event = event(StreamCategory::Order, version, body);
            let before = kept.clone();
            let outcome = apply::<Orders>(&mut kept, &event);
            prop_assert_eq!(&outcome, &apply::<Orders>(&mut reread, &event));
            if outcome.is_ok() { version += 1 } else { prop_assert_eq!(&kept, &before) }
            reread = serde_json::from_slice(&serde_json::to_vec(&reread).unwrap()).unwrap();
            prop_assert_eq!(&kept, &reread);
        }
        let order = kept.unwrap();
        prop_assert_eq!(order.total, order.lines.iter().map(|line| line.subtotal).sum::<i64>());
        prop_assert_eq!(order.unit_count, order.lines.iter().map(|line| i64::from(line.quantity)).sum::<i64>());
        prop_assert_eq!(order.item_count, i64::try_from(order.lines.len()).unwrap());
        prop_assert_eq!(order.version, version - 1);
    }
}
