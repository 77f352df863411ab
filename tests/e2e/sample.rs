//! The bundled sample of real orders, imported twice, against sums computed straight from the file.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use local::import;
use local::screen::Screen;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::*;
use tokio_util::sync::CancellationToken;

use crate::world::World;

fn sample() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/local/sample/online-retail-sample.csv.gz")
}

/// What the file says, computed without any code of the pair.
#[derive(Default)]
struct Expected {
    orders: HashSet<String>,
    lines: u64,
    units: i64,
    revenue: i64,
    by_country: BTreeMap<String, i64>,
    by_month: BTreeMap<String, i64>,
    by_product: BTreeMap<String, i64>,
}

fn expected() -> Expected {
    let file = flate2::read::GzDecoder::new(std::fs::File::open(sample()).unwrap());
    let mut expected = Expected::default();
    for record in csv::Reader::from_reader(file).records() {
        let record = record.unwrap();
        let [invoice, stock_code, _, quantity, date, price, customer, country] =
            std::array::from_fn(|i| record[i].to_owned());
        let quantity: i64 = quantity.parse().unwrap();
        let price: f64 = price.parse().unwrap();
        if invoice.starts_with('C') || quantity <= 0 || price <= 0.0 || customer.is_empty() {
            continue;
        }
        #[expect(clippy::cast_possible_truncation, reason = "prices of the sample are small")]
        let revenue = quantity * (price * 100.0 + 0.5).floor() as i64;
        expected.orders.insert(invoice);
        expected.lines += 1;
        expected.units += quantity;
        expected.revenue += revenue;
        *expected.by_country.entry(country).or_default() += revenue;
        *expected.by_month.entry(date[..7].to_owned()).or_default() += revenue;
        *expected.by_product.entry(stock_code).or_default() += revenue;
    }
    expected
}

async fn report(world: &World, group_by: GroupBy) -> GetSalesReportResponse {
    let request = GetSalesReportRequest {
        group_by: group_by.into(),
        currency_code: "GBP".into(),
        limit: 1_000,
        ..Default::default()
    };
    world.queries().get_sales_report(request).await.unwrap().into_inner()
}

fn revenues(report: &GetSalesReportResponse) -> BTreeMap<String, i64> {
    let revenue = |row: &SalesRow| row.revenue.as_ref().unwrap().minor_units;
    report.rows.iter().map(|row| (row.key.clone(), revenue(row))).collect()
}

#[tokio::test]
async fn the_sample_is_imported_once_and_its_reports_are_its_sums() {
    let world = World::start().await;
    let expected = expected();
    assert!(expected.orders.len() >= 500);
    for run in 0..2 {
        import::run(&sample(), &world.write_url(), &Screen::hidden(), &CancellationToken::new())
            .await
            .unwrap();
        world.settle().await;
        let orders = world.all_orders(OrderSort::Unspecified, 500).await;
        let references: HashSet<_> = orders.iter().map(|order| order.reference.clone()).collect();
        assert_eq!(orders.len(), expected.orders.len(), "run {run}: no double");
        assert_eq!(references, expected.orders);
        assert!(orders.iter().all(|order| order.status() == OrderStatus::Submitted));
    }
    let by_country = report(&world, GroupBy::DeliveryCountry).await;
    assert_eq!(revenues(&by_country), expected.by_country);
    let total = by_country.total.unwrap();
    assert_eq!(total.revenue.unwrap().minor_units, expected.revenue);
    assert_eq!(total.order_count, i64::try_from(expected.orders.len()).unwrap());
    assert_eq!(total.unit_count, expected.units);
    assert_eq!(revenues(&report(&world, GroupBy::Month).await), expected.by_month);
    let by_product = report(&world, GroupBy::Product).await;
    let top: Vec<_> = by_product.rows.iter().map(|row| row.revenue.as_ref().unwrap().minor_units).collect();
    let mut all: Vec<_> = expected.by_product.values().copied().collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(top, all[..top.len()], "the top products, largest first");
    assert!(by_product.rows.iter().all(|row| !row.name.is_empty()));
}
