//! The read service: folds the published events into Elasticsearch and answers questions about orders.
//!
//! The rooms, first those that an event passes, then those that a question passes:
//!
//! | room | what happens there |
//! |---|---|
//! | [`subscription`] | published events in, from a checkpoint on |
//! | [`projection`] | the fold: a document and the next event |
//! | [`text`] | words of texts, folded alike for what is found and what is asked |
//! | `task` | what a task came to, its panic included |
//! | [`index`] | the only room that speaks Elasticsearch |
//! | [`lanes`] | documents on their way into an index, an outcome for each |
//! | [`lease`] | which copy projects which slices, and how far they are |
//! | [`parking`] | streams that cannot be applied, set aside |
//! | [`demand`] | what is asked now, for work that can wait |
//! | [`projector`] | the only loop: batch, fetch, fold, write, checkpoint |
//! | [`feeds`] | which indices a projection has: live, being rebuilt, previous |
//! | `feeding` | a projector for each of them |
//! | `compare` | documents against a fresh fold of their events |
//! | [`audit`] | documents that differ from their events: told, put right |
//! | [`rebuild`] | new index, scan, catch up, verify, switch |
//! | [`query`] | a request becomes JSON, an answer becomes rows |
//! | [`page_token`] | where a list goes on, authenticated |
//! | [`consistency`] | waits until a written version can be read |
//! | [`watch`] | orders that callers follow while they change |
//! | [`command`] | what operators say on the command line |
//! | [`grpc`] | request to question, answer or error to status |

pub mod subscription;
pub mod projection;
pub mod text;
pub mod index;
mod task;
pub mod lanes;
pub mod lease;
pub mod parking;
pub mod demand;
pub mod projector;
pub mod feeds;
mod feeding;
mod compare;
pub mod audit;
pub mod rebuild;
pub mod query;
pub mod page_token;
pub mod consistency;
pub mod watch;
pub mod grpc;
pub mod config;
pub mod command;

use std::net::SocketAddr;
use std::time::Duration;

use proto::reason::{Error, Reason};
use shared::clock::Clock;
use shared::lifecycle::Lifecycle;
use shared::probes::{self, Condition, Readiness};
use shared::server::{self, Server, StatusTexts};
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use self::audit::Auditor;
pub use self::config::Config;
use self::config::PageTokenKey;
use self::demand::Demand;
use self::feeds::Feeds;
use self::index::Index;
use self::projection::{Customers, Orders, Products, Projection};
use self::projector::{Limits, Progress, Tools};
use self::rebuild::{Desk, Rules, Subject};
use self::subscription::Feed;

/// How often the gauges of the projections are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// Documents of customers and products that are kept in memory, in bytes: they change seldom.
const CATALOG_CACHE: usize = 1024 * 1024;
/// Orders that are watched and kept in memory for that, in bytes.
const WATCHED_BYTES: usize = 32 * 1024 * 1024;

/// What questions are answered from.
#[derive(Clone, Debug)]
pub struct Queries {
    /// Elasticsearch.
    pub index: Index,
    /// The event store, for what once was.
    pub feed: Feed,
    /// How far the projection of orders is.
    pub orders: Progress,
    /// How far the projection of customers is.
    pub customers: Progress,
    /// How far the projection of products is.
    pub products: Progress,
    /// Rebuilds of each projection.
    pub desks: [Desk; 3],
    /// Audits of each projection.
    pub auditors: [Auditor; 3],
    /// Where to search.
    pub aliases: Aliases,
    /// Authenticates page tokens.
    pub page_token_key: [u8; 32],
    /// Lists, searches and reports that Elasticsearch is asked for at once.
    pub searches_at_once: usize,
    /// What is asked now.
    pub demand: Demand,
    /// How much may be watched.
    pub watch_limits: watch::Limits,
    /// The time.
    pub clock: Clock,
}

/// Aliases of the indices, and the name of the control index, which has none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Aliases {
    pub orders: String,
    pub customers: String,
    pub products: String,
    pub control: String,
}

