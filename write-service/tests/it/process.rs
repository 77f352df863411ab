//! The real program as a process of its own, so that it can be killed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use local::process::{Identity, Process, kill_group};
use local::run::Run;
use local::services::Service;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
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

    /// Waits until it has died.
    pub async fn died(&mut self) {
        tokio::time::timeout(PATIENCE, self.process.crashed()).await.expect("it dies");
    }
}

impl Drop for WriteService {
    fn drop(&mut self) {
        kill_group(self.identity);
        self.run.clone().close();
    }
}
