//! A pair whose servers can be killed while orders are placed and read.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use local::elasticsearch::Node;
use local::postgres::Cluster;
use local::process::{Process, kill_group};
use local::run::Run;
use local::testing::{self, TestDatabase};
use proto::reason::Reason;
use proto::v1::*;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::questions::{Queries, is_refusal};
use crate::turnstile::Turnstile;
use crate::world::{PATIENCE, World, create};

/// Orders at the beginning.
pub const ORDERS: usize = 60;
/// What every question is given: enough beside servers that start.
const DEADLINE: Duration = Duration::from_secs(10);
/// Enough for a few orders.
const HEAP_MIB: u32 = 256;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    WriteService,
    Postgres,
    Elasticsearch,
}

/// Servers that can be killed, where they are the victims; else those that all tests share.
pub struct Servers {
    run: Run,
    postgres: Option<(Cluster, Process)>,
    elasticsearch: Option<(Node, Process)>,
}

impl Servers {
    pub async fn begin(victim: Victim) -> Self {
        let run = testing::private_run().unwrap();
        let (mut postgres, mut elasticsearch) = (None, None);
        match victim {
            Victim::WriteService => {}
            Victim::Postgres => {
                let cluster = testing::cluster(&run).unwrap();
                let process = cluster.start(&run).await.unwrap();
                postgres = Some((cluster, process));
            }
            Victim::Elasticsearch => {
                let node = Node { quick_start: true, ..testing::node(&run, HEAP_MIB).await.unwrap() };
                let process = node.start(&run).await.unwrap();
                elasticsearch = Some((node, process));
            }
        }
        Self { run, postgres, elasticsearch }
    }

    async fn database(&self) -> TestDatabase {
        let Some((cluster, _)) = &self.postgres else { return testing::database().await.unwrap() };
        local::postgres::create_database(cluster.port, "orders", false).await.unwrap();
        TestDatabase { url: local::postgres::url(cluster.port, "orders") }
    }

    async fn elasticsearch_url(&self) -> String {
        match &self.elasticsearch {
            Some((node, _)) => node.url(),
            None => testing::elasticsearch().await.unwrap(),
        }
    }

    /// Kills the victim and starts it again.
    async fn kill(&mut self) {
        if let Some((cluster, process)) = &mut self.postgres {
            kill_group(process.identity().unwrap());
            process.crashed().await;
            // Processes of the killed one may still leave its memory.
            *process =
                testing::until(PATIENCE, "PostgreSQL starts", async || cluster.start(&self.run).await.ok())
                    .await;
        }
        if let Some((node, process)) = &mut self.elasticsearch {
            kill_group(process.identity().unwrap());
            process.crashed().await;
            *process = node.start(&self.run).await.unwrap();
        }
    }

    pub fn end(self) {
        let servers =
            [self.elasticsearch.map(|(_, process)| process), self.postgres.map(|(_, process)| process)];
        servers.into_iter().flatten().for_each(|process| kill_group(process.identity().unwrap()));
        self.run.close();
    }
}

/// Kills the victim under all these pairs, and starts it again.
pub async fn kill(victim: Victim, servers: &mut Servers, scenes: &mut [Scene]) {
    match victim {
        Victim::WriteService => {
            for scene in scenes {
                scene.world.kill_write();
                scene.world.revive_write().await;
            }
        }
        Victim::Postgres => servers.kill().await,
        Victim::Elasticsearch => {
            for scene in &*scenes {
                scene.away.store(true, Ordering::SeqCst);
            }
            servers.kill().await;
            join_all(scenes.iter().map(Scene::is_answered)).await;
        }
    }
}

/// A pair whose way to Elasticsearch leads through a turnstile.
pub struct Scene {
    pub elasticsearch_url: String,
    pub turnstile: Turnstile,
    pub world: World,
    /// Orders by id, each at the version that was acknowledged last.
    pub versions: Mutex<HashMap<String, i64>>,
    /// Whether queries may be refused, because Elasticsearch is away.
    away: Arc<AtomicBool>,
}

