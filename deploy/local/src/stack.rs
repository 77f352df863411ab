//! `cargo up`: servers, services and sample, started in order, watched, and ended in order.
//!
//! Whatever ends it (Ctrl-C, a crash of a part, an error on the way, `kill -9`), no process stays behind.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures_util::FutureExt as _;
use futures_util::future::{join_all, select_all};
use tokio::time::{Instant, sleep};

use crate::elasticsearch::Node;
use crate::find::PostgresBinaries;
use crate::guide::{self, Addresses};
use crate::home::Home;
use crate::interrupt::Interrupts;
use crate::postgres::Cluster;
use crate::process::{Identity, Process, group_alive, kill_group};
use crate::run::Run;
use crate::screen::Screen;
use crate::services::{self, Service};
use crate::{distribution, find, postgres, sample};

const POSTGRES: u16 = 54329;
const ELASTICSEARCH: u16 = 9209;
const WRITE_METRICS: SocketAddr = on_this_machine(9051);
const READ_METRICS: SocketAddr = on_this_machine(9052);
const DATABASE: &str = "orders";
const HEAP_MIB: u32 = 1024;
/// The services drain for at most a minute; the servers then have nothing to do.
const SERVICE_LIMIT: Duration = Duration::from_secs(70);
const SERVER_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

const fn on_this_machine(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// What can be set.
#[derive(Args, Clone)]
pub struct Options {
    /// PostgreSQL database to use instead of a private one, as postgres://user:password@host:port/name. Secret.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Elasticsearch to use instead of a private one
    #[arg(long, env = "ELASTICSEARCH_URL", hide_env_values = true)]
    pub elasticsearch_url: Option<String>,
    /// Address of the write service's gRPC
    #[arg(long, env = "WRITE_LISTEN", default_value_t = on_this_machine(50051))]
    pub write_listen: SocketAddr,
    /// Address of the read service's gRPC
    #[arg(long, env = "READ_LISTEN", default_value_t = on_this_machine(50052))]
    pub read_listen: SocketAddr,
}

/// Runs the stack until the user ends it; true where that happened before it was up, or at once.
///
/// # Errors
/// Where something is missing, taken, wrong or crashes, in one sentence. Everything else has been stopped by then.
pub async fn up(options: &Options, screen: &Screen, interrupts: &Interrupts) -> anyhow::Result<bool> {
    let home = Home::of_this_workspace();
    let claim = home.claim()?;
    home.clear_leftovers().await?;
    let run = Run::open(&home.run_folder()?, Identity::own()?)?;
    let mut stack = Stack { options, screen, home: &home, run, services: Vec::new(), servers: Vec::new() };
    let outcome = match interrupts.first.run_until_cancelled(Box::pin(stack.start())).await {
        Some(Ok(addresses)) => {
            writeln!(std::io::stdout(), "{}", guide::text(&addresses)).ok();
            interrupts.first.run_until_cancelled(stack.crashed()).await.map_or(Ok(false), Err)
        }
        Some(Err(error)) => Err(error),
        None => Ok(true),
    };
    let killed = stack.stop(interrupts).await;
    drop(claim);
    outcome.map(|early| early || killed)
}

struct Stack<'u> {
    options: &'u Options,
    screen: &'u Screen,
    home: &'u Home,
    run: Run,
    services: Vec<Process>,
    servers: Vec<Process>,
}

/// What a private server needs from the machine.
struct Needed {
    postgres: Option<PostgresBinaries>,
    java_home: Option<PathBuf>,
}

