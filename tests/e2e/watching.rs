//! Orders that are watched at several copies: each tells every change, whoever projects the order.

use proto::v1::*;
use tokio::time::timeout;
use tonic::Streaming;

use crate::questions::Queries;
use crate::world::{PATIENCE, World, create};

/// So many that every copy projects some of them, all but surely.
const ORDERS: usize = 12;

/// Watchers of the orders at one copy.
struct Watchers(Vec<Streaming<WatchOrderResponse>>);

impl Watchers {
    async fn at(queries: &Queries, order_ids: &[String]) -> Self {
        let mut watchers = Vec::new();
        for order_id in order_ids {
            let watch = WatchOrderRequest { order_id: order_id.clone() };
            watchers.push(queries.clone().watch_order(watch).await.unwrap().into_inner());
        }
        Self(watchers)
    }

    /// Every one is told this version next.
    async fn are_told(&mut self, version: i64) {
        for watcher in &mut self.0 {
            let told = timeout(PATIENCE, watcher.message()).await.expect("a change in time");
            let order = told.unwrap().expect("a watcher leaves first").order.unwrap();
            assert_eq!(order.summary.unwrap().version, version);
        }
    }
}

#[tokio::test]
async fn every_change_is_told_at_every_copy_whoever_projects() {
    let world = World::start().await;
    let doomed = world.doomed_read().await;
    world.shared_by(&["orders"], 2).await;
    let mut order_ids = Vec::new();
    for _ in 0..ORDERS {
        order_ids.push(world.create(create(1)).await.order_id);
    }
    world.settle().await;
    world.settle_at(&doomed.queries()).await;
    let mut first = Watchers::at(&world.queries(), &order_ids).await;
    let mut second = Watchers::at(&doomed.queries(), &order_ids).await;
    first.are_told(4).await;
    second.are_told(4).await;

    for order_id in order_ids.iter().cloned() {
        world.orders().confirm_order(ConfirmOrderRequest { order_id, ..Default::default() }).await.unwrap();
    }
    first.are_told(5).await;
    second.are_told(5).await;

    // Slices change their owners: a third copy comes, the second dies.
    let newcomer = world.another_read(&world.paths()).await;
    world.shared_by(&["orders"], 3).await;
    for order_id in order_ids.iter().cloned() {
        world.orders().ship_order(ShipOrderRequest { order_id, ..Default::default() }).await.unwrap();
    }
    first.are_told(6).await;
    second.are_told(6).await;
    world.settle_at(&newcomer.queries()).await;
    let mut third = Watchers::at(&newcomer.queries(), &order_ids).await;
    third.are_told(6).await;

    doomed.kill();
    for order_id in order_ids {
        world.orders().deliver_order(DeliverOrderRequest { order_id, ..Default::default() }).await.unwrap();
    }
    first.are_told(7).await;
    third.are_told(7).await;
    newcomer.stop().await;
}
