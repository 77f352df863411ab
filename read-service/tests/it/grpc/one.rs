//! One order: now, then, its history, and while it changes.

use proto::reason::Reason;
use proto::v1::get_order_request::AsOf;
use proto::v1::recorded_event::Body;
use proto::v1::*;
use tokio::time::timeout;
use tonic::Code;

use super::limits::gated;
use super::world::{DAY, Sale, World, consistency, history, id, refusal, time, token};
use crate::support::{DEADLINE, confirmed};

fn as_of(order_id: &str, as_of: AsOf) -> GetOrderRequest {
    GetOrderRequest { order_id: order_id.to_owned(), as_of: Some(as_of), ..Default::default() }
}

#[tokio::test]
async fn a_name_is_read_again_only_where_it_may_have_changed() {
    let mut events = history([&Sale::number(1)]);
    events.customer("17850", "Ada");
    let (world, gate) = gated("names", &events, 16).await;
    let order = GetOrderRequest { order_id: id(1), ..Default::default() };
    let name = async || world.get(order.clone()).await.unwrap().order.unwrap().customer_current_name;
    assert_eq!(name().await, "Ada");
    // Whatever reads that customer would wait here.
    gate.hold("customers/_doc");
    assert_eq!(timeout(DEADLINE, name()).await.unwrap(), "Ada");
    gate.hold("");
    for number in 0..20 {
        let renamed = format!("Ada {number}");
        let body = CustomerRenamed { customer_id: "17850".into(), name: renamed.clone() };
        events.add(StreamCategory::Customer, "17850", Some(Body::CustomerRenamed(body)));
        world.feed.publish(&events);
        let tokens = vec![token(StreamCategory::Customer, "17850", number + 2)];
        let consistency = consistency(tokens, consistency::OnStale::Unspecified);
        let asked = world.get(GetOrderRequest { consistency, ..order.clone() }).await.unwrap();
        assert_eq!(asked.order.unwrap().customer_current_name, renamed);
        // Nor does anyone go back to an older one.
        assert_eq!(name().await, renamed);
    }
}

#[tokio::test]
async fn an_order_as_it_stands() {
    let mut sale = Sale::number(1).line("POST", "POSTAGE", 2, 1_800);
    sale.status = OrderStatus::Delivered;
    let mut events = history([&sale]);
    events.customer("17850", "Jürgen Schmidt");
    let world = World::of("order", &events).await;
    // The name of today comes from another projection.
    let tokens = vec![token(StreamCategory::Customer, "17850", 1), token(StreamCategory::Order, &id(1), 7)];
    let request = GetOrderRequest {
        // Ids are written in lower case; UUIDs in upper case are the same.
        order_id: id(1).to_uppercase(),
        consistency: consistency(tokens, consistency::OnStale::Unspecified),
        ..Default::default()
    };
    let answer = world.get(request).await.unwrap();
    let order = answer.order.unwrap();
    let summary = order.summary.clone().unwrap();
    assert_eq!((summary.version, summary.status(), summary.item_count), (7, OrderStatus::Delivered, 2));
    assert_eq!(
        (summary.customer_name.as_str(), order.customer_current_name.as_str()),
        ("Jürgen Müller", "Jürgen Schmidt")
    );
    assert_eq!((order.carrier.as_str(), order.tracking_number.as_str()), ("Royal Mail", "RM1"));
    let recorded = |version: i64| events.events[usize::try_from(version).unwrap() - 1].recorded_time;
    assert_eq!(
        (order.submitted_time, order.delivered_time, order.cancelled_time),
        (recorded(4), recorded(7), None)
    );
    let money = |minor_units| Some(Money { currency_code: "GBP".into(), minor_units });
    let line = OrderLine {
        line: 2,
        product_id: "POST".into(),
        product_name: "POSTAGE".into(),
        quantity: 2,
        unit_price: money(1_800),
        subtotal: money(3_600),
    };
    assert_eq!(order.lines[1], line);
    let freshness = answer.freshness.unwrap();
    assert!(freshness.index.starts_with(&format!("{}orders-", world.prefix)), "{freshness:?}");
    assert!(freshness.position <= freshness.head_position && !freshness.stale);
}

#[tokio::test]
async fn a_name_that_did_not_change_is_not_repeated() {
    let mut events = history([&Sale::number(1)]);
    events.customer("17850", "Jürgen Müller");
    let world = World::of("name", &events).await;
    let tokens = vec![token(StreamCategory::Customer, "17850", 1)];
    let consistency = consistency(tokens, consistency::OnStale::Unspecified);
    let request = GetOrderRequest { order_id: id(1), consistency, ..Default::default() };
    assert_eq!(world.get(request).await.unwrap().order.unwrap().customer_current_name, "");
}