impl Stack<'_> {
    async fn start(&mut self) -> anyhow::Result<Addresses> {
        // What can be refused is refused before anything is built.
        let needed = self.check().await?;
        let workspace = self.home.workspace.clone();
        let programs = services::build(&workspace).await?;
        let (private_postgres, private_elasticsearch) =
            (needed.postgres.is_some(), needed.java_home.is_some());
        let (postgres, elasticsearch) =
            tokio::try_join!(self.postgres(needed.postgres), self.elasticsearch(needed.java_home))?;
        self.servers.extend([postgres.1, elasticsearch.1].into_iter().flatten());
        let (write, read) = self.service_definitions(programs, &postgres.0, &elasticsearch.0)?;

        let addresses = Addresses {
            write: services::local(self.options.write_listen),
            read: services::local(self.options.read_listen),
            write_metrics: WRITE_METRICS,
            read_metrics: READ_METRICS,
            postgres: private_postgres.then_some(postgres.0),
            elasticsearch: private_elasticsearch.then_some(elasticsearch.0),
        };
        self.start_services(&write, &read).await?;
        let (screen, marker) = (self.screen, self.home.state.join("sample-imported"));
        let fill = async {
            sample::import_once(&workspace, &marker, addresses.write, screen).await?;
            sample::caught_up(addresses.write, addresses.read, screen).await
        };
        tokio::select! {
            position = fill => position?,
            crash = self.crashed() => return Err(crash),
        };
        Ok(addresses)
    }

    async fn check(&self) -> anyhow::Result<Needed> {
        let path = find::search_path();
        let Options { write_listen, read_listen, .. } = self.options;
        let private_postgres = given(self.options.database_url.as_deref()).is_none();
        let private_elasticsearch = given(self.options.elasticsearch_url.as_deref()).is_none();
        let postgres = private_postgres.then(|| find::postgres(&path)).transpose()?;
        let java_home = private_elasticsearch
            .then(|| find::java_home(std::env::var_os("JAVA_HOME").as_deref(), &path))
            .transpose()?;
        if private_elasticsearch && !distribution::is_at_hand()? {
            find::maven(&path)?;
        }
        let end = "end the program that holds it";
        let or_set = |variable: &str| format!("{end}, or set {variable}");
        let mut ports = vec![
            (*write_listen, "the write service", or_set("WRITE_LISTEN")),
            (*read_listen, "the read service", or_set("READ_LISTEN")),
            (WRITE_METRICS, "the write service's metrics", end.to_owned()),
            (READ_METRICS, "the read service's metrics", end.to_owned()),
        ];
        if private_postgres {
            ports.push((on_this_machine(POSTGRES), "the private PostgreSQL", or_set("DATABASE_URL")));
        }
        if private_elasticsearch {
            ports.push((
                on_this_machine(ELASTICSEARCH),
                "the private Elasticsearch",
                or_set("ELASTICSEARCH_URL"),
            ));
        }
        for (address, purpose, remedy) in ports {
            find::require_free(address, purpose, &remedy, |text| self.screen.line(text)).await?;
        }
        Ok(Needed { postgres, java_home })
    }

    /// The address of the event store, with the server where it is a private one.
    async fn postgres(
        &self,
        binaries: Option<PostgresBinaries>,
    ) -> anyhow::Result<(String, Option<Process>)> {
        let Some(binaries) = binaries else {
            return Ok((self.options.database_url.clone().unwrap_or_default(), None));
        };
        let step = self.screen.step("PostgreSQL");
        let cluster = Cluster {
            binaries,
            data: self.home.data.join("postgres"),
            logs: self.home.log(),
            port: POSTGRES,
            short_lived: false,
        };
        step.report(if cluster.data.exists() { "starting" } else { "making a cluster" });
        let server = cluster.start(&self.run).await?;
        postgres::create_database(POSTGRES, DATABASE, true).await?;
        step.done(format_args!("ready on 127.0.0.1:{POSTGRES}"));
        Ok((postgres::url(POSTGRES, DATABASE), Some(server)))
    }

    /// The address of Elasticsearch, with the server where it is a private one.
    async fn elasticsearch(&self, java_home: Option<PathBuf>) -> anyhow::Result<(String, Option<Process>)> {
        let Some(java_home) = java_home else {
            return Ok((self.options.elasticsearch_url.clone().unwrap_or_default(), None));
        };
        let step = self.screen.step("Elasticsearch");
        let home = distribution::home(&self.run, |text| step.report(text)).await?;
        let node = Node {
            home,
            java_home,
            folder: self.home.data.join("elasticsearch"),
            port: ELASTICSEARCH,
            transport_port: find::free_port()?,
            heap_mib: HEAP_MIB,
            short_lived: false,
            quick_start: false,
        };
        step.report("starting");
        let server = node.start(&self.run).await?;
        step.done(format_args!("{} ready on 127.0.0.1:{ELASTICSEARCH}", distribution::VERSION));
        Ok((node.url(), Some(server)))
    }

    fn service_definitions(
        &self,
        programs: PathBuf,
        database_url: &str,
        elasticsearch_url: &str,
    ) -> anyhow::Result<(Service, Service)> {
        let Options { write_listen, read_listen, .. } = self.options;
        let logs = self.home.log();
        let write = Service {
            name: "write-service",
            programs: programs.clone(),
            logs: logs.clone(),
            metrics: WRITE_METRICS,
            environment: vec![
                ("DATABASE_URL", database_url.into()),
                ("WRITE_LISTEN", write_listen.to_string().into()),
            ],
        };
        let feed = format!("http://{}", services::local(*write_listen));
        let read = Service {
            name: "read-service",
            programs,
            logs,
            metrics: READ_METRICS,
            environment: vec![
                ("ELASTICSEARCH_URL", elasticsearch_url.into()),
                ("FEED_URL", feed.into()),
                ("READ_LISTEN", read_listen.to_string().into()),
                ("PAGE_TOKEN_KEY", self.home.page_token_key()?.into()),
            ],
        };
        Ok((write, read))
    }

    async fn start_services(&mut self, write: &Service, read: &Service) -> anyhow::Result<()> {
        let step = self.screen.step("services");
        step.report("migrating the event store");
        self.run
            .start(&write.program("migrate"))?
            .finished()
            .await
            .context("the event store could not be migrated")?;
        step.report("starting");
        let mut write_process = self.run.start(&write.program("serve"))?;
        let mut read_process = self.run.start(&read.program("serve"))?;
        let ready = tokio::try_join!(write.ready(&mut write_process), read.ready(&mut read_process));
        self.services.extend([write_process, read_process]);
        ready?;
        let Options { write_listen, read_listen, .. } = self.options;
        step.done(format_args!("write-service ready on {write_listen}, read-service on {read_listen}"));
        Ok(())
    }

    /// Waits for the end of any part.
    async fn crashed(&mut self) -> anyhow::Error {
        let parts: Vec<_> = self
            .services
            .iter_mut()
            .chain(&mut self.servers)
            .map(|process| process.crashed().boxed())
            .collect();
        if parts.is_empty() { std::future::pending().await } else { select_all(parts).await.0 }
    }

    /// Ends the services, then the servers; at once, and true, where the user asks a second time.
    async fn stop(mut self, interrupts: &Interrupts) -> bool {
        if Run::registered(self.run.folder()).is_empty() {
            self.run.close();
            return false;
        }
        let step = self.screen.step("stopping");
        let in_order = async {
            step.report("services");
            report_all(
                self.screen,
                join_all(self.services.iter_mut().map(|process| process.stop(SERVICE_LIMIT))).await,
            );
            step.report("servers");
            report_all(
                self.screen,
                join_all(self.servers.iter_mut().map(|process| process.stop(SERVER_LIMIT))).await,
            );
            // What was cut off while it started has been asked to end, but nobody has waited for it.
            all_ended(self.run.folder(), SERVER_LIMIT).await;
        };
        let killed = interrupts.second.run_until_cancelled(in_order).await.is_none();
        if killed {
            let all = self.services.iter_mut().chain(&mut self.servers);
            join_all(all.map(|process| process.stop(Duration::ZERO))).await;
        }
        for process in Run::registered(self.run.folder()) {
            kill_group(process);
        }
        all_ended(self.run.folder(), SERVER_LIMIT).await;
        step.done(if killed { "everything killed" } else { "everything stopped" });
        self.run.close();
        killed
    }
}

/// A variable that is set to nothing counts as unset.
fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn report_all(screen: &Screen, outcomes: Vec<anyhow::Result<()>>) {
    for error in outcomes.into_iter().filter_map(Result::err) {
        screen.line(format_args!("{error:#}"));
    }
}

/// Waits until no registered process runs, or the limit has passed.
async fn all_ended(run: &Path, limit: Duration) {
    let deadline = Instant::now() + limit;
    while Run::registered(run).into_iter().any(group_alive) && Instant::now() < deadline {
        sleep(POLL).await;
    }
}
