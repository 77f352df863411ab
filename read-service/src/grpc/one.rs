//! One order: as it stands, as it stood, what happened to it, and what becomes of it.

use futures_util::Stream;
use futures_util::stream;
use proto::reason::{Error, Reason};
use proto::token::ConsistencyToken;
use proto::v1::{
    GetOrderHistoryResponse, GetOrderResponse, RecordedEvent, StreamCategory, WatchOrderResponse,
};
use tonic::Status;

use super::request::{AsOf, GetOrder};
use super::{Questions, answer};
use crate::consistency::{OnStale, Read};
use crate::index::Found;
use crate::projection::{self, OrderDocument, Orders};
use crate::watch::WatchError;

impl Questions {
    pub(super) async fn order(&self, request: GetOrder) -> Result<GetOrderResponse, Error> {
        match request.as_of {
            None => self.order_now(request).await,
            Some(as_of) => self.order_as_of(&request.order_id, as_of).await,
        }
    }

    async fn order_now(&self, request: GetOrder) -> Result<GetOrderResponse, Error> {
        let GetOrder { order_id, mut wanted, .. } = request;
        let own = |token: &ConsistencyToken| token.category == StreamCategory::Order && token.key == order_id;
        let version = wanted.tokens.iter().filter(|token| own(token)).map(|token| token.version).max();
        let of_customer = |token: &ConsistencyToken| token.category == StreamCategory::Customer;
        let kept_will_do = !wanted.tokens.iter().any(of_customer);
        // Mostly the order is there as wanted; then it is read once. What is claimed is known before anything is read.
        let includes = [&self.queries.orders, &self.queries.customers];
        let mut freshness = self.by_id(includes);
        let mut found = self.document(&order_id).await?;
        if found.as_ref().map_or(0, |found| found.version) >= version.unwrap_or(0) {
            wanted.tokens.retain(|token| !own(token));
        }
        if !wanted.tokens.is_empty() {
            let reached = self.consistency.reach(&wanted, Read::ById).await;
            freshness = self.by_id(includes);
            freshness.stale = !reached.map_err(|error| answer::consistency_error(&error))?;
            found = self.document(&order_id).await?;
        }
        match found {
            Some(found) => {
                freshness.index = found.index;
                let customer_id = &found.source.customer_id;
                let name = if kept_will_do {
                    self.names.today(customer_id).await
                } else {
                    self.names.read(customer_id).await
                };
                let name = name.map_err(|error| answer::index_error(&error))?;
                Ok(GetOrderResponse {
                    order: Some(answer::order(found.source, name)),
                    freshness: Some(freshness),
                })
            }
            // The token proves that the order exists: "not found" would be an older answer than allowed.
            None if version.is_some() && wanted.on_stale == OnStale::Answer => Err(answer::stale()),
            None => Err(answer::not_found(&order_id)),
        }
    }

    async fn document(&self, order_id: &str) -> Result<Option<Found<OrderDocument>>, Error> {
        let found = self.queries.index.get(&self.queries.aliases.orders, order_id).await;
        found.map_err(|error| answer::index_error(&error))
    }

    /// Folded from the event store, which no token is ahead of.
    async fn order_as_of(&self, order_id: &str, as_of: AsOf) -> Result<GetOrderResponse, Error> {
        let head = self.queries.orders.snapshot().head_position;
        let to_version = match as_of {
            AsOf::Version(version) => version,
            AsOf::Time(_) => 0,
        };
        let mut events = self.events(order_id, to_version).await?;
        match as_of {
            AsOf::Version(version) => {
                let current = events.last().map_or(0, |event| event.version);
                if current < version {
                    let text = format!("order {order_id} has no version {version}; its version is {current}");
                    let error = Error::new(Reason::OrderNotFound, text);
                    return Err(error.with("order_id", order_id).with("current_version", current));
                }
            }
            AsOf::Time(time) => {
                let recorded =
                    |event: &RecordedEvent| event.recorded_time.as_ref().and_then(proto::time::to_nanos);
                let there =
                    events.iter().take_while(|event| recorded(event).is_some_and(|at| at <= time)).count();
                events.truncate(there);
            }
        }
        let document = projection::fold::<Orders>(&events).map_err(|error| {
            tracing::error!(%error, order.id = order_id, "a stored order cannot be folded");
            answer::unreadable(order_id)
        })?;
        let Some(document) = document else {
            let text = format!("order {order_id} did not exist at that time");
            return Err(Error::new(Reason::OrderNotFound, text).with("order_id", order_id));
        };
        Ok(GetOrderResponse {
            order: Some(answer::order(document, None)),
            freshness: Some(answer::fresh_from_store(head)),
        })
    }

    pub(super) async fn history(&self, order_id: &str) -> Result<GetOrderHistoryResponse, Error> {
        Ok(GetOrderHistoryResponse { events: self.events(order_id, 0).await? })
    }

    /// Events of the order up to a version, or all where it is 0; at least one.
    async fn events(&self, order_id: &str, to_version: i64) -> Result<Vec<RecordedEvent>, Error> {
        let events = self.queries.feed.read_stream(StreamCategory::Order, order_id, 1, to_version).await;
        let events = events.map_err(|error| answer::feed_error(order_id, &error))?;
        if events.is_empty() { Err(answer::not_found(order_id)) } else { Ok(events) }
    }

    /// The order now and after every change, until the service drains.
    pub(super) async fn changes(
        &self,
        order_id: String,
    ) -> Result<impl Stream<Item = Result<WatchOrderResponse, Status>> + Send + 'static, Error> {
        let watcher = self.watches.watch(&order_id).await;
        let watcher = watcher.map_err(|error| answer::watch_error(&order_id, &error))?;
        let start = (watcher, order_id, self.draining.clone());
        Ok(stream::unfold(Some(start), |following| async move {
            let (mut watcher, order_id, draining) = following?;
            let next = tokio::select! {
                () = draining.cancelled() => Err(WatchError::Stopped),
                next = watcher.next() => next,
            };
            match next {
                Ok(shown) => {
                    let order = answer::order(shown.order.clone(), shown.customer_name.clone());
                    let answer = WatchOrderResponse { order: Some(order) };
                    Some((Ok(answer), Some((watcher, order_id, draining))))
                }
                Err(error) => Some((Err(answer::watch_error(&order_id, &error).into()), None)),
            }
        }))
    }
}
