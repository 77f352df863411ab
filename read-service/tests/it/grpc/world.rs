//! A read service over indices of its own, orders to put into it, and short words for what callers see.

use std::time::Duration;

use clap::Parser as _;
use proto::reason::Reason;
use proto::token::ConsistencyToken;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::recorded_event::Body;
use proto::v1::*;
use read_service::Config;
use read_service::index::Index;
use shared::lifecycle::Lifecycle;
use tokio::time::{interval, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::feed::ScriptedFeed;
use crate::support::{DEADLINE, History, Search};

/// 2011-11-29T00:00:00Z in nanoseconds since 1970.
pub const DAY: i64 = 1_322_524_800_000_000_000;
/// An hour in nanoseconds.
pub const HOUR: i64 = 3_600 * 1_000_000_000;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// A running read service.
pub struct World {
    pub channel: Channel,
    pub client: OrderQueryServiceClient<Channel>,
    pub url: String,
    pub feed: ScriptedFeed,
    pub index: Index,
    pub prefix: String,
    pub lifecycle: Lifecycle,
}

impl World {
    /// A service in which all of `history` can be searched.
    pub async fn of(name: &str, history: &History) -> Self {
        Self::on(&Search::start(name).await, history).await
    }

    /// The same on an Elasticsearch that is there.
    pub async fn on(search: &Search, history: &History) -> Self {
        let world = Self::over(search, &search.url, history).await;
        world.ready().await;
        world.caught_up(history).await;
        world
    }

    /// A service that finds Elasticsearch at `url`.
    pub async fn over(search: &Search, url: &str, history: &History) -> Self {
        Self::with(search, url, history, &[]).await
    }

    /// The same, which searches for so many callers at once.
    pub async fn set(search: &Search, url: &str, history: &History, searches_at_once: usize) -> Self {
        let flag = format!("--searches-at-once={searches_at_once}");
        Self::with(search, url, history, &[&flag]).await
    }

    /// The same with more flags.
    pub async fn with(search: &Search, url: &str, history: &History, more: &[&str]) -> Self {
        let feed = ScriptedFeed::start(history).await;
        feed.change(|script| script.batch = 1_000);
        let flags = [
            "test",
            "--listen=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
            &format!("--elasticsearch-url={url}"),
            &format!("--feed-url={}", feed.url),
            &format!("--index-prefix={}", search.prefix),
            "--page-token-key=a key that is only for these tests",
        ];
        let flags = flags.iter().chain(more);
        let service = read_service::build(Flags::try_parse_from(flags).unwrap().config).await.unwrap();
        let address = service.grpc_address().unwrap();
        let lifecycle = Lifecycle::new(Duration::from_secs(5));
        lifecycle.spawn("service", service.run(lifecycle.clone()));
        let url = format!("http://{address}");
        let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
        let client = OrderQueryServiceClient::new(channel.clone());
        let (index, prefix) = (search.index.clone(), search.prefix.clone());
        Self { channel, client, url, feed, index, prefix, lifecycle }
    }

    /// Waits until all indices are there.
    pub async fn ready(&self) {
        let tokens = [StreamCategory::Order, StreamCategory::Customer, StreamCategory::Product]
            .map(|category| token(category, "unheard-of", 1));
        let consistency = consistency(tokens.to_vec(), consistency::OnStale::Answer);
        let request = ListOrdersRequest { consistency, ..Default::default() };
        let ready = async {
            let mut tick = interval(Duration::from_millis(20));
            while self.list(request.clone()).await.is_err() {
                tick.tick().await;
            }
        };
        timeout(DEADLINE, ready).await.expect("the indices are not there in time");
    }

    /// Waits until all of `history` can be searched.
    pub async fn caught_up(&self, history: &History) {
        let visible = async {
            let mut tick = interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                // A token makes the service refresh at once.
                let tokens = history.events.last().map(|event| token(event.category(), &event.stream_key, 1));
                let consistency = Some(Consistency { tokens: tokens.into_iter().collect(), on_stale: 0 });
                let asked = self.list(ListOrdersRequest { consistency, ..Default::default() }).await;
                let position =
                    asked.ok().and_then(|answer| answer.freshness).map_or(0, |fresh| fresh.position);
                if position >= history.head() && self.names_too(history).await {
                    return;
                }
            }
        };
        timeout(DEADLINE, visible).await.expect("the history is not visible in time");
    }

    /// Whether orders read by id include all of `history`, with the names of today.
    async fn names_too(&self, history: &History) -> bool {
        let Some(first) = history.events.iter().find(|event| event.category() == StreamCategory::Order)
        else {
            return true;
        };
        let asked =
            self.get(GetOrderRequest { order_id: first.stream_key.clone(), ..Default::default() }).await;
        asked.ok().and_then(|answer| answer.freshness).is_some_and(|fresh| fresh.position >= history.head())
    }

    pub async fn get(&self, request: GetOrderRequest) -> Result<GetOrderResponse, Status> {
        Ok(self.client.clone().get_order(request).await?.into_inner())
    }

    pub async fn list(&self, request: ListOrdersRequest) -> Result<ListOrdersResponse, Status> {
        Ok(self.client.clone().list_orders(request).await?.into_inner())
    }

    pub async fn search(&self, request: SearchOrdersRequest) -> Result<SearchOrdersResponse, Status> {
        Ok(self.client.clone().search_orders(request).await?.into_inner())
    }

    pub async fn report(&self, request: GetSalesReportRequest) -> Result<GetSalesReportResponse, Status> {
        Ok(self.client.clone().get_sales_report(request).await?.into_inner())
    }

    /// The order as it stands.
    pub async fn order(&self, order_id: &str) -> Order {
        let request = GetOrderRequest { order_id: order_id.to_owned(), ..Default::default() };
        self.get(request).await.unwrap().order.unwrap()
    }

    /// All pages of a list, as ids.
    pub async fn all_pages(&self, mut request: ListOrdersRequest) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let page = self.list(request.clone()).await.unwrap();
            ids.extend(ids_of(&page.orders));
            if page.next_page_token.is_empty() {
                return ids;
            }
            request.page_token = page.next_page_token;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.lifecycle.abort();
    }
}

