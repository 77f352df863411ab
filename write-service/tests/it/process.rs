//! The real program as a process of its own, so that it can be killed, paused and woken.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use local::process::{Identity, Process, kill_group};
use local::run::Run;
use local::services::Service;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use tonic::transport::Channel;

use crate::support::{PATIENCE, connect};

/// `write-service serve`, ready. Killed when dropped.
pub struct WriteService {
    run: Run,
    process: Process,
    identity: Identity,
    channel: Channel,
}

impl WriteService {
    pub async fn start(database_url: &str) -> Self {
        Self::start_with(database_url, &[]).await
    }

    /// One that dies when it passes this point for the first time.
    pub async fn dying_at(point: &str, database_url: &str) -> Self {
        Self::start_with(database_url, &[("CRASH_AT", point)]).await
    }

    async fn start_with(database_url: &str, environment: &[(&'static str, &str)]) -> Self {
        let run = local::testing::private_run().unwrap();
        let address =
            || SocketAddr::from((Ipv4Addr::LOCALHOST, local::find::free_port().expect("a free port")));
        let grpc = address();
        let mut variables =
            vec![("DATABASE_URL", database_url.into()), ("WRITE_LISTEN", grpc.to_string().into())];
        variables.extend(environment.iter().map(|(name, value)| (*name, value.into())));
        let service = Service {
            name: "write-service",
            programs: Path::new(env!("CARGO_BIN_EXE_write-service")).parent().unwrap().to_owned(),
            logs: run.folder().to_owned(),
            metrics: address(),
            environment: variables,
        };
        let mut process = run.start(&service.program("serve")).unwrap();
        service.ready(&mut process).await.unwrap();
        let identity = process.identity().unwrap();
        Self { run, process, identity, channel: connect(grpc).await }
    }

    pub fn orders(&self) -> OrderCommandServiceClient<Channel> {
        OrderCommandServiceClient::new(self.channel.clone())
    }

    pub fn catalog(&self) -> CatalogCommandServiceClient<Channel> {
        CatalogCommandServiceClient::new(self.channel.clone())
    }

    pub fn feed(&self) -> OrderFeedServiceClient<Channel> {
        OrderFeedServiceClient::new(self.channel.clone())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.died().await;
    }

    /// Waits until it has died.
    pub async fn died(&mut self) {
        tokio::time::timeout(PATIENCE, self.process.crashed()).await.expect("it dies");
    }

    /// Stands still until [`Self::wake`], connections open.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn wake(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.identity.id).unwrap()), signal).unwrap();
    }
}

impl Drop for WriteService {
    fn drop(&mut self) {
        kill_group(self.identity);
        self.run.clone().close();
    }
}
