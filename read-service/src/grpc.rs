//! The query service: a request becomes a typed question, documents become an answer.
//!
//! The way in, the same for every question: the server's layers (trace, deadline, size) → [`request`], which checks every field
//! and names each malformed one → [`Consistency`], which makes sure that the caller's own writes are seen → Elasticsearch, or
//! the feed for what was → [`answer`]. Every answer says how fresh it is; nothing here changes anything.

mod check;
mod request;
mod turns;
mod names;
mod one;
mod many;
mod answer;
pub mod admin;

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use proto::reason::{Error, Reason};
use proto::v1::order_query_service_server::{OrderQueryService, OrderQueryServiceServer};
use proto::v1::{
    Freshness, GetOrderHistoryRequest, GetOrderHistoryResponse, GetOrderRequest, GetOrderResponse,
    GetSalesReportRequest, GetSalesReportResponse, ListOrdersRequest, ListOrdersResponse,
    SearchOrdersRequest, SearchOrdersResponse, WatchOrderRequest, WatchOrderResponse,
};
use shared::server::Deadline;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::names::CustomerNames;
use self::turns::Turns;
use crate::Queries;
use crate::consistency::{Consistency, Versions};
use crate::page_token::PageTokens;
use crate::projector::{Progress, Snapshot};
use crate::watch::{self, Watches};

/// Longest wait for a version that a consistency token names.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Part of a call's time, and longest time, that is kept for saying why there is no answer: less than what a wait for a
/// version keeps, so that an answer can still follow one that was long.
const LAST_PART: u32 = 10;
const LAST_MAX: Duration = Duration::from_millis(250);
/// Who leaves less time to answer can blame nobody: the deadline passes.
const HURRY: Duration = Duration::from_millis(20);

/// `orders.v1.OrderQueryService`.
#[derive(Clone, Debug)]
pub struct Questions {
    queries: Queries,
    consistency: Consistency,
    tokens: PageTokens,
    turns: Turns,
    names: CustomerNames,
    watches: Watches,
    draining: CancellationToken,
}

impl Questions {
    /// The service over what `queries` leads to; watches end with `SHUTTING_DOWN` once `draining` begins. Call it inside the
    /// runtime.
    #[must_use]
    pub fn new(queries: Queries, draining: CancellationToken) -> OrderQueryServiceServer<Self> {
        let versions =
            |alias: &str, progress| Versions::new(queries.index.clone(), alias.to_owned(), progress);
        let consistency = Consistency::new(
            versions(&queries.aliases.orders, queries.orders.clone()),
            versions(&queries.aliases.customers, queries.customers.clone()),
            versions(&queries.aliases.products, queries.products.clone()),
        );
        let tokens = PageTokens::new(&queries.page_token_key, queries.clock.clone());
        let turns = Turns::new(queries.searches_at_once);
        let names = CustomerNames::new(
            queries.index.clone(),
            queries.aliases.customers.clone(),
            queries.customers.clone(),
        );
        let sources = watch::Sources {
            index: queries.index.clone(),
            aliases: queries.aliases.clone(),
            feed: queries.feed.clone(),
            orders: queries.orders.clone(),
        };
        let watches = Watches::new(sources, queries.watch_limits);
        OrderQueryServiceServer::new(Self { queries, consistency, tokens, turns, names, watches, draining })
    }

    /// The answer to a question, or what is to blame where it is not there in time.
    async fn answered<T>(
        &self,
        by: Instant,
        blame: fn() -> Error,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let _question = self.queries.demand.question();
        let answer = timeout_at(by, question).await;
        Ok(Response::new(answer.unwrap_or_else(|_| Err(blame()))?))
    }

    /// How fresh a read by id is that includes these projections.
    fn by_id<const N: usize>(&self, read: [&Progress; N]) -> Freshness {
        let now = self.queries.clock.now_nanos();
        Self::freshness(read.map(|progress| {
            let snapshot = progress.snapshot();
            (snapshot.applied_position, snapshot.lag_seconds(now), snapshot)
        }))
    }

