//! Reports: sums against sums made by hand, borders of days and months, names of today.

use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::recorded_event::Body;
use proto::v1::*;

use super::world::{DAY, HOUR, Sale, World, history};

fn sold() -> Vec<Sale> {
    let at = |number: usize, hours: i64| {
        let mut sale = Sale::number(number);
        sale.placed_at = DAY + hours * HOUR;
        sale
    };
    let mut sales = vec![
        at(1, 0).only("A", "Old A", 2, 100),
        // Half past eleven at night in London is the next day, and the next month, in Berlin.
        at(2, 47).only("A", "Old A", 1, 1_000).line("B", "B", 3, 10),
        at(3, 48).only("B", "B", 1, 5_000).line("B", "B", 1, 5_000),
        at(4, 0).only("A", "Old A", 9, 900),
        at(5, 0).only("A", "Old A", 9, 900),
        at(6, 0).only("A", "Old A", 1, 7),
    ];
    sales[1].placed_at += HOUR / 2;
    sales[1].customer_id = "12346".into();
    sales[1].country = "EIRE".into();
    sales[2].country = "EIRE".into();
    sales[3].status = OrderStatus::Draft;
    sales[4].status = OrderStatus::Cancelled;
    sales[5].currency = "EUR".into();
    sales
}

async fn world(name: &str) -> World {
    let mut history = history(&sold());
    history.customer("17850", "Jürgen Müller").customer("12346", "Zoë");
    let registered = ProductRegistered { product_id: "A".into(), name: "Old A".into() };
    let renamed = ProductRenamed { product_id: "A".into(), name: "New A".into() };
    history.add(StreamCategory::Product, "A", Some(Body::ProductRegistered(registered)));
    history.add(StreamCategory::Product, "A", Some(Body::ProductRenamed(renamed)));
    let world = World::of(name, &history).await;
    // Names come from two more projections: a token waits for them.
    let tokens = vec![
        super::world::token(StreamCategory::Product, "A", 2),
        super::world::token(StreamCategory::Customer, "12346", 1),
    ];
    let consistency = super::world::consistency(tokens, consistency::OnStale::Unspecified);
    world.report(GetSalesReportRequest { consistency, ..request(GroupBy::Day) }).await.unwrap();
    world
}

fn request(group_by: GroupBy) -> GetSalesReportRequest {
    GetSalesReportRequest { group_by: group_by.into(), currency_code: "GBP".into(), ..Default::default() }
}

/// Key, name, revenue, orders, units of each row, and the same of the total.
type Seen = (Vec<(String, String, i64, i64, i64)>, (i64, i64, i64));

async fn seen(world: &World, request: GetSalesReportRequest) -> Seen {
    let currency = request.currency_code.clone();
    let answer = world.report(request).await.unwrap();
    let money = |row: &SalesRow| {
        let revenue = row.revenue.clone().unwrap();
        assert_eq!(revenue.currency_code, currency);
        revenue.minor_units
    };
    let total = answer.total.unwrap();
    let rows = answer.rows.iter();
    let rows =
        rows.map(|row| (row.key.clone(), row.name.clone(), money(row), row.order_count, row.unit_count));
    (rows.collect(), (money(&total), total.order_count, total.unit_count))
}

fn row(key: &str, name: &str, revenue: i64, orders: i64, units: i64) -> (String, String, i64, i64, i64) {
    (key.into(), name.into(), revenue, orders, units)
}

const TOTAL: (i64, i64, i64) = (11_230, 3, 8);

#[tokio::test]
async fn every_grouping() {
    let world = world("groups").await;
    for (group_by, rows) in [
        (
            GroupBy::Day,
            vec![
                row("2011-11-29", "", 200, 1, 2),
                row("2011-11-30", "", 1_030, 1, 4),
                row("2011-12-01", "", 10_000, 1, 2),
            ],
        ),
        (GroupBy::Month, vec![row("2011-11", "", 1_230, 2, 6), row("2011-12", "", 10_000, 1, 2)]),
        (GroupBy::DeliveryCountry, vec![row("EIRE", "", 11_030, 2, 6), row("United Kingdom", "", 200, 1, 2)]),
        (
            GroupBy::Customer,
            vec![row("17850", "Jürgen Müller", 10_200, 2, 4), row("12346", "Zoë", 1_030, 1, 4)],
        ),
        (GroupBy::Product, vec![row("B", "", 10_030, 2, 5), row("A", "New A", 1_200, 2, 3)]),
    ] {
        assert_eq!(seen(&world, request(group_by)).await, (rows, TOTAL), "{group_by:?}");
    }
}