#[tokio::test]
async fn an_order_as_it_stood() {
    let mut sale = Sale::number(1);
    sale.status = OrderStatus::Confirmed;
    let events = history([&sale]);
    let world = World::of("stood", &events).await;
    let recorded =
        |version: usize| proto::time::to_nanos(&events.events[version - 1].recorded_time.unwrap()).unwrap();
    let status = |order: &GetOrderResponse| order.order.as_ref().unwrap().summary.as_ref().unwrap().status();
    for (wanted, version, expected) in [
        (AsOf::AsOfVersion(1), 1, OrderStatus::Draft),
        (AsOf::AsOfVersion(3), 3, OrderStatus::Submitted),
        (AsOf::AsOfVersion(4), 4, OrderStatus::Confirmed),
        (AsOf::AsOfTime(proto::time::from_nanos(recorded(3))), 3, OrderStatus::Submitted),
        (AsOf::AsOfTime(proto::time::from_nanos(recorded(3) - 1)), 2, OrderStatus::Draft),
        (
            AsOf::AsOfTime(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 }),
            4,
            OrderStatus::Confirmed,
        ),
    ] {
        let answer = world.get(as_of(&id(1), wanted)).await.unwrap();
        let seen = (answer.order.as_ref().unwrap().summary.as_ref().unwrap().version, status(&answer));
        assert_eq!(seen, (version, expected), "{wanted:?}");
        let freshness = answer.freshness.unwrap();
        assert_eq!((freshness.position, freshness.index.as_str()), (freshness.head_position, ""));
    }
    for (order_id, wanted) in [
        (id(1), AsOf::AsOfVersion(5)),
        (id(1), AsOf::AsOfTime(proto::time::from_nanos(recorded(1) - 1))),
        (id(2), AsOf::AsOfVersion(1)),
        (id(2), AsOf::AsOfTime(proto::time::from_nanos(DAY))),
    ] {
        let refused = refusal(world.get(as_of(&order_id, wanted)).await);
        assert_eq!(refused, (Code::NotFound, Reason::OrderNotFound, vec![]), "{wanted:?}");
    }
}

#[tokio::test]
async fn what_happened_to_an_order() {
    let events = history([&Sale::number(1), &Sale::number(2)]);
    let world = World::of("history", &events).await;
    let ask = |order_id| world.client.clone().get_order_history_owned(order_id);
    let expected: Vec<_> = events.stream(StreamCategory::Order, &id(2)).cloned().collect();
    assert_eq!(ask(id(2)).await.unwrap(), expected);
    assert_eq!(refusal(ask(id(3)).await), (Code::NotFound, Reason::OrderNotFound, vec![]));

    // The write service goes away: what was is gone with it, what is stays.
    world.feed.change(|script| script.down = true);
    let down = (Code::Unavailable, Reason::EventStoreDown, vec![]);
    assert_eq!(refusal(ask(id(2)).await), down);
    assert_eq!(refusal(world.get(as_of(&id(2), AsOf::AsOfVersion(1))).await), down);
    assert_eq!(world.order(&id(2)).await.summary.unwrap().version, 3);
}

/// One more short word.
trait History {
    async fn get_order_history_owned(self, order_id: String) -> Result<Vec<RecordedEvent>, tonic::Status>;
}

impl History for order_query_service_client::OrderQueryServiceClient<tonic::transport::Channel> {
    async fn get_order_history_owned(
        mut self,
        order_id: String,
    ) -> Result<Vec<RecordedEvent>, tonic::Status> {
        Ok(self.get_order_history(GetOrderHistoryRequest { order_id }).await?.into_inner().events)
    }
}

#[tokio::test]
async fn an_order_is_watched() {
    let mut events = history([&Sale::number(1)]);
    let world = World::of("watch", &events).await;
    let watch = WatchOrderRequest { order_id: id(1) };
    let mut changes = world.client.clone().watch_order(watch).await.unwrap().into_inner();
    let mut next = async || timeout(DEADLINE, changes.message()).await.expect("nothing is heard in time");
    let status =
        |answer: Option<WatchOrderResponse>| answer.unwrap().order.unwrap().summary.unwrap().status();
    assert_eq!(status(next().await.unwrap()), OrderStatus::Submitted);

    // Changes of other orders are not told.
    Sale::number(2).put_into(&mut events);
    events.order(&id(1), confirmed());
    world.feed.publish(&events);
    assert_eq!(status(next().await.unwrap()), OrderStatus::Confirmed);
    events.order(&id(1), Body::OrderCancelled(OrderCancelled { reason: "lost".into() }));
    world.feed.publish(&events);
    assert_eq!(status(next().await.unwrap()), OrderStatus::Cancelled);

    world.lifecycle.drain();
    assert_eq!(refusal(next().await), (Code::Unavailable, Reason::ShuttingDown, vec![]));
}

#[tokio::test]
async fn what_is_not_there_cannot_be_seen() {
    let world = World::of("absent", &history([&Sale::number(1)])).await;
    let not_found = (Code::NotFound, Reason::OrderNotFound, vec![]);
    assert_eq!(
        refusal(world.get(GetOrderRequest { order_id: id(9), ..Default::default() }).await),
        not_found
    );
    let watch = world.client.clone().watch_order(WatchOrderRequest { order_id: id(9) }).await;
    assert_eq!(refusal(watch.map(|_| ())), not_found);
    let future = as_of(&id(1), AsOf::AsOfTime(time(0).unwrap()));
    assert_eq!(refusal(world.get(future).await), not_found);
}
