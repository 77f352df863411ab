//! The feed through the client: subscribing, scanning, reading a stream, the head.

use std::collections::HashMap;

use proto::reason::Reason;
use proto::v1::subscribe_response::Message;
use proto::v1::*;
use tonic::{Code, Streaming};

use crate::support::{PATIENCE, World, create, lantern, new_id, refusal};

async fn subscribe(world: &mut World, request: SubscribeRequest) -> Streaming<SubscribeResponse> {
    world.feed.subscribe(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> Message {
    let answer = tokio::time::timeout(PATIENCE, stream.message()).await.expect("an answer in time");
    answer.unwrap().expect("a subscription has no end").message.unwrap()
}

/// Events up to this position, whatever else comes between.
async fn until(stream: &mut Streaming<SubscribeResponse>, position: i64) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    let mut through = 0;
    while through < position {
        if let Message::Batch(batch) = next(stream).await {
            assert!(batch.through_position > through && batch.head_position >= batch.through_position);
            through = batch.through_position;
            assert!(batch.events.len() <= 1_000, "a message that any client takes");
            assert!(batch.events.last().is_none_or(|event| event.position <= through));
            events.extend(batch.events);
        }
    }
    events
}

#[tokio::test]
async fn an_empty_feed_is_caught_up_at_zero() {
    let (database, _pool) = crate::support::database().await;
    let (channel, _lifecycle) = crate::support::serve(&database.url).await;
    let mut feed = order_feed_service_client::OrderFeedServiceClient::new(channel);
    let mut stream = feed.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await, Message::CaughtUp(CaughtUp { position: 0 }));
    assert!(matches!(next(&mut stream).await, Message::Heartbeat(Heartbeat { head_position: 0, .. })));
}

#[tokio::test]
async fn a_subscriber_gets_the_past_and_then_the_present_without_a_seam() {
    let mut world = World::start().await;
    let orders: Vec<_> = (0..30).map(|_| new_id()).collect();
    for id in &orders[..10] {
        world
            .create(CreateOrderRequest { order_id: id.clone(), ..create(vec![lantern(1)], true) })
            .await
            .unwrap();
    }
    let head = world.published().await;
    let mut stream = subscribe(&mut world, SubscribeRequest::default()).await;
    let mut events = until(&mut stream, head).await;
    assert_eq!(next(&mut stream).await, Message::CaughtUp(CaughtUp { position: head }));
    for id in &orders[10..] {
        world
            .create(CreateOrderRequest { order_id: id.clone(), ..create(vec![lantern(1)], true) })
            .await
            .unwrap();
    }
    let head = world.published().await;
    events.extend(until(&mut stream, head).await);
    let positions: Vec<_> = events.iter().map(|event| event.position).collect();
    assert_eq!(positions, (1..=head).collect::<Vec<_>>());
    assert_eq!(head, 3 + 30 * 3);
    let mut versions = HashMap::new();
    for event in &events {
        let version = versions.entry(event.stream_key.clone()).or_insert(0);
        *version += 1;
        assert_eq!(event.version, *version);
    }
    // From any older position, the same events.
    let mut stream =
        subscribe(&mut world, SubscribeRequest { after_position: 40, ..Default::default() }).await;
    assert_eq!(until(&mut stream, head).await, events[40..]);
}

#[tokio::test]
async fn slices_and_categories_filter_and_the_position_moves_on() {
    let mut world = World::start().await;
    let ids: Vec<_> = (0..40).map(|_| new_id()).collect();
    let wanted = |id: &String| proto::slice::of(StreamCategory::Order, id) < 512;
    let expected: Vec<_> = ids.iter().filter(|id| wanted(id)).cloned().collect();
    let request = SubscribeRequest {
        slices: Some(SliceRange { first: 0, last: 511 }),
        categories: vec![StreamCategory::Order.into()],
        ..Default::default()
    };
    let mut live = subscribe(&mut world, request.clone()).await;
    for id in &ids {
        world.create(CreateOrderRequest { order_id: id.clone(), ..create(vec![], false) }).await.unwrap();
    }
    let head = world.published().await;
    let keys =
        |events: Vec<RecordedEvent>| events.into_iter().map(|event| event.stream_key).collect::<Vec<_>>();
    assert_eq!(keys(until(&mut live, head).await), expected, "from the tail");
    let mut late = subscribe(&mut world, request).await;
    assert_eq!(keys(until(&mut late, head).await), expected, "from the store");
}

