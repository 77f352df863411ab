//! Lists: filters that hit, every order of rows, pages that neither repeat nor skip.

use proto::v1::*;
use read_service::index::{Bulk, ItemOutcome};
use read_service::projection::Orders;

use super::world::{DAY, HOUR, Sale, World, history, id, ids_of, time};

/// 60 orders with many ties in every sort key.
fn many() -> Vec<Sale> {
    (0..60)
        .map(|i| {
            let mut sale = Sale::number(i);
            sale.placed_at = DAY + i64::try_from(i % 4).unwrap() * HOUR;
            sale.only("85123A", "WHITE HANGING HEART", i32::try_from(1 + i % 3).unwrap(), 100)
        })
        .collect()
}

fn expected(sales: &[Sale], sort: OrderSort) -> Vec<String> {
    let mut rows: Vec<_> = sales.iter().enumerate().collect();
    rows.sort_by_key(|(number, sale)| {
        let first = match sort {
            OrderSort::Unspecified | OrderSort::PlacedTimeDesc => -sale.placed_at,
            OrderSort::PlacedTimeAsc => sale.placed_at,
            OrderSort::TotalDesc => -sale.total(),
            OrderSort::TotalAsc => sale.total(),
            // Written one after the other, each later than the one before.
            OrderSort::UpdateTimeDesc => -i64::try_from(*number).unwrap(),
        };
        (first, sale.id.clone())
    });
    rows.into_iter().map(|(_, sale)| sale.id.clone()).collect()
}

const SORTS: [OrderSort; 6] = [
    OrderSort::Unspecified,
    OrderSort::PlacedTimeDesc,
    OrderSort::PlacedTimeAsc,
    OrderSort::TotalDesc,
    OrderSort::TotalAsc,
    OrderSort::UpdateTimeDesc,
];

#[tokio::test]
async fn pages_are_exact_in_every_sort() {
    let sales = many();
    let world = World::of("pages", &history(&sales)).await;
    for sort in SORTS {
        let request = ListOrdersRequest { sort: sort.into(), page_size: 7, ..Default::default() };
        assert_eq!(world.all_pages(request.clone()).await, expected(&sales, sort), "{sort:?}");
        let whole = world.list(ListOrdersRequest { page_size: 60, ..request.clone() }).await.unwrap();
        assert_eq!((whole.total_size, whole.total_is_exact), (60, true));
        assert!(whole.next_page_token.is_empty(), "the last page has no token");
        let skipped = world.list(ListOrdersRequest { offset: 55, ..request }).await.unwrap();
        assert_eq!(ids_of(&skipped.orders), expected(&sales, sort)[55..]);
    }
}

#[tokio::test]
async fn a_token_goes_on_after_an_offset_and_with_another_page_size() {
    let sales = many();
    let world = World::of("offset", &history(&sales)).await;
    let request = ListOrdersRequest { page_size: 5, offset: 10, ..Default::default() };
    let first = world.list(request.clone()).await.unwrap();
    let next = ListOrdersRequest { page_size: 8, offset: 0, page_token: first.next_page_token, ..request };
    let next = world.list(next).await.unwrap();
    assert_eq!(ids_of(&next.orders), expected(&sales, OrderSort::Unspecified)[15..23]);
}

#[tokio::test]
async fn pages_hold_while_orders_are_written() {
    let sales = many();
    let mut history = history(&sales);
    let world = World::of("writing", &history).await;
    for (round, sort) in SORTS.into_iter().enumerate().take(5) {
        let mut request = ListOrdersRequest { sort: sort.into(), page_size: 9, ..Default::default() };
        let mut seen = Vec::new();
        for page in 0_usize.. {
            let answer = world.list(request.clone()).await.unwrap();
            seen.extend(ids_of(&answer.orders));
            if answer.next_page_token.is_empty() {
                break;
            }
            request.page_token = answer.next_page_token;
            // Before, among and behind the rows already shown.
            for part in 0..3 {
                let mut sale = Sale::number(1_000 + round * 100 + page * 3 + part);
                sale.placed_at = DAY + i64::try_from(part).unwrap() * 2 * HOUR - HOUR;
                sale.put_into(&mut history);
            }
            world.feed.publish(&history);
            world.caught_up(&history).await;
        }
        let old: Vec<_> = seen.into_iter().filter(|seen| sales.iter().any(|sale| sale.id == *seen)).collect();
        assert_eq!(old, expected(&sales, sort), "{sort:?}");
    }
}

