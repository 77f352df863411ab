//! The body of `GetSalesReport`, and its rows out of the answer.
//!
//! Elasticsearch adds in doubles: a sum is exact while it and the sums on its way stay below 2^53, which is
//! 90,071,992,547,409.91 in a currency of two decimals. No amount is negative, so all of them do where the total does; where it
//! does not, there is no report. Groups are exact too: an index has one shard, so the largest are found among all of them.

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::Filter;

/// From here on doubles leave out whole numbers: 2^53.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// There are no rows.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A sum is too large to be exact.
    #[error("a sum passes 2^53")]
    TooLarge,
    /// The answer is not one to [`body`].
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum GroupBy {
    Day,
    Month,
    DeliveryCountry,
    Customer,
    Product,
}

/// One row of a report; the total is one without a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Day "2011-11-29", month "2011-11", country, customer or product.
    pub key: String,
    /// Minor units.
    pub revenue: i64,
    /// Orders, each counted once.
    pub orders: i64,
    /// Sum of quantities.
    pub units: i64,
}

/// The report over all orders that pass `filter`: by time all rows that hold orders, oldest first; else the `limit` rows with
/// the largest revenue, ties by key. `time_zone` is an IANA name and sets the borders of days and months.
#[must_use]
pub fn body(group_by: GroupBy, filter: &Filter, limit: u32, time_zone: &str) -> Value {
    let groups = match group_by {
        GroupBy::Day => by_time("day", "yyyy-MM-dd", time_zone),
        GroupBy::Month => by_time("month", "yyyy-MM", time_zone),
        GroupBy::DeliveryCountry => by_field("delivery_country", limit),
        GroupBy::Customer => by_field("customer_id", limit),
        GroupBy::Product => by_product(limit),
    };
    let mut aggregations = order_sums();
    aggregations["rows"] = groups;
    json!({
        "size": 0,
        "query": { "bool": { "filter": filter.clauses() } },
        "track_total_hits": true,
        "aggs": aggregations,
    })
}

fn order_sums() -> Value {
    json!({ "revenue": { "sum": { "field": "total" } }, "units": { "sum": { "field": "unit_count" } } })
}

fn by_time(interval: &str, format: &str, time_zone: &str) -> Value {
    json!({
        "date_histogram": {
            "field": "placed_at",
            "calendar_interval": interval,
            "time_zone": time_zone,
            "format": format,
            "min_doc_count": 1,
        },
        "aggs": order_sums(),
    })
}

fn largest(field: &str, limit: u32) -> Value {
    json!({ "field": field, "size": limit, "order": [{ "revenue": "desc" }, { "_key": "asc" }] })
}

fn by_field(field: &str, limit: u32) -> Value {
    json!({ "terms": largest(field, limit), "aggs": order_sums() })
}

fn by_product(limit: u32) -> Value {
    let sums = json!({
        "revenue": { "sum": { "field": "lines.subtotal" } },
        "units": { "sum": { "field": "lines.quantity" } },
        "orders": { "reverse_nested": {} },
    });
    json!({
        "nested": { "path": "lines" },
        "aggs": { "rows": { "terms": largest("lines.product_id", limit), "aggs": sums } },
    })
}

#[derive(Deserialize)]
struct Answer {
    revenue: Sum,
    units: Sum,
    rows: Groups,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Groups {
    Root { buckets: Vec<Bucket> },
    Nested { rows: Buckets },
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<Bucket>,
}

#[derive(Deserialize)]
struct Bucket {
    #[serde(default)]
    key_as_string: Option<String>,
    key: Value,
    doc_count: i64,
    revenue: Sum,
    units: Sum,
    orders: Option<Count>,
}

#[derive(Deserialize)]
struct Sum {
    value: f64,
}

#[derive(Deserialize)]
struct Count {
    doc_count: i64,
}

impl Sum {
    #[expect(clippy::cast_possible_truncation, reason = "sums of whole numbers below 2^53")]
    fn whole(&self) -> i64 {
        self.value.round() as i64
    }
}

/// The rows and the total out of the aggregations of an answer that matched `orders` orders.
///
/// # Errors
/// [`ReportError`].
pub fn rows(aggregations: Value, orders: i64) -> Result<(Vec<Row>, Row), ReportError> {
    let answer: Answer = serde_json::from_value(aggregations)?;
    if answer.revenue.value >= INEXACT || answer.units.value >= INEXACT {
        return Err(ReportError::TooLarge);
    }
    let buckets = match answer.rows {
        Groups::Root { buckets } | Groups::Nested { rows: Buckets { buckets } } => buckets,
    };
    let total =
        Row { key: String::new(), revenue: answer.revenue.whole(), orders, units: answer.units.whole() };
    Ok((buckets.into_iter().map(Bucket::row).collect(), total))
}

impl Bucket {
    fn row(self) -> Row {
        let key = match (self.key_as_string, self.key) {
            (Some(text), _) | (None, Value::String(text)) => text,
            (None, other) => other.to_string(),
        };
        Row {
            key,
            revenue: self.revenue.whole(),
            orders: self.orders.map_or(self.doc_count, |orders| orders.doc_count),
            units: self.units.whole(),
        }
    }
}
