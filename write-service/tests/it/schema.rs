//! Events of other schemas: an older one leaves the store in today's form, one that is not known stops its own stream only.

use std::collections::HashMap;

use prost::Message as _;
use proto::reason::Reason;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::recorded_event::Body;
use proto::v1::subscribe_response::Message;
use proto::v1::*;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use write_service::event_store::EventStore;

use crate::event_store::append;
use crate::support::{World, gbp, refusal, serve};

/// Every event of the feed up to its head, by subscription.
async fn subscribed(world: &mut World) -> Vec<RecordedEvent> {
    world.published().await;
    let mut answers = world.feed.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        match answers.message().await.unwrap().unwrap().message.unwrap() {
            Message::Batch(batch) => events.extend(batch.events),
            _ => return events,
        }
    }
}

async fn scanned(world: &mut World) -> Vec<RecordedEvent> {
    let mut answers = world.feed.scan(ScanRequest::default()).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        events.extend(answer.events);
    }
    events
}

fn find<'a>(events: &'a [RecordedEvent], key: &str, version: i64) -> &'a RecordedEvent {
    events.iter().find(|event| event.stream_key == key && event.version == version).unwrap()
}

#[tokio::test]
async fn an_event_of_the_first_schema_leaves_by_every_way_as_todays() {
    let mut world = World::start().await;
    let id = world.draft().await;
    let today = world.history(&id).await;
    let Some(Body::ItemAdded(added)) = today[1].body.clone() else { panic!("{today:?}") };
    assert_eq!(added.subtotal, Some(gbp(2 * 339)));

    // As the release before subtotals stored it.
    let body = Some(Body::ItemAdded(ItemAdded { subtotal: None, ..added }));
    let body = RecordedEvent { body, ..RecordedEvent::default() }.encode_to_vec();
    let stored = "UPDATE event SET schema = 1, body = $2 WHERE stream_id = $1 AND version = 2 AND schema = 2";
    let stream_id = Uuid::parse_str(&id).unwrap();
    let stored = sqlx::query(stored).bind(stream_id).bind(body).execute(&world.pool).await.unwrap();
    assert_eq!(stored.rows_affected(), 1);

    assert_eq!(find(&world.history(&id).await, &id, 2).body, today[1].body, "by stream");
    assert_eq!(find(&subscribed(&mut world).await, &id, 2).body, today[1].body, "by subscription");
    assert_eq!(find(&scanned(&mut world).await, &id, 2).body, today[1].body, "by scan");
    let (channel, _lifecycle) = serve(&world.database.url).await;
    let mut cold = OrderCommandServiceClient::new(channel);
    let submit = SubmitOrderRequest { order_id: id, ..Default::default() };
    let receipt = cold.submit_order(submit).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((receipt.version, receipt.total), (3, Some(gbp(2 * 339))), "folded");
}

#[tokio::test]
async fn an_event_that_is_not_known_stops_its_stream_and_says_which_it_is() {
    for (type_name, schema) in [("OrderArchived", 1), ("OrderConfirmed", 7)] {
        let mut world = World::start().await;
        let (stopped, healthy) = (world.draft().await, world.draft().await);
        // A newer release has written to the order.
        let stream_id = Uuid::parse_str(&stopped).unwrap();
        let mut newer = append(stream_id, 2, 1);
        newer.events[0].type_name = type_name.to_owned();
        newer.events[0].schema = schema;
        EventStore::new(world.pool.clone()).writer().append(&[newer]).await.unwrap();

        let refused = |status: Status| {
            let facts = status.get_details_error_info().unwrap().metadata;
            let expected = [
                ("stream_id", stopped.clone()),
                ("version", "3".to_owned()),
                ("type", type_name.to_owned()),
                ("schema", schema.to_string()),
            ];
            for (key, value) in &expected {
                assert!(status.message().contains(value), "{value} in {:?}", status.message());
                assert_eq!(facts.get(*key), Some(value));
            }
            assert_eq!(facts.len(), expected.len());
            assert_eq!(refusal::<()>(Err(status)), (Code::DataLoss, Reason::EventUnreadable));
        };
        // A copy that holds the order in memory, and one that does not.
        refused(world.submit(&stopped).await.unwrap_err());
        let (channel, _lifecycle) = serve(&world.database.url).await;
        let mut cold = OrderCommandServiceClient::new(channel);
        let submit = SubmitOrderRequest { order_id: stopped.clone(), ..Default::default() };
        refused(cold.submit_order(submit).await.unwrap_err());
        let read = ReadStreamRequest {
            category: StreamCategory::Order.into(),
            stream_key: stopped.clone(),
            ..Default::default()
        };
        refused(world.feed.read_stream(read).await.unwrap_err());

        assert_eq!(world.submit(&healthy).await.unwrap().version, 3, "other orders go on");
        for events in [subscribed(&mut world).await, scanned(&mut world).await] {
            let unreadable = find(&events, &stopped, 3);
            assert_eq!((unreadable.category(), &unreadable.body), (StreamCategory::Order, &None));
            let mut versions: HashMap<_, Vec<_>> = HashMap::new();
            for event in &events {
                versions.entry(event.stream_key.as_str()).or_default().push(event.version);
            }
            assert_eq!(
                (&versions[stopped.as_str()], &versions[healthy.as_str()]),
                (&vec![1, 2, 3], &vec![1, 2, 3])
            );
            assert_eq!(events.iter().filter(|event| event.body.is_none()).count(), 1);
        }
    }
}
