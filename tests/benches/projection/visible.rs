//! From the receipt of a command to an answer that includes it, at a steady rate, on an index that is full.

use std::time::{Duration, Instant};

use anyhow::ensure;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::{Consistency, ListOrdersRequest};
use read_service::index::{Bulk, Found, Index};
use read_service::projection::{OrderDocument, Orders, Projection as _};
use rig::latency::Latencies;
use rig::orders::{self, Shape};
use rig::pair::Pair;
use rig::search::ReadSide;
use rig::table::{Better, Round, Row};
use shared::clock::Clock;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::{floor, row};

/// What is measured.
pub const NAME: &str = "commit to visible with a token, p99";
/// Commands a second.
const RATE: u32 = 300;
/// Of so many commands, one is followed by a question: what is measured is how soon its event is visible, not how many lists a
/// second Elasticsearch answers beside it.
const ASKED: usize = 10;
/// How long, and how long at a time while all warms up.
const MEASURE: Duration = Duration::from_secs(15);
const WARM_UP: Duration = Duration::from_secs(5);
/// What falls into one cycle at that rate.
const TOGETHER: usize = 3;
/// Cycles of the floor.
const CYCLES: usize = 500;

/// The figure, and what the read service needed.
pub async fn measure(
    host: &Pair,
    read: &mut ReadSide,
    documents: usize,
    rounds: usize,
) -> anyhow::Result<(Row, String)> {
    let sample = orders::Orders::register(host).await?;
    let ids = sample.place(host, documents, Shape::Small).await?;
    let prefix = floor::fresh("visible");
    // The floor writes over documents: an audit would look at each of those alone.
    read.serve(host, &prefix, &[("AUDIT_PERIOD", "0".to_owned())]).await?;
    read.caught_up(host).await?;
    let drained = read.service_memory_mib();
    // The service and what answers its searches warm up; it may refuse some meanwhile.
    let warm = async || {
        let both = tokio::join!(commands(host, read, &sample, WARM_UP), cycles(read, &prefix, &ids));
        both.0.and(both.1).map(drop)
    };
    read.warm(warm).await?;
    let mut row = Row { better: Better::Less, ..row(NAME, "us", 3.0, 2.25) };
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let mut before = cycles(read, &prefix, &ids).await?;
    for _ in 0..rounds {
        let (mut latencies, refused) = commands(host, read, &sample, MEASURE).await?;
        ensure!(refused.is_empty(), "{} failed, first {:#}", refused.len(), refused[0]);
        let after = cycles(read, &prefix, &ids).await?;
        let (figure, floor) =
            (micros(latencies.quantile(0.99)), f64::midpoint(micros(before), micros(after)));
        row.rounds.push(Round { figure, floor });
        row.latency = Some((latencies.quantile(0.5), latencies.quantile(0.99)));
        before = after;
    }
    let note = format!(
        "read service: {drained} MiB resident at most after a backlog of {documents} orders, {} after {} s at {RATE} commands/s",
        read.service_memory_mib(),
        MEASURE.as_secs()
    );
    read.end_service().await?;
    Ok((row, note))
}

/// At a steady rate, whatever the answers take: commands, and after some of them a list that must include the order.
async fn commands(
    host: &Pair,
    read: &ReadSide,
    sample: &orders::Orders,
    duration: Duration,
) -> anyhow::Result<(Latencies, Vec<anyhow::Error>)> {
    let (write, queries) = (host.connect().await?, read.connect().await?);
    let mut tick = interval(Duration::from_secs(1) / RATE);
    let mut under_way = JoinSet::new();
    let (mut latencies, mut failed) = (Latencies::default(), Vec::new());
    let mut note = |done| match done {
        Ok(Some(latency)) => latencies.add(latency),
        Ok(None) => {}
        Err(error) => failed.push(error),
    };
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < duration {
        tick.tick().await;
        number += 1;
        let mut request = sample.command(number, Shape::Small);
        let asked = number % ASKED == 0;
        // Placed now, so that a list of what its customer placed of late is short: what is measured is no search.
        let placed = proto::time::from_nanos(Clock::system().now_nanos());
        request.placed_time = Some(placed);
        let customer_id = request.customer_id.clone();
        let placed_from = Some(placed);
        let mut orders = OrderCommandServiceClient::new(write.clone());
        let mut queries = OrderQueryServiceClient::new(queries.clone());
        under_way.spawn(async move {
            let receipt = orders.create_order(request).await?.into_inner().receipt.unwrap_or_default();
            if !asked {
                return Ok(None);
            }
            let stored = Instant::now();
            let tokens = vec![receipt.consistency_token];
            let consistency = Some(Consistency { tokens, ..Consistency::default() });
            let list = ListOrdersRequest {
                customer_id,
                placed_from,
                page_size: 50,
                consistency,
                ..Default::default()
            };
            let found = queries.list_orders(list).await?.into_inner().orders;
            ensure!(
                found.iter().any(|order| order.order_id == receipt.order_id),
                "{} is not among {} orders",
                receipt.order_id,
                found.len()
            );
            anyhow::Ok(Some(stored.elapsed()))
        });
        while let Some(done) = under_way.try_join_next() {
            note(done?);
        }
    }
    while let Some(done) = under_way.join_next().await {
        note(done?);
    }
    Ok((latencies, failed))
}

/// The floor: three documents and a refresh, one cycle after the other; all but one in a hundred take no longer.
async fn cycles(read: &ReadSide, prefix: &str, ids: &[String]) -> anyhow::Result<Duration> {
    let index = Index::new(&read.elasticsearch_url)?;
    let name = format!("{prefix}orders");
    let ids: Vec<_> = ids.iter().map(String::as_str).take(CYCLES * TOGETHER).collect();
    let mut latencies = Latencies::default();
    let documents = index.mget::<OrderDocument>(&name, &ids).await?;
    for (documents, ids) in documents.chunks(TOGETHER).zip(ids.chunks(TOGETHER)) {
        let mut bulk = Bulk::default();
        for (found, id) in documents.iter().zip(ids) {
            let Some(Found { version, source, .. }) = found else { anyhow::bail!("{id} is not there") };
            bulk.index(id, version + 1, source, &Orders::search(source));
        }
        let bulk = bulk.seal();
        let started = Instant::now();
        index.bulk(&format!("{name}-v1-1"), &bulk).await?;
        index.refresh(&name).await?;
        latencies.add(started.elapsed());
    }
    Ok(latencies.quantile(0.99))
}
