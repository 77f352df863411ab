//! How fast commands are stored, beside the service's own append statement alone.
//!
//! `cargo bench -p tests --bench commands`, optionally with `-- ROUNDS WORD`: how often each figure is measured (3), and which: those
//! whose name holds the word. Every figure stands between two floors of the same kind; the ratio in the table is the middle one
//! of the rounds.

mod load;
mod refused;
mod streamed;
mod unary;

use std::time::{Duration, Instant};

use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::{GetHeadRequest, PutCustomerRequest, PutProductRequest};
use tokio_util::sync::CancellationToken;

use crate::load::Shape;
use rig::latency::Latencies;
use rig::pair::Pair;
use rig::table::{self, Better, Round, Row};
use rig::usage::Cpu;
use rig::{appends, per_second};

/// Events that the tables hold before anything is measured.
const HELD: usize = 200_000;
/// How long each figure is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// Appends of a floor: some 2 seconds.
const FLOOR: usize = 250_000;
/// Appends of the floor of orders of four events.
const FLOOR_ORDERS: usize = 80_000;
/// Events of such an order: created, two items, submitted.
const ORDER_EVENTS: usize = 4;
/// Commands one at a time.
const ONE_BY_ONE: usize = 3_000;

/// What a run of the load generator gave.
struct Measured {
    count: usize,
    elapsed: Duration,
    latencies: Latencies,
    cpu: Cpu,
}

fn main() -> anyhow::Result<()> {
    let (rounds, word) = rig::arguments(3);
    // One thread: on two cores the load generator must leave room to what it measures.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(run(rounds, &word))
}

async fn run(rounds: usize, word: &str) -> anyhow::Result<()> {
    let pair = Pair::start().await?;
    let mut catalog = CatalogCommandServiceClient::new(pair.connect().await?);
    let customer = PutCustomerRequest { customer_id: load::CUSTOMER.into(), name: "Customer 17850".into() };
    catalog.put_customer(customer).await?;
    for product_id in load::PRODUCTS {
        let name = "WHITE HANGING HEART T-LIGHT HOLDER".into();
        catalog.put_product(PutProductRequest { product_id: product_id.into(), name }).await?;
    }
    appends::store(&pair.pool, HELD, 1).await?;

    let backlog = Backlog::watch(&pair).await?;
    let mut rows = rows();
    for _ in 0..rounds {
        let mut floor = floor(&pair).await?;
        for (row, load) in rows.iter_mut().zip(LOADS).filter(|(row, _)| row.name.contains(word)) {
            let measured = match load {
                Load::Streamed { shape: Shape::Life, window } => {
                    streamed::run(&pair, Shape::Life, window, MEASURE).await?
                }
                Load::Unary { in_flight } => unary::run(&pair, in_flight, MEASURE).await?,
                Load::Streamed { shape: Shape::Order, window } => {
                    let before = floor_of_orders(&pair).await?;
                    let measured = streamed::run(&pair, Shape::Order, window, MEASURE).await?;
                    let after = floor_of_orders(&pair).await?;
                    note(row, measured, f64::midpoint(before, after), ORDER_EVENTS);
                    continue;
                }
                Load::OneByOne => {
                    let floor = median(appends::store_one_by_one(&pair.pool, ONE_BY_ONE).await?);
                    let mut measured = unary::one_by_one(&pair, ONE_BY_ONE).await?;
                    let figure = measured.latencies.quantile(0.5).as_secs_f64() * 1e6;
                    let round = Round { figure, floor: floor.as_secs_f64() * 1e6 };
                    keep(row, measured, round);
                    continue;
                }
            };
            let after = self::floor(&pair).await?;
            note(row, measured, f64::midpoint(floor, after), 1);
            floor = after;
        }
    }
    let (events, seconds) = backlog.end().await?;
    let mut refused = refused::run(&pair).await?;
    let notes = [
        format!(
            "refused when full: p50 {:.2} ms, p99 {:.2} ms",
            refused.quantile(0.5).as_secs_f64() * 1e3,
            refused.quantile(0.99).as_secs_f64() * 1e3
        ),
        format!("outbox backlog at most {events} events, the oldest {seconds:.2} s"),
        format!("write service: {} MiB resident at most", pair.service_memory_mib()),
        format!(
            "batch floor: {} appends of 1 event ({FLOOR_ORDERS} of {ORDER_EVENTS}), batches of 100, 2 connections, relay on; row floor: one append, one connection; \
             {rounds} rounds of {} s",
            FLOOR,
            MEASURE.as_secs()
        ),
    ];
    table::print("commands", &rows, &notes)?;
    pair.stop().await
}

