//! How fast questions are answered, beside the same requests sent straight to Elasticsearch.
//!
//! `cargo bench -p tests --bench query`, optionally with `-- ROUNDS WORD`: how often each figure is measured (3), and which: those
//! whose name holds the word; `-- 1 small` takes some minutes, most of them until Elasticsearch's compiler rests. Questions and direct
//! requests take turns, one at a time, over one kept connection each; both are of the same kind, but none is sent twice, so that no
//! cache answers either.

mod documents;
mod questions;

use std::time::{Duration, Instant};

use proto::v1::order_query_service_client::OrderQueryServiceClient;
use read_service::Aliases;
use read_service::index::Index;
use rig::latency::Latencies;
use rig::orders::{Orders, Shape};
use rig::pair::Pair;
use rig::search::ReadSide;
use rig::table::{self, Better, Round, Row};

use crate::documents::Documents;
use crate::questions::{Kind, Questions};

/// Orders in the index.
const ORDERS: usize = 100_000;
/// How long each figure is measured, its floor included.
const MEASURE: Duration = Duration::from_secs(3);
/// Questions of a kind that are asked one after the other while all warms up.
const WARM: usize = 150;

fn main() -> anyhow::Result<()> {
    let (rounds, word) = rig::arguments(3);
    // One thread: on two cores the load generator must leave room to what it measures.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build()?.block_on(run(rounds, &word))
}

async fn run(rounds: usize, word: &str) -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let mut read = ReadSide::start(&pair).await?;
    let orders = Orders::register(&pair).await?;
    let mut rows = Vec::new();
    let mut notes = vec![format!(
        "{ORDERS} orders of each shape in an index of their own; {rounds} rounds of {} s",
        MEASURE.as_secs()
    )];
    for (shape, names) in [(Shape::Small, &SMALL), (Shape::Real, &REAL)] {
        let wanted: Vec<_> =
            Kind::ALL.into_iter().zip(names).filter(|(_, name)| name.contains(word)).collect();
        if wanted.is_empty() {
            continue;
        }
        let prefix = if shape == Shape::Small { "small-" } else { "real-" };
        read.serve(&pair, prefix, &[]).await?;
        read.caught_up(&pair).await?;
        let index = Index::new(&read.elasticsearch_url)?;
        let aliases = Aliases::new(prefix);
        let documents = Documents::load(&index, &aliases.orders, &orders, shape, ORDERS).await?;
        let client = OrderQueryServiceClient::new(read.connect().await?);
        let mut questions = Questions::new(client, index, aliases.orders, documents);
        let warm = async || {
            for (kind, _) in &wanted {
                ask(&mut questions, *kind, |asked, _, _| asked < WARM).await?;
            }
            Ok(())
        };
        read.warm(warm).await?;
        for (kind, name) in wanted {
            let (mut row, mut direct) = (row(kind, name), Latencies::default());
            for _ in 0..rounds {
                let (began, mut ours, mut theirs) =
                    (Instant::now(), Latencies::default(), Latencies::default());
                ask(&mut questions, kind, |_, service, elasticsearch| {
                    ours.add(service);
                    theirs.add(elasticsearch);
                    began.elapsed() < MEASURE
                })
                .await?;
                row.rounds
                    .push(Round { figure: micros(ours.quantile(0.5)), floor: micros(theirs.quantile(0.5)) });
                row.latency = Some((ours.quantile(0.5), ours.quantile(0.99)));
                direct = theirs;
            }
            notes.push(format!(
                "{name}: direct p50 / p99 {:.2} / {:.2} ms",
                micros(direct.quantile(0.5)) / 1e3,
                micros(direct.quantile(0.99)) / 1e3
            ));
            rows.push(row);
        }
        notes.push(format!("read service, {prefix}: {} MiB resident at most", read.service_memory_mib()));
        read.end_service().await?;
    }
    table::print("query", &rows, &notes)?;
    read.stop().await?;
    pair.stop().await
}

/// Asks the service and Elasticsearch in turns; `more` is told how often, and how long each took the last time.
async fn ask(
    questions: &mut Questions,
    kind: Kind,
    mut more: impl FnMut(usize, Duration, Duration) -> bool,
) -> anyhow::Result<()> {
    for asked in 1.. {
        let (service, direct);
        if asked % 2 == 0 {
            service = questions.ask(kind).await?;
            direct = questions.ask_directly(kind).await?;
        } else {
            direct = questions.ask_directly(kind).await?;
            service = questions.ask(kind).await?;
        }
        if !more(asked, service, direct) {
            break;
        }
    }
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Names of [`Kind::ALL`] in each shape.
const SMALL: [&str; 8] = [
    "small, GetOrder",
    "small, ListOrders of a customer",
    "small, ListOrders of a country",
    "small, SearchOrders, two whole words",
    "small, SearchOrders, two beginnings",
    "small, SearchOrders, two typing errors",
    "small, GetSalesReport by country",
    "small, GetSalesReport by product",
];
const REAL: [&str; 8] = [
    "real, GetOrder",
    "real, ListOrders of a customer",
    "real, ListOrders of a country",
    "real, SearchOrders, two whole words",
    "real, SearchOrders, two beginnings",
    "real, SearchOrders, two typing errors",
    "real, GetSalesReport by country",
    "real, GetSalesReport by product",
];

fn row(kind: Kind, name: &'static str) -> Row {
    let (reach, aim) = match kind {
        Kind::Get => (1.75, 1.45),
        Kind::ByCustomer => (1.4, 1.25),
        Kind::ByCountry | Kind::SalesByCountry | Kind::SalesByProduct => (1.2, 1.1),
        Kind::Words | Kind::Beginnings | Kind::Errors => (1.25, 1.1),
    };
    Row { name, unit: "us", rounds: Vec::new(), latency: None, cpu: None, reach, aim, better: Better::Less }
}
