//! The servers of a benchmark: a private PostgreSQL with durable settings and the built write service, both empty.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use local::find;
use local::home::Home;
use local::postgres;
use local::process::{Identity, Process};
use local::run::Run;
use local::services::{self, Service};
use local::testing;
use sqlx::PgPool;
use tonic::transport::{Channel, Endpoint};

use super::usage::{Cpu, cpu_of_family, own_cpu, peak_memory_mib};

const DATABASE: &str = "orders";
/// HTTP/2 windows of the load generator: large, so that it is never what the service waits for.
const WINDOW: u32 = 4 * 1024 * 1024;

/// Counts pairs: several may run side by side.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// Running servers; they end with the benchmark, however it ends.
pub struct Pair {
    /// The event store.
    pub pool: PgPool,
    pub(crate) address: SocketAddr,
    pub(crate) programs: PathBuf,
    write: Process,
    postgres: Process,
    pub(crate) run: Run,
}

impl Pair {
    /// Builds the service in the profile of this program and starts it over an empty store.
    pub async fn start() -> anyhow::Result<Self> {
        let home = Home::of_this_workspace();
        let programs = services::build(&home.workspace).await?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let run = Run::temporary(&format!("order-pair-bench-{number}"), Identity::own()?)?;
        let cluster = testing::cluster(&run)?;
        let postgres = cluster.start(&run).await?;
        postgres::create_database(cluster.port, DATABASE, false).await?;
        let database_url = postgres::url(cluster.port, DATABASE);
        let pool = PgPool::connect(&database_url).await?;
        write_service::MIGRATOR.run(&pool).await?;

        let address = SocketAddr::from(([127, 0, 0, 1], find::free_port()?));
        let service = Service {
            name: "write-service",
            programs: programs.clone(),
            logs: run.folder().join("log"),
            metrics: SocketAddr::from(([127, 0, 0, 1], find::free_port()?)),
            environment: vec![
                ("DATABASE_URL", database_url.into()),
                ("WRITE_LISTEN", address.to_string().into()),
            ],
        };
        let mut write = run.start(&service.program("serve"))?;
        service.ready(&mut write).await?;
        Ok(Self { pool, address, programs, write, postgres, run })
    }

    /// Base URL of the service.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection of its own to the service.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        Endpoint::from_shared(self.url())?
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .tcp_nodelay(true)
            .connect()
            .await
            .context("the write service does not answer")
    }

    /// CPU time used so far.
    pub fn cpu(&self) -> Cpu {
        Cpu {
            client: own_cpu(),
            service: self.write.identity().map_or(Duration::ZERO, |process| cpu_of_family(process.id)),
            postgres: self.postgres.identity().map_or(Duration::ZERO, |process| cpu_of_family(process.id)),
        }
    }

    /// Largest resident memory that the service has had, in MiB.
    pub fn service_memory_mib(&self) -> u64 {
        self.write.identity().map_or(0, |process| peak_memory_mib(process.id))
    }

    /// Stops the servers.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.pool.close().await;
        self.write.stop(Duration::from_secs(20)).await?;
        self.postgres.stop(Duration::from_secs(20)).await?;
        self.run.close();
        Ok(())
    }
}
