//! The pair on free ports, over a database and indices of its own.

use std::collections::HashSet;
use std::time::Duration;

use clap::Parser;
use local::testing::{self, TestDatabase};
use proto::v1::catalog_command_service_client::CatalogCommandServiceClient;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use proto::v1::*;
use shared::lifecycle::Lifecycle;
use tokio::runtime::{self, Runtime};
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Parser)]
struct WriteFlags {
    #[command(flatten)]
    config: write_service::Config,
}

#[derive(Parser)]
struct ReadFlags {
    #[command(flatten)]
    config: read_service::Config,
}

/// A running pair.
pub struct World {
    database: TestDatabase,
    elasticsearch: String,
    prefix: String,
    write: Running,
    read: Option<Running>,
}

/// A running service.
pub struct Running {
    address: String,
    channel: Channel,
    lifecycle: Lifecycle,
    apart: Apart,
}

/// A runtime of a service's own, which can be ended at once; it ends with this.
#[derive(Default)]
struct Apart(Option<Runtime>);

impl Apart {
    fn new() -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self(Some(runtime.unwrap()))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Addresses, as host:port, by which the services reach each other and their servers.
#[derive(Clone)]
pub struct Paths {
    pub postgres: String,
    pub elasticsearch: String,
    pub feed: String,
}

impl Running {
    async fn connect(address: String, lifecycle: Lifecycle) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { address, channel, lifecycle, apart: Apart::default() }
    }

    /// What a read service tells operators.
    pub fn admin(&self) -> ProjectionAdminServiceClient<Channel> {
        ProjectionAdminServiceClient::new(self.channel.clone())
    }

    /// What a read service answers.
    pub fn queries(&self) -> OrderQueryServiceClient<Channel> {
        OrderQueryServiceClient::new(self.channel.clone())
    }

    /// Ends a service on a runtime of its own as `kill -9` does: nothing is finished, nobody is told.
    pub fn kill(mut self) {
        self.apart.0.take().unwrap().shutdown_background();
    }

    pub async fn stop(self) {
        self.lifecycle.drain();
        tokio::time::timeout(PATIENCE, self.lifecycle.stopped()).await.unwrap();
        assert!(!self.lifecycle.failed());
    }
}

impl World {
    /// A pair over an empty store that knows customer 17850 and two products.
    pub async fn start() -> Self {
        Self::start_on(testing::elasticsearch().await.unwrap()).await
    }

    /// The same on another Elasticsearch.
    pub async fn start_on(elasticsearch: String) -> Self {
        Self::start_with(testing::database().await.unwrap(), elasticsearch, &[]).await
    }

    /// The same over an empty database, with further settings of the read service.
    pub async fn start_with(database: TestDatabase, elasticsearch: String, settings: &[String]) -> Self {
        let write = start_write(&database.url, "127.0.0.1:0").await;
        let prefix = testing::unique_prefix("e2e");
        let mut world = Self { database, elasticsearch, prefix, write, read: None };
        world.read = Some(world.another_read_with(&world.paths(), settings).await);
        world.put_customer("17850", "Ada Lovelace").await;
        world.put_product("71053", "WHITE METAL LANTERN").await;
        world.put_product("85123A", "WHITE HANGING HEART T-LIGHT HOLDER").await;
        world
    }

    /// Starts the read service, which must not run, on what is indexed already.
    pub async fn start_read(&mut self) {
        assert!(self.read.is_none());
        self.read = Some(self.another_read(&self.paths()).await);
    }

    /// Addresses without any detour.
    pub fn paths(&self) -> Paths {
        let host = |url: &str| url.trim_start_matches("http://").to_owned();
        let (_, postgres) = self.database.url.split_once('@').unwrap();
        Paths {
            postgres: postgres.split('/').next().unwrap().to_owned(),
            elasticsearch: host(&self.elasticsearch),
            feed: self.write.address.clone(),
        }
    }

    /// Another copy of the read service, which reaches its servers by these paths.
    pub async fn another_read(&self, paths: &Paths) -> Running {
        self.another_read_with(paths, &[]).await
    }

    /// The same with further settings.
    pub async fn another_read_with(&self, paths: &Paths, settings: &[String]) -> Running {
        let lifecycle = Lifecycle::new(PATIENCE);
        let address = start_read(self.read_config(paths, settings), lifecycle.clone()).await;
        ready(Running::connect(address, lifecycle).await).await
    }

