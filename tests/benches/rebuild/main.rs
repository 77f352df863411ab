//! How fast a projection is built again, beside plain bulks of the same documents; what it costs queries and memory meanwhile.
//!
//! `cargo bench -p tests --bench rebuild`, optionally with `-- NUMBER.. WORD`: a number below 1,000 is how often each figure is
//! measured (3), a larger one how many small orders there are (100,000; real ones are a fifth as many); the word selects shapes by
//! their name. `-- 1 1000000 small` shows whether memory grows with the orders; it takes about ten minutes.
//!
//! The built read service runs beside the built write service. A rebuild is timed by its record: from the first scan to the end of the
//! refresh, then from there to the end of the verification. The floor sends the same documents, built before the clock runs: bulks
//! of 1 MB, two in flight, then one refresh.

#[path = "../projection/floor.rs"]
mod floor;
mod load;
mod stages;

use anyhow::ensure;
use proto::v1::StreamCategory;
use read_service::index::{Bulk, SealedBulk};
use read_service::projection::{self, Orders, Projection as _};
use read_service::subscription::Feed;
use rig::orders::{self, Shape};
use rig::pair::Pair;
use rig::per_second;
use rig::search::ReadSide;
use rig::table::{self, Better, Round, Row};

use crate::load::Load;
use crate::stages::Rebuilds;

/// Documents that Elasticsearch takes before anything is measured: its compiler needs about as many.
const WARM_UP: usize = 400_000;
/// Bytes of a bulk of the floor.
const BULK: usize = 1024 * 1024;
/// Documents from which on a verification is judged: of fewer, all are compared whole, which is no measure for many.
const JUDGED: usize = 100_000;
/// Seconds that a verification may take for each 100,000 documents.
const VERIFY_REACH: f64 = 8.0;
const VERIFY_AIM: f64 = 5.0;
/// The service drops the index before at once, so that disk and memory are the same in each round.
const SETTINGS: [(&str, &str); 1] = [("REBUILD_GRACE_SECONDS", "0")];

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let rounds = numbers.iter().copied().find(|number| *number < 1_000).unwrap_or(3);
    let orders = numbers.into_iter().find(|number| *number >= 1_000).unwrap_or(100_000);
    let (_, word) = rig::arguments(rounds);
    // One thread: on two cores the load generator must leave room to what it measures.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build()?.block_on(run(rounds, orders, &word))
}

async fn run(rounds: usize, orders: usize, word: &str) -> anyhow::Result<()> {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (shape, count, names) in [
        (
            Shape::Small,
            orders,
            ["small orders", "small orders, verification", "small orders, a query meanwhile"],
        ),
        (
            Shape::Real,
            orders / 5,
            ["real orders", "real orders, verification", "real orders, a query meanwhile"],
        ),
    ] {
        if names[0].contains(word) {
            measure(shape, count, names, rounds, &mut rows, &mut notes).await?;
        }
    }
    Ok(table::print("rebuild", &rows, &notes)?)
}

/// Rebuilds so many orders so often, each time between two floors; then once more under queries.
async fn measure(
    shape: Shape,
    count: usize,
    names: [&'static str; 3],
    rounds: usize,
    rows: &mut Vec<Row>,
    notes: &mut Vec<String>,
) -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let sample = orders::Orders::register(&pair).await?;
    let ids = sample.place(&pair, count, shape).await?;
    let documents = documents(&pair).await?;
    let mut read = ReadSide::start(&pair).await?;
    let url = read.elasticsearch_url.clone();
    floor::warm_up(&url, &documents, WARM_UP.min(4 * count)).await?;
    let settings = SETTINGS.map(|(name, value)| (name, value.to_owned()));
    read.serve(&pair, "bench-", &settings).await?;
    read.caught_up(&pair).await?;
    let rebuilds = Rebuilds::of(&read, "bench-").await?;
    let load = Load::of(&read, &ids).await?;
    read.warm(async || load.during(rebuilds.run()).await?.1.map(drop)).await?;

    let [speed, proof, meanwhile] = names;
    let mut speed = row(speed, "docs/s", Better::More, 0.6, 0.8);
    let mut proof = row(proof, "docs/s", Better::More, 1.0, VERIFY_REACH / VERIFY_AIM);
    let mut meanwhile = row(meanwhile, "us", Better::Less, 2.0, 1.5);
    let mut verified = Vec::new();
    let floor = async || anyhow::Ok(per_second(count, floor::send(&url, &documents).await?));
    let mut before = floor().await?;
    for _ in 0..rounds {
        let took = rebuilds.run().await?;
        let after = floor().await?;
        speed
            .rounds
            .push(Round { figure: per_second(count, took.scan), floor: f64::midpoint(before, after) });
        before = after;
        verified.push(format!("{:.1} s", took.verification.as_secs_f64()));
        let figure = per_second(count, took.verification);
        proof.rounds.push(Round { figure, floor: 100_000.0 / VERIFY_REACH });
    }
    for _ in 0..rounds {
        let mut calm = load.during(tokio::time::sleep(load::CALM)).await?.0;
        let (mut busy, done) = load.during(rebuilds.run()).await?;
        done?;
        let p99 = [&mut busy, &mut calm].map(|latencies| latencies.quantile(0.99).as_secs_f64() * 1e6);
        meanwhile.rounds.push(Round { figure: p99[0], floor: p99[1] });
        meanwhile.latency = Some((busy.quantile(0.5), busy.quantile(0.99)));
    }
    notes.push(format!(
        "{}: {count} documents, verified in {}; read service at most {} MiB resident, write service {} MiB",
        names[0],
        verified.join(", "),
        read.service_memory_mib(),
        pair.service_memory_mib(),
    ));
    rows.push(speed);
    if count >= JUDGED {
        rows.push(proof);
    }
    rows.push(meanwhile);
    read.stop().await?;
    pair.stop().await
}

/// Every order as its events leave it, in the order of a scan, in bulks.
async fn documents(pair: &Pair) -> anyhow::Result<Vec<SealedBulk>> {
    let mut scan = Feed::new(&pair.url())?.scan(StreamCategory::Order, "").await?;
    let (mut bulks, mut open) = (Vec::new(), Bulk::default());
    while let Some(page) = scan.next().await? {
        for stream in page.streams {
            let Some(document) = projection::fold::<Orders>(&stream.events)? else { continue };
            open.index(&stream.key, Orders::version(&document), &document, &Orders::search(&document));
            if open.bytes() >= BULK {
                bulks.push(std::mem::take(&mut open).seal());
            }
        }
    }
    if !open.is_empty() {
        bulks.push(open.seal());
    }
    ensure!(!bulks.is_empty(), "there are orders");
    Ok(bulks)
}

fn row(name: &'static str, unit: &'static str, better: Better, reach: f64, aim: f64) -> Row {
    Row { name, unit, rounds: Vec::new(), latency: None, cpu: None, reach, aim, better }
}
