//! Servers killed in every part of a rebuild: it goes on, queries are answered, and what goes live is the fold of the events.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use local::elasticsearch::Node;
use local::postgres::Cluster;
use local::process::{Process, kill_group};
use local::run::Run;
use local::testing::{self, TestDatabase};
use proto::reason::Reason;
use proto::v1::rebuild::State;
use proto::v1::*;
use read_service::index::Index;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use uuid::Uuid;

use crate::delivery::assert_documents_equal_folds;
use crate::questions::{Queries, is_refusal};
use crate::world::{PATIENCE, World, create};

const ORDERS: usize = 60;
/// So that a kill finds the scan in its middle.
const THROTTLE: i32 = 30;
/// What every question is given.
const DEADLINE: Duration = Duration::from_secs(3);

/// The pair, on servers of its own where they are killed.
struct Scene {
    run: Run,
    postgres: Option<(Cluster, Process)>,
    elasticsearch: Option<(Node, Process)>,
    elasticsearch_url: String,
    world: World,
    /// Orders by id, each at the version that was acknowledged last.
    versions: Arc<Mutex<HashMap<String, i64>>>,
    /// Whether queries may be refused, because Elasticsearch is away.
    away: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    WriteService,
    Postgres,
    Elasticsearch,
}

impl Scene {
    /// A pair with some orders.
    async fn begin(victims: &[Victim]) -> Self {
        let run = testing::private_run().unwrap();
        let (mut postgres, mut elasticsearch) = (None, None);
        let database = if victims.contains(&Victim::Postgres) {
            let cluster = testing::cluster(&run).unwrap();
            let process = cluster.start(&run).await.unwrap();
            local::postgres::create_database(cluster.port, "orders", false).await.unwrap();
            let url = local::postgres::url(cluster.port, "orders");
            postgres = Some((cluster, process));
            TestDatabase { url }
        } else {
            testing::database().await.unwrap()
        };
        let elasticsearch_url = if victims.contains(&Victim::Elasticsearch) {
            let node = testing::node(&run, 512).await.unwrap();
            let process = node.start(&run).await.unwrap();
            let url = node.url();
            elasticsearch = Some((node, process));
            url
        } else {
            testing::elasticsearch().await.unwrap()
        };
        let settings = ["--rebuild-grace-seconds=0".to_owned()];
        let world = World::start_with(database, elasticsearch_url.clone(), &settings).await;
        let (versions, away) = (Arc::default(), Arc::default());
        let scene = Self { run, postgres, elasticsearch, elasticsearch_url, world, versions, away };
        for _ in 0..ORDERS {
            scene.go_on().await;
        }
        scene.world.settle().await;
        scene
    }

