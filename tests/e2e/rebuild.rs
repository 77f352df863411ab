//! A projection built again under load: no read fails, none is empty, none goes back.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use local::testing;
use proto::reason::Reason;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use proto::v1::rebuild::State;
use proto::v1::*;
use tonic::transport::Channel;

use crate::world::{PATIENCE, World, create};

type Admin = ProjectionAdminServiceClient<Channel>;

fn of_orders() -> StartRebuildRequest {
    StartRebuildRequest { projection: "orders".into(), ..Default::default() }
}

async fn start(admin: &Admin, request: StartRebuildRequest) -> Rebuild {
    admin.clone().start_rebuild(request).await.unwrap().into_inner().rebuild.unwrap()
}

async fn rebuild(admin: &Admin, rebuild_id: &str) -> Rebuild {
    let request = GetRebuildRequest { rebuild_id: rebuild_id.into() };
    admin.clone().get_rebuild(request).await.unwrap().into_inner().rebuild.unwrap()
}

/// Follows a rebuild to its end.
async fn ended(admin: &Admin, rebuild_id: &str) -> Rebuild {
    let request = WatchRebuildRequest { rebuild_id: rebuild_id.into() };
    let mut told = admin.clone().watch_rebuild(request).await.unwrap().into_inner();
    let watched = async {
        let mut last = Rebuild::default();
        while let Some(message) = told.message().await.unwrap() {
            let now = message.rebuild.unwrap();
            assert!(now.percent >= last.percent, "{now:?} after {last:?}");
            let known = last.eta_seconds > 0.0 && last.error.is_empty() && now.error.is_empty();
            assert!(!known || now.eta_seconds <= last.eta_seconds, "{now:?} after {last:?}");
            last = now;
        }
        last
    };
    tokio::time::timeout(PATIENCE, watched).await.expect("the rebuild ends")
}

/// Waits until it is like this.
async fn until(admin: &Admin, rebuild_id: &str, like_this: impl Fn(&Rebuild) -> bool) -> Rebuild {
    testing::until(PATIENCE, "the rebuild gets there", async || {
        Some(rebuild(admin, rebuild_id).await).filter(&like_this)
    })
    .await
}

async fn orders(admin: &Admin) -> Projection {
    let told = admin.clone().list_projections(ListProjectionsRequest {}).await.unwrap().into_inner();
    told.projections.into_iter().find(|projection| projection.name == "orders").unwrap()
}

async fn fill(world: &World, count: usize) -> Vec<OrderReceipt> {
    let mut receipts = Vec::new();
    for _ in 0..count {
        receipts.push(world.create(create(1)).await);
    }
    receipts
}

/// Orders are changed and read at every copy until told otherwise.
struct Load {
    over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<usize>>,
}

impl Load {
    fn start(
        world: &Arc<World>,
        copies: Vec<OrderQueryServiceClient<Channel>>,
        known: Vec<OrderReceipt>,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let least = known.len();
        let versions: HashMap<_, _> =
            known.iter().map(|receipt| (receipt.order_id.clone(), receipt.version)).collect();
        let seen = Arc::new(Mutex::new(versions));
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = vec![tokio::spawn(write(world.clone(), known, over.clone()))];
        for queries in copies {
            tasks.push(tokio::spawn(read(queries.clone(), seen.clone(), next.clone(), over.clone())));
            tasks.push(tokio::spawn(list(queries, least, over.clone())));
        }
        Self { over, tasks }
    }

    /// Ends it; gives how often each task did its work.
    async fn end(self) -> Vec<usize> {
        self.over.store(true, Ordering::SeqCst);
        let mut counts = Vec::new();
        for task in self.tasks {
            counts.push(task.await.unwrap());
        }
        counts
    }
}

/// New orders, and the next step of those that are there, each read with its token right after.
async fn write(world: Arc<World>, known: Vec<OrderReceipt>, over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    let mut known = known.into_iter();
    while !over.load(Ordering::SeqCst) {
        let receipt = match known.next() {
            Some(OrderReceipt { order_id, .. }) => {
                let confirm = ConfirmOrderRequest { order_id, ..Default::default() };
                world.orders().confirm_order(confirm).await.unwrap().into_inner().receipt.unwrap()
            }
            None => world.create(create(1)).await,
        };
        let read = world.order(&receipt.order_id, &receipt.consistency_token).await.unwrap();
        assert!(read.order.unwrap().summary.unwrap().version >= receipt.version);
        count += 1;
    }
    count
}