    /// How fresh a search for orders is.
    fn searched(&self) -> Freshness {
        let snapshot = self.queries.orders.snapshot();
        let lag_seconds = snapshot.visible_lag_seconds(self.queries.clock.now_nanos());
        Self::freshness([(snapshot.visible_position, lag_seconds, snapshot)])
    }

    /// An answer includes what all of its parts include; the first names the index.
    fn freshness<const N: usize>(parts: [(i64, f64, Snapshot); N]) -> Freshness {
        let position = parts.iter().map(|(position, _, _)| *position).min().unwrap_or(0);
        let head_position = parts.iter().map(|(_, _, snapshot)| snapshot.head_position).max().unwrap_or(0);
        let lag_seconds = parts.iter().map(|(_, lag, _)| *lag).fold(0.0, f64::max);
        let index = parts.into_iter().next().map(|(_, _, snapshot)| snapshot.index).unwrap_or_default();
        Freshness { position, head_position: head_position.max(position), lag_seconds, stale: false, index }
    }
}

/// When waiting for a version ends: early enough before the call's deadline that the caller hears why.
fn until<T>(request: &Request<T>) -> Instant {
    let left = request.extensions().get::<Deadline>().map_or(MAX_WAIT, |deadline| {
        let left = deadline.remaining();
        left.saturating_sub((left / 5).min(Duration::from_millis(500)))
    });
    Instant::now() + left.min(MAX_WAIT)
}

/// When there must be an answer or the reason why there is none: a little before the call's deadline.
fn answer_by<T>(request: &Request<T>) -> Instant {
    let left = request.extensions().get::<Deadline>().map_or(MAX_WAIT, |deadline| deadline.remaining());
    if left < HURRY {
        return Instant::now() + MAX_WAIT;
    }
    Instant::now() + left.saturating_sub((left / LAST_PART).min(LAST_MAX))
}

fn search_down() -> Error {
    Error::new(Reason::SearchDown, "the search index does not answer in time")
}

fn event_store_down() -> Error {
    Error::new(Reason::EventStoreDown, "the event store does not answer in time")
}

#[tonic::async_trait]
impl OrderQueryService for Questions {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let (until, by) = (until(&request), answer_by(&request));
        let question = request::get_order(request.into_inner(), until)?;
        let blame = if question.as_of.is_some() { event_store_down } else { search_down };
        self.answered(by, blame, self.order(question)).await
    }

    async fn get_order_history(
        &self,
        request: Request<GetOrderHistoryRequest>,
    ) -> Result<Response<GetOrderHistoryResponse>, Status> {
        let by = answer_by(&request);
        let order_id = request::order_id(&request.into_inner().order_id)?;
        self.answered(by, event_store_down, self.history(&order_id)).await
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let (until, by) = (until(&request), answer_by(&request));
        let question = request::list(request.into_inner(), until, &self.tokens)?;
        self.answered(by, search_down, self.list(question, by)).await
    }

    async fn search_orders(
        &self,
        request: Request<SearchOrdersRequest>,
    ) -> Result<Response<SearchOrdersResponse>, Status> {
        let (until, by) = (until(&request), answer_by(&request));
        let question = request::search(request.into_inner(), until, &self.tokens)?;
        self.answered(by, search_down, self.search(question, by)).await
    }

    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let order_id = request::order_id(&request.into_inner().order_id)?;
        Ok(Response::new(Box::pin(self.changes(order_id).await?)))
    }

    async fn get_sales_report(
        &self,
        request: Request<GetSalesReportRequest>,
    ) -> Result<Response<GetSalesReportResponse>, Status> {
        let (until, by) = (until(&request), answer_by(&request));
        let question = request::report(request.into_inner(), until)?;
        self.answered(by, search_down, self.report(question, by)).await
    }
}
