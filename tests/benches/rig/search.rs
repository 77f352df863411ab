//! The read side of a benchmark, beside a pair: a private Elasticsearch and the built read service.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use local::find;
use local::process::Process;
use local::services::Service;
use local::testing;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::{Freshness, GetHeadRequest, ListOrdersRequest};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use super::pair::Pair;
use super::usage::{cpu_of_compilers, cpu_of_family, peak_memory_mib};

/// Heap of Elasticsearch, as in production's smallest node.
const HEAP_MIB: u32 = 1_024;
/// Elasticsearch's compiler rests when it takes less than this of a core at so many looks in a row; how long each takes, and how long
/// rest is waited for.
const WARM_SHARE: f64 = 0.15;
const WARM_RESTS: u32 = 3;
const WARM_LOOK: Duration = Duration::from_secs(10);
const WARM_LIMIT: Duration = Duration::from_mins(6);
/// How long lists may stand still while the read side catches up.
const CATCH_UP_LIMIT: Duration = Duration::from_mins(1);

/// Running servers; they end with the benchmark, however it ends.
pub struct ReadSide {
    /// Elasticsearch, for requests past the service.
    pub elasticsearch_url: String,
    node: Process,
    service: Option<(Process, SocketAddr)>,
}

impl ReadSide {
    /// Starts an empty node, without the service.
    pub async fn start(pair: &Pair) -> anyhow::Result<Self> {
        let node = testing::node(&pair.run, HEAP_MIB).await?;
        let elasticsearch_url = node.url();
        Ok(Self { elasticsearch_url, node: node.start(&pair.run).await?, service: None })
    }

    /// Starts the service, which must not run, on indices that begin with `prefix`, and waits until it is ready. It goes on from
    /// their checkpoints.
    pub async fn serve(
        &mut self,
        pair: &Pair,
        prefix: &str,
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], find::free_port()?));
        let mut environment = vec![
            ("ELASTICSEARCH_URL", self.elasticsearch_url.clone().into()),
            ("FEED_URL", format!("http://{}", pair.address).into()),
            ("READ_LISTEN", address.to_string().into()),
            ("INDEX_PREFIX", prefix.into()),
        ];
        environment.extend(settings.iter().map(|(name, value)| (*name, value.into())));
        let service = Service {
            name: "read-service",
            programs: pair.programs.clone(),
            logs: pair.run.folder().join("log"),
            metrics: SocketAddr::from(([127, 0, 0, 1], find::free_port()?)),
            environment,
        };
        let mut process = pair.run.start(&service.program("serve"))?;
        service.ready(&mut process).await?;
        self.service = Some((process, address));
        Ok(())
    }

    /// Ends the service.
    pub async fn end_service(&mut self) -> anyhow::Result<()> {
        match self.service.take() {
            Some((mut process, _)) => process.stop(Duration::from_secs(20)).await,
            None => Ok(()),
        }
    }

    /// A connection of its own to the service.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let (_, address) = self.service.as_ref().context("the read service does not run")?;
        Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .connect()
            .await
            .context("the read service does not answer")
    }

    /// Waits until lists include everything that is stored.
    pub async fn caught_up(&self, pair: &Pair) -> anyhow::Result<()> {
        let mut feed = OrderFeedServiceClient::new(pair.connect().await?);
        let mut queries = OrderQueryServiceClient::new(self.connect().await?);
        let (mut reached, mut moved) = (-1, Instant::now());
        loop {
            let head = feed.get_head(GetHeadRequest {}).await?.into_inner();
            let list = ListOrdersRequest { page_size: 1, ..ListOrdersRequest::default() };
            let freshness =
                queries.list_orders(list).await.ok().and_then(|answer| answer.into_inner().freshness);
            let position = freshness.map_or(reached, |freshness: Freshness| freshness.position);
            if head.outbox_backlog == 0 && position >= head.head_position {
                return Ok(());
            }
            if position > reached {
                (reached, moved) = (position, Instant::now());
            }
            if moved.elapsed() > CATCH_UP_LIMIT {
                bail!("the read side has stood at {reached} for {} s", CATCH_UP_LIMIT.as_secs());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU time used so far by the service and by Elasticsearch.
    pub fn cpu(&self) -> (Duration, Duration) {
        let of = |process: &Process| {
            process.identity().map_or(Duration::ZERO, |process| cpu_of_family(process.id))
        };
        (self.service.as_ref().map_or(Duration::ZERO, |(process, _)| of(process)), of(&self.node))
    }

    /// Largest resident memory that the service has had, in MiB.
    pub fn service_memory_mib(&self) -> u64 {
        let identity = self.service.as_ref().and_then(|(process, _)| process.identity());
        identity.map_or(0, |process| peak_memory_mib(process.id))
    }

    /// Does `work` over and over until Elasticsearch's compiler rests, or [`WARM_LIMIT`] is over: until then each figure is mostly
    /// about what there was to be compiled.
    pub async fn warm(&self, mut work: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let compilers = || self.node.identity().map_or(Duration::ZERO, |node| cpu_of_compilers(node.id));
        let end = Instant::now() + WARM_LIMIT;
        let mut rests = 0;
        while rests < WARM_RESTS && Instant::now() < end {
            let (began, before) = (Instant::now(), compilers());
            while began.elapsed() < WARM_LOOK {
                work().await?;
            }
            // A compiler's thread that ends takes its time with it: one look may tell too little.
            let share = compilers().saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
            rests = if share < WARM_SHARE { rests + 1 } else { 0 };
        }
        Ok(())
    }

    /// Stops the servers.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.end_service().await?;
        self.node.stop(Duration::from_secs(20)).await
    }
}