/// An order to be made. Times are nanoseconds since 1970.
#[derive(Clone, Debug)]
pub struct Sale {
    pub id: String,
    pub customer_id: String,
    pub customer_name: String,
    pub reference: String,
    pub country: String,
    pub currency: String,
    pub placed_at: i64,
    /// Product, its name, quantity, price in minor units.
    pub lines: Vec<(String, String, i32, i64)>,
    pub status: OrderStatus,
}

/// The id of the order with this number.
pub fn id(number: usize) -> String {
    format!("00000000-0000-7000-8000-{number:012}")
}

impl Sale {
    /// A submitted order of one heart at 100, placed at [`DAY`].
    pub fn number(number: usize) -> Self {
        Self {
            id: id(number),
            customer_id: "17850".into(),
            customer_name: "Jürgen Müller".into(),
            reference: format!("R-{number}"),
            country: "United Kingdom".into(),
            currency: "GBP".into(),
            placed_at: DAY,
            lines: vec![("85123A".into(), "WHITE HANGING HEART".into(), 1, 100)],
            status: OrderStatus::Submitted,
        }
    }

    pub fn line(mut self, product_id: &str, name: &str, quantity: i32, price: i64) -> Self {
        self.lines.push((product_id.into(), name.into(), quantity, price));
        self
    }

    pub fn only(mut self, product_id: &str, name: &str, quantity: i32, price: i64) -> Self {
        self.lines.clear();
        self.line(product_id, name, quantity, price)
    }

