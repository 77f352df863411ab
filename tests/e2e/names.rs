//! Names of customers and products that were changed: with the tokens of the changes every question at every copy shows them, whoever
//! projects them, and whichever index they come from.

use std::sync::atomic::{AtomicUsize, Ordering};

use local::testing;
use proto::reason::Reason;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::rebuild::State;
use proto::v1::*;
use read_service::lease::{RANGES, range_of};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::questions::Queries;
use crate::world::{PATIENCE, Running, World, create, item};

const PROJECTIONS: [&str; 2] = ["customers", "products"];

/// A customer and a product of each range of slices, and an order of that product by that customer.
struct Named {
    customer_id: String,
    product_id: String,
    order: OrderReceipt,
}

/// A key whose stream lies in this range.
fn key_in(category: StreamCategory, range: usize) -> String {
    let lies = |key: &String| range_of(category, key) == range;
    (10_000..20_000).map(|number| number.to_string()).find(lies).unwrap()
}

async fn named(world: &World) -> Vec<Named> {
    let mut all = Vec::new();
    for range in 0..RANGES {
        let customer_id = key_in(StreamCategory::Customer, range);
        let product_id = key_in(StreamCategory::Product, range);
        world.put_customer(&customer_id, "Nobody").await;
        world.put_product(&product_id, "NOTHING").await;
        let items = vec![item(&product_id, 1, 100)];
        let order = CreateOrderRequest { customer_id: customer_id.clone(), items, ..create(1) };
        all.push(Named { order: world.create(order).await, customer_id, product_id });
    }
    // The tokens say nothing of the orders: those are to be found before.
    world.settle().await;
    all
}

/// What the row of this key is called.
async fn row_name(
    queries: &Queries,
    group_by: GroupBy,
    key: &str,
    consistency: Option<Consistency>,
) -> Result<String, Status> {
    let report = GetSalesReportRequest {
        group_by: group_by.into(),
        currency_code: "GBP".into(),
        limit: 1_000,
        consistency,
        ..Default::default()
    };
    let answer = queries.clone().get_sales_report(report).await?.into_inner();
    assert!(!answer.freshness.unwrap().stale);
    Ok(answer.rows.into_iter().find(|row| row.key == key).unwrap().name)
}

/// Asks all four questions with these tokens: each shows the names, or says that it cannot yet.
async fn shows(
    queries: &Queries,
    of: &Named,
    names: [Option<&str>; 2],
    tokens: &[String],
) -> Result<(), Status> {
    let Named { customer_id, product_id, order } = of;
    let consistency = Some(Consistency { tokens: tokens.to_vec(), ..Default::default() });
    let get = GetOrderRequest {
        order_id: order.order_id.clone(),
        consistency: consistency.clone(),
        ..Default::default()
    };
    let answer = queries.clone().get_order(get).await?.into_inner();
    assert!(!answer.freshness.unwrap().stale);
    if let Some(name) = names[0] {
        assert_eq!(answer.order.unwrap().customer_current_name, name);
        assert_eq!(row_name(queries, GroupBy::Customer, customer_id, consistency.clone()).await?, name);
    }
    if let Some(name) = names[1] {
        assert_eq!(row_name(queries, GroupBy::Product, product_id, consistency.clone()).await?, name);
    }

    let list = ListOrdersRequest {
        customer_id: customer_id.clone(),
        consistency: consistency.clone(),
        ..Default::default()
    };
    let listed = queries.clone().list_orders(list).await?.into_inner();
    assert_eq!((listed.orders[0].version, listed.freshness.unwrap().stale), (order.version, false));
    let search = SearchOrdersRequest { query: order.order_id.clone(), consistency, ..Default::default() };
    let found = queries.clone().search_orders(search).await?.into_inner();
    assert_eq!((found.hits.len(), found.freshness.unwrap().stale), (1, false));
    Ok(())
}

