//! Domain events to stored bytes and back.
//!
//! What is stored is the wire form of `orders.v1.RecordedEvent`, cut in two: `metadata` (the envelope without position) and
//! `body` (the oneof field). The pair (type, schema) says what the body is. Of the pairs that are written today ([`is_current`])
//! the two parts joined are the message that the feed publishes; a body of an older pair goes through `codec/upcast.rs` before
//! anyone sees it.

mod sound;
mod upcast;

use prost::Message as _;
use proto::reason::{Error as CallError, Reason};
use proto::v1::recorded_event::Body;
use proto::v1::{self, RecordedEvent, StreamCategory};
use thiserror::Error;
use uuid::Uuid;

use crate::catalog::{self, Kind};
use crate::order::{self, Money};

/// An event of any stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Event {
    Order(order::Event),
    Catalog(catalog::Event),
}

/// What an event's envelope says beside the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// UUIDv7.
    pub event_id: Uuid,
    /// What the stream belongs to.
    pub category: StreamCategory,
    /// Key of the stream within its category.
    pub key: String,
    /// Number within the stream, from 1.
    pub version: i64,
    /// Nanoseconds since 1970, whole microseconds.
    pub recorded_at: i64,
    /// The authenticated subject, or "anonymous".
    pub actor: String,
    /// Of the request, where it had one.
    pub request_id: Option<Uuid>,
    /// W3C trace context of the request, empty where it had none.
    pub traceparent: String,
}

/// An event as the store keeps it, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Name of the body's message.
    pub type_name: String,
    /// Number of the body's schema, from 1.
    pub schema: i16,
    /// Wire bytes of the envelope.
    pub metadata: Vec<u8>,
    /// Wire bytes of the oneof field.
    pub body: Vec<u8>,
}

/// A stored event that this release cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Unreadable {
    #[error("no reader for type {type_name}, schema {schema}")]
    UnknownType { type_name: String, schema: i16 },
    #[error("the bytes of type {type_name}, schema {schema}, are damaged")]
    Damaged { type_name: String, schema: i16 },
    #[error("a {type_name} does not belong to this stream")]
    Misplaced { type_name: String },
}

impl Unreadable {
    /// What a caller is told who needs this event: where it stands and what it is.
    #[must_use]
    pub fn in_stream(&self, stream_id: Uuid, version: i64) -> CallError {
        let text = format!("event {version} of stream {stream_id} cannot be read: {self}");
        let error = CallError::new(Reason::EventUnreadable, text)
            .with("stream_id", stream_id)
            .with("version", version);
        match self {
            Self::UnknownType { type_name, schema } | Self::Damaged { type_name, schema } => {
                error.with("type", type_name).with("schema", schema)
            }
            Self::Misplaced { type_name } => error.with("type", type_name),
        }
    }
}

/// Types that are written today, each with its current schema.
const CURRENT: [(&str, i16); 13] = [
    ("OrderCreated", 1),
    ("ItemAdded", 2),
    ("ItemQuantityChanged", 1),
    ("ItemRemoved", 1),
    ("OrderSubmitted", 1),
    ("OrderConfirmed", 1),
    ("OrderShipped", 1),
    ("OrderDelivered", 1),
    ("OrderCancelled", 1),
    ("CustomerRegistered", 1),
    ("CustomerRenamed", 1),
    ("ProductRegistered", 1),
    ("ProductRenamed", 1),
];

/// Whether this pair is written today: then metadata and body joined are the published message, and need no decoding.
#[must_use]
pub fn is_current(type_name: &str, schema: i16) -> bool {
    CURRENT.contains(&(type_name, schema))
}

/// The bytes to store for `event`.
#[must_use]
pub fn encode(event: Event, envelope: Envelope) -> StoredEvent {
    let Envelope { event_id, category, key, version, recorded_at, actor, request_id, traceparent } = envelope;
    let body = to_body(event, &key);
    let type_name = type_of(&body).to_owned();
    let schema = current_schema(&type_name);
    let metadata = RecordedEvent {
        position: 0,
        event_id: event_id.to_string(),
        category: category.into(),
        stream_key: key,
        version,
        recorded_time: Some(proto::time::from_nanos(recorded_at)),
        actor,
        request_id: request_id.map(|id| id.to_string()).unwrap_or_default(),
        traceparent,
        body: None,
    };
    let mut body_bytes = Vec::with_capacity(body.encoded_len());
    body.encode(&mut body_bytes);
    StoredEvent { type_name, schema, metadata: metadata.encode_to_vec(), body: body_bytes }
}

