//! From outcomes to messages: receipts, and the one table of this service's errors.

use std::time::Duration;

use proto::reason::{Error, Reason};
use proto::token::ConsistencyToken;
use proto::v1::{self, OrderReceipt, OrderStatus, StreamCategory};
use tonic::Status;

use crate::command_handler::{CommandError, Receipt};
use crate::order::{self, Rejection};

/// How long a caller should wait when there was no room: what is under way is done in less.
const ROOM_IN: Duration = Duration::from_millis(500);
/// How long a caller should wait when the disk is full: a person makes room.
const SPACE_IN: Duration = Duration::from_secs(10);

/// The receipt of a command.
pub(super) fn receipt(receipt: Receipt) -> OrderReceipt {
    let Receipt { order_id, version, status, total, lines, replayed } = receipt;
    let order_id = order_id.to_string();
    let consistency_token =
        ConsistencyToken { category: StreamCategory::Order, key: order_id.clone(), version }.encode();
    OrderReceipt {
        order_id,
        version,
        status: order_status(status).into(),
        total: Some(v1::Money { currency_code: total.currency, minor_units: total.minor_units }),
        consistency_token,
        replayed,
        lines,
    }
}

/// The status of a command that found no room.
pub(super) fn overloaded() -> Status {
    Error::new(Reason::Overloaded, "too many commands are under way").retry_after(ROOM_IN).into()
}

/// The status of a command on the stream with this key that has no receipt.
pub(super) fn status(key: &str, error: CommandError) -> Status {
    let text = error.to_string();
    let error = match error {
        CommandError::Rejected(rejection) => rejected(rejection).with("order_id", key),
        CommandError::RequestIdReused => Error::new(Reason::RequestIdReused, text).with("order_id", key),
        CommandError::VersionConflict { expected: Some(expected), current } => Error::new(
            Reason::VersionConflict,
            format!("expected version {expected}, the order has {current}"),
        )
        .with("order_id", key)
        .with("expected_version", expected)
        .with("current_version", current),
        CommandError::VersionConflict { expected: None, current } => Error::new(
            Reason::VersionConflict,
            "lost too many races against other commands on the same stream",
        )
        .with("order_id", key)
        .with("current_version", current),
        CommandError::ShuttingDown => Error::new(Reason::ShuttingDown, text),
        CommandError::StoreDown => {
            Error::new(Reason::EventStoreDown, "the event store does not answer; the outcome is unknown")
        }
        CommandError::StoreFull => {
            Error::new(Reason::StorageFull, "the event store has no room; nothing was stored")
                .retry_after(SPACE_IN)
        }
        CommandError::Unreadable { stream_id, version, source } => source.in_stream(stream_id, version),
    };
    error.into()
}

fn rejected(rejection: Rejection) -> Error {
    let text = rejection.to_string();
    match rejection {
        Rejection::NotFound => Error::new(Reason::OrderNotFound, text),
        Rejection::Exists => Error::new(Reason::OrderExists, text),
        Rejection::IllegalState { status } => {
            let status = order_status(status).as_str_name();
            Error::new(Reason::IllegalOrderState, text).with("status", status)
        }
        Rejection::Empty => Error::new(Reason::OrderEmpty, text),
        Rejection::LineNotFound { line } => Error::new(Reason::LineNotFound, text).with("line", line),
        Rejection::TooManyLines => Error::new(Reason::TooManyLines, text).with("limit", order::MAX_LINES),
        Rejection::TotalOverflow => Error::new(Reason::TotalOverflow, text),
        Rejection::CustomerUnknown { customer_id } => {
            Error::new(Reason::CustomerUnknown, text).with("customer_id", customer_id)
        }
        Rejection::ProductUnknown { product_id } => {
            Error::new(Reason::ProductUnknown, text).with("product_id", product_id)
        }
        Rejection::CurrencyMismatch { order, price } => Error::new(Reason::CurrencyMismatch, text)
            .with("order_currency", order)
            .with("price_currency", price),
    }
}

fn order_status(status: order::Status) -> OrderStatus {
    match status {
        order::Status::Draft => OrderStatus::Draft,
        order::Status::Submitted => OrderStatus::Submitted,
        order::Status::Confirmed => OrderStatus::Confirmed,
        order::Status::Shipped => OrderStatus::Shipped,
        order::Status::Delivered => OrderStatus::Delivered,
        order::Status::Cancelled => OrderStatus::Cancelled,
    }
}
