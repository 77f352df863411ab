//! Reports: sums against sums made by hand, borders of days and months, names of today.

use std::collections::{BTreeMap, HashSet};

use chrono::DateTime;
use chrono_tz::{TZ_VARIANTS, Tz};
use futures_util::future::join_all;
use proto::reason::Reason;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::recorded_event::Body;
use proto::v1::*;
use read_service::index::{Bulk, ItemOutcome};
use read_service::projection::{OrderDocument, Orders};
use tonic::Code;

use super::world::{DAY, HOUR, Sale, World, history, id, refusal};

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

/// A number that looks random, the same in every run.
fn spread(number: usize, salt: u64, below: u64) -> u64 {
    let mut x =
        (u64::try_from(number).unwrap() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt << 32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % below
}

/// Orders of thousands of customers and products: some large, most alike; placed whenever clocks change, or at any time since 1970.
fn many() -> Vec<OrderDocument> {
    let template = history([&Sale::number(0)]).folded::<Orders>(&id(0));
    let changes: Vec<_> = ZONES.iter().flat_map(|zone| clock_changes(*zone)).collect();
    let order = |number: usize| {
        let at = |salt, below| usize::try_from(spread(number, salt, below)).unwrap();
        let mut order = template.clone();
        order.order_id = id(number);
        order.customer_id = format!("C{}", at(1, 5_000));
        order.delivery_country = format!("Country {}", at(2, 300));
        if number.is_multiple_of(10) {
            order.currency = "EUR".into();
        }
        let line = order.lines.remove(0);
        for place in 0..=at(3, 4) {
            let mut line = line.clone();
            // Few products sell in many orders, twice in some of them; prices differ by little, so that many sums are equal.
            let of = |salt, below| spread(number * 8 + place, salt, below);
            line.product_id = format!("P{}", of(4, 1 + of(5, 3_000)));
            line.quantity = i32::try_from(1 + of(6, 3)).unwrap();
            line.unit_price = i64::try_from(if of(7, 50) == 0 { of(8, 1_000_000_000) } else { 100 }).unwrap();
            line.subtotal = i64::from(line.quantity) * line.unit_price;
            order.total += line.subtotal;
            order.unit_count += i64::from(line.quantity);
            order.lines.push(line);
        }
        order.total -= template.total;
        order.unit_count -= template.unit_count;
        order.item_count = i64::try_from(order.lines.len()).unwrap();
        order.placed_at = if number.is_multiple_of(2) {
            let change = changes[at(9, u64::try_from(changes.len()).unwrap())];
            change + i64::try_from(spread(number, 10, 4)).unwrap() * HOUR / 2
                - HOUR
                - i64::from(number.is_multiple_of(4))
        } else {
            i64::try_from(spread(number, 11, 1_700_000_000_000_000_000)).unwrap()
        };
        order
    };
    (0..20_000).map(order).collect()
}

/// Zones with days of 23 to 25 hours, a half hour of summer time, offsets of half and quarter hours, a midnight that is not
/// there, a day that is not there.
const ZONES: [Tz; 9] = [
    Tz::UTC,
    Tz::Europe__London,
    Tz::America__New_York,
    Tz::Asia__Kolkata,
    Tz::Asia__Kathmandu,
    Tz::Australia__Lord_Howe,
    Tz::America__St_Johns,
    Tz::America__Sao_Paulo,
    Tz::Pacific__Apia,
];

/// Moments between 1990 and 2020 at which the zone's offset changes, to the hour.
fn clock_changes(zone: Tz) -> Vec<i64> {
    let offset =
        |hour: i64| DateTime::from_timestamp(hour * 3_600, 0).unwrap().with_timezone(&zone).naive_local();
    let hours = 20 * 365 * 24..50 * 365 * 24;
    let changes = hours.filter(|hour| offset(hour + 1) - offset(*hour) != chrono::TimeDelta::hours(1));
    changes.map(|hour| (hour + 1) * HOUR).collect()
}

async fn store(world: &World, orders: &[OrderDocument]) {
    let index = format!("{}orders-v1-1", world.prefix);
    for orders in orders.chunks(2_000) {
        let mut bulk = Bulk::default();
        for order in orders {
            bulk.index(&order.order_id, order.version, order, "");
        }
        let outcomes = world.index.bulk(&index, &bulk.seal()).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == ItemOutcome::Applied));
    }
    world.index.refresh(&index).await.unwrap();
}

/// Revenue, orders and units by key, added one by one.
type Sums = BTreeMap<String, (i64, i64, i64)>;

fn added(orders: &[OrderDocument], group_by: GroupBy, zone: Tz) -> Sums {
    let mut sums = Sums::new();
    let mut add = |key: String, revenue, orders, units| {
        let sum = sums.entry(key).or_default();
        *sum = (sum.0 + revenue, sum.1 + orders, sum.2 + units);
    };
    for order in orders.iter().filter(|order| order.currency == "GBP") {
        let placed = DateTime::from_timestamp_nanos(order.placed_at).with_timezone(&zone);
        let key = match group_by {
            GroupBy::Day => placed.format("%Y-%m-%d").to_string(),
            GroupBy::Month => placed.format("%Y-%m").to_string(),
            GroupBy::DeliveryCountry => order.delivery_country.clone(),
            GroupBy::Customer => order.customer_id.clone(),
            GroupBy::Product | GroupBy::Unspecified => {
                let mut seen = HashSet::new();
                for line in &order.lines {
                    let first = i64::from(seen.insert(&line.product_id));
                    add(line.product_id.clone(), line.subtotal, first, line.quantity.into());
                }
                continue;
            }
        };
        add(key, order.total, 1, order.unit_count);
    }
    sums
}

