//! What stands still is seen: one part of the pair after the other freezes, and answers say how old they are.

use std::time::Duration;

use local::testing;
use proto::reason::Reason;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::*;
use tonic::Code;

use crate::questions::Queries;
use crate::valve::Valve;
use crate::world::{PATIENCE, Paths, World, create};

/// Questions, each with what its answer includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Orders and customers.
    Get,
    /// Orders.
    List,
    /// Orders.
    Search,
    /// Orders and customers.
    ByCustomer,
    /// Orders and products.
    ByProduct,
}

const ALL: [Asked; 5] = [Asked::Get, Asked::List, Asked::Search, Asked::ByCustomer, Asked::ByProduct];

/// How fresh an answer says it is, and the name of today that is in it.
async fn ask(queries: &Queries, asked: Asked, order_id: &str) -> (Freshness, String) {
    let mut queries = queries.clone();
    let report = |group_by: GroupBy| GetSalesReportRequest {
        group_by: group_by.into(),
        currency_code: "GBP".into(),
        ..Default::default()
    };
    let name =
        |report: &GetSalesReportResponse| report.rows.first().map(|row| row.name.clone()).unwrap_or_default();
    let (freshness, name) = match asked {
        Asked::Get => {
            let get = GetOrderRequest { order_id: order_id.into(), ..Default::default() };
            let answer = queries.get_order(get).await.unwrap().into_inner();
            (answer.freshness, answer.order.unwrap().customer_current_name)
        }
        Asked::List => {
            let answer = queries.list_orders(ListOrdersRequest::default()).await.unwrap().into_inner();
            (answer.freshness, String::new())
        }
        Asked::Search => {
            let search = SearchOrdersRequest { query: "lantern".into(), ..Default::default() };
            (queries.search_orders(search).await.unwrap().into_inner().freshness, String::new())
        }
        Asked::ByCustomer => {
            let answer = queries.get_sales_report(report(GroupBy::Customer)).await.unwrap().into_inner();
            (answer.freshness.clone(), name(&answer))
        }
        Asked::ByProduct => {
            let answer = queries.get_sales_report(report(GroupBy::Product)).await.unwrap().into_inner();
            (answer.freshness.clone(), name(&answer))
        }
    };
    (freshness.unwrap(), name)
}

/// Every answer says the same about its age.
async fn all_say(queries: &Queries, order_id: &str, wanted: impl Fn(&Freshness) -> bool) {
    for asked in ALL {
        testing::until(PATIENCE, "the answer says so", async || {
            Some(ask(queries, asked, order_id).await.0).filter(&wanted)
        })
        .await;
    }
}

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

/// The position of the newest event that is stored.
async fn head(world: &World) -> i64 {
    testing::until(PATIENCE, "everything is published", async || {
        let head = world.feed().get_head(GetHeadRequest {}).await.unwrap().into_inner();
        (head.outbox_backlog == 0).then_some(head.head_position)
    })
    .await
}

#[tokio::test]
async fn a_frozen_write_service_is_seen_as_lag() {
    let world = World::start().await;
    let valve = Valve::before(world.paths().feed).await;
    let order = world.create(create(1)).await;
    world.settle().await;
    let mut world = world;
    world.stop_read().await;
    let read = world.another_read(&Paths { feed: valve.address.clone(), ..world.paths() }).await;
    let before = until(&read.queries(), is_up_to_date).await;
    valve.freeze();
    world.create(create(2)).await;
    world.put_customer("17850", "Grace Hopper").await;
    all_say(&read.queries(), &order.order_id, |freshness| {
        assert!(freshness.position <= before.position && freshness.head_position == before.head_position);
        freshness.lag_seconds > 12.0
    })
    .await;
    assert_eq!(list(&read.queries()).await.total_size, 1);
    valve.thaw();
    let head = head(&world).await;
    all_say(&read.queries(), &order.order_id, |freshness| {
        freshness.position >= head && is_up_to_date(freshness)
    })
    .await;
    assert_eq!(list(&read.queries()).await.total_size, 2);
    assert_eq!(ask(&read.queries(), Asked::Get, &order.order_id).await.1, "Grace Hopper");
    read.stop().await;
}

#[tokio::test]
async fn a_frozen_event_store_is_seen_as_lag() {
    let mut world = World::start().await;
    let valve = Valve::before(world.paths().postgres).await;
    world.restart_write_by(&valve.address).await;
    let order = world.create(create(1)).await;
    world.settle().await;
    let before = until(&world.queries(), is_up_to_date).await;
    valve.freeze();
    // Nothing new is known to be there, but nobody can say that there is nothing.
    all_say(&world.queries(), &order.order_id, |freshness| {
        assert!(freshness.position <= before.position && freshness.head_position == before.head_position);
        freshness.lag_seconds > 12.0
    })
    .await;
    valve.thaw();
    world.create(create(2)).await;
    let head = head(&world).await;
    all_say(&world.queries(), &order.order_id, |freshness| {
        freshness.position >= head && is_up_to_date(freshness)
    })
    .await;
}