impl Aliases {
    /// Those behind a prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let alias = |name| format!("{prefix}{name}");
        Self {
            orders: alias(Orders::NAME),
            customers: alias(Customers::NAME),
            products: alias(Products::NAME),
            control: alias(feeds::CONTROL),
        }
    }
}

/// The service, bound to its addresses but not yet running.
#[derive(Debug)]
pub struct Service {
    server: server::ServerConfig,
    grpc: TcpListener,
    metrics: TcpListener,
    queries: Queries,
    tools: Projections,
    rules: Rules,
    audit_period: Duration,
}

/// What each projection works with.
#[derive(Debug)]
struct Projections {
    orders: Tools,
    customers: Tools,
    products: Tools,
}

/// Binds the addresses. Elasticsearch and the feed are connected to when they are needed.
///
/// # Errors
/// Where an address cannot be bound, or TLS cannot be set up.
#[expect(clippy::unused_async, reason = "binding needs the runtime; the signature says so")]
pub async fn build(config: Config) -> anyhow::Result<Service> {
    let grpc = server::bind(config.listen)?;
    let metrics = server::bind(config.metrics_listen)?;
    let clock = Clock::system();
    let index = Index::new(config.elasticsearch_url.as_str())?;
    let feed = Feed::new(config.feed_url.as_str())?;
    let page_token_key = config.page_token_key.unwrap_or_else(|| {
        tracing::warn!(
            "PAGE_TOKEN_KEY is not set: page tokens end with this process and other copies refuse them"
        );
        PageTokenKey::random()
    });
    let copy = copy_name(&config.host_name);
    let rules = config.rebuild.rules();
    let demand = Demand::new(config.rest_percent);
    let tools = |progress: (Progress, Feeds), limits| Tools {
        index: index.clone(),
        feed: feed.clone(),
        feeds: progress.1,
        copy: copy.clone(),
        limits,
        clock: clock.clone(),
        progress: progress.0,
        demand: demand.clone(),
    };
    let tools = Projections {
        orders: tools(indices::<Orders>(&index, &config.index_prefix, &clock), Limits::default()),
        customers: tools(indices::<Customers>(&index, &config.index_prefix, &clock), catalog_limits()),
        products: tools(indices::<Products>(&index, &config.index_prefix, &clock), catalog_limits()),
    };
    let queries = Queries {
        orders: tools.orders.progress.clone(),
        customers: tools.customers.progress.clone(),
        products: tools.products.progress.clone(),
        desks: [
            Desk::new(Subject::of::<Orders>(&tools.orders, rules)),
            Desk::new(Subject::of::<Customers>(&tools.customers, rules)),
            Desk::new(Subject::of::<Products>(&tools.products, rules)),
        ],
        auditors: [
            Auditor::of::<Orders>(&tools.orders),
            Auditor::of::<Customers>(&tools.customers),
            Auditor::of::<Products>(&tools.products),
        ],
        aliases: Aliases::new(&config.index_prefix),
        page_token_key: page_token_key.bytes(),
        searches_at_once: config.searches_at_once.get(),
        demand,
        watch_limits: watch::Limits { watchers: config.watchers, bytes: WATCHED_BYTES },
        index,
        feed,
        clock,
    };
    let audit_period = config.audit_period;
    Ok(Service { server: config.server, grpc, metrics, queries, tools, rules, audit_period })
}

fn indices<P: Projection>(index: &Index, prefix: &str, clock: &Clock) -> (Progress, Feeds) {
    let progress = Progress::new(P::NAME, index.clone(), format!("{prefix}{}", P::NAME), clock.clone());
    let feeds = Feeds::new::<P>(index.clone(), prefix, progress.clone());
    (progress, feeds)
}

/// A name that no other process has, not even the former one on this host: its leases are not this one's.
fn copy_name(host_name: &str) -> String {
    format!("{host_name}-{:08x}", rand::random::<u32>())
}