    /// Another copy of the read service, which can be killed.
    pub async fn doomed_read(&self) -> Running {
        let lifecycle = Lifecycle::new(PATIENCE);
        let apart = Apart::new();
        let started = start_read(self.read_config(&self.paths(), &[]), lifecycle.clone());
        let address = apart.0.as_ref().unwrap().spawn(started).await.unwrap();
        ready(Running { apart, ..Running::connect(address, lifecycle).await }).await
    }

    fn read_config(&self, paths: &Paths, settings: &[String]) -> read_service::Config {
        let flags = [
            "read-service".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--metrics-listen=127.0.0.1:0".to_owned(),
            format!("--elasticsearch-url=http://{}", paths.elasticsearch),
            format!("--feed-url=http://{}", paths.feed),
            format!("--index-prefix={}", self.prefix),
            "--page-token-key=the same key for all copies of a test".to_owned(),
        ];
        ReadFlags::try_parse_from(flags.iter().chain(settings)).unwrap().config
    }

    /// Stops the write service and starts it again on the same port, with this path to PostgreSQL.
    pub async fn restart_write_by(&mut self, postgres: &str) {
        let direct = self.paths().postgres;
        self.database.url = self.database.url.replace(&direct, postgres);
        self.restart_write().await;
    }

    /// Stops the read service.
    pub async fn stop_read(&mut self) {
        self.read.take().unwrap().stop().await;
    }

    /// Stops the write service and starts it again on the same port.
    pub async fn restart_write(&mut self) {
        let database = self.stop_write().await;
        self.start_write(&database).await;
    }

    /// Ends the write service as `kill -9` does: nothing is finished, nobody is told.
    pub fn kill_write(&mut self) {
        self.write.apart.0.take().unwrap().shutdown_background();
    }

    /// Starts the write service, which was killed, on the same port over the same database.
    pub async fn revive_write(&mut self) {
        self.write = start_write(&self.database.url, &self.write.address).await;
    }

    /// Stops the write service; gives the URL of its database.
    pub async fn stop_write(&mut self) -> String {
        let stopped = Running {
            address: self.write.address.clone(),
            channel: self.write.channel.clone(),
            lifecycle: Lifecycle::new(PATIENCE),
            apart: Apart::default(),
        };
        std::mem::replace(&mut self.write, stopped).stop().await;
        self.database.url.clone()
    }

    /// Starts the write service, which must not run, on the same port over this database.
    pub async fn start_write(&mut self, database_url: &str) {
        self.write = start_write(database_url, &self.write.address).await;
    }

    /// Where its database is.
    pub fn database_url(&self) -> &str {
        &self.database.url
    }

    /// Address of the write service.
    pub fn write_url(&self) -> String {
        format!("http://{}", self.write.address)
    }

    pub fn orders(&self) -> OrderCommandServiceClient<Channel> {
        OrderCommandServiceClient::new(self.write.channel.clone())
    }

    pub fn catalog(&self) -> CatalogCommandServiceClient<Channel> {
        CatalogCommandServiceClient::new(self.write.channel.clone())
    }

    pub fn feed(&self) -> OrderFeedServiceClient<Channel> {
        OrderFeedServiceClient::new(self.write.channel.clone())
    }

    pub fn queries(&self) -> OrderQueryServiceClient<Channel> {
        self.read.as_ref().unwrap().queries()
    }

    pub fn admin(&self) -> ProjectionAdminServiceClient<Channel> {
        self.read.as_ref().unwrap().admin()
    }

