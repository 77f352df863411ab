//! The write service: decides order commands, stores their events, publishes them in one order.
//!
//! The rooms, in the order in which a command passes them:
//!
//! | room | what happens there |
//! |---|---|
//! | [`grpc`] | request to command, outcome to answer or status |
//! | [`admission`] | how many commands may be under way |
//! | [`command_handler`] | load, decide, append; the same request once |
//! | [`order`] | the decider: what may happen to an order |
//! | [`catalog`] | the decider of customers and products |
//! | [`append`] | group commit: what arrives together is stored together |
//! | [`codec`] | domain events to stored bytes and back |
//! | [`event_store`] | streams in PostgreSQL, with the outbox row in the same transaction |
//! | [`outbox`] | the relay: committed rows out, dense positions in |
//! | [`feed`] | the published events, after a position or by stream |

pub mod grpc;
pub mod admission;
pub mod command_handler;
pub mod order;
pub mod catalog;
pub mod append;
pub mod codec;
pub mod event_store;
pub mod outbox;
pub mod feed;
pub mod config;
mod monitor;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use proto::reason::{Error, Reason};
use shared::clock::Clock;
use shared::lifecycle::Lifecycle;
use shared::probes::{self, Readiness};
use shared::server::{self, Server, StatusTexts};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::config::Config;

/// The migrations of the event store, in the order of their numbers.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// The service, bound to its addresses but not yet running.
pub struct Service {
    config: Config,
    clock: Clock,
    grpc: TcpListener,
    metrics: TcpListener,
}

/// Binds the addresses. The database is connected to when it is needed.
///
/// # Errors
/// Where an address cannot be bound.
#[expect(clippy::unused_async, reason = "binding needs the runtime; the signature says so")]
pub async fn build(config: Config) -> anyhow::Result<Service> {
    let grpc = server::bind(config.listen)?;
    let metrics = server::bind(config.metrics_listen)?;
    Ok(Service { config, clock: Clock::system(), grpc, metrics })
}

/// Brings the database's schema up to this release. Safe to repeat, and to run from several places at once.
///
/// # Errors
/// Where the database does not answer or a migration fails.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let pool = config.database_url.pool(1);
    MIGRATOR.run(&pool).await.context("migrate the event store")?;
    pool.close().await;
    Ok(())
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

    /// Runs until `lifecycle` has drained: calls under way are answered, what is stored is published.
    ///
    /// # Errors
    /// Where a part of the service fails for good.
    pub async fn run(self, lifecycle: Lifecycle) -> anyhow::Result<()> {
        let Self { config, clock, grpc, metrics } = self;
        let drain = lifecycle.draining();
        let readiness = Readiness::new();
        let pool = config.database_url.pool(config.database_connections / 2);
        let reader_pool = config.database_url.reader_pool(config.database_connections / 2);

        let store = event_store::EventStore::new(pool.clone());
        let wake_up = Arc::new(Notify::new());
        let (appender, writers) = append::Appender::new(&store, &wake_up);
        for writer in writers {
            lifecycle.spawn("append", async move {
                writer.await;
                Ok(())
            });
        }
        let relay = outbox::Relay::new(pool.clone(), wake_up);
        let pages = feed::Pages::new(reader_pool.clone());
        let tail = feed::Tail::new(clock.clone());
        lifecycle.spawn("tail", {
            let follow = tail.clone().run(reader_pool.clone(), pages.clone(), drain.clone());
            async move {
                follow.await;
                Ok(())
            }
        });
        lifecycle.spawn("monitor", {
            let watch = monitor::watch(
                pages.clone(),
                pool.clone(),
                readiness.condition("event store"),
                drain.clone(),
            );
            async move {
                watch.await;
                Ok(())
            }
        });
        probes::serve(metrics, readiness.clone(), shared::telemetry::metrics::handle(), &lifecycle);

        let handler = command_handler::CommandHandler::new(store.clone(), appender, clock.clone());
        let statuses = StatusTexts {
            deadline: deadline_passed,
            too_large: message_too_large,
            bug: || Error::bug().into(),
        };
        let limit = config.server.message_limit;
        let admission = admission::Admission::new(config.command_memory);
        let commands = grpc::Commands::new(handler.clone(), admission.clone(), clock.clone(), drain.clone());
        let catalog = grpc::Catalog::new(handler, admission, drain.clone());
        // Half of the readers' connections, so that subscribers and the tail never wait for scans.
        let scans = usize::try_from(config.database_connections / 4).unwrap_or(1);
        let feed = feed::Feed::new(store, pages, tail, scans, drain);
        let server = Server::new(&config.server, proto::DESCRIPTORS, statuses)
            .service(commands.max_decoding_message_size(limit))
            .service(catalog.max_decoding_message_size(limit))
            .service(feed.max_decoding_message_size(limit));
        // The relay outlives the last call, so that what that call stored is published.
        let unserved = CancellationToken::new();
        let relaying = tokio::spawn(relay.run(unserved.clone()));
        let outcome = server.serve(grpc, &lifecycle, &readiness).await;
        unserved.cancel();
        relaying.await.context("relay")?;
        pool.close().await;
        reader_pool.close().await;
        outcome
    }
}

fn deadline_passed() -> tonic::Status {
    Error::new(Reason::DeadlinePassed, "the deadline passed; the outcome is unknown").into()
}

fn message_too_large() -> tonic::Status {
    Error::new(Reason::MessageTooLarge, "the message is larger than the service takes").into()
}
