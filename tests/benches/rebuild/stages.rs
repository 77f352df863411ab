//! Rebuilds through the admin service, timed by their record.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use local::http;
use proto::v1::StartRebuildRequest;
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use rig::search::ReadSide;
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::Channel;

/// How often the record is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Longest that a rebuild may take.
const LIMIT: Duration = Duration::from_mins(15);

/// Starts rebuilds of the orders and follows them.
pub struct Rebuilds {
    admin: ProjectionAdminServiceClient<Channel>,
    elasticsearch: SocketAddr,
    control: String,
}

/// How long the stages of a rebuild took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// From the first scan to the end of the refresh.
    pub scan: Duration,
    /// From there, once the new index has caught up, to the proof.
    pub verification: Duration,
}

impl Rebuilds {
    /// Those of a service on indices with this prefix.
    pub async fn of(read: &ReadSide, prefix: &str) -> anyhow::Result<Self> {
        let admin = ProjectionAdminServiceClient::new(read.connect().await?);
        let elasticsearch = read.elasticsearch_url.trim_start_matches("http://").parse()?;
        Ok(Self { admin, elasticsearch, control: format!("{prefix}control") })
    }

    /// One rebuild, to its end.
    pub async fn run(&self) -> anyhow::Result<Took> {
        let started = Instant::now();
        let id = loop {
            let request = StartRebuildRequest { projection: "orders".to_owned(), ..Default::default() };
            match self.admin.clone().start_rebuild(request).await {
                Ok(answer) => break answer.into_inner().rebuild.context("a rebuild")?.rebuild_id,
                // The one before is being cleared away.
                Err(status) if status.code() == Code::Aborted => sleep(LOOK).await,
                Err(status) => return Err(status.into()),
            }
            ensure!(started.elapsed() < LIMIT, "the rebuild before does not end");
        };
        let scanning = self.reached(&id, &["scanning"]).await?;
        let caught_up = self.reached(&id, &["catching_up", "verifying"]).await?;
        let verifying = self.reached(&id, &["verifying"]).await?;
        let switching = self.reached(&id, &["switching", "succeeded"]).await?;
        self.reached(&id, &["succeeded"]).await?;
        Ok(Took { scan: caught_up - scanning, verification: switching - verifying })
    }

    /// When its record first said one of these stages.
    async fn reached(&self, id: &str, stages: &[&str]) -> anyhow::Result<Instant> {
        let path = format!("/{}/_doc/rebuild:{id}?filter_path=_source.body.stage", self.control);
        let since = Instant::now();
        loop {
            let (_, answer) = http::get(self.elasticsearch, &path).await?;
            let is = |stage: &&str| answer.contains(&format!("\"stage\":\"{stage}\""));
            if stages.iter().any(is) {
                return Ok(Instant::now());
            }
            if ["failed", "cancelled"].iter().any(is) {
                bail!("the rebuild failed, see its log");
            }
            ensure!(since.elapsed() < LIMIT, "the rebuild does not get to {stages:?}");
            sleep(LOOK).await;
        }
    }
}