/// The event as it is published: position 0, current schema.
///
/// # Errors
/// [`Unreadable`] where this release has no reader for it, or its bytes are damaged.
pub fn decode(stored: &StoredEvent) -> Result<RecordedEvent, Unreadable> {
    let StoredEvent { type_name, schema, metadata, body } = stored;
    let current = is_current(type_name, *schema);
    if !current && !upcast::reads(type_name, *schema) {
        return Err(Unreadable::UnknownType { type_name: type_name.clone(), schema: *schema });
    }
    let damaged = || Unreadable::Damaged { type_name: type_name.clone(), schema: *schema };
    let mut event = RecordedEvent::decode(metadata.as_slice()).map_err(|_| damaged())?;
    event.merge(body.as_slice()).map_err(|_| damaged())?;
    let mut body = event.body.take().filter(|body| type_of(body) == type_name);
    if !current {
        body = body.and_then(|body| upcast::to_current(type_name, *schema, body));
    }
    event.body = Some(body.ok_or_else(damaged)?);
    Ok(event)
}

/// A published event as wire bytes, in two parts that joined are the message without its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Fields of the envelope, or of the whole message.
    pub envelope: Vec<u8>,
    /// The oneof field, where the envelope does not hold it.
    pub body: Vec<u8>,
}

/// The event as it is published even where this release cannot read it: then without a body, so that a consumer sets this
/// one stream aside and goes on with all others. What is stored is looked at whole: damaged bytes would end the message that they
/// are sent in, and with it everyone's feed.
#[must_use]
pub fn publish(stored: StoredEvent, category: i32, stream_id: Uuid, version: i64) -> Published {
    let whole = |event: &RecordedEvent| Published { envelope: event.encode_to_vec(), body: Vec::new() };
    let current = is_current(&stored.type_name, stored.schema);
    if current && sound::is_surely_sound(&stored) {
        return Published { envelope: stored.metadata, body: stored.body };
    }
    match decode(&stored) {
        Ok(_) if current => Published { envelope: stored.metadata, body: stored.body },
        Ok(event) => whole(&event),
        Err(error) => {
            tracing::error!(stream.id = %stream_id, stream.version = version, error = %error, "published without its body");
            metrics::counter!("feed_unreadable_events_total").increment(1);
            let envelope = RecordedEvent::decode(stored.metadata.as_slice()).unwrap_or_default();
            let stream_key = if envelope.stream_key.is_empty() {
                stream_id.to_string()
            } else {
                envelope.stream_key.clone()
            };
            whole(&RecordedEvent { category, stream_key, version, body: None, ..envelope })
        }
    }
}

/// The domain event inside a published one.
///
/// # Errors
/// [`Unreadable::Damaged`] where a part of it is missing.
pub fn to_domain(recorded: RecordedEvent) -> Result<Event, Unreadable> {
    use Body as B;
    let damaged =
        |name: &str| Unreadable::Damaged { type_name: name.to_owned(), schema: current_schema(name) };
    let body = recorded.body.ok_or_else(|| damaged("event"))?;
    let event = match body {
        B::OrderCreated(e) => Event::Order(order::Event::Created {
            customer_id: e.customer_id,
            customer_name: e.customer_name,
            currency: e.currency_code,
            reference: e.reference,
            delivery_country: e.delivery_country,
            placed_at: e
                .placed_time
                .as_ref()
                .and_then(proto::time::to_nanos)
                .ok_or_else(|| damaged("OrderCreated"))?,
        }),
        B::ItemAdded(e) => Event::Order(order::Event::ItemAdded {
            line: e.line,
            product_id: e.product_id,
            product_name: e.product_name,
            quantity: e.quantity,
            unit_price: e.unit_price.map(money).ok_or_else(|| damaged("ItemAdded"))?,
        }),
        B::ItemQuantityChanged(e) => {
            Event::Order(order::Event::ItemQuantityChanged { line: e.line, quantity: e.quantity })
        }
        B::ItemRemoved(e) => Event::Order(order::Event::ItemRemoved { line: e.line }),
        B::OrderSubmitted(e) => Event::Order(order::Event::Submitted {
            total: e.total.map(money).ok_or_else(|| damaged("OrderSubmitted"))?,
        }),
        B::OrderConfirmed(_) => Event::Order(order::Event::Confirmed),
        B::OrderShipped(e) => {
            Event::Order(order::Event::Shipped { carrier: e.carrier, tracking_number: e.tracking_number })
        }
        B::OrderDelivered(_) => Event::Order(order::Event::Delivered),
        B::OrderCancelled(e) => Event::Order(order::Event::Cancelled { reason: e.reason }),
        B::CustomerRegistered(e) => Event::Catalog(catalog::Event::Registered {
            kind: Kind::Customer,
            key: e.customer_id,
            name: e.name,
        }),
        B::CustomerRenamed(e) => {
            Event::Catalog(catalog::Event::Renamed { kind: Kind::Customer, key: e.customer_id, name: e.name })
        }
        B::ProductRegistered(e) => Event::Catalog(catalog::Event::Registered {
            kind: Kind::Product,
            key: e.product_id,
            name: e.name,
        }),
        B::ProductRenamed(e) => {
            Event::Catalog(catalog::Event::Renamed { kind: Kind::Product, key: e.product_id, name: e.name })
        }
    };
    Ok(event)
}

