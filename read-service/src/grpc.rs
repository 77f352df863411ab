//! The query service: a request becomes a typed question, documents become an answer.
//!
//! The way in, the same for every question: the server's layers (trace, deadline, size) → [`request`], which checks every field
//! and names each malformed one → [`Consistency`], which makes sure that the caller's own writes are seen → Elasticsearch, or
//! the feed for what was → [`answer`]. Every answer says how fresh it is; nothing here changes anything.

mod check;
mod request;
mod one;
mod many;
mod answer;
pub mod admin;

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use proto::v1::order_query_service_server::{OrderQueryService, OrderQueryServiceServer};
use proto::v1::{
    Freshness, GetOrderHistoryRequest, GetOrderHistoryResponse, GetOrderRequest, GetOrderResponse,
    GetSalesReportRequest, GetSalesReportResponse, ListOrdersRequest, ListOrdersResponse,
    SearchOrdersRequest, SearchOrdersResponse, WatchOrderRequest, WatchOrderResponse,
};
use shared::server::Deadline;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::Queries;
use crate::consistency::{Consistency, Versions};
use crate::page_token::PageTokens;
use crate::projector::{Progress, Snapshot};

/// Longest wait for a version that a consistency token names.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// `orders.v1.OrderQueryService`.
#[derive(Clone, Debug)]
pub struct Questions {
    queries: Queries,
    consistency: Consistency,
    tokens: PageTokens,
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
        OrderQueryServiceServer::new(Self { queries, consistency, tokens, draining })
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

#[tonic::async_trait]
impl OrderQueryService for Questions {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let until = until(&request);
        let question = request::get_order(request.into_inner(), until)?;
        Ok(Response::new(self.order(question).await?))
    }

    async fn get_order_history(
        &self,
        request: Request<GetOrderHistoryRequest>,
    ) -> Result<Response<GetOrderHistoryResponse>, Status> {
        let order_id = request::order_id(&request.into_inner().order_id)?;
        Ok(Response::new(self.history(&order_id).await?))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let until = until(&request);
        let question = request::list(request.into_inner(), until, &self.tokens)?;
        Ok(Response::new(self.list(question).await?))
    }

    async fn search_orders(
        &self,
        request: Request<SearchOrdersRequest>,
    ) -> Result<Response<SearchOrdersResponse>, Status> {
        let until = until(&request);
        let question = request::search(request.into_inner(), until, &self.tokens)?;
        Ok(Response::new(self.search(question).await?))
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
        let until = until(&request);
        let question = request::report(request.into_inner(), until)?;
        Ok(Response::new(self.report(question).await?))
    }
}