fn catalog_limits() -> Limits {
    Limits { cache_bytes: CATALOG_CACHE, ..Limits::default() }
}

impl Service {
    /// Address of the gRPC services.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn grpc_address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.grpc.local_addr()?)
    }

    /// Address of metrics and probes.
    ///
    /// # Errors
    /// Where the system does not tell.
    pub fn metrics_address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.metrics.local_addr()?)
    }

    /// Runs until `lifecycle` has drained: questions under way are answered, checkpoints are brought up to date.
    ///
    /// It serves from the start: while Elasticsearch or the feed is away it says so, and the projectors retry by
    /// themselves.
    ///
    /// # Errors
    /// Where a part of the service fails for good.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { server, grpc, metrics, queries, tools, rules, audit_period } = self;
        let draining = lifecycle.draining();
        let readiness = Readiness::new();

        let progress = [queries.orders.clone(), queries.customers.clone(), queries.products.clone()];
        lifecycle.spawn("orders", project::<Orders>(tools.orders, rules, audit_period, draining.clone()));
        lifecycle
            .spawn("customers", project::<Customers>(tools.customers, rules, audit_period, draining.clone()));
        lifecycle
            .spawn("products", project::<Products>(tools.products, rules, audit_period, draining.clone()));
        lifecycle.spawn("indices", found(progress.clone(), readiness.condition("indices"), draining.clone()));
        lifecycle.spawn("gauges", gauges(progress, draining.clone()));
        probes::serve(metrics, readiness.clone(), shared::telemetry::metrics::handle(), &lifecycle);

        let statuses = StatusTexts {
            deadline: deadline_passed,
            too_large: message_too_large,
            bug: || Error::bug().into(),
        };
        let administration = grpc::admin::Administration::new(&queries, draining.clone())
            .max_decoding_message_size(server.message_limit);
        let questions =
            grpc::Questions::new(queries, draining).max_decoding_message_size(server.message_limit);
        Server::new(&server, proto::DESCRIPTORS, statuses)
            .service(questions)
            .service(administration)
            .serve(grpc, &lifecycle, &readiness)
            .await
    }
}

/// Feeds the indices of a projection, looks after its rebuilds, and compares it with the events in the background.
async fn project<P: Projection>(
    tools: Tools,
    rules: Rules,
    audit_period: Duration,
    draining: CancellationToken,
) -> anyhow::Result<()> {
    let rebuilds = rebuild::run::<P>(tools.clone(), rules, draining.clone());
    let audit = audit::run::<P>(tools.clone(), audit_period, draining.clone());
    tokio::try_join!(feeding::run::<P>(tools, draining), rebuilds, audit).map(drop)
}

/// The service is ready once there is an index to ask for every projection, and how far it is fed is known; how old its documents
/// are, is said with each answer.
async fn found(
    progress: [Progress; 3],
    condition: Condition,
    draining: CancellationToken,
) -> anyhow::Result<()> {
    let all = async {
        for progress in &progress {
            // The sender lives as long as the progress: waiting cannot fail.
            let _ = progress.subscribe().wait_for(|snapshot| !snapshot.store_id.is_empty()).await;
        }
        condition.set(true);
    };
    draining.run_until_cancelled(all).await;
    Ok(())
}

/// Gauges are set from outside the loops, so that the lag goes on growing whichever part stands still.
async fn gauges(progress: [Progress; 3], draining: CancellationToken) -> anyhow::Result<()> {
    let mut tick = interval(GAUGES_EVERY);
    while draining.run_until_cancelled(tick.tick()).await.is_some() {
        progress.iter().for_each(Progress::record_metrics);
    }
    Ok(())
}

fn deadline_passed() -> tonic::Status {
    Error::new(Reason::DeadlinePassed, "the deadline passed before the answer was there").into()
}

fn message_too_large() -> tonic::Status {
    Error::new(Reason::MessageTooLarge, "the message is larger than the service takes").into()
}
