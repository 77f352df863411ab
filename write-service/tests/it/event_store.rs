//! The append statement, alone: each append of a batch has an outcome of its own.

use proto::v1::StreamCategory;
use uuid::Uuid;
use write_service::codec::{self, Envelope, Event};
use write_service::event_store::{Append, EventStore, Outcome};
use write_service::order;

use crate::support::database;

pub fn append(stream_id: Uuid, expected_version: i64, count: i64) -> Append {
    let key = stream_id.to_string();
    let events = (1..=count).map(|i| {
        let envelope = Envelope {
            event_id: Uuid::now_v7(),
            category: StreamCategory::Order,
            key: key.clone(),
            version: expected_version + i,
            recorded_at: 0,
            actor: "anonymous".into(),
            request_id: None,
            traceparent: String::new(),
        };
        codec::encode(Event::Order(order::Event::Confirmed), envelope)
    });
    Append {
        stream_id,
        category: StreamCategory::Order,
        slice: proto::slice::of(StreamCategory::Order, &key),
        expected_version,
        predecessor: None,
        fingerprint: None,
        events: events.collect(),
    }
}

async fn versions(store: &EventStore, stream_id: Uuid) -> Vec<i64> {
    store.read(stream_id, 1, 0).await.unwrap().into_iter().map(|event| event.recorded.version).collect()
}

#[tokio::test]
async fn each_append_of_a_batch_is_answered_by_itself() {
    let (_database, pool) = database().await;
    let store = EventStore::new(pool.clone());
    let mut writer = store.writer();
    let mut ids: Vec<_> = (0..4).map(|_| Uuid::now_v7()).collect();
    ids.sort_unstable();
    let first = writer.append(&[append(ids[1], 0, 3)]).await.unwrap();
    let [Outcome::Stored { batch_id }] = first[..] else { panic!("{first:?}") };
    let batch = [append(ids[0], 0, 2), append(ids[1], 3, 1), append(ids[2], 1, 1), append(ids[3], 0, 4)];
    let outcomes = writer.append(&batch).await.unwrap();
    let stored = Outcome::Stored { batch_id: batch_id + 1 };
    assert_eq!(outcomes, [stored, stored, Outcome::Conflict, stored]);
    let again = writer.append(&[append(ids[1], 2, 5)]).await.unwrap();
    assert_eq!(again, [Outcome::Conflict], "version 3 is taken");
    assert_eq!(versions(&store, ids[0]).await, [1, 2]);
    assert_eq!(versions(&store, ids[1]).await, [1, 2, 3, 4]);
    assert_eq!(versions(&store, ids[2]).await, [0_i64; 0]);
    assert_eq!(versions(&store, ids[3]).await, [1, 2, 3, 4]);
    let announced: i64 =
        sqlx::query_scalar("SELECT sum(event_count)::bigint FROM outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(announced, 3 + 2 + 1 + 4);
}

#[tokio::test]
async fn an_append_meets_the_event_that_its_caller_has_seen_or_nothing() {
    let (_database, pool) = database().await;
    let store = EventStore::new(pool.clone());
    let mut writer = store.writer();
    let stream = Uuid::now_v7();
    writer.append(&[append(stream, 0, 2)]).await.unwrap();
    let seen = store.read(stream, 2, 2).await.unwrap()[0].batch_id;
    let after = |predecessor| Append { predecessor: Some(predecessor), ..append(stream, 2, 1) };
    assert_eq!(writer.append(&[after(seen + 1)]).await.unwrap(), [Outcome::Conflict], "another history");
    assert!(matches!(writer.append(&[after(seen)]).await.unwrap()[..], [Outcome::Stored { .. }]));
}

#[tokio::test]
async fn a_batch_without_a_stored_append_announces_nothing() {
    let (_database, pool) = database().await;
    let mut writer = EventStore::new(pool.clone()).writer();
    assert_eq!(writer.append(&[append(Uuid::now_v7(), 7, 1)]).await.unwrap(), [Outcome::Conflict]);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(rows, 0);
}
