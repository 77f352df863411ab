//! The order document and its fold.
//!
//! `index/orders.json` is the mapping: field by field [`OrderDocument`], and `search`, the one analysed field, which
//! is not part of the document: it is derived from it at every write ([`search_text`]) and ignored when read. What is
//! only shown is neither indexed nor kept in columns. `_source` suffices to fold on.

use proto::v1::recorded_event::Body;
use proto::v1::{
    ItemAdded, ItemQuantityChanged, Money, OrderCreated, OrderStatus, RecordedEvent, StreamCategory,
};
use serde::{Deserialize, Serialize};

use super::{FoldError, Projection, nanos, recorded_at, search_text, time_text};

/// The projection of orders.
#[derive(Debug)]
pub enum Orders {}

/// An order as its events left it. Times are nanoseconds since 1970, amounts minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say what the contract's Order says")]
pub struct OrderDocument {
    pub order_id: String,
    /// Version of the last event, from 1; also the document's version in the index.
    pub version: i64,
    pub reference: String,
    pub customer_id: String,
    pub customer_name: String,
    pub status: Status,
    pub currency: String,
    pub total: i64,
    /// Number of lines.
    pub item_count: i64,
    /// Sum of the lines' quantities.
    pub unit_count: i64,
    pub delivery_country: String,
    #[serde(with = "time_text")]
    pub placed_at: i64,
    /// When the last event was recorded.
    #[serde(with = "time_text")]
    pub updated_at: i64,
    #[serde(with = "time_text::option", default, skip_serializing_if = "Option::is_none")]
    pub submitted_at: Option<i64>,
    #[serde(with = "time_text::option", default, skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<i64>,
    #[serde(with = "time_text::option", default, skip_serializing_if = "Option::is_none")]
    pub shipped_at: Option<i64>,
    #[serde(with = "time_text::option", default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<i64>,
    #[serde(with = "time_text::option", default, skip_serializing_if = "Option::is_none")]
    pub cancelled_at: Option<i64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub carrier: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tracking_number: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cancel_reason: String,
    /// By line number, rising. Lists leave them out of what they read.
    #[serde(default)]
    pub lines: Vec<LineDocument>,
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say what the contract's OrderLine says")]
pub struct LineDocument {
    pub line: i32,
    pub product_id: String,
    pub product_name: String,
    pub quantity: i32,
    pub unit_price: i64,
    /// Kept so that reports can sum it without scripts.
    pub subtotal: i64,
}

/// Where in its life an order is; in the index by its lower-case name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum Status {
    Draft,
    Submitted,
    Confirmed,
    Shipped,
    Delivered,
    Cancelled,
}

impl Status {
    /// All of them, in the order of an order's life.
    pub const ALL: [Self; 6] =
        [Self::Draft, Self::Submitted, Self::Confirmed, Self::Shipped, Self::Delivered, Self::Cancelled];

    /// The name in the index.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Submitted => "submitted",
            Self::Confirmed => "confirmed",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of the contract, unless unspecified.
    #[must_use]
    pub const fn from_contract(status: OrderStatus) -> Option<Self> {
        match status {
            OrderStatus::Unspecified => None,
            OrderStatus::Draft => Some(Self::Draft),
            OrderStatus::Submitted => Some(Self::Submitted),
            OrderStatus::Confirmed => Some(Self::Confirmed),
            OrderStatus::Shipped => Some(Self::Shipped),
            OrderStatus::Delivered => Some(Self::Delivered),
            OrderStatus::Cancelled => Some(Self::Cancelled),
        }
    }
}

impl From<Status> for OrderStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Draft => Self::Draft,
            Status::Submitted => Self::Submitted,
            Status::Confirmed => Self::Confirmed,
            Status::Shipped => Self::Shipped,
            Status::Delivered => Self::Delivered,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

impl Projection for Orders {
    type Document = OrderDocument;

    const NAME: &'static str = "orders";
    const CATEGORY: StreamCategory = StreamCategory::Order;
    const MAPPING: &'static str = include_str!("../../index/orders.json");

    fn evolve(document: &mut Option<OrderDocument>, event: &RecordedEvent) -> Result<(), FoldError> {
        let version = event.version;
        let at = recorded_at(event)?;
        let body = event.body.as_ref().ok_or(FoldError::UnknownBody { version })?;
        match (document.as_mut(), body) {
            (None, Body::OrderCreated(created)) => *document = Some(created_document(created, version, at)?),
            (None, _) => return Err(illegal(version, "the order was not created")),
            (Some(order), body) => {
                order.change(body, version, at)?;
                order.version = version;
                order.updated_at = at;
            }
        }
        Ok(())
    }

    fn version(document: &OrderDocument) -> i64 {
        document.version
    }

    fn search(document: &OrderDocument) -> String {
        search_text::of_order(document)
    }

    fn is_final(document: &OrderDocument) -> bool {
        matches!(document.status, Status::Delivered | Status::Cancelled)
    }

    fn weight(document: &OrderDocument) -> usize {
        let text = |line: &LineDocument| line.product_id.len() + line.product_name.len();
        512 + document.lines.iter().map(|line| 96 + text(line)).sum::<usize>()
    }
}

fn created_document(created: &OrderCreated, version: i64, at: i64) -> Result<OrderDocument, FoldError> {
    Ok(OrderDocument {
        order_id: created.order_id.clone(),
        version,
        reference: created.reference.clone(),
        customer_id: created.customer_id.clone(),
        customer_name: created.customer_name.clone(),
        status: Status::Draft,
        currency: created.currency_code.clone(),
        total: 0,
        item_count: 0,
        unit_count: 0,
        delivery_country: created.delivery_country.clone(),
        placed_at: nanos(created.placed_time.as_ref(), version, "placed_time")?,
        updated_at: at,
        submitted_at: None,
        confirmed_at: None,
        shipped_at: None,
        delivered_at: None,
        cancelled_at: None,
        carrier: String::new(),
        tracking_number: String::new(),
        cancel_reason: String::new(),
        lines: Vec::new(),
    })
}

