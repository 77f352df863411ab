//! Several copies of the read service: each answers as if it were the only one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use local::testing;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::*;
use tokio_util::sync::CancellationToken;

use crate::questions::Queries;
use crate::world::{World, create};

/// Commands, each followed by a read.
const COMMANDS: usize = 1_000;
/// Callers at a time.
const CALLERS: usize = 8;

/// Kinds of reads that tell the version of an order.
const KINDS: usize = 3;

/// Every kind of read with the token of the command before it, at a copy that may not be the one that projects the order.
async fn read_at(queries: &mut Queries, kind: usize, receipt: &OrderReceipt) -> (i64, Freshness) {
    let tokens = vec![receipt.consistency_token.clone()];
    let consistency = Some(Consistency { tokens, ..Default::default() });
    let of_order = |summary: &&OrderSummary| summary.order_id == receipt.order_id;
    match kind {
        0 => {
            let list = ListOrdersRequest {
                sort: OrderSort::UpdateTimeDesc.into(),
                consistency,
                ..Default::default()
            };
            let answer = queries.list_orders(list).await.unwrap().into_inner();
            let found = answer.orders.iter().find(of_order).map_or(0, |summary| summary.version);
            (found, answer.freshness.unwrap())
        }
        1 => {
            let search =
                SearchOrdersRequest { query: receipt.order_id.clone(), consistency, ..Default::default() };
            let answer = queries.search_orders(search).await.unwrap().into_inner();
            let found = answer.hits.iter().filter_map(|hit| hit.order.as_ref()).find(of_order);
            (found.map_or(0, |summary| summary.version), answer.freshness.unwrap())
        }
        _ => {
            let get =
                GetOrderRequest { order_id: receipt.order_id.clone(), consistency, ..Default::default() };
            let answer = queries.get_order(get).await.unwrap().into_inner();
            (answer.order.unwrap().summary.unwrap().version, answer.freshness.unwrap())
        }
    }
}

/// How many orders a report counts for a country, with the token of the last of them.
async fn reported(queries: &mut Queries, country: &str, receipt: &OrderReceipt) -> (i64, Freshness) {
    let tokens = vec![receipt.consistency_token.clone()];
    let report = GetSalesReportRequest {
        group_by: GroupBy::DeliveryCountry.into(),
        currency_code: "GBP".into(),
        consistency: Some(Consistency { tokens, ..Default::default() }),
        ..Default::default()
    };
    let answer = queries.get_sales_report(report).await.unwrap().into_inner();
    let row = answer.rows.iter().find(|row| row.key == country);
    (row.map_or(0, |row| row.order_count), answer.freshness.unwrap())
}

/// Places an order, then moves it on, reading after each command; delivers to a country of its own.
async fn caller(
    world: Arc<World>,
    country: String,
    copies: Vec<Queries>,
    done: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut ids = Vec::new();
    let mut receipt: Option<OrderReceipt> = None;
    loop {
        let number = done.fetch_add(1, Ordering::SeqCst);
        if number >= COMMANDS {
            return ids;
        }
        let order_id = receipt.as_ref().map(|receipt| receipt.order_id.clone()).unwrap_or_default();
        let next = match receipt.as_ref().map(OrderReceipt::status) {
            Some(OrderStatus::Submitted) => {
                let confirm = ConfirmOrderRequest { order_id, ..Default::default() };
                world.orders().confirm_order(confirm).await.unwrap().into_inner().receipt
            }
            Some(OrderStatus::Confirmed) => {
                let ship = ShipOrderRequest { order_id, ..Default::default() };
                world.orders().ship_order(ship).await.unwrap().into_inner().receipt
            }
            _ => {
                let request = CreateOrderRequest { delivery_country: country.clone(), ..create(1) };
                Some(world.create(request).await)
            }
        };
        let next = next.unwrap();
        if !ids.contains(&next.order_id) {
            ids.push(next.order_id.clone());
        }
        let mut queries = copies[number / (KINDS + 1) % copies.len()].clone();
        let kind = number % (KINDS + 1);
        if kind == KINDS {
            // Earlier ones were seen: what a search has shown stays.
            let (found, freshness) = reported(&mut queries, &country, &next).await;
            let placed = i64::try_from(ids.len()).unwrap();
            assert!(found == placed && !freshness.stale, "{found} of {placed} with {next:?}");
        } else {
            let (version, freshness) = read_at(&mut queries, kind, &next).await;
            assert!(version >= next.version && !freshness.stale, "{version} of {next:?}");
        }
        receipt = Some(next);
    }
}

/// What a copy claims to include, and how many orders it found, again and again.
async fn samples(mut queries: Queries, over: CancellationToken) -> Vec<(i64, i64)> {
    let mut samples = Vec::new();
    while !over.is_cancelled() {
        let answer = queries.list_orders(ListOrdersRequest::default()).await.unwrap().into_inner();
        samples.push((answer.freshness.unwrap().position, answer.total_size));
        tokio::task::yield_now().await;
    }
    samples
}

#[tokio::test]
async fn a_token_is_honoured_and_a_claim_is_true_at_every_copy_whoever_projects() {
    let world = World::start().await;
    let second = world.another_read(&world.paths()).await;
    let world = Arc::new(world);
    let copies = vec![world.queries(), second.queries()];
    let (done, over) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let sampling =
        [world.queries(), second.queries()].map(|queries| tokio::spawn(samples(queries, over.clone())));
    let callers = (0..CALLERS).map(|number| {
        let country = format!("Country {number}");
        tokio::spawn(caller(world.clone(), country, copies.clone(), done.clone()))
    });
    let callers: Vec<_> = callers.collect();
    // Slices change their owners meanwhile: a third copy comes and goes.
    let third = world.another_read(&world.paths()).await;
    testing::until(Duration::from_mins(2), "half of the commands are done", async || {
        (done.load(Ordering::SeqCst) >= COMMANDS / 2).then_some(())
    })
    .await;
    third.stop().await;
    let mut ids = Vec::new();
    for caller in callers {
        ids.extend(caller.await.unwrap());
    }
    over.cancel();

    // The position at which each order came into being.
    let mut born = HashMap::new();
    for order_id in ids {
        let history = GetOrderHistoryRequest { order_id: order_id.clone() };
        let events = world.queries().get_order_history(history).await.unwrap().into_inner().events;
        born.insert(order_id, events[0].position);
    }
    for sampled in sampling {
        let samples = sampled.await.unwrap();
        assert!(samples.len() > 20, "{}", samples.len());
        for (position, found) in samples {
            let least = born.values().filter(|born| **born <= position).count();
            assert!(found >= i64::try_from(least).unwrap(), "{found} of {least} orders up to {position}");
        }
    }
    world.settle_at(&second.queries()).await;
    let all = second.queries().list_orders(ListOrdersRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.total_size, i64::try_from(born.len()).unwrap());
    second.stop().await;
}