#[tokio::test]
async fn a_wrong_start_is_refused() {
    let mut world = World::start().await;
    let head = world.published().await;
    let store_id = world.feed.get_head(GetHeadRequest {}).await.unwrap().into_inner().store_id;
    let mut outcome = async |request: SubscribeRequest| refusal(world.feed.subscribe(request).await);
    let ahead = SubscribeRequest { after_position: head + 1, ..Default::default() };
    assert_eq!(outcome(ahead).await, (Code::OutOfRange, Reason::PositionAhead));
    let changed = SubscribeRequest { store_id: new_id(), ..Default::default() };
    assert_eq!(outcome(changed).await, (Code::FailedPrecondition, Reason::StoreChanged));
    let slices = Some(SliceRange { first: 7, last: 1024 });
    let invalid = [
        SubscribeRequest { after_position: -1, ..Default::default() },
        SubscribeRequest { slices, ..Default::default() },
        SubscribeRequest { categories: vec![99], ..Default::default() },
    ];
    for request in invalid {
        assert_eq!(outcome(request).await, (Code::InvalidArgument, Reason::InvalidField));
    }
    let right = SubscribeRequest { after_position: head, store_id, ..Default::default() };
    let mut stream = subscribe(&mut world, right).await;
    assert_eq!(next(&mut stream).await, Message::CaughtUp(CaughtUp { position: head }));
}