enum Load {
    Streamed { shape: Shape, window: usize },
    Unary { in_flight: usize },
    OneByOne,
}

const LOADS: [Load; 6] = [
    Load::Streamed { shape: Shape::Life, window: 1_000 },
    Load::Streamed { shape: Shape::Life, window: 256 },
    Load::Unary { in_flight: 64 },
    Load::Unary { in_flight: 256 },
    Load::Streamed { shape: Shape::Order, window: 1_000 },
    Load::OneByOne,
];

fn rows() -> [Row; 6] {
    let more = |name, unit, reach, aim| Row {
        name,
        unit,
        rounds: Vec::new(),
        latency: None,
        cpu: None,
        reach,
        aim,
        better: Better::More,
    };
    [
        more("ExecuteCommands, window 1000", "commands/s", 0.5, 0.75),
        more("ExecuteCommands, window 256", "commands/s", 0.4, 0.55),
        more("unary, 64 in flight", "commands/s", 0.12, 0.2),
        more("unary, 256 in flight", "commands/s", 0.17, 0.25),
        more("CreateOrder of 4 events, window 1000", "events/s", 0.5, 0.7),
        Row { better: Better::Less, ..more("unary, one at a time, p50, against row", "us", 3.0, 2.0) },
    ]
}

fn note(row: &mut Row, measured: Measured, floor: f64, events: usize) {
    let figure = per_second(measured.count * events, measured.elapsed);
    keep(row, measured, Round { figure, floor });
}

fn keep(row: &mut Row, mut measured: Measured, round: Round) {
    row.rounds.push(round);
    row.latency = Some((measured.latencies.quantile(0.5), measured.latencies.quantile(0.99)));
    row.cpu = Some(measured.cpu.each(measured.count));
}

async fn floor(pair: &Pair) -> anyhow::Result<f64> {
    Ok(per_second(FLOOR, appends::store(&pair.pool, FLOOR, 1).await?))
}

async fn floor_of_orders(pair: &Pair) -> anyhow::Result<f64> {
    let elapsed = appends::store(&pair.pool, FLOOR_ORDERS, ORDER_EVENTS).await?;
    Ok(per_second(FLOOR_ORDERS * ORDER_EVENTS, elapsed))
}

fn median(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies[latencies.len() / 2]
}

/// Looks at `GetHead` ten times a second and remembers the worst.
struct Backlog {
    done: CancellationToken,
    watching: tokio::task::JoinHandle<anyhow::Result<(i64, f64)>>,
}

impl Backlog {
    async fn watch(pair: &Pair) -> anyhow::Result<Self> {
        let mut feed = OrderFeedServiceClient::new(pair.connect().await?);
        let done = CancellationToken::new();
        let until = done.clone();
        let watching = tokio::spawn(async move {
            let mut worst = (0, 0.0_f64);
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            while until.run_until_cancelled(tick.tick()).await.is_some() {
                let head = feed.get_head(GetHeadRequest {}).await?.into_inner();
                worst = (worst.0.max(head.outbox_backlog), worst.1.max(head.outbox_oldest_seconds));
            }
            Ok(worst)
        });
        Ok(Self { done, watching })
    }

    async fn end(self) -> anyhow::Result<(i64, f64)> {
        self.done.cancel();
        self.watching.await?
    }
}

/// Counts what is done between two moments, and the CPU time that it took.
struct Stopwatch {
    began: Instant,
    cpu: Cpu,
}

impl Stopwatch {
    /// Starts now.
    fn start(pair: &Pair) -> Self {
        Self { began: Instant::now(), cpu: pair.cpu() }
    }

    /// What `count` things took since.
    fn stop(&self, pair: &Pair, count: usize, latencies: Latencies) -> Measured {
        Measured { count, elapsed: self.began.elapsed(), latencies, cpu: pair.cpu().since(self.cpu) }
    }
}