#[tokio::test]
async fn reports_equal_what_is_added_one_by_one() {
    let world = World::of("added", &history([])).await;
    let orders = many();
    store(&world, &orders).await;
    let sold = orders.iter().filter(|order| order.currency == "GBP");
    let total = sold.fold((0, 0, 0), |(revenue, count, units), order| {
        (revenue + order.total, count + 1, units + order.unit_count)
    });
    for (group_by, least) in
        [(GroupBy::DeliveryCountry, 300), (GroupBy::Customer, 4_000), (GroupBy::Product, 1_500)]
    {
        let mut rows: Vec<_> = added(&orders, group_by, Tz::UTC)
            .into_iter()
            .map(|(key, (revenue, orders, units))| row(&key, "", revenue, orders, units))
            .collect();
        rows.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
        assert!(rows.len() >= least, "many more than are shown: {}", rows.len());
        let revenues: HashSet<_> = rows.iter().map(|row| row.2).collect();
        assert!(group_by == GroupBy::DeliveryCountry || revenues.len() < rows.len() - 100, "many are equal");
        for limit in [1, 20, 1_000] {
            rows.truncate(1_000);
            let shown = rows[..rows.len().min(usize::try_from(limit).unwrap())].to_vec();
            let answer = seen(&world, GetSalesReportRequest { limit, ..request(group_by) }).await;
            assert_eq!(answer, (shown, total), "{group_by:?} {limit}");
        }
    }
    for zone in ZONES {
        for group_by in [GroupBy::Day, GroupBy::Month] {
            let rows = added(&orders, group_by, zone);
            let rows: Vec<_> = rows.iter().map(|(key, sum)| row(key, "", sum.0, sum.1, sum.2)).collect();
            let request = GetSalesReportRequest { time_zone: zone.name().into(), ..request(group_by) };
            assert_eq!(seen(&world, request).await, (rows, total), "{zone} {group_by:?}");
        }
    }
}

#[tokio::test]
async fn every_time_zone_is_known_or_refused() {
    let world = World::of("all-zones", &history([&Sale::number(1)])).await;
    let mut known = 0;
    for zones in TZ_VARIANTS.chunks(100) {
        let requests = zones.iter().map(|zone| {
            let time_zone = zone.name().to_owned();
            world.report(GetSalesReportRequest { time_zone, ..request(GroupBy::Day) })
        });
        for (zone, answer) in zones.iter().zip(join_all(requests).await) {
            if answer.is_ok() {
                known += 1;
            } else {
                let malformed = (Code::InvalidArgument, Reason::InvalidField, vec!["time_zone".to_owned()]);
                assert_eq!(refusal(answer), malformed, "{zone}");
            }
        }
    }
    assert!(known + 3 >= TZ_VARIANTS.len(), "{known} of {} are known", TZ_VARIANTS.len());
}

#[tokio::test]
async fn a_sum_is_exact_or_refused() {
    let largest_exact = (1_i64 << 53) - 1;
    let sale = |number, currency: &str, price| {
        let mut sale = Sale::number(number).only("A", "A", 1, price);
        sale.currency = currency.into();
        sale
    };
    let sales = [
        sale(1, "GBP", largest_exact - 1),
        sale(2, "GBP", 1),
        sale(3, "EUR", largest_exact),
        sale(4, "EUR", 1),
        sale(5, "USD", i64::MAX),
        sale(6, "JPY", i64::MAX),
        sale(7, "JPY", i64::MAX),
        sale(8, "CHF", 0),
    ];
    let world = World::of("exact", &history(&sales)).await;
    let too_large = (Code::FailedPrecondition, Reason::TotalOverflow, vec![]);
    for group_by in [GroupBy::Month, GroupBy::Customer, GroupBy::Product] {
        let mut wanted = request(group_by);
        let (rows, total) = seen(&world, wanted.clone()).await;
        assert_eq!((rows[0].2, total), (largest_exact, (largest_exact, 2, 2)));
        wanted.currency_code = "CHF".into();
        assert_eq!(seen(&world, wanted.clone()).await.1, (0, 1, 1));
        for currency in ["EUR", "USD", "JPY"] {
            wanted.currency_code = currency.into();
            assert_eq!(refusal(world.report(wanted.clone()).await), too_large, "{currency} {group_by:?}");
        }
    }
    // The orders themselves are shown to the last unit, and in order.
    let sort = OrderSort::TotalDesc.into();
    let largest = world.list(ListOrdersRequest { sort, page_size: 3, ..Default::default() }).await.unwrap();
    let totals = |page: &ListOrdersResponse| -> Vec<_> {
        page.orders.iter().map(|order| order.total.as_ref().unwrap().minor_units).collect()
    };
    assert_eq!(totals(&largest), [i64::MAX; 3]);
    let page_token = largest.next_page_token;
    let rest =
        world.list(ListOrdersRequest { sort, page_size: 9, page_token, ..Default::default() }).await.unwrap();
    assert_eq!(totals(&rest), [largest_exact, largest_exact - 1, 1, 1, 0]);
}