    pub fn total(&self) -> i64 {
        self.lines.iter().map(|(_, _, quantity, price)| i64::from(*quantity) * price).sum()
    }

    #[expect(clippy::unnecessary_wraps, reason = "messages hold it as an option")]
    fn money(&self, minor_units: i64) -> Option<Money> {
        Some(Money { currency_code: self.currency.clone(), minor_units })
    }

    /// Adds the events of this order's life.
    pub fn put_into(&self, history: &mut History) {
        history.order(
            &self.id,
            Body::OrderCreated(OrderCreated {
                order_id: self.id.clone(),
                customer_id: self.customer_id.clone(),
                customer_name: self.customer_name.clone(),
                currency_code: self.currency.clone(),
                reference: self.reference.clone(),
                delivery_country: self.country.clone(),
                placed_time: Some(proto::time::from_nanos(self.placed_at)),
            }),
        );
        for (line, (product_id, product_name, quantity, price)) in (1..).zip(&self.lines) {
            let added = ItemAdded {
                line,
                product_id: product_id.clone(),
                product_name: product_name.clone(),
                quantity: *quantity,
                unit_price: self.money(*price),
                subtotal: self.money(i64::from(*quantity) * *price),
            };
            history.order(&self.id, Body::ItemAdded(added));
        }
        let shipped = OrderShipped { carrier: "Royal Mail".into(), tracking_number: "RM1".into() };
        let life = [
            Body::OrderSubmitted(OrderSubmitted { total: self.money(self.total()) }),
            Body::OrderConfirmed(OrderConfirmed {}),
            Body::OrderShipped(shipped),
            Body::OrderDelivered(OrderDelivered {}),
        ];
        let steps = match self.status {
            OrderStatus::Unspecified | OrderStatus::Draft => 0,
            OrderStatus::Submitted | OrderStatus::Cancelled => 1,
            OrderStatus::Confirmed => 2,
            OrderStatus::Shipped => 3,
            OrderStatus::Delivered => 4,
        };
        for body in life.into_iter().take(steps) {
            history.order(&self.id, body);
        }
        if self.status == OrderStatus::Cancelled {
            history.order(&self.id, Body::OrderCancelled(OrderCancelled { reason: "lost".into() }));
        }
    }
}

/// The history of these orders, one after the other.
pub fn history<'a>(sales: impl IntoIterator<Item = &'a Sale>) -> History {
    let mut history = History::default();
    sales.into_iter().for_each(|sale| sale.put_into(&mut history));
    history
}

pub fn ids_of(orders: &[OrderSummary]) -> Vec<String> {
    orders.iter().map(|order| order.order_id.clone()).collect()
}

/// Ids of the hits of a search.
pub fn hits_of(answer: &SearchOrdersResponse) -> Vec<String> {
    answer.hits.iter().map(|hit| hit.order.as_ref().unwrap().order_id.clone()).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "messages hold it as an option")]
pub fn time(nanos: i64) -> Option<prost_types::Timestamp> {
    Some(proto::time::from_nanos(nanos))
}

pub fn token(category: StreamCategory, key: &str, version: i64) -> String {
    ConsistencyToken { category, key: key.to_owned(), version }.encode()
}

/// Tokens and what to do where one is not reached.
#[expect(clippy::unnecessary_wraps, reason = "messages hold it as an option")]
pub fn consistency(tokens: Vec<String>, on_stale: consistency::OnStale) -> Option<Consistency> {
    Some(Consistency { tokens, on_stale: on_stale.into() })
}

/// Code, reason and paths of a refusal.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, Reason, Vec<String>) {
    let status = answer.unwrap_err();
    let reason = Reason::of(&status).unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert_eq!(status.code(), reason.code());
    let paths = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    let retry = status.get_details_retry_info().is_some();
    assert_eq!(retry, reason.advice() == proto::reason::Advice::WaitAndRepeat);
    (status.code(), reason, paths.into_iter().map(|violation| violation.field).collect())
}
