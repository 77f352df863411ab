//! PostgreSQL killed under load, again and again: callers are told so, the service comes back by itself, and what was
//! acknowledged is there once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use local::postgres::Cluster;
use local::process::{Process, kill_group};
use local::run::Run;
use proto::reason::Reason;
use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::subscribe_response::Message;
use proto::v1::*;
use sqlx::PgPool;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::outbox::{assert_dense, published};
use crate::support::{PATIENCE, create, lantern, new_id, refusal, serve, until};

const CLIENTS: usize = 6;
const KILLS: usize = 3;
/// What each caller gives the service to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// From the first answer of PostgreSQL to success for every client.
const BACK: Duration = Duration::from_secs(5);

/// Starts PostgreSQL; again and again while processes of the killed one still leave its memory.
async fn start(cluster: &Cluster, run: &Run) -> Process {
    until("PostgreSQL starts", async || cluster.start(run).await.ok()).await
}

/// How long the caller is asked to wait; the status must say that the store is down.
fn store_down(status: Status) -> Duration {
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(refusal::<()>(Err(status)), (Code::Unavailable, Reason::EventStoreDown));
    delay.expect("RetryInfo")
}

/// A request that says how long it may take.
fn within_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// What a client has seen so far.
#[derive(Default)]
struct Progress {
    stored: AtomicU64,
    refused: AtomicU64,
}

/// Creates orders one after the other until told to stop, repeating each as the contract says until it is acknowledged.
async fn client(channel: Channel, progress: Arc<Progress>, stop: Arc<AtomicBool>) -> Vec<Uuid> {
    let mut orders = OrderCommandServiceClient::new(channel);
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let request = CreateOrderRequest { request_id: new_id(), ..create(vec![lantern(1)], true) };
        let receipt = loop {
            let sent = Instant::now();
            match orders.create_order(within_deadline(request.clone())).await {
                Ok(answer) => break answer.into_inner().receipt.unwrap(),
                Err(status) => {
                    let delay = store_down(status);
                    assert!(sent.elapsed() < DEADLINE);
                    progress.refused.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(delay).await;
                }
            }
        };
        assert_eq!((receipt.order_id.as_str(), receipt.version), (request.request_id.as_str(), 3));
        acknowledged.push(receipt.order_id.parse().unwrap());
        progress.stored.fetch_add(1, Ordering::SeqCst);
    }
    acknowledged
}

/// Waits until this count of every client has grown.
async fn each_more(what: &str, clients: &[Arc<Progress>], count: impl Fn(&Progress) -> &AtomicU64) {
    let now = |progress: &Arc<Progress>| count(progress).load(Ordering::SeqCst);
    let before: Vec<_> = clients.iter().map(now).collect();
    until(what, async || {
        clients.iter().zip(&before).all(|(progress, before)| now(progress) > *before).then_some(())
    })
    .await;
}

/// The reads of the feed while PostgreSQL is gone.
async fn feed_is_refused(feed: &OrderFeedServiceClient<Channel>) {
    let sent = Instant::now();
    let [mut one, mut two, mut three, mut four] = std::array::from_fn(|_| feed.clone());
    let read = ReadStreamRequest {
        category: StreamCategory::Customer.into(),
        stream_key: "17850".into(),
        ..Default::default()
    };
    let mut scan = async || -> Result<_, Status> {
        four.scan(ScanRequest::default()).await?.into_inner().message().await
    };
    let (head, subscription, stream, scan) = tokio::join!(
        one.get_head(within_deadline(GetHeadRequest {})),
        two.subscribe(SubscribeRequest::default()),
        three.read_stream(within_deadline(read)),
        scan(),
    );
    store_down(head.unwrap_err());
    store_down(subscription.map(|_| ()).unwrap_err());
    store_down(stream.map(|_| ()).unwrap_err());
    store_down(scan.unwrap_err());
    assert!(sent.elapsed() < DEADLINE);
}

#[tokio::test]
async fn killed_and_started_again_under_load_it_loses_nothing_acknowledged() {
    let run = local::testing::private_run().unwrap();
    let cluster = local::testing::cluster(&run).unwrap();
    let mut postgres = start(&cluster, &run).await;
    local::postgres::create_database(cluster.port, "orders", false).await.unwrap();
    let url = local::postgres::url(cluster.port, "orders");
    let pool = PgPool::connect(&url).await.unwrap();
    write_service::MIGRATOR.run(&pool).await.unwrap();
    pool.close().await;
    let (channel, lifecycle) = serve(&url).await;
    let mut catalog = CatalogCommandServiceClient::new(channel.clone());
    let customer = PutCustomerRequest { customer_id: "17850".into(), name: "Customer 17850".into() };
    catalog.put_customer(customer).await.unwrap();
    let product = PutProductRequest { product_id: "71053".into(), name: "WHITE METAL LANTERN".into() };
    catalog.put_product(product).await.unwrap();
    let mut feed = OrderFeedServiceClient::new(channel.clone());
    let mut subscription = feed.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();

    let stop = Arc::new(AtomicBool::new(false));
    let progress: Vec<_> = (0..CLIENTS).map(|_| Arc::new(Progress::default())).collect();
    let clients: Vec<_> = progress
        .iter()
        .map(|progress| tokio::spawn(client(channel.clone(), Arc::clone(progress), Arc::clone(&stop))))
        .collect();
    for _ in 0..KILLS {
        each_more("every client stores", &progress, |progress| &progress.stored).await;
        kill_group(postgres.identity().unwrap());
        postgres.crashed().await;
        tokio::join!(
            each_more("every client is refused", &progress, |progress| &progress.refused),
            feed_is_refused(&feed),
        );
        postgres = start(&cluster, &run).await;
        let back = Instant::now();
        each_more("every client stores again", &progress, |progress| &progress.stored).await;
        assert!(back.elapsed() < BACK, "back after {:?}", back.elapsed());
        feed.get_head(within_deadline(GetHeadRequest {})).await.unwrap();
        assert!(back.elapsed() < BACK, "the feed is back after {:?}", back.elapsed());
    }
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }

    // Every event is in the feed: what was acknowledged, once, and nothing else.
    let events = 2 + 3 * acknowledged.len();
    let head = until("everything is published", async || {
        let head = feed.get_head(GetHeadRequest {}).await.unwrap().into_inner();
        (head.outbox_backlog == 0).then_some(head.head_position)
    })
    .await;
    let pool = PgPool::connect(&url).await.unwrap();
    let published = published(&pool).await;
    assert_dense(&published, events);
    acknowledged.sort_unstable();
    let mut last: Vec<_> =
        published.iter().filter(|(.., version)| *version == 3).map(|(_, stream, _)| *stream).collect();
    last.sort_unstable();
    assert_eq!(last, acknowledged);
    // A subscriber that goes on from where it was cut off has it too. It is cut off where it was reading from the store.
    let mut position = 0;
    while position < head {
        let answer = tokio::time::timeout(PATIENCE, subscription.message()).await.expect("an answer in time");
        match answer {
            Ok(answer) => {
                if let Some(Message::Batch(batch)) = answer.unwrap().message {
                    for event in batch.events {
                        assert_eq!(event.position, position + 1);
                        position = event.position;
                    }
                }
            }
            Err(refused) => {
                store_down(refused);
                let rest = SubscribeRequest { after_position: position, ..Default::default() };
                subscription = feed.subscribe(rest).await.unwrap().into_inner();
            }
        }
    }
    lifecycle.drain();
    tokio::time::timeout(PATIENCE, lifecycle.stopped()).await.expect("it drains in time");
    kill_group(postgres.identity().unwrap());
    run.close();
}
