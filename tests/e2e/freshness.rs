//! What stands still is seen: one part of the pair after the other freezes, and answers say how old they are.

use std::time::Duration;

use local::testing;
use proto::reason::Reason;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::*;
use tonic::Code;
use tonic::transport::Channel;

use crate::valve::Valve;
use crate::world::{PATIENCE, Paths, World, create};

type Queries = OrderQueryServiceClient<Channel>;

async fn list(queries: &Queries) -> ListOrdersResponse {
    queries.clone().list_orders(ListOrdersRequest::default()).await.unwrap().into_inner()
}

async fn freshness(queries: &Queries) -> Freshness {
    list(queries).await.freshness.unwrap()
}

/// Asks until the answer is as fresh as this.
async fn until(queries: &Queries, wanted: impl Fn(&Freshness) -> bool) -> Freshness {
    testing::until(PATIENCE, "the answer gets there in time", async || {
        Some(freshness(queries).await).filter(&wanted)
    })
    .await
}

fn is_up_to_date(freshness: &Freshness) -> bool {
    freshness.position == freshness.head_position && freshness.lag_seconds <= 0.0
}

async fn head(world: &World) -> i64 {
    world.feed().get_head(GetHeadRequest {}).await.unwrap().into_inner().head_position
}

#[tokio::test]
async fn a_frozen_write_service_is_seen_as_lag() {
    let world = World::start().await;
    let valve = Valve::before(world.paths().feed).await;
    world.create(create(1)).await;
    world.settle().await;
    let mut world = world;
    world.stop_read().await;
    let read = world.another_read(&Paths { feed: valve.address.clone(), ..world.paths() }).await;
    let before = until(&read.queries(), is_up_to_date).await;
    valve.freeze();
    world.create(create(2)).await;
    let frozen = until(&read.queries(), |freshness| freshness.lag_seconds > 12.0).await;
    assert_eq!((frozen.position, frozen.head_position), (before.position, before.head_position));
    assert_eq!(list(&read.queries()).await.total_size, 1);
    valve.thaw();
    let head = head(&world).await;
    until(&read.queries(), |freshness| freshness.position >= head && is_up_to_date(freshness)).await;
    assert_eq!(list(&read.queries()).await.total_size, 2);
    read.stop().await;
}

#[tokio::test]
async fn a_frozen_event_store_is_seen_as_lag() {
    let mut world = World::start().await;
    let valve = Valve::before(world.paths().postgres).await;
    world.restart_write_by(&valve.address).await;
    world.create(create(1)).await;
    world.settle().await;
    let before = until(&world.queries(), is_up_to_date).await;
    valve.freeze();
    // Nothing new is known to be there, but nobody can say that there is nothing.
    let frozen = until(&world.queries(), |freshness| freshness.lag_seconds > 12.0).await;
    assert_eq!((frozen.position, frozen.head_position), (before.position, before.head_position));
    valve.thaw();
    world.create(create(2)).await;
    let head = head(&world).await;
    until(&world.queries(), |freshness| freshness.position >= head && is_up_to_date(freshness)).await;
}

#[tokio::test]
async fn a_frozen_elasticsearch_answers_nothing_and_is_caught_up_with() {
    let mut world = World::start().await;
    let valve = Valve::before(world.paths().elasticsearch).await;
    world.create(create(1)).await;
    world.settle().await;
    world.stop_read().await;
    let read = world.another_read(&Paths { elasticsearch: valve.address.clone(), ..world.paths() }).await;
    until(&read.queries(), is_up_to_date).await;
    valve.freeze();
    world.create(create(2)).await;
    let refused = read.queries().list_orders(ListOrdersRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (Code::Unavailable, Some(Reason::SearchDown)));
    valve.thaw();
    let head = head(&world).await;
    until(&read.queries(), |freshness| freshness.position >= head && is_up_to_date(freshness)).await;
    assert_eq!(list(&read.queries()).await.total_size, 2);
    read.stop().await;
}

#[tokio::test]
async fn a_frozen_projector_is_seen_at_the_other_copy_until_it_is_replaced() {
    let world = World::start().await;
    let valve = Valve::before(world.paths().elasticsearch).await;
    let second = world.another_read(&Paths { elasticsearch: valve.address.clone(), ..world.paths() }).await;
    let first = world.queries();
    // The second copy has its share as soon as the answers of the first depend on it.
    let mut orders = 0;
    let lagging = loop {
        valve.freeze();
        for _ in 0..16 {
            world.create(create(1)).await;
            orders += 1;
        }
        let head = head(&world).await;
        let observed = until(&first, |freshness| {
            let seen = freshness.head_position >= head;
            seen && (freshness.position >= head || freshness.lag_seconds > 3.0)
        });
        let observed = observed.await;
        if observed.position < head {
            break observed;
        }
        valve.thaw();
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(lagging.position < lagging.head_position, "{lagging:?}");
    // Then its slices are taken over, and nothing is missing.
    let begun = std::time::Instant::now();
    until(&world.queries(), |freshness| {
        is_up_to_date(freshness) && freshness.position >= lagging.head_position
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(list(&world.queries()).await.total_size, orders);
    valve.thaw();
    second.stop().await;
}