impl Scene {
    /// A pair with some orders.
    pub async fn begin(servers: &Servers) -> Self {
        let elasticsearch_url = servers.elasticsearch_url().await;
        let turnstile = Turnstile::before(elasticsearch_url.trim_start_matches("http://").to_owned()).await;
        let settings = ["--rebuild-grace-seconds=0".to_owned()];
        let url = format!("http://{}", turnstile.address);
        let world = World::start_with(servers.database().await, url, &settings).await;
        let (versions, away) = (Mutex::default(), Arc::default());
        let scene = Self { elasticsearch_url, turnstile, world, versions, away };
        for _ in 0..ORDERS {
            scene.go_on().await;
        }
        scene.world.settle().await;
        scene
    }

    /// An order more, and the next step of one that is there; repeated as the contract says until both are acknowledged.
    pub async fn go_on(&self) {
        let request = CreateOrderRequest { request_id: Uuid::now_v7().to_string(), ..create(1) };
        let created = testing::until(PATIENCE, "an order is placed", async || {
            let answer = self.world.orders().create_order(request.clone()).await;
            answer.ok()?.into_inner().receipt
        })
        .await;
        let submitted = |(_, version): &(&String, &i64)| **version == created.version;
        let known = self.versions.lock().unwrap().iter().find(submitted).map(|(id, _)| id.clone());
        self.versions.lock().unwrap().insert(created.order_id, created.version);
        if let Some(order_id) = known {
            let request_id = Uuid::now_v7().to_string();
            let confirm = ConfirmOrderRequest { order_id, request_id, ..Default::default() };
            let confirmed = testing::until(PATIENCE, "an order is confirmed", async || {
                let answer = self.world.orders().confirm_order(confirm.clone()).await;
                answer.ok()?.into_inner().receipt
            })
            .await;
            self.versions.lock().unwrap().insert(confirmed.order_id, confirmed.version);
        }
    }

    /// Waits until Elasticsearch is there again.
    async fn is_answered(&self) {
        let known = self.versions.lock().unwrap().keys().next().unwrap().clone();
        testing::until(PATIENCE, "queries are answered", async || {
            let queries = self.world.queries();
            get(&queries, &known).await.and(list(&queries).await).ok()
        })
        .await;
        self.away.store(false, Ordering::SeqCst);
    }

    /// What Elasticsearch itself answers.
    pub async fn look(&self, path: &str) -> String {
        let address: SocketAddr = self.elasticsearch_url.trim_start_matches("http://").parse().unwrap();
        local::http::get(address, path).await.unwrap().1
    }

    /// Reads on and on until it is over.
    pub fn reading(&self, over: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let known = self.versions.lock().unwrap().keys().cloned().collect();
        tokio::spawn(reads(self.world.queries(), known, self.away.clone(), over.clone()))
    }
}

async fn list(queries: &Queries) -> Result<usize, Status> {
    let mut request = Request::new(ListOrdersRequest { page_size: 5, ..Default::default() });
    request.set_timeout(DEADLINE);
    let total = queries.clone().list_orders(request).await?.into_inner().total_size;
    Ok(usize::try_from(total).unwrap())
}

async fn get(queries: &Queries, order_id: &str) -> Result<i64, Status> {
    let mut request = Request::new(GetOrderRequest { order_id: order_id.into(), ..Default::default() });
    request.set_timeout(DEADLINE);
    let order = queries.clone().get_order(request).await?.into_inner().order.unwrap();
    Ok(order.summary.unwrap().version)
}

/// Never an error but that Elasticsearch is away while it is, never fewer orders, never an older one.
async fn reads(queries: Queries, known: Vec<String>, away: Arc<AtomicBool>, over: CancellationToken) {
    let (mut most, mut newest, mut answered) = (known.len(), HashMap::new(), 0_usize);
    for order_id in known.iter().cycle() {
        if over.is_cancelled() {
            break;
        }
        let excused = away.load(Ordering::SeqCst);
        let is_excused = |status: &Status| {
            let away = excused || away.load(Ordering::SeqCst);
            assert!(away && is_refusal(status, Reason::SearchDown), "{status:?}");
        };
        if let Ok(version) = get(&queries, order_id).await.inspect_err(is_excused) {
            let before = newest.insert(order_id, version).unwrap_or(0);
            assert!(version >= before, "{order_id} went back from {before} to {version}");
            answered += 1;
        }
        if let Ok(total) = list(&queries).await.inspect_err(is_excused) {
            assert!(total >= most, "{total} orders after {most}");
            most = total;
        }
    }
    assert!(answered > ORDERS, "{answered} answers");
}