/// Changes names until it is over, and looks for each at the next copy, which may say for a while that it cannot show it.
async fn renames(
    world: &World,
    copies: &[Queries],
    all: &[Named],
    (done, over): (&AtomicUsize, &CancellationToken),
    may_be_stale: bool,
) {
    for (number, named) in all.iter().cycle().enumerate() {
        if over.is_cancelled() {
            return;
        }
        let (customer, product) = (format!("Ada the {number}th"), format!("LANTERN {number}"));
        let tokens = [
            world.put_customer(&named.customer_id, &customer).await,
            world.put_product(&named.product_id, &product).await,
        ];
        // Both, or one of them by itself.
        let (names, tokens) = match number % 3 {
            0 => ([Some(customer.as_str()), None], &tokens[..1]),
            1 => ([None, Some(product.as_str())], &tokens[1..]),
            _ => ([Some(customer.as_str()), Some(product.as_str())], &tokens[..]),
        };
        // Another copy each time it comes round.
        let queries = &copies[(number + number / all.len()) % copies.len()];
        let shown = testing::until(PATIENCE, "the names are shown", async || {
            match shows(queries, named, names, tokens).await {
                Err(status) if may_be_stale && Reason::of(&status) == Some(Reason::Stale) => None,
                told => Some(told),
            }
        });
        shown.await.unwrap();
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until so many more names were changed and seen.
async fn go_on(done: &AtomicUsize, more: usize) {
    let enough = done.load(Ordering::SeqCst) + more;
    testing::until(2 * PATIENCE, "names are changed and seen", async || {
        (done.load(Ordering::SeqCst) >= enough).then_some(())
    })
    .await;
}

/// Builds it again, to the end.
async fn rebuilt(world: &World, projection: &str) {
    let mut admin = world.admin();
    let request = StartRebuildRequest { projection: projection.into(), ..Default::default() };
    let rebuild_id = admin.start_rebuild(request).await.unwrap().into_inner().rebuild.unwrap().rebuild_id;
    let mut told = admin.watch_rebuild(WatchRebuildRequest { rebuild_id }).await.unwrap().into_inner();
    let mut last = None;
    while let Some(message) = told.message().await.unwrap() {
        last = message.rebuild;
    }
    assert_eq!(last.as_ref().unwrap().state(), State::Succeeded, "{last:?}");
}

/// A pair with a second copy of the read service, and what is renamed.
async fn two_copies() -> (World, Running, Vec<Named>) {
    let world = World::start().await;
    let second = world.another_read(&world.paths()).await;
    let all = named(&world).await;
    (world, second, all)
}

#[tokio::test]
async fn a_new_name_is_seen_at_every_copy_across_the_switch_of_a_rebuild() {
    let (world, second, all) = two_copies().await;
    let copies = [world.queries(), second.queries()];
    let (done, over) = (AtomicUsize::new(0), CancellationToken::new());
    let switches = async {
        go_on(&done, all.len()).await;
        tokio::join!(rebuilt(&world, PROJECTIONS[0]), rebuilt(&world, PROJECTIONS[1]));
        go_on(&done, all.len()).await;
        for projection in PROJECTIONS {
            let request = RollbackProjectionRequest { projection: projection.into() };
            second.admin().rollback_projection(request).await.unwrap();
        }
        go_on(&done, all.len()).await;
        over.cancel();
    };
    tokio::join!(switches, renames(&world, &copies, &all, (&done, &over), false));
    second.stop().await;
}

#[tokio::test]
async fn a_new_name_is_seen_at_every_copy_whoever_projects_it() {
    let (world, second, all) = two_copies().await;
    let copies = [world.queries(), second.queries()];
    let (done, over) = (AtomicUsize::new(0), CancellationToken::new());
    let owners = async {
        world.shared_by(&PROJECTIONS, 2).await;
        go_on(&done, all.len()).await;
        let leaving = world.another_read(&world.paths()).await;
        world.shared_by(&PROJECTIONS, 3).await;
        go_on(&done, all.len()).await;
        leaving.stop().await;
        world.shared_by(&PROJECTIONS, 2).await;
        go_on(&done, all.len()).await;
        let doomed: Running = world.doomed_read().await;
        world.shared_by(&PROJECTIONS, 3).await;
        go_on(&done, all.len()).await;
        doomed.kill();
        // All ranges, so those of the killed one, too.
        go_on(&done, all.len()).await;
        world.shared_by(&PROJECTIONS, 2).await;
        go_on(&done, all.len()).await;
        over.cancel();
    };
    tokio::join!(owners, renames(&world, &copies, &all, (&done, &over), true));
    second.stop().await;
}