    /// Name of an index of this world.
    pub fn index(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub async fn put_customer(&self, customer_id: &str, name: &str) -> String {
        let request = PutCustomerRequest { customer_id: customer_id.into(), name: name.into() };
        self.catalog().put_customer(request).await.unwrap().into_inner().consistency_token
    }

    pub async fn put_product(&self, product_id: &str, name: &str) -> String {
        let request = PutProductRequest { product_id: product_id.into(), name: name.into() };
        self.catalog().put_product(request).await.unwrap().into_inner().consistency_token
    }

    pub async fn create(&self, request: CreateOrderRequest) -> OrderReceipt {
        self.orders().create_order(request).await.unwrap().into_inner().receipt.unwrap()
    }

    /// The order as its document says, at least as new as the token.
    pub async fn order(&self, order_id: &str, token: &str) -> Result<GetOrderResponse, Status> {
        let consistency = Some(Consistency { tokens: vec![token.into()], ..Default::default() });
        let request = GetOrderRequest { order_id: order_id.into(), consistency, ..Default::default() };
        Ok(self.queries().get_order(request).await?.into_inner())
    }

    /// Waits until the slices of each of these projections are shared by so many copies.
    pub async fn shared_by(&self, projections: &[&str], copies: usize) {
        testing::until(PATIENCE, "the slices are shared", async || {
            let told = self.admin().list_projections(ListProjectionsRequest {}).await.ok()?.into_inner();
            let owned = |projection: &Projection| {
                let owners: HashSet<_> = projection.owners.iter().map(|owner| &owner.owner).collect();
                let slices = projection.owners.iter().map(|owner| owner.last_slice - owner.first_slice + 1);
                owners.len() == copies && slices.sum::<i32>() == i32::from(proto::slice::COUNT)
            };
            let mut named = told.projections.iter().filter(|told| projections.contains(&told.name.as_str()));
            named.all(owned).then_some(())
        })
        .await;
    }

    /// Waits until searches include everything stored so far.
    pub async fn settle(&self) {
        self.settle_at(&self.queries()).await;
    }

    /// The same at another copy.
    pub async fn settle_at(&self, queries: &OrderQueryServiceClient<Channel>) {
        let head = testing::until(PATIENCE, "everything is published", async || {
            let head = self.feed().get_head(GetHeadRequest {}).await.unwrap().into_inner();
            (head.outbox_backlog == 0).then_some(head.head_position)
        })
        .await;
        testing::until(PATIENCE, "the read side catches up", async || {
            let answer = queries.clone().list_orders(ListOrdersRequest::default()).await.ok()?;
            (answer.into_inner().freshness?.position >= head).then_some(())
        })
        .await;
    }

    /// Every order that the list knows, newest first, page by page.
    pub async fn all_orders(&self, sort: OrderSort, page_size: i32) -> Vec<OrderSummary> {
        let mut request = ListOrdersRequest { sort: sort.into(), page_size, ..Default::default() };
        let mut orders = Vec::new();
        loop {
            let answer = self.queries().list_orders(request.clone()).await.unwrap().into_inner();
            orders.extend(answer.orders);
            if answer.next_page_token.is_empty() {
                return orders;
            }
            request.page_token = answer.next_page_token;
        }
    }
}

/// Starts a read service; gives where it answers.
async fn start_read(config: read_service::Config, lifecycle: Lifecycle) -> String {
    let service = read_service::build(config).await.unwrap();
    let address = service.grpc_address().unwrap().to_string();
    lifecycle.spawn("read service", service.run(lifecycle.clone()));
    address
}

/// Waits until it is ready: the first start makes the indices.
async fn ready(read: Running) -> Running {
    let mut health = HealthClient::new(read.channel.clone());
    testing::until(PATIENCE, "the read service gets ready", async || {
        let status = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
        (status == ServingStatus::Serving).then_some(())
    })
    .await;
    read
}

async fn start_write(database_url: &str, listen: &str) -> Running {
    let flags = [
        "write-service",
        "--listen",
        listen,
        "--metrics-listen",
        "127.0.0.1:0",
        "--database-url",
        database_url,
    ];
    let config = WriteFlags::try_parse_from(flags).unwrap().config;
    let lifecycle = Lifecycle::new(PATIENCE);
    let apart = Apart::new();
    let service = lifecycle.clone();
    let started = apart.0.as_ref().unwrap().spawn(async move {
        write_service::migrate(&config).await.unwrap();
        let built = write_service::build(config).await.unwrap();
        let address = built.grpc_address().unwrap().to_string();
        service.spawn("write service", built.run(service.clone()));
        address
    });
    let address = started.await.unwrap();
    Running { apart, ..Running::connect(address, lifecycle).await }
}

pub fn create(quantity: i32) -> CreateOrderRequest {
    CreateOrderRequest {
        customer_id: "17850".into(),
        currency_code: "GBP".into(),
        reference: "536365".into(),
        delivery_country: "United Kingdom".into(),
        items: vec![item("71053", quantity, 339), item("85123A", 1, 255)],
        submit: true,
        ..Default::default()
    }
}

pub fn item(product_id: &str, quantity: i32, price: i64) -> NewItem {
    let unit_price = Some(Money { currency_code: "GBP".into(), minor_units: price });
    NewItem { product_id: product_id.into(), quantity, unit_price }
}
