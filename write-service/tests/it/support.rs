//! A write service on free ports over a database of its own, and short words for what tests do with it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser as _;
use local::testing::TestDatabase;
use proto::reason::Reason;
use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::*;
use shared::lifecycle::Lifecycle;
use sqlx::PgPool;
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;
use write_service::Config;

/// Longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// A running write service.
pub struct World {
    pub database: TestDatabase,
    pub pool: PgPool,
    pub orders: OrderCommandServiceClient<Channel>,
    pub catalog: CatalogCommandServiceClient<Channel>,
    pub feed: OrderFeedServiceClient<Channel>,
    pub lifecycle: Lifecycle,
    address: SocketAddr,
}

/// An empty, migrated database.
pub async fn database() -> (TestDatabase, PgPool) {
    let database = local::testing::database().await.unwrap();
    let pool = PgPool::connect(&database.url).await.unwrap();
    write_service::MIGRATOR.run(&pool).await.unwrap();
    (database, pool)
}

pub fn config(database_url: &str) -> Config {
    let flags = [
        "test",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--database-url",
        database_url,
    ];
    Flags::try_parse_from(flags).unwrap().config
}

impl World {
    /// A service over an empty store that knows customer 17850 and products 71053 and 85123A.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same, configured otherwise.
    pub async fn start_with(configure: impl FnOnce(&mut Config)) -> Self {
        let (database, pool) = database().await;
        let mut config = config(&database.url);
        configure(&mut config);
        let (address, lifecycle) = serve_with(config).await;
        let channel = connect(address).await;
        let mut world = Self {
            database,
            pool,
            orders: OrderCommandServiceClient::new(channel.clone()),
            catalog: CatalogCommandServiceClient::new(channel.clone()),
            feed: OrderFeedServiceClient::new(channel),
            lifecycle,
            address,
        };
        world.put_customer("17850", "Customer 17850").await;
        world.put_product("71053", "WHITE METAL LANTERN").await;
        world.put_product("85123A", "WHITE HANGING HEART T-LIGHT HOLDER").await;
        world
    }

    /// The feed over a connection of its own.
    pub async fn connect_anew(&self) -> OrderFeedServiceClient<Channel> {
        OrderFeedServiceClient::new(connect(self.address).await)
    }

    pub async fn put_customer(&mut self, customer_id: &str, name: &str) -> PutCustomerResponse {
        let request = PutCustomerRequest { customer_id: customer_id.into(), name: name.into() };
        self.catalog.put_customer(request).await.unwrap().into_inner()
    }

    pub async fn put_product(&mut self, product_id: &str, name: &str) -> PutProductResponse {
        let request = PutProductRequest { product_id: product_id.into(), name: name.into() };
        self.catalog.put_product(request).await.unwrap().into_inner()
    }

    pub async fn create(&mut self, request: CreateOrderRequest) -> Result<OrderReceipt, Status> {
        Ok(self.orders.create_order(request).await?.into_inner().receipt.unwrap())
    }

    /// A draft with two lanterns on line 1.
    pub async fn draft(&mut self) -> String {
        self.create(create(vec![lantern(2)], false)).await.unwrap().order_id
    }

    pub async fn submit(&mut self, order_id: &str) -> Result<OrderReceipt, Status> {
        let request = SubmitOrderRequest { order_id: order_id.into(), ..Default::default() };
        Ok(self.orders.submit_order(request).await?.into_inner().receipt.unwrap())
    }

    /// The events of an order, by stream.
    pub async fn history(&mut self, order_id: &str) -> Vec<RecordedEvent> {
        let request = ReadStreamRequest {
            category: StreamCategory::Order.into(),
            stream_key: order_id.into(),
            ..Default::default()
        };
        let mut answers = self.feed.read_stream(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            events.extend(answer.events);
        }
        events
    }

    /// Waits until everything stored has its position, and returns the head.
    pub async fn published(&mut self) -> i64 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let head = self.feed.get_head(GetHeadRequest {}).await.unwrap().into_inner();
            if head.outbox_backlog == 0 {
                return head.head_position;
            }
            assert!(tokio::time::Instant::now() < deadline, "the outbox never drained: {head:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// A service over this database, on a free port, and a connection to it.
pub async fn serve(database_url: &str) -> (Channel, Lifecycle) {
    let (address, lifecycle) = serve_at(database_url).await;
    (connect(address).await, lifecycle)
}

/// A service over this database, on a free port.
pub async fn serve_at(database_url: &str) -> (SocketAddr, Lifecycle) {
    serve_with(config(database_url)).await
}

/// A service with this configuration.
pub async fn serve_with(config: Config) -> (SocketAddr, Lifecycle) {
    let lifecycle = Lifecycle::new(PATIENCE);
    let service = write_service::build(config).await.unwrap();
    let address = service.grpc_address().unwrap();
    lifecycle.spawn("service", service.run(lifecycle.clone()));
    (address, lifecycle)
}

/// A connection of its own.
pub async fn connect(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Waits until `look` finds what it looks for.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    local::testing::until(PATIENCE, what, look).await
}

pub fn create(items: Vec<NewItem>, submit: bool) -> CreateOrderRequest {
    CreateOrderRequest {
        customer_id: "17850".into(),
        currency_code: "GBP".into(),
        reference: "536365".into(),
        delivery_country: "United Kingdom".into(),
        items,
        submit,
        ..Default::default()
    }
}

pub fn lantern(quantity: i32) -> NewItem {
    NewItem { product_id: "71053".into(), quantity, unit_price: Some(gbp(339)) }
}

pub fn gbp(minor_units: i64) -> Money {
    Money { currency_code: "GBP".into(), minor_units }
}

pub fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// Code and reason of a refusal.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, Reason) {
    let status = result.unwrap_err();
    (status.code(), Reason::of(&status).unwrap_or_else(|| panic!("no reason in {status:?}")))
}