#[tokio::test]
async fn a_slow_subscriber_falls_behind_and_misses_nothing() {
    let mut world = World::start().await;
    let mut stream = subscribe(&mut world, SubscribeRequest::default()).await;
    let mut positions = Vec::new();
    // Who has not caught up yet reads from the store anyway.
    loop {
        match next(&mut stream).await {
            Message::Batch(batch) => positions.extend(batch.events.iter().map(|event| event.position)),
            Message::CaughtUp(_) => break,
            Message::FellBehind(_) | Message::Heartbeat(_) => {}
        }
    }
    // Far more than the connection and the ring hold while nobody reads.
    world.put_product("LONG", &"x".repeat(200)).await;
    let item = NewItem { product_id: "LONG".into(), ..lantern(1) };
    let mut commands = Vec::new();
    for sequence in 0..300 {
        let create = CreateOrderRequest { order_id: new_id(), ..create(vec![item.clone(); 400], false) };
        let command = Some(execute_commands_request::Command::CreateOrder(create));
        commands.push(ExecuteCommandsRequest { sequence, command });
    }
    let mut answers = world.orders.execute_commands(tokio_stream::iter(commands)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let head = world.published().await;
    assert_eq!(head, 4 + 300 * 401);
    let mut fell_behind = false;
    while positions.last() != Some(&head) {
        match next(&mut stream).await {
            Message::Batch(batch) => positions.extend(batch.events.iter().map(|event| event.position)),
            Message::FellBehind(_) => fell_behind = true,
            Message::CaughtUp(_) | Message::Heartbeat(_) => {}
        }
    }
    assert_eq!(positions, (1..=head).collect::<Vec<_>>());
    assert!(fell_behind, "it was slower than the ring is large");
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_published_without_body_and_stops_nobody() {
    let mut world = World::start().await;
    let poisoned = world.draft().await;
    let healthy = world.draft().await;
    sqlx::query("UPDATE event SET schema = 99 WHERE stream_id = $1 AND version = 2")
        .bind(uuid::Uuid::parse_str(&poisoned).unwrap())
        .execute(&world.pool)
        .await
        .unwrap();
    let head = world.published().await;
    let mut stream = subscribe(&mut world, SubscribeRequest::default()).await;
    let events = until(&mut stream, head).await;
    assert_eq!(events.len(), usize::try_from(head).unwrap());
    let unreadable: Vec<_> = events.iter().filter(|event| event.body.is_none()).collect();
    assert_eq!(unreadable.len(), 1);
    assert_eq!((unreadable[0].stream_key.as_str(), unreadable[0].version), (poisoned.as_str(), 2));
    assert_eq!(world.submit(&healthy).await.unwrap().version, 3);
}

#[tokio::test]
async fn scan_gives_every_stream_whole_and_says_where_to_go_on() {
    let mut world = World::start().await;
    let big = world.create(create(vec![lantern(1); 1_999], false)).await.unwrap().order_id;
    for _ in 0..700 {
        world.draft().await;
    }
    let head = world.published().await;
    let mut answers = world.feed.scan(ScanRequest::default()).await.unwrap().into_inner();
    let mut streams: HashMap<String, Vec<i64>> = HashMap::new();
    let (mut resume_position, mut cursors, mut previous) = (None, Vec::new(), String::new());
    let mut continued = false;
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(resume_position.is_none(), "the last message says where to go on");
        resume_position = answer.resume_position;
        for event in answer.events {
            if event.stream_key != previous {
                assert!(!continued, "a continued stream goes on first");
                assert!(!streams.contains_key(&event.stream_key), "one after the other");
            }
            continued = false;
            previous.clone_from(&event.stream_key);
            streams.entry(event.stream_key).or_default().push(event.version);
        }
        continued = answer.continued;
        cursors.push(answer.cursor);
    }
    assert_eq!(resume_position, Some(head));
    assert_eq!(streams.len(), 3 + 1 + 700);
    assert!(
        streams
            .values()
            .all(|versions| { versions.iter().copied().eq(1..=i64::try_from(versions.len()).unwrap()) })
    );
    assert_eq!(streams[&big].len(), 2_000);

    // How many there are is counted while they are few, of the categories that are asked for.
    let (order, customer, product) =
        (StreamCategory::Order, StreamCategory::Customer, StreamCategory::Product);
    for (categories, count) in [(vec![order], 701), (vec![customer, product], 3), (vec![], 704)] {
        let categories = categories.into_iter().map(Into::into).collect();
        let request = ScanRequest { categories, ..Default::default() };
        let first = world.feed.scan(request).await.unwrap().into_inner().message().await.unwrap();
        assert_eq!(first.unwrap().estimated_streams, count);
    }

    // Resumed at any cursor, it gives exactly the streams that were not whole by then.
    let cursor = cursors[1].clone();
    let mut answers = world
        .feed
        .scan(ScanRequest { cursor: cursor.clone(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut rest = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        rest += answer.events.len();
    }
    let mut before = world.feed.scan(ScanRequest::default()).await.unwrap().into_inner();
    let (first, second) =
        (before.message().await.unwrap().unwrap(), before.message().await.unwrap().unwrap());
    assert_eq!(second.cursor, cursor);
    assert_eq!(first.events.len() + second.events.len() + rest, usize::try_from(head).unwrap());
}

#[tokio::test]
async fn read_stream_gives_a_range_with_positions() {
    let mut world = World::start().await;
    let id = world.draft().await;
    world.submit(&id).await.unwrap();
    world.published().await;
    let mut read = async |from_version, to_version| {
        let request = ReadStreamRequest {
            category: StreamCategory::Order.into(),
            stream_key: id.clone(),
            from_version,
            to_version,
        };
        let answer = world.feed.read_stream(request).await.unwrap().into_inner().message().await.unwrap();
        let events = answer.map(|answer| answer.events).unwrap_or_default();
        events.into_iter().map(|event| (event.version, event.position)).collect::<Vec<_>>()
    };
    assert_eq!(read(0, 0).await, [(1, 4), (2, 5), (3, 6)]);
    assert_eq!(read(2, 2).await, [(2, 5)]);
    assert_eq!(read(4, 0).await, []);
    let malformed = ReadStreamRequest { category: 1, stream_key: "x".into(), ..Default::default() };
    assert_eq!(
        refusal(world.feed.read_stream(malformed).await),
        (Code::InvalidArgument, Reason::InvalidField)
    );
}

#[tokio::test]
async fn the_head_tells_the_backlog() {
    let mut world = World::start().await;
    world.published().await;
    let mut fence = world.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM feed_head FOR UPDATE").execute(&mut *fence).await.unwrap();
    let id = world.draft().await;
    let head = world.feed.get_head(GetHeadRequest {}).await.unwrap().into_inner();
    assert_eq!((head.head_position, head.outbox_backlog), (3, 2));
    assert!(head.outbox_oldest_seconds > 0.0);
    let unpublished = world.history(&id).await;
    assert!(unpublished.iter().all(|event| event.position == 0), "stored, not yet published");
    fence.rollback().await.unwrap();
    assert_eq!(world.published().await, 5);
}

#[tokio::test]
async fn a_service_that_stops_says_so_and_publishes_what_it_stored() {
    let mut world = World::start().await;
    let head = world.published().await;
    let mut stream =
        subscribe(&mut world, SubscribeRequest { after_position: head, ..Default::default() }).await;
    assert_eq!(next(&mut stream).await, Message::CaughtUp(CaughtUp { position: head }));
    world.draft().await;
    world.lifecycle.drain();
    let status = loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.expect("an answer in time") {
            Ok(answer) => assert!(answer.is_some(), "it ends with its reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(refusal::<()>(Err(status)), (Code::Unavailable, Reason::ShuttingDown));
    tokio::time::timeout(PATIENCE, world.lifecycle.stopped()).await.expect("it drains in time");
    assert!(!world.lifecycle.failed());
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&world.pool).await.unwrap();
    assert_eq!(left, 0, "whoever stops last leaves an empty outbox");
}
