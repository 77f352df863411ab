//! Parked streams as operators list and retry them.

use std::collections::HashSet;

use local::testing::until;
use proto::reason::Reason;
use proto::v1::*;
use tonic::{Code, Status};

use super::rebuild::sales;
use crate::grpc::world::{World, id, refusal};
use crate::support::{DEADLINE, Search, added, confirmed};

impl World {
    async fn parked(&self, request: ListParkedStreamsRequest) -> Result<ListParkedStreamsResponse, Status> {
        Ok(self.admin().list_parked_streams(request).await?.into_inner())
    }

    /// What is parked of orders, by key.
    async fn parked_orders(&self) -> Vec<ParkedStream> {
        let request = ListParkedStreamsRequest { projection: "orders".into(), ..Default::default() };
        self.parked(request).await.unwrap().streams
    }

    async fn retry(&self, stream_key: &str) -> Result<Option<ParkedStream>, Status> {
        let request = RetryParkedStreamRequest {
            projection: "orders".into(),
            category: StreamCategory::Order.into(),
            stream_key: stream_key.to_owned(),
        };
        Ok(self.admin().retry_parked_stream(request).await?.into_inner().still_parked)
    }

    async fn version(&self, order_id: &str) -> i64 {
        self.order(order_id).await.summary.unwrap().version
    }