#[tokio::test]
async fn every_filter_hits() {
    let mut sales: Vec<_> = (0..5).map(Sale::number).collect();
    sales[0].customer_id = "12346".into();
    sales[1].country = "EIRE".into();
    sales[2].status = OrderStatus::Shipped;
    sales[3].placed_at = DAY + 1;
    sales[4] = sales[4].clone().line("POST", "POSTAGE", 1, 1_800);
    let world = World::of("filters", &history(&sales)).await;
    let all = ListOrdersRequest { sort: OrderSort::PlacedTimeAsc.into(), ..Default::default() };
    let shipped = OrderStatus::Shipped.into();
    for (request, expected) in [
        (ListOrdersRequest { customer_id: "12346".into(), ..all.clone() }, vec![0]),
        (ListOrdersRequest { delivery_country: "EIRE".into(), ..all.clone() }, vec![1]),
        (ListOrdersRequest { statuses: vec![shipped], ..all.clone() }, vec![2]),
        (
            ListOrdersRequest { statuses: vec![shipped, OrderStatus::Submitted.into()], ..all.clone() },
            vec![0, 1, 2, 4, 3],
        ),
        (ListOrdersRequest { placed_from: time(DAY + 1), ..all.clone() }, vec![3]),
        (ListOrdersRequest { placed_to: time(DAY + 1), ..all.clone() }, vec![0, 1, 2, 4]),
        (ListOrdersRequest { placed_from: time(DAY), placed_to: time(DAY), ..all.clone() }, vec![]),
        (
            ListOrdersRequest { placed_from: time(-1), placed_to: time(i64::MAX), ..all.clone() },
            vec![0, 1, 2, 4, 3],
        ),
        (ListOrdersRequest { product_id: "POST".into(), ..all.clone() }, vec![4]),
        (ListOrdersRequest { product_id: "POST".into(), customer_id: "12346".into(), ..all.clone() }, vec![]),
    ] {
        let answer = world.list(request.clone()).await.unwrap();
        let expected: Vec<_> = expected.into_iter().map(id).collect();
        assert_eq!(ids_of(&answer.orders), expected, "{request:?}");
        assert_eq!(answer.total_size, i64::try_from(expected.len()).unwrap());
    }
}

#[tokio::test]
async fn a_summary_is_whole() {
    let mut sale = Sale::number(1).line("POST", "POSTAGE", 2, 1_800);
    sale.status = OrderStatus::Shipped;
    sale.placed_at = DAY + 123_456_789;
    let world = World::of("summary", &history([&sale])).await;
    let answer = world.list(ListOrdersRequest::default()).await.unwrap();
    let update_time = answer.orders[0].update_time;
    let total = Some(Money { currency_code: "GBP".into(), minor_units: 3_700 });
    let expected = OrderSummary {
        order_id: id(1),
        version: 6,
        reference: "R-1".into(),
        customer_id: "17850".into(),
        customer_name: "Jürgen Müller".into(),
        status: OrderStatus::Shipped.into(),
        total,
        item_count: 2,
        delivery_country: "United Kingdom".into(),
        placed_time: time(DAY + 123_456_789),
        update_time,
    };
    assert_eq!(answer.orders, [expected]);
    assert!(update_time.is_some());
}

/// Puts orders with these numbers straight into the index, where they can be found at once.
async fn store(world: &World, numbers: std::ops::Range<usize>) {
    let mut order = history([&Sale::number(0)]).folded::<Orders>(&id(0));
    let mut bulk = Bulk::default();
    for number in numbers {
        order.order_id = id(number);
        bulk.index(&order.order_id, order.version, &order, "heart");
    }
    let index = format!("{}orders-v1-1", world.prefix);
    let outcomes = world.index.bulk(&index, &bulk.seal()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == ItemOutcome::Applied));
    world.index.refresh(&index).await.unwrap();
}

#[tokio::test]
async fn totals_are_exact_to_ten_thousand_and_honest_beyond() {
    let world = World::of("beyond", &history([&Sale::number(0)])).await;
    store(&world, 1..10_000).await;
    let last = ListOrdersRequest { offset: 9_500, page_size: 500, ..Default::default() };
    let page = world.list(last.clone()).await.unwrap();
    assert_eq!((page.total_size, page.total_is_exact), (10_000, true));
    assert_eq!((page.orders.len(), page.next_page_token.as_str()), (500, ""));

    store(&world, 10_000..10_002).await;
    let page = world.list(last).await.unwrap();
    assert_eq!((page.total_size, page.total_is_exact, page.orders.len()), (10_000, false, 500));
    let page_token = page.next_page_token;
    let beyond = world
        .list(ListOrdersRequest { page_token, page_size: i32::MAX, ..Default::default() })
        .await
        .unwrap();
    assert_eq!(ids_of(&beyond.orders), [id(10_000), id(10_001)]);
    let many = world.list(ListOrdersRequest { page_size: i32::MAX, ..Default::default() }).await.unwrap();
    assert_eq!(many.orders.len(), 500);
}