#[tokio::test]
async fn days_and_months_end_where_the_caller_lives() {
    let world = world("zones").await;
    let berlin = |group_by| GetSalesReportRequest { time_zone: "Europe/Berlin".into(), ..request(group_by) };
    let days = vec![row("2011-11-29", "", 200, 1, 2), row("2011-12-01", "", 11_030, 2, 6)];
    assert_eq!(seen(&world, berlin(GroupBy::Day)).await, (days, TOTAL));
    let months = vec![row("2011-11", "", 200, 1, 2), row("2011-12", "", 11_030, 2, 6)];
    assert_eq!(seen(&world, berlin(GroupBy::Month)).await, (months, TOTAL));
    let honolulu = GetSalesReportRequest { time_zone: "HST".into(), ..request(GroupBy::Day) };
    let days = vec![row("2011-11-28", "", 200, 1, 2), row("2011-11-30", "", 11_030, 2, 6)];
    assert_eq!(seen(&world, honolulu).await, (days, TOTAL));
}

#[tokio::test]
async fn the_largest_rows_and_the_total_of_all() {
    let world = world("largest").await;
    let one = |group_by| GetSalesReportRequest { limit: 1, ..request(group_by) };
    assert_eq!(seen(&world, one(GroupBy::Product)).await, (vec![row("B", "", 10_030, 2, 5)], TOTAL));
    assert_eq!(
        seen(&world, one(GroupBy::DeliveryCountry)).await,
        (vec![row("EIRE", "", 11_030, 2, 6)], TOTAL)
    );
    // By time a limit does not cut.
    assert_eq!(seen(&world, one(GroupBy::Day)).await.0.len(), 3);
    let more = GetSalesReportRequest { limit: 1_000_000, ..request(GroupBy::Customer) };
    assert_eq!(seen(&world, more).await.0.len(), 2);
}

#[tokio::test]
async fn currencies_statuses_and_times_choose() {
    let world = world("chosen").await;
    let euro = GetSalesReportRequest { currency_code: "EUR".into(), ..request(GroupBy::Month) };
    assert_eq!(seen(&world, euro).await, (vec![row("2011-11", "", 7, 1, 1)], (7, 1, 1)));
    let statuses = vec![OrderStatus::Draft.into(), OrderStatus::Cancelled.into()];
    let unsold = GetSalesReportRequest { statuses, ..request(GroupBy::Month) };
    assert_eq!(seen(&world, unsold).await, (vec![row("2011-11", "", 16_200, 2, 18)], (16_200, 2, 18)));
    let (placed_from, placed_to) = (super::world::time(DAY + 1), super::world::time(DAY + 48 * HOUR));
    let between = GetSalesReportRequest { placed_from, placed_to, ..request(GroupBy::Day) };
    assert_eq!(seen(&world, between).await, (vec![row("2011-11-30", "", 1_030, 1, 4)], (1_030, 1, 4)));
    // A half-open range is a range: Elasticsearch fails a histogram over nanoseconds that has an upper bound alone.
    let until = GetSalesReportRequest { placed_to, ..request(GroupBy::Month) };
    let since = GetSalesReportRequest { placed_from, ..request(GroupBy::Month) };
    assert_eq!(seen(&world, until).await, (vec![row("2011-11", "", 1_230, 2, 6)], (1_230, 2, 6)));
    let later = (vec![row("2011-11", "", 1_030, 1, 4), row("2011-12", "", 10_000, 1, 2)], (11_030, 2, 6));
    assert_eq!(seen(&world, since).await, later);
    let none = GetSalesReportRequest { currency_code: "USD".into(), ..request(GroupBy::Product) };
    assert_eq!(seen(&world, none).await, (vec![], (0, 0, 0)));
}