    /// Rebuilds the orders and waits for the end.
    async fn rebuild_orders(&self) -> Rebuild {
        let started = self.start_rebuild(StartRebuildRequest::default()).await;
        let done = self.rebuild_is(&started.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
        assert_eq!(done.state(), rebuild::State::Succeeded, "{done:?}");
        done
    }
}

#[tokio::test]
async fn any_copy_lists_and_retries_them() {
    let search = Search::start("parked-copies").await;
    let mut history = sales(12);
    // The fourth event of each.
    let first = history.head() + 1;
    for number in 0..12 {
        history.unknown(&id(number));
    }
    let one = World::over(&search, &search.url, &history).await;
    let two = World::over(&search, &search.url, &history).await;
    let shared = |orders: &Projection| orders.parked_streams == 12 && orders.owners.len() > 1;
    for copy in [&one, &two] {
        until(DEADLINE, "all are parked, and the slices shared", async || {
            shared(&copy.orders().await).then_some(())
        })
        .await;
    }
    let listed = two.parked_orders().await;
    for (number, parked) in listed.iter().enumerate() {
        assert_eq!((parked.projection.as_str(), parked.category()), ("orders", StreamCategory::Order));
        assert_eq!(parked.stream_key, id(number));
        assert_eq!((parked.version, parked.attempts), (4, 1));
        assert_eq!(parked.position, first + i64::try_from(number).unwrap());
        assert_eq!(parked.error, "event 4 has no body that this release knows");
        assert!(parked.parked_time.is_some());
    }
    assert_eq!(listed.len(), 12);

    // Later events wait behind it.
    for number in 0..12 {
        history.order(&id(number), confirmed());
    }
    for copy in [&one, &two] {
        copy.feed.publish(&history);
    }
    two.caught_up(&history).await;
    let still = two.retry(&id(0)).await.unwrap().unwrap();
    assert_eq!((still.version, still.attempts, still.position), (4, 2, first));
    assert_eq!(two.version(&id(0)).await, 3);
    assert_eq!(one.parked_orders().await[0].attempts, 2);

    // A release that knows the event.
    for event in history.events.iter_mut().filter(|event| event.body.is_none()) {
        event.body = Some(confirmed());
    }
    for event in history.events.iter_mut().filter(|event| event.version == 5) {
        let shipped = OrderShipped { carrier: "Royal Mail".into(), tracking_number: "RM1".into() };
        event.body = Some(recorded_event::Body::OrderShipped(shipped));
    }
    for copy in [&one, &two] {
        copy.feed.publish(&history);
    }
    for number in 0..12 {
        assert_eq!(two.retry(&id(number)).await.unwrap(), None);
        assert_eq!(one.version(&id(number)).await, 5);
    }
    let shipped = ListOrdersRequest { statuses: vec![OrderStatus::Shipped.into()], ..Default::default() };
    assert_eq!(two.list(shipped).await.unwrap().total_size, 12, "what was applied is found");
    assert_eq!(one.parked_orders().await, []);
    for number in 0..12 {
        history.order(&id(number), recorded_event::Body::OrderDelivered(OrderDelivered {}));
    }
    for copy in [&one, &two] {
        copy.feed.publish(&history);
    }
    until(DEADLINE, "later events are applied", async || {
        for number in 0..12 {
            if one.version(&id(number)).await != 6 {
                return None;
            }
        }
        Some(())
    })
    .await;
    let (code, reason, _) = refusal(two.retry(&id(0)).await);
    assert_eq!((code, reason), (Code::NotFound, Reason::StreamNotParked));
}

#[tokio::test]
async fn they_are_listed_in_pages_over_all_projections() {
    let search = Search::start("parked-pages").await;
    let mut history = sales(5);
    for number in 0..5 {
        history.unknown(&id(number));
    }
    for key in ["17850", "17851"] {
        history.customer(key, "Zoë").add(StreamCategory::Customer, key, None);
    }
    let world = World::over(&search, &search.url, &history).await;
    world.ready().await;
    let all = ListParkedStreamsRequest::default();
    until(DEADLINE, "all are parked", async || {
        (world.parked(all.clone()).await.ok()?.streams.len() == 7).then_some(())
    })
    .await;
    let mut listed = Vec::new();
    let mut request = ListParkedStreamsRequest { page_size: 3, ..all.clone() };
    let sizes = [3, 3, 1];
    for size in sizes {
        let page = world.parked(request.clone()).await.unwrap();
        assert_eq!((page.streams.len(), page.next_page_token.is_empty()), (size, size == 1));
        listed.extend(page.streams.into_iter().map(|parked| (parked.projection, parked.stream_key)));
        request.page_token = page.next_page_token;
    }
    let customers = ["17850", "17851"].map(|key| ("customers".to_owned(), key.to_owned()));
    let orders = (0..5).map(|number| ("orders".to_owned(), id(number)));
    assert_eq!(listed, customers.into_iter().chain(orders).collect::<Vec<_>>());

    let first = world.parked(ListParkedStreamsRequest { page_size: 3, ..all.clone() }).await.unwrap();
    let of_orders = ListParkedStreamsRequest {
        projection: "orders".into(),
        page_token: first.next_page_token,
        ..all.clone()
    };
    assert_eq!(refusal(world.parked(of_orders).await).1, Reason::PageTokenInvalid);
    let unknown = ListParkedStreamsRequest { projection: "invoices".into(), ..all.clone() };
    assert_eq!(refusal(world.parked(unknown).await).2, ["projection"]);
    let negative = ListParkedStreamsRequest { page_size: -1, ..all };
    assert_eq!(refusal(world.parked(negative).await).2, ["page_size"]);

    let retry = RetryParkedStreamRequest {
        projection: "orders".into(),
        category: StreamCategory::Customer.into(),
        stream_key: String::new(),
    };
    let refused = world.admin().retry_parked_stream(retry.clone()).await;
    assert_eq!(refusal(refused).2, ["category", "stream_key"]);
    let retry = RetryParkedStreamRequest { projection: String::new(), ..retry };
    assert_eq!(refusal(world.admin().retry_parked_stream(retry).await).2, ["projection"]);
}

#[tokio::test]
async fn a_rebuild_retries_them_and_keeps_what_can_be_applied() {
    let search = Search::start("parked-rebuild").await;
    let mut history = sales(20);
    history.unknown(&id(3)).order(&id(4), confirmed()).order(&id(5), confirmed());
    // What a keyword does not hold.
    let recorded_event::Body::ItemAdded(item) = added(2, 1, 100) else { unreachable!() };
    let long = ItemAdded { product_id: "x".repeat(40_000), ..item };
    let draft = id(50);
    history
        .order(&draft, crate::support::created(&draft, "R"))
        .order(&draft, added(1, 1, 100))
        .order(&draft, recorded_event::Body::ItemAdded(long));
    let unreadable = history.head() - 4;
    let world = World::over(&search, &search.url, &history).await;
    world.feed.change(|script| script.unreadable = HashSet::from([unreadable]));
    world.ready().await;
    world.caught_up(&history).await;
    let before = world.parked_orders().await;
    let places = |parked: &[ParkedStream]| {
        parked
            .iter()
            .map(|parked| (parked.stream_key.clone(), parked.version, parked.position))
            .collect::<Vec<_>>()
    };
    let head = history.head();
    let (one, two, three) = ((id(3), 4, head - 5), (id(4), 4, head - 4), (draft.clone(), 3, head));
    assert_eq!(places(&before), [one.clone(), two, three.clone()]);

    // What cannot be applied is parked in the new index as well, and what can be is there.
    let done = world.rebuild_orders().await;
    assert_eq!(done.verification.unwrap().documents_found, 21);
    let orders = world.orders_are(|orders| orders.live_index == search.name("orders-v1-2")).await;
    assert_eq!((orders.parked_streams, orders.document_count), (3, 21), "{orders:?}");
    let after = world.parked_orders().await;
    // Where an event stands that cannot be read, a rebuild cannot tell.
    assert_eq!(places(&after), [one, (id(4), 4, 0), three]);
    assert_eq!(after[1].error, "event 4 cannot be read: its bytes are damaged");
    assert_eq!(after[2].error, "elasticsearch refused with 400 document_parsing_exception");
    assert_eq!(world.version(&draft).await, 2, "no order goes back");

    // Once the causes are gone, a rebuild applies them.
    world.feed.change(|script| script.unreadable.clear());
    for event in &mut history.events {
        match &mut event.body {
            Some(recorded_event::Body::ItemAdded(item)) => item.product_id.truncate(10),
            body @ None => *body = Some(confirmed()),
            Some(_) => {}
        }
    }
    world.feed.publish(&history);
    world.rebuild_orders().await;
    let orders = world.orders_are(|orders| orders.live_index == search.name("orders-v1-3")).await;
    assert_eq!(orders.parked_streams, 0, "{orders:?}");
    assert_eq!(world.parked_orders().await, []);
    for (order, version) in [(id(3), 4), (id(4), 4), (draft, 3)] {
        assert_eq!(world.version(&order).await, version);
    }
    // The way back leads to an index in which they are parked still.
    let rollback = RollbackProjectionRequest { projection: "orders".into() };
    world.admin().rollback_projection(rollback).await.unwrap();
    assert_eq!(world.parked_orders().await.len(), 3);
}
