//! How fast the feed is read, beside a plain SELECT of the same rows.
//!
//! `cargo bench -p tests --bench feed`, optionally with `-- ROUNDS WORD`: how often each figure is measured (5), and which: those whose
//! name holds the word. The floor is one SELECT by primary key, decoded as the consumer decodes.

use std::time::Instant;

use anyhow::{Context as _, bail};
use futures_util::TryStreamExt as _;
use prost::Message as _;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::subscribe_response::Message;
use proto::v1::{GetHeadRequest, RecordedEvent, ScanRequest, SubscribeRequest};
use tonic::transport::Channel;

use rig::pair::Pair;
use rig::table::{self, Better, Round, Row};
use rig::{appends, per_second};

/// Events in the store.
const EVENTS: usize = 400_000;
/// Largest message taken; the feed keeps its own far below.
const MESSAGE_LIMIT: usize = 16 * 1024 * 1024;

fn main() -> anyhow::Result<()> {
    let (rounds, word) = rig::arguments(5);
    // One thread, as in the write path's benchmark.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build()?.block_on(run(rounds, &word))
}

async fn run(rounds: usize, word: &str) -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    appends::store(&pair.pool, EVENTS, 1).await?;
    sqlx::query("VACUUM ANALYZE event").execute(&pair.pool).await?;
    let mut feed =
        OrderFeedServiceClient::new(pair.connect().await?).max_decoding_message_size(MESSAGE_LIMIT);
    let head = published(&mut feed).await?;

    let mut rows = [row("Subscribe from 0", 0.25, 0.4), row("Scan", 0.5, 0.8)];
    for _ in 0..rounds {
        let mut before = select(&pair).await?;
        for row in rows.iter_mut().filter(|row| row.name.contains(word)) {
            let (started, cpu) = (Instant::now(), pair.cpu());
            let count =
                if row.name == "Scan" { scan(&mut feed).await? } else { subscribe(&mut feed, head).await? };
            let (elapsed, cpu) = (started.elapsed(), pair.cpu().since(cpu));
            let after = select(&pair).await?;
            row.rounds
                .push(Round { figure: per_second(count, elapsed), floor: f64::midpoint(before, after) });
            row.cpu = Some(cpu.each(count));
            before = after;
        }
    }
    let notes = [
        format!("{head} events in the feed; floor: one SELECT by primary key of all of them, decoded"),
        format!("write service: {} MiB resident at most; {rounds} rounds", pair.service_memory_mib()),
    ];
    table::print("feed", &rows, &notes)?;
    pair.stop().await
}

fn row(name: &'static str, reach: f64, aim: f64) -> Row {
    let (unit, better) = ("events/s", Better::More);
    Row { name, unit, rounds: Vec::new(), latency: None, cpu: None, reach, aim, better }
}

/// Waits until everything stored has its position, and returns the head.
async fn published(feed: &mut OrderFeedServiceClient<Channel>) -> anyhow::Result<i64> {
    loop {
        let head = feed.get_head(GetHeadRequest {}).await?.into_inner();
        if head.outbox_backlog == 0 {
            return Ok(head.head_position);
        }
    }
}

/// The floor: events a second.
async fn select(pair: &Pair) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut rows = sqlx::query_as::<_, (Vec<u8>, Vec<u8>)>(
        "SELECT metadata, body FROM event ORDER BY stream_id, version",
    )
    .fetch(&pair.pool);
    let mut count = 0;
    while let Some((metadata, body)) = rows.try_next().await? {
        let mut event = RecordedEvent::decode(metadata.as_slice())?;
        event.merge(body.as_slice())?;
        count += usize::from(event.version > 0);
    }
    Ok(per_second(count, started.elapsed()))
}

async fn subscribe(feed: &mut OrderFeedServiceClient<Channel>, head: i64) -> anyhow::Result<usize> {
    let mut answers = feed.subscribe(SubscribeRequest::default()).await?.into_inner();
    let mut count = 0;
    loop {
        let answer = answers.message().await?.context("a subscription has no end")?;
        if let Some(Message::Batch(batch)) = answer.message {
            count += batch.events.len();
            if batch.through_position >= head {
                return Ok(count);
            }
        }
    }
}

async fn scan(feed: &mut OrderFeedServiceClient<Channel>) -> anyhow::Result<usize> {
    let mut answers = feed.scan(ScanRequest::default()).await?.into_inner();
    let mut count = 0;
    let mut resume = None;
    while let Some(answer) = answers.message().await? {
        count += answer.events.len();
        resume = answer.resume_position.or(resume);
    }
    if resume.is_none() {
        bail!("the scan ended without its position");
    }
    Ok(count)
}