    /// An order more, and the next step of one that is there; repeated as the contract says until both are acknowledged.
    async fn go_on(&self) {
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

    /// Kills it and starts it again.
    async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::WriteService => {
                self.world.kill_write();
                self.world.revive_write().await;
            }
            Victim::Postgres => {
                let (cluster, process) = self.postgres.as_mut().unwrap();
                kill_group(process.identity().unwrap());
                process.crashed().await;
                // Processes of the killed one may still leave its memory.
                *process = testing::until(PATIENCE, "PostgreSQL starts", async || {
                    cluster.start(&self.run).await.ok()
                })
                .await;
            }
            Victim::Elasticsearch => {
                let (node, process) = self.elasticsearch.as_mut().unwrap();
                self.away.store(true, Ordering::SeqCst);
                kill_group(process.identity().unwrap());
                process.crashed().await;
                *process = node.start(&self.run).await.unwrap();
                let known = self.versions.lock().unwrap().keys().next().unwrap().clone();
                testing::until(PATIENCE, "queries are answered", async || {
                    let queries = self.world.queries();
                    get(&queries, &known).await.and(list(&queries).await).ok()
                })
                .await;
                self.away.store(false, Ordering::SeqCst);
            }
        }
    }

    async fn rebuild(&self, rebuild_id: &str) -> Option<Rebuild> {
        let request = GetRebuildRequest { rebuild_id: rebuild_id.into() };
        self.world.admin().get_rebuild(request).await.ok()?.into_inner().rebuild
    }

    /// Waits until the rebuild is like this.
    async fn until(&self, rebuild_id: &str, what: &str, like_this: impl Fn(&Rebuild) -> bool) -> Rebuild {
        testing::until(PATIENCE, what, async || self.rebuild(rebuild_id).await.filter(&like_this)).await
    }

    /// Whether the live index is held for a switch.
    async fn is_held(&self) -> bool {
        let address = self.elasticsearch_url.trim_start_matches("http://").parse().unwrap();
        let path =
            format!("/{}/_doc/feeds:orders?filter_path=_source.body.hold.token", self.world.index("control"));
        let answer = local::http::get(address, &path).await;
        answer.is_ok_and(|(_, answer)| answer.contains("token"))
    }

    /// One rebuild, during whose scan, proof and switch this one is killed.
    async fn rebuilt_over(&mut self, victim: Victim) {
        let request = StartRebuildRequest {
            projection: "orders".into(),
            max_streams_per_second: THROTTLE,
            request_id: format!("{victim:?}"),
            ..Default::default()
        };
        let id = testing::until(PATIENCE, "the rebuild before is cleared away", async || {
            let started = self.world.admin().start_rebuild(request.clone()).await.ok()?.into_inner();
            Some(started.rebuild?.rebuild_id)
        })
        .await;
        let in_scan = |rebuild: &Rebuild| rebuild.state() == State::Scanning && rebuild.streams_done > 0;
        let seen = self.until(&id, "it scans", in_scan).await;
        assert!(seen.streams_done < i64::try_from(ORDERS).unwrap(), "{seen:?}");
        self.kill(victim).await;
        self.go_on().await;

        let scanned = |rebuild: &Rebuild| {
            matches!(rebuild.state(), State::CatchingUp | State::Verifying) || ended(rebuild)
        };
        let seen = self.until(&id, "it has scanned", scanned).await;
        assert!(!ended(&seen), "{victim:?}: {seen:?}");
        self.kill(victim).await;
        self.go_on().await;

        testing::until(PATIENCE, "it switches", async || {
            let over = self.rebuild(&id).await.filter(ended);
            assert!(over.is_none(), "{victim:?}: {over:?}");
            self.is_held().await.then_some(())
        })
        .await;
        self.kill(victim).await;
        self.go_on().await;
        let done = self.until(&id, "it ends", ended).await;
        assert_eq!(done.state(), State::Succeeded, "{victim:?}: {done:?}");

        // One index, behind the alias; what was before is dropped.
        let index = Index::new(&self.elasticsearch_url).unwrap();
        let live = index.live(&self.world.index("orders")).await.unwrap().unwrap();
        assert_eq!(live.name, done.target_index, "{victim:?}");
        testing::until(PATIENCE, "what is left is dropped", async || {
            let all = index.own_indices(&self.world.index("orders-")).await.unwrap();
            (all.len() == 1 && all[0].name == live.name).then_some(())
        })
        .await;
        self.world.settle().await;
        let versions = self.versions.lock().unwrap().clone();
        assert_documents_equal_folds(&self.world, versions.len()).await;
        for order in self.world.all_orders(OrderSort::Unspecified, 500).await {
            assert_eq!(
                order.version, versions[&order.order_id],
                "{victim:?}: what was acknowledged is there"
            );
        }
    }
}

fn ended(rebuild: &Rebuild) -> bool {
    rebuild.end_time.is_some()
}

async fn list(queries: &Queries) -> Result<usize, tonic::Status> {
    let mut request = Request::new(ListOrdersRequest { page_size: 5, ..Default::default() });
    request.set_timeout(DEADLINE);
    let total = queries.clone().list_orders(request).await?.into_inner().total_size;
    Ok(usize::try_from(total).unwrap())
}

async fn get(queries: &Queries, order_id: &str) -> Result<i64, tonic::Status> {
    let mut request = Request::new(GetOrderRequest { order_id: order_id.into(), ..Default::default() });
    request.set_timeout(DEADLINE);
    let order = queries.clone().get_order(request).await?.into_inner().order.unwrap();
    Ok(order.summary.unwrap().version)
}

/// Reads on and on: never an error but that Elasticsearch is away while it is, never fewer orders, never an older one.
async fn reads(queries: Queries, known: Vec<String>, away: Arc<AtomicBool>, over: CancellationToken) {
    let (mut most, mut newest, mut answered) = (known.len(), HashMap::new(), 0_usize);
    for order_id in known.iter().cycle() {
        if over.is_cancelled() {
            break;
        }
        let excused = away.load(Ordering::SeqCst);
        let is_excused = |status: &tonic::Status| {
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

/// Kills each of these in every part of a rebuild, while somebody reads.
async fn killed(victims: &[Victim]) {
    let mut scene = Scene::begin(victims).await;
    let over = CancellationToken::new();
    let known = scene.versions.lock().unwrap().keys().cloned().collect();
    let reading = tokio::spawn(reads(scene.world.queries(), known, scene.away.clone(), over.clone()));
    for victim in victims {
        scene.rebuilt_over(*victim).await;
    }
    over.cancel();
    reading.await.unwrap();
    let servers =
        [scene.elasticsearch.map(|(_, process)| process), scene.postgres.map(|(_, process)| process)];
    servers.into_iter().flatten().for_each(|process| kill_group(process.identity().unwrap()));
    scene.run.close();
}

#[tokio::test]
async fn over_a_killed_event_store_a_rebuild_goes_on_and_no_query_fails() {
    killed(&[Victim::WriteService, Victim::Postgres]).await;
}

#[tokio::test]
async fn over_a_killed_elasticsearch_a_rebuild_goes_on_and_queries_say_why_they_fail() {
    killed(&[Victim::Elasticsearch]).await;
}
