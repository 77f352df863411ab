//! The orders of the sample as documents, put straight into an index: what is measured is reading.

use anyhow::{Context as _, ensure};
use proto::v1::recorded_event::Body;
use proto::v1::{ItemAdded, Money, OrderCreated, OrderSubmitted, RecordedEvent, StreamCategory};
use read_service::index::{Bulk, Index, ItemOutcome};
use read_service::projection::{self, OrderDocument, Projection as _};
use rig::orders::{Orders, Shape};

/// Bytes of a bulk request.
const BULK: usize = 1024 * 1024;

/// What questions are made of.
pub struct Documents {
    /// Ids of all orders.
    pub ids: Vec<String>,
    /// Customers, countries and names of products of the first thousands.
    pub samples: Vec<OrderDocument>,
}

/// Orders that questions are made of.
const SAMPLES: usize = 5_000;

impl Documents {
    /// Puts so many orders into the index behind `alias`, where they can be found.
    pub async fn load(
        index: &Index,
        alias: &str,
        orders: &Orders,
        shape: Shape,
        count: usize,
    ) -> anyhow::Result<Self> {
        let live = index.live(alias).await?.context("the service has made its indices")?.name;
        let (mut ids, mut samples) = (Vec::with_capacity(count), Vec::with_capacity(SAMPLES));
        let mut bulk = Bulk::default();
        for number in 0..count {
            let order = document(orders, number, shape)?;
            bulk.index(&order.order_id, order.version, &order, &projection::Orders::search(&order));
            ids.push(order.order_id.clone());
            if samples.len() < SAMPLES {
                samples.push(order);
            }
            if bulk.bytes() > BULK || number + 1 == count {
                let outcomes = index.bulk(&live, &std::mem::take(&mut bulk).seal()).await?;
                ensure!(
                    outcomes.iter().all(|outcome| *outcome == ItemOutcome::Applied),
                    "an order was not stored"
                );
            }
        }
        index.refresh(&live).await?;
        Ok(Self { ids, samples })
    }
}

/// The order with this number, as its events leave it.
fn document(orders: &Orders, number: usize, shape: Shape) -> anyhow::Result<OrderDocument> {
    let order = orders.command(number, shape);
    let money = |minor_units| Some(Money { currency_code: order.currency_code.clone(), minor_units });
    let mut bodies = vec![Body::OrderCreated(OrderCreated {
        order_id: order.request_id.clone(),
        customer_name: format!("Customer {}", order.customer_id),
        customer_id: order.customer_id,
        currency_code: order.currency_code.clone(),
        reference: order.reference,
        delivery_country: order.delivery_country,
        placed_time: order.placed_time,
    })];
    let mut total = 0;
    for (line, item) in (1..).zip(&order.items) {
        let price = item.unit_price.as_ref().map_or(0, |price| price.minor_units);
        let subtotal = price * i64::from(item.quantity);
        total += subtotal;
        bodies.push(Body::ItemAdded(ItemAdded {
            line,
            product_id: item.product_id.clone(),
            product_name: orders.product_name(&item.product_id).to_owned(),
            quantity: item.quantity,
            unit_price: money(price),
            subtotal: money(subtotal),
        }));
    }
    bodies.push(Body::OrderSubmitted(OrderSubmitted { total: money(total) }));
    let events = (1..).zip(bodies).map(|(version, body)| RecordedEvent {
        category: StreamCategory::Order.into(),
        stream_key: order.request_id.clone(),
        version,
        recorded_time: order.placed_time,
        body: Some(body),
        ..RecordedEvent::default()
    });
    let events: Vec<_> = events.collect();
    projection::fold::<projection::Orders>(&events)?.context("an order with events has a document")
}