#[tokio::test]
async fn a_frozen_elasticsearch_answers_nothing_and_is_caught_up_with() {
    let mut world = World::start().await;
    let valve = Valve::before(world.paths().elasticsearch).await;
    world.create(create(1)).await;
    world.settle().await;
    world.stop_read().await;
    let read = world.another_read(&Paths { elasticsearch: valve.address.clone(), ..world.paths() }).await;
    let before = until(&read.queries(), is_up_to_date).await;
    valve.freeze();
    world.create(create(2)).await;
    let head = head(&world).await;
    // No question can be answered; how far the projection is can be told.
    testing::until(PATIENCE, "the lag is told", async || {
        let told = read.admin().list_projections(ListProjectionsRequest {}).await.unwrap().into_inner();
        let orders = told.projections.into_iter().find(|projection| projection.name == "orders").unwrap();
        assert_eq!(orders.position, before.position, "{orders:?}");
        let late = orders.state() == projection::State::Waiting && orders.lag_seconds > 3.0;
        (late && orders.head_position >= head).then_some(())
    })
    .await;
    let refused = read.queries().list_orders(ListOrdersRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (Code::Unavailable, Some(Reason::SearchDown)));
    valve.thaw();
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
    let order_id = world.create(create(1)).await.order_id;
    world.settle().await;
    world.shared_by(&["orders"], 2).await;
    valve.freeze();
    // One of them, all but surely, belongs to the second copy.
    for _ in 0..16 {
        world.create(create(1)).await;
    }
    let head = head(&world).await;
    let lagging =
        until(&first, |freshness| freshness.head_position >= head && freshness.lag_seconds > 3.0).await;
    assert!(lagging.position < lagging.head_position, "{lagging:?}");
    for asked in ALL {
        let (freshness, _) = ask(&first, asked, &order_id).await;
        let late = freshness.position < freshness.head_position && freshness.lag_seconds > 3.0;
        assert!(late, "{asked:?}: {freshness:?}");
    }
    // Then its slices are taken over, and nothing is missing.
    let begun = std::time::Instant::now();
    until(&world.queries(), |freshness| {
        is_up_to_date(freshness) && freshness.position >= lagging.head_position
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(list(&world.queries()).await.total_size, 17);
    valve.thaw();
    second.stop().await;
}

/// Whether the index of a projection refuses whatever is written, as on a full disk.
async fn block(world: &World, projection: &str, blocked: bool) {
    let address = world.paths().elasticsearch.parse().unwrap();
    let settings =
        format!(r#"{{"index.blocks.read_only_allow_delete":{}}}"#, if blocked { "true" } else { "null" });
    let path = format!("/{}/_settings", world.index(projection));
    let (status, answer) = local::http::put(address, &path, &settings).await.unwrap();
    assert_eq!(status, 200, "{answer}");
}

/// A projection stands still while something happens that it must tell; then it goes on.
async fn stands_still(
    world: &World,
    projection: &str,
    order_id: &str,
    late: &[Asked],
    happens: impl AsyncFn(),
) {
    all_say(&world.queries(), order_id, is_up_to_date).await;
    let mut names = Vec::new();
    for asked in ALL {
        names.push(ask(&world.queries(), asked, order_id).await.1);
    }
    block(world, projection, true).await;
    happens().await;
    let head = head(world).await;
    for (asked, name) in ALL.into_iter().zip(&names) {
        testing::until(PATIENCE, "the answer says what it includes", async || {
            let (freshness, now) = ask(&world.queries(), asked, order_id).await;
            let known = freshness.head_position >= head;
            let said = if late.contains(&asked) {
                assert!(freshness.position < head && now == *name, "{asked:?}: {now:?}, {freshness:?}");
                known && freshness.lag_seconds > 0.0
            } else {
                known && is_up_to_date(&freshness)
            };
            said.then_some(())
        })
        .await;
    }
    block(world, projection, false).await;
    all_say(&world.queries(), order_id, |freshness| freshness.position >= head && is_up_to_date(freshness))
        .await;
    for (asked, name) in ALL.into_iter().zip(names) {
        let (_, now) = ask(&world.queries(), asked, order_id).await;
        let renamed = !name.is_empty() && late.contains(&asked) && projection != "orders";
        assert_eq!(now != name, renamed, "{asked:?}: {now:?} after {name:?}");
    }
}

#[tokio::test]
async fn an_answer_is_as_old_as_the_oldest_projection_in_it() {
    let world = World::start().await;
    let order_id = world.create(create(1)).await.order_id;
    // Shown apart from the name in the order from now on.
    let token = world.put_customer("17850", "Ada King").await;
    world.order(&order_id, &token).await.unwrap();
    stands_still(&world, "customers", &order_id, &[Asked::Get, Asked::ByCustomer], async || {
        world.put_customer("17850", "Grace Hopper").await;
    })
    .await;
    stands_still(&world, "products", &order_id, &[Asked::ByProduct], async || {
        world.put_product("71053", "RED METAL LANTERN").await;
        world.put_product("85123A", "RED HANGING HEART T-LIGHT HOLDER").await;
    })
    .await;
    stands_still(&world, "orders", &order_id, &ALL, async || {
        world.create(create(2)).await;
    })
    .await;
}
