//! From documents to messages, and the one table of this service's errors.

use prost_types::Timestamp;
use proto::reason::{Error, Reason};
use proto::v1::{self, Freshness, Money, OrderStatus, OrderSummary, SalesRow, SearchHit};

use crate::consistency::ConsistencyError;
use crate::index::IndexError;
use crate::projection::{LineDocument, OrderDocument};
use crate::query::highlight::Highlight;
use crate::query::report::Row;
use crate::subscription::FeedError;
use crate::watch::WatchError;

/// The order of a document, with the customer's name of today where it is known.
pub(super) fn order(document: OrderDocument, current_name: Option<String>) -> v1::Order {
    let differs = |name: &String| *name != document.customer_name;
    let customer_current_name = current_name.filter(differs).unwrap_or_default();
    let currency = document.currency.clone();
    v1::Order {
        summary: Some(summary(&document)),
        lines: document.lines.into_iter().map(|line| order_line(line, &currency)).collect(),
        submitted_time: document.submitted_at.map(time),
        confirmed_time: document.confirmed_at.map(time),
        shipped_time: document.shipped_at.map(time),
        delivered_time: document.delivered_at.map(time),
        cancelled_time: document.cancelled_at.map(time),
        carrier: document.carrier,
        tracking_number: document.tracking_number,
        cancel_reason: document.cancel_reason,
        customer_current_name,
    }
}

fn order_line(line: LineDocument, currency: &str) -> v1::OrderLine {
    v1::OrderLine {
        line: line.line,
        product_id: line.product_id,
        product_name: line.product_name,
        quantity: line.quantity,
        unit_price: Some(money(currency, line.unit_price)),
        subtotal: Some(money(currency, line.subtotal)),
    }
}

/// What a list shows of an order.
pub(super) fn summary(document: &OrderDocument) -> OrderSummary {
    OrderSummary {
        order_id: document.order_id.clone(),
        version: document.version,
        reference: document.reference.clone(),
        customer_id: document.customer_id.clone(),
        customer_name: document.customer_name.clone(),
        status: OrderStatus::from(document.status).into(),
        total: Some(money(&document.currency, document.total)),
        // An order holds far fewer lines than 32 bits count.
        item_count: i32::try_from(document.item_count).unwrap_or(i32::MAX),
        delivery_country: document.delivery_country.clone(),
        placed_time: Some(time(document.placed_at)),
        update_time: Some(time(document.updated_at)),
    }
}

/// An order that was found, and where its words stand.
pub(super) fn search_hit(document: &OrderDocument, highlights: Vec<Highlight>) -> SearchHit {
    let highlights = highlights
        .into_iter()
        .map(|highlight| v1::Highlight { field: highlight.field.to_owned(), fragment: highlight.fragment })
        .collect();
    SearchHit { order: Some(summary(document)), highlights }
}

/// A row of a report.
pub(super) fn sales_row(row: Row, name: Option<String>, currency: &str) -> SalesRow {
    SalesRow {
        key: row.key,
        name: name.unwrap_or_default(),
        revenue: Some(money(currency, row.revenue)),
        order_count: row.orders,
        unit_count: row.units,
    }
}

/// What an answer from the event store includes: all that is committed, so no index stands in it.
pub(super) fn fresh_from_store(head_position: i64) -> Freshness {
    Freshness { position: head_position, head_position, ..Freshness::default() }
}

fn money(currency: &str, minor_units: i64) -> Money {
    Money { currency_code: currency.to_owned(), minor_units }
}

fn time(nanos: i64) -> Timestamp {
    proto::time::from_nanos(nanos)
}

/// There is no such order.
pub(super) fn not_found(order_id: &str) -> Error {
    Error::new(Reason::OrderNotFound, format!("order {order_id} does not exist")).with("order_id", order_id)
}

/// A token's version is not visible.
pub(super) fn stale() -> Error {
    Error::new(Reason::Stale, "a version that a consistency token names is not visible yet")
}

/// The error of a question that Elasticsearch did not answer. Its own words stay in the log.
pub(super) fn index_error(error: &IndexError) -> Error {
    // An index that is not there yet will be; a question refused for its form is our mistake.
    if error.is_transient() || error.is_absent() {
        tracing::warn!(%error, "a question was not answered");
        Error::new(Reason::SearchDown, "the search index does not answer")
    } else {
        tracing::error!(%error, "a question of this service was refused");
        Error::bug()
    }
}

/// The error of a read that should have been fresh.
pub(super) fn consistency_error(error: &ConsistencyError) -> Error {
    match error {
        ConsistencyError::Stale => stale(),
        ConsistencyError::Index(error) => index_error(error),
    }
}

/// The error of a read from the event store.
pub(super) fn feed_error(order_id: &str, error: &FeedError) -> Error {
    match error {
        FeedError::Unreadable { .. } => {
            tracing::warn!(%error, order.id = order_id, "the feed did not answer");
            unreadable(order_id)
        }
        error => store_error(error),
    }
}

/// The error of a question that the event store did not answer.
pub(super) fn store_error(error: &FeedError) -> Error {
    tracing::warn!(%error, "the feed did not answer");
    match error {
        FeedError::Unavailable(_) => Error::new(Reason::EventStoreDown, "the event store does not answer"),
        FeedError::Unreadable { .. } => Error::new(Reason::EventUnreadable, "a stored event cannot be read"),
        FeedError::StoreChanged => Error::new(Reason::StoreChanged, "the event store was created anew"),
        FeedError::PositionAhead | FeedError::Rewritten => {
            Error::new(Reason::PositionAhead, "the event store was restored to an earlier point")
        }
        FeedError::Refused(_) => Error::bug(),
    }
}

/// The error of an order that is not followed, or no longer.
pub(super) fn watch_error(order_id: &str, error: &WatchError) -> Error {
    match error {
        WatchError::NotFound => not_found(order_id),
        WatchError::Full => Error::new(Reason::Overloaded, "too many orders are watched"),
        WatchError::Unreadable => unreadable(order_id),
        WatchError::Index(error) => index_error(error),
        WatchError::Feed(error) => feed_error(order_id, error),
        WatchError::Stopped => Error::new(Reason::ShuttingDown, "the service is stopping; watch again"),
    }
}

/// A stored event that this release cannot read or fold.
pub(super) fn unreadable(order_id: &str) -> Error {
    Error::new(Reason::EventUnreadable, format!("a stored event of order {order_id} cannot be read"))
        .with("order_id", order_id)
}