/// An order is never gone, and never older than any copy has shown it.
async fn read(
    mut queries: OrderQueryServiceClient<Channel>,
    seen: Arc<Mutex<HashMap<String, i64>>>,
    next: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
) -> usize {
    let ids: Vec<String> = seen.lock().unwrap().keys().cloned().collect();
    let mut count = 0;
    while !over.load(Ordering::SeqCst) {
        let order_id = ids[next.fetch_add(1, Ordering::SeqCst) % ids.len()].clone();
        let least = seen.lock().unwrap()[&order_id];
        let request = GetOrderRequest { order_id: order_id.clone(), ..Default::default() };
        let answer = queries.get_order(request).await.unwrap().into_inner();
        let version = answer.order.unwrap().summary.unwrap().version;
        assert!(version >= least, "{order_id} went back from {least} to {version}: {:?}", answer.freshness);
        let mut seen = seen.lock().unwrap();
        seen.entry(order_id).and_modify(|known| *known = version.max(*known));
        count += 1;
    }
    count
}

/// Lists and their pages never have fewer orders than there were.
async fn list(
    mut queries: OrderQueryServiceClient<Channel>,
    mut least: usize,
    over: Arc<AtomicBool>,
) -> usize {
    let mut count = 0;
    let mut page_token = String::new();
    while !over.load(Ordering::SeqCst) {
        let request = ListOrdersRequest { page_token, page_size: 5, ..Default::default() };
        let answer = queries.list_orders(request).await.unwrap().into_inner();
        let total = usize::try_from(answer.total_size).unwrap();
        assert!(total >= least && !answer.orders.is_empty(), "{total} orders after {least}");
        least = total;
        page_token = answer.next_page_token;
        count += 1;
    }
    count
}

#[tokio::test]
async fn under_load_no_read_fails_is_empty_or_goes_back() {
    // Most documents are compared by version, as where there are many.
    let few = ["--rebuild-compared=50".to_owned()];
    let (database, elasticsearch) = (testing::database().await, testing::elasticsearch().await);
    let world = World::start_with(database.unwrap(), elasticsearch.unwrap(), &few).await;
    let second = world.another_read_with(&world.paths(), &few).await;
    let known = fill(&world, 200).await;
    world.settle().await;
    world.settle_at(&second.queries()).await;
    let ids: HashSet<_> = known.iter().map(|receipt| receipt.order_id.clone()).collect();
    let world = Arc::new(world);
    let load = Load::start(&world, vec![world.queries(), second.queries()], known);

    let page = async |page_token: String| {
        let request = ListOrdersRequest { page_token, page_size: 50, ..Default::default() };
        let answer = world.queries().list_orders(request).await.unwrap().into_inner();
        let ids: Vec<_> = answer.orders.into_iter().map(|order| order.order_id).collect();
        (ids, answer.next_page_token)
    };
    let (mut listed, mut token) = page(String::new()).await;
    let admin = world.admin();
    let first = start(&admin, of_orders()).await;
    let done = ended(&second.admin(), &first.rebuild_id).await;
    assert!(done.state() == State::Succeeded && done.percent >= 100.0, "{done:?}");
    assert_eq!(done.streams_total, done.streams_done, "customers and products are not counted: {done:?}");
    assert_eq!(done.source_index, world.index("orders-v1-1"));
    assert_eq!(done.target_index, world.index("orders-v1-2"));
    let verification = done.verification.unwrap();
    assert!(verification.documents_expected >= 200, "{verification:?}");
    assert!(verification.documents_compared >= 20, "{verification:?}");
    assert_eq!(verification.documents_expected, verification.documents_found, "{verification:?}");
    let now = orders(&admin).await;
    assert_eq!((now.live_index, now.previous_index), (done.target_index, done.source_index));

    // The pages of before go on in the new index: what is newer lies before them, nothing is skipped, nothing comes twice.
    while !token.is_empty() {
        let (ids, next) = page(token).await;
        listed.extend(ids);
        token = next;
    }
    let distinct: HashSet<_> = listed.iter().cloned().collect();
    assert_eq!(distinct.len(), listed.len());
    assert!(ids.is_subset(&distinct), "{} of {} were listed", distinct.intersection(&ids).count(), ids.len());

    // And back, while the load goes on.
    let request = RollbackProjectionRequest { projection: "orders".into() };
    let back = second.admin().rollback_projection(request).await.unwrap().into_inner().projection.unwrap();
    assert_eq!(back.live_index, world.index("orders-v1-1"));
    assert_eq!(back.previous_index, world.index("orders-v1-2"), "one can go forth again");
    let counts = load.end().await;
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    world.settle().await;
    world.settle_at(&second.queries()).await;
    second.stop().await;
}

