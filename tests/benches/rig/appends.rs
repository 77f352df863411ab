//! The floor of every write: the service's own append statement, in batches that are made before the clock runs.

use std::time::{Duration, Instant};

use proto::v1::StreamCategory;
use sqlx::PgPool;
use uuid::Uuid;
use write_service::codec::{self, Envelope, Event};
use write_service::event_store::{Append, EventStore};
use write_service::order::{self, Money};

/// Orders that are open at a time.
pub const ORDERS: usize = 4_096;
/// Commands in the life of an order.
pub const LIFE: i64 = 10;
/// Appends in a batch.
const BATCH: usize = 100;
/// Connections that append side by side.
const CONNECTIONS: usize = 2;

/// Stores `count` appends of `events` each, as orders live, and gives the time that it took.
pub async fn store(pool: &PgPool, count: usize, events: usize) -> anyhow::Result<Duration> {
    let lanes = (0..CONNECTIONS).map(|_| batches(count / CONNECTIONS, events)).collect::<Vec<_>>();
    let started = Instant::now();
    let lanes = lanes.into_iter().map(|batches| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut writer = EventStore::new(pool).writer();
            for batch in batches {
                writer.append(&batch).await?;
            }
            anyhow::Ok(())
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await??;
    }
    Ok(started.elapsed())
}

/// One durable append of one event after the other, on one connection; the latencies.
pub async fn store_one_by_one(pool: &PgPool, count: usize) -> anyhow::Result<Vec<Duration>> {
    let appends = batches(count * BATCH, 1).into_iter().map(|batch| batch[..1].to_vec());
    let mut writer = EventStore::new(pool.clone()).writer();
    let mut latencies = Vec::with_capacity(count);
    for append in appends.collect::<Vec<_>>() {
        let started = Instant::now();
        writer.append(&append).await?;
        latencies.push(started.elapsed());
    }
    Ok(latencies)
}

/// Batches of appends in an order in which each finds its predecessor.
fn batches(count: usize, events: usize) -> Vec<Vec<Append>> {
    let (rounds, orders) = if events == 1 { (LIFE, ORDERS / CONNECTIONS) } else { (1, count) };
    let mut batches = Vec::new();
    let mut made = 0;
    while made < count {
        let mut streams: Vec<_> = (0..orders.min(count - made)).map(|_| Uuid::now_v7()).collect();
        streams.sort_unstable();
        for round in 0..rounds {
            for streams in streams.chunks(BATCH) {
                batches.push(streams.iter().map(|stream| append(*stream, round, events)).collect());
                made += streams.len();
            }
        }
    }
    batches
}

fn append(stream_id: Uuid, expected_version: i64, count: usize) -> Append {
    let key = stream_id.to_string();
    let request_id = Uuid::now_v7();
    let events = (expected_version + 1..).take(count).map(|version| {
        let envelope = Envelope {
            event_id: Uuid::now_v7(),
            category: StreamCategory::Order,
            key: key.clone(),
            version,
            recorded_at: 1_700_000_000_000_000_000,
            actor: "anonymous".into(),
            request_id: Some(request_id),
            traceparent: String::new(),
        };
        codec::encode(Event::Order(event(version)), envelope)
    });
    Append {
        stream_id,
        category: StreamCategory::Order,
        slice: proto::slice::of(StreamCategory::Order, &key),
        expected_version,
        predecessor: None,
        fingerprint: Some([7; 16]),
        events: events.collect(),
    }
}

/// What the load generator's commands become.
fn event(version: i64) -> order::Event {
    if version == 1 {
        order::Event::Created {
            customer_id: "17850".into(),
            customer_name: "Customer 17850".into(),
            currency: "GBP".into(),
            reference: "536365".into(),
            delivery_country: "United Kingdom".into(),
            placed_at: 1_700_000_000_000_000_000,
        }
    } else {
        order::Event::ItemAdded {
            line: i32::try_from(version).unwrap_or(1),
            product_id: "85123A".into(),
            product_name: "WHITE HANGING HEART T-LIGHT HOLDER".into(),
            quantity: 6,
            unit_price: Money { currency: "GBP".into(), minor_units: 255 },
        }
    }
}