impl OrderDocument {
    /// Adds the body of an event after the first. Everything is checked before anything changes.
    fn change(&mut self, body: &Body, version: i64, at: i64) -> Result<(), FoldError> {
        match body {
            Body::OrderCreated(_) => return Err(illegal(version, "the order was created before")),
            Body::ItemAdded(added) => {
                self.must_be(&[Status::Draft], version)?;
                self.add(added, version)?;
            }
            Body::ItemQuantityChanged(changed) => {
                self.must_be(&[Status::Draft], version)?;
                self.change_quantity(*changed, version)?;
            }
            Body::ItemRemoved(removed) => {
                self.must_be(&[Status::Draft], version)?;
                let index = self.line(removed.line, version)?;
                let total = self.total.checked_sub(self.lines[index].subtotal);
                self.total = total.ok_or_else(|| too_large(version))?;
                let line = self.lines.remove(index);
                self.unit_count -= i64::from(line.quantity);
                self.item_count -= 1;
            }
            Body::OrderSubmitted(submitted) => {
                self.must_be(&[Status::Draft], version)?;
                let total = amount(submitted.total.as_ref(), &self.currency, version, "total")?;
                if total != self.total {
                    return Err(illegal(version, "the total submitted is not the sum of the lines"));
                }
                self.status = Status::Submitted;
                self.submitted_at = Some(at);
            }
            Body::OrderConfirmed(_) => {
                self.must_be(&[Status::Submitted], version)?;
                self.status = Status::Confirmed;
                self.confirmed_at = Some(at);
            }
            Body::OrderShipped(shipped) => {
                self.must_be(&[Status::Confirmed], version)?;
                self.status = Status::Shipped;
                self.shipped_at = Some(at);
                self.carrier.clone_from(&shipped.carrier);
                self.tracking_number.clone_from(&shipped.tracking_number);
            }
            Body::OrderDelivered(_) => {
                self.must_be(&[Status::Shipped], version)?;
                self.status = Status::Delivered;
                self.delivered_at = Some(at);
            }
            Body::OrderCancelled(cancelled) => {
                self.must_be(&[Status::Draft, Status::Submitted, Status::Confirmed], version)?;
                self.status = Status::Cancelled;
                self.cancelled_at = Some(at);
                self.cancel_reason.clone_from(&cancelled.reason);
            }
            Body::CustomerRegistered(_)
            | Body::CustomerRenamed(_)
            | Body::ProductRegistered(_)
            | Body::ProductRenamed(_) => return Err(FoldError::ForeignBody { version }),
        }
        Ok(())
    }

    fn add(&mut self, added: &ItemAdded, version: i64) -> Result<(), FoldError> {
        if self.lines.last().is_some_and(|last| last.line >= added.line) {
            return Err(illegal(version, "the line's number was given before"));
        }
        let unit_price = amount(added.unit_price.as_ref(), &self.currency, version, "unit_price")?;
        let subtotal = subtotal(added.quantity, unit_price, version)?;
        self.total = self.total.checked_add(subtotal).ok_or_else(|| too_large(version))?;
        self.unit_count += i64::from(added.quantity);
        self.item_count += 1;
        self.lines.push(LineDocument {
            line: added.line,
            product_id: added.product_id.clone(),
            product_name: added.product_name.clone(),
            quantity: added.quantity,
            unit_price,
            subtotal,
        });
        Ok(())
    }

    fn change_quantity(&mut self, changed: ItemQuantityChanged, version: i64) -> Result<(), FoldError> {
        let index = self.line(changed.line, version)?;
        let line = &mut self.lines[index];
        let subtotal = subtotal(changed.quantity, line.unit_price, version)?;
        self.total = self
            .total
            .checked_sub(line.subtotal)
            .and_then(|total| total.checked_add(subtotal))
            .ok_or_else(|| too_large(version))?;
        self.unit_count += i64::from(changed.quantity) - i64::from(line.quantity);
        line.quantity = changed.quantity;
        line.subtotal = subtotal;
        Ok(())
    }

    fn line(&self, line: i32, version: i64) -> Result<usize, FoldError> {
        self.lines
            .binary_search_by_key(&line, |held| held.line)
            .map_err(|_| illegal(version, "the order has no such line"))
    }

    fn must_be(&self, statuses: &[Status], version: i64) -> Result<(), FoldError> {
        if statuses.contains(&self.status) {
            Ok(())
        } else {
            Err(illegal(version, "the order's status does not allow it"))
        }
    }
}

fn amount(
    money: Option<&Money>,
    currency: &str,
    version: i64,
    field: &'static str,
) -> Result<i64, FoldError> {
    match money {
        Some(money) if money.currency_code == currency => Ok(money.minor_units),
        Some(_) => Err(illegal(version, "the amount is in another currency than the order")),
        None => Err(FoldError::Malformed { version, field }),
    }
}

fn subtotal(quantity: i32, unit_price: i64, version: i64) -> Result<i64, FoldError> {
    i64::from(quantity).checked_mul(unit_price).ok_or_else(|| too_large(version))
}

fn illegal(version: i64, reason: &'static str) -> FoldError {
    FoldError::Illegal { version, reason }
}

fn too_large(version: i64) -> FoldError {
    illegal(version, "the total passes the largest amount")
}