/// The category of a kind of catalog entry.
#[must_use]
pub fn category(kind: Kind) -> StreamCategory {
    match kind {
        Kind::Customer => StreamCategory::Customer,
        Kind::Product => StreamCategory::Product,
    }
}

fn to_body(event: Event, key: &str) -> Body {
    match event {
        Event::Order(event) => order_body(event, key),
        Event::Catalog(catalog::Event::Registered { kind: Kind::Customer, key, name }) => {
            Body::CustomerRegistered(v1::CustomerRegistered { customer_id: key, name })
        }
        Event::Catalog(catalog::Event::Renamed { kind: Kind::Customer, key, name }) => {
            Body::CustomerRenamed(v1::CustomerRenamed { customer_id: key, name })
        }
        Event::Catalog(catalog::Event::Registered { kind: Kind::Product, key, name }) => {
            Body::ProductRegistered(v1::ProductRegistered { product_id: key, name })
        }
        Event::Catalog(catalog::Event::Renamed { kind: Kind::Product, key, name }) => {
            Body::ProductRenamed(v1::ProductRenamed { product_id: key, name })
        }
    }
}

fn order_body(event: order::Event, order_id: &str) -> Body {
    use order::Event as E;
    match event {
        E::Created { customer_id, customer_name, currency, reference, delivery_country, placed_at } => {
            Body::OrderCreated(v1::OrderCreated {
                order_id: order_id.to_owned(),
                customer_id,
                customer_name,
                currency_code: currency,
                reference,
                delivery_country,
                placed_time: Some(proto::time::from_nanos(placed_at)),
            })
        }
        E::ItemAdded { line, product_id, product_name, quantity, unit_price } => {
            let unit_price = money_message(unit_price);
            // There always is one: the decider lets no line pass whose subtotal overflows.
            let subtotal = subtotal(quantity, &unit_price);
            let unit_price = Some(unit_price);
            Body::ItemAdded(v1::ItemAdded { line, product_id, product_name, quantity, unit_price, subtotal })
        }
        E::ItemQuantityChanged { line, quantity } => {
            Body::ItemQuantityChanged(v1::ItemQuantityChanged { line, quantity })
        }
        E::ItemRemoved { line } => Body::ItemRemoved(v1::ItemRemoved { line }),
        E::Submitted { total } => {
            Body::OrderSubmitted(v1::OrderSubmitted { total: Some(money_message(total)) })
        }
        E::Confirmed => Body::OrderConfirmed(v1::OrderConfirmed {}),
        E::Shipped { carrier, tracking_number } => {
            Body::OrderShipped(v1::OrderShipped { carrier, tracking_number })
        }
        E::Delivered => Body::OrderDelivered(v1::OrderDelivered {}),
        E::Cancelled { reason } => Body::OrderCancelled(v1::OrderCancelled { reason }),
    }
}

fn type_of(body: &Body) -> &'static str {
    match body {
        Body::OrderCreated(_) => "OrderCreated",
        Body::ItemAdded(_) => "ItemAdded",
        Body::ItemQuantityChanged(_) => "ItemQuantityChanged",
        Body::ItemRemoved(_) => "ItemRemoved",
        Body::OrderSubmitted(_) => "OrderSubmitted",
        Body::OrderConfirmed(_) => "OrderConfirmed",
        Body::OrderShipped(_) => "OrderShipped",
        Body::OrderDelivered(_) => "OrderDelivered",
        Body::OrderCancelled(_) => "OrderCancelled",
        Body::CustomerRegistered(_) => "CustomerRegistered",
        Body::CustomerRenamed(_) => "CustomerRenamed",
        Body::ProductRegistered(_) => "ProductRegistered",
        Body::ProductRenamed(_) => "ProductRenamed",
    }
}

fn current_schema(type_name: &str) -> i16 {
    CURRENT.iter().find(|(name, _)| *name == type_name).map_or(1, |(_, schema)| *schema)
}

/// Quantity times price; `None` beyond the largest amount.
fn subtotal(quantity: i32, unit_price: &v1::Money) -> Option<v1::Money> {
    let minor_units = i64::from(quantity).checked_mul(unit_price.minor_units)?;
    Some(v1::Money { minor_units, ..unit_price.clone() })
}

fn money(message: v1::Money) -> Money {
    Money { currency: message.currency_code, minor_units: message.minor_units }
}

fn money_message(money: Money) -> v1::Money {
    v1::Money { currency_code: money.currency, minor_units: money.minor_units }
}

#[cfg(test)]
mod tests;
