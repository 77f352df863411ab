//! The service's configuration: read once, from the environment or the command line, before anything starts.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use shared::server::ServerConfig;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Longest that a statement of a command or of the relay may run; a scan has no such limit.
const STATEMENT_TIMEOUT: &str = "10s";
/// PostgreSQL ends a connection that holds a lock and does nothing: a paused relay must not stop the others.
const IDLE_IN_TRANSACTION: &str = "5s";
/// How long a command waits for a connection before it is told that the store does not answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Everything that can be set.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the gRPC services.
    #[arg(long, env = "WRITE_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9051")]
    pub metrics_listen: SocketAddr,
    /// PostgreSQL database of the event store, as postgres://user:password@host:port/name. Secret.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: DatabaseUrl,
    /// Connections for commands, relay and feed.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(6..))]
    pub database_connections: u32,
    /// Memory for commands under way, in MiB: each takes 10 KiB and its message. Single calls beyond it are refused, streams wait.
    #[arg(long, env = "COMMAND_MEMORY", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub command_memory: u32,
    /// Limits of the gRPC server.
    #[command(flatten)]
    pub server: ServerConfig,
}

/// Where the event store is. Does not print: it holds a password.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

impl FromStr for DatabaseUrl {
    type Err = sqlx::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

impl DatabaseUrl {
    /// A pool that connects when it is first used, so that the service can start before its database. For statements that must
    /// be short.
    #[must_use]
    pub fn pool(&self, connections: u32) -> PgPool {
        let options = self.0.clone().application_name("write-service").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        ]);
        pool_options(connections).connect_lazy_with(options)
    }

    /// A pool for reading the feed: statements of any length, and plans for a reader. Parallel workers, bitmap scans and
    /// memoize cost a feed page two thirds of its speed (measured: 107,000 against 312,000 events a second).
    #[must_use]
    pub fn reader_pool(&self, connections: u32) -> PgPool {
        let options = self.0.clone().application_name("write-service feed").options([
            ("max_parallel_workers_per_gather", "0"),
            ("enable_bitmapscan", "off"),
            ("enable_memoize", "off"),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
        ]);
        pool_options(connections).connect_lazy_with(options)
    }
}

fn pool_options(connections: u32) -> PgPoolOptions {
    // A dead connection shows by its first error, which the caller sees as unknown outcome and repeats; a ping before each use
    // would cost every command a round trip.
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
}