#[tokio::test]
async fn a_rebuild_is_paused_slowed_cancelled_and_done_for_show() {
    let mut world = World::start().await;
    fill(&world, 60).await;
    world.settle().await;
    let admin = world.admin();
    let slow = StartRebuildRequest { max_streams_per_second: 8, request_id: "slow".into(), ..of_orders() };
    let begun = start(&admin, slow.clone()).await;

    // One at a time; the same request is the same rebuild.
    let refused = admin.clone().start_rebuild(of_orders()).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::RebuildRunning));
    assert_eq!(start(&admin, slow.clone()).await.rebuild_id, begun.rebuild_id);
    let other = StartRebuildRequest { projection: "customers".into(), ..Default::default() };
    let other = start(&admin, other).await;

    let id = begun.rebuild_id;
    let pause = PauseRebuildRequest { rebuild_id: id.clone() };
    admin.clone().pause_rebuild(pause).await.unwrap();
    let paused = until(&admin, &id, |rebuild| rebuild.state() == State::Paused).await;
    assert_eq!(ended(&admin, &other.rebuild_id).await.state(), State::Succeeded);
    assert_eq!(rebuild(&admin, &id).await.streams_done, paused.streams_done);
    // It rests over a restart, too.
    world.stop_read().await;
    world.start_read().await;
    let admin = world.admin();
    assert_eq!(rebuild(&admin, &id).await.state(), State::Paused);
    let resume = ResumeRebuildRequest { rebuild_id: id.clone() };
    admin.clone().resume_rebuild(resume).await.unwrap();
    // All of them come in one message of the feed; the limit holds for each, and what is done shows.
    let goes_on = |rebuild: &Rebuild| (paused.streams_done + 1..50).contains(&rebuild.streams_done);
    let scanning = until(&admin, &id, goes_on).await;
    assert!(scanning.streams_per_second < 10.0, "{scanning:?}");
    let cancel = CancelRebuildRequest { rebuild_id: id.clone() };
    admin.clone().cancel_rebuild(cancel).await.unwrap();
    assert_eq!(ended(&admin, &id).await.state(), State::Cancelled);
    assert_eq!(start(&admin, slow).await.rebuild_id, id, "it has ended, and stays so");

    let dry = testing::until(PATIENCE, "the rebuild before is cleared away", async || {
        let request = StartRebuildRequest { dry_run: true, request_id: "dry".into(), ..of_orders() };
        match admin.clone().start_rebuild(request).await {
            Ok(started) => started.into_inner().rebuild,
            Err(refused) => {
                assert_eq!(Reason::of(&refused), Some(Reason::RebuildRunning));
                None
            }
        }
    })
    .await;
    let dry = ended(&admin, &dry.rebuild_id).await;
    assert_eq!(dry.state(), State::Verified, "{dry:?}");
    assert_eq!(dry.verification.unwrap().documents_compared, 60);
    assert_eq!(orders(&admin).await.live_index, world.index("orders-v1-1"));
    let request = RollbackProjectionRequest { projection: "orders".into() };
    let refused = admin.clone().rollback_projection(request).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::NoPreviousIndex));
    let unknown = GetRebuildRequest { rebuild_id: "none".into() };
    let refused = admin.clone().get_rebuild(unknown).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::RebuildNotFound));
}
