//! Questions to Elasticsearch: a typed, validated request becomes a JSON body, an answer's JSON becomes rows.
//!
//! Everything here is a pure function. A caller's text only ever stands as the value of a term, prefix, fuzzy or range
//! query on a named field; no text is parsed as a query language, and none becomes the name of a field or an index.
//! Every order of rows ends in `order_id`, so it is total and `search_after` pages neither repeat nor skip.

use serde_json::{Value, json};

use crate::projection::{Status, time_text};

pub mod list;
pub mod search;
pub mod highlight;
pub mod report;

/// Totals are counted exactly up to here; beyond it they are a lower bound.
pub const COUNTED: u32 = 10_000;
/// Last row that an offset can reach; the server's own limit (`max_result_window`).
pub const WINDOW: u32 = 10_000;

/// Which orders; an empty or absent part lets all pass. Times are nanoseconds since 1970, amounts minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the contract's requests")]
pub struct Filter {
    pub customer_id: String,
    pub statuses: Vec<Status>,
    pub delivery_country: String,
    pub product_id: String,
    pub currency: String,
    /// Placed at or after.
    pub placed_from: Option<i64>,
    /// Placed before.
    pub placed_to: Option<i64>,
    /// Total at or above.
    pub min_total: Option<i64>,
    /// Total at or below.
    pub max_total: Option<i64>,
}

impl Filter {
    /// The clauses of this filter, each of which must hold.
    fn clauses(&self) -> Vec<Value> {
        let mut clauses = Vec::new();
        for (field, value) in [
            ("customer_id", &self.customer_id),
            ("delivery_country", &self.delivery_country),
            ("currency", &self.currency),
        ] {
            if !value.is_empty() {
                clauses.push(json!({ "term": { field: value } }));
            }
        }
        if !self.statuses.is_empty() {
            let names: Vec<_> = self.statuses.iter().map(|status| status.name()).collect();
            clauses.push(json!({ "terms": { "status": names } }));
        }
        if !self.product_id.is_empty() {
            let term = json!({ "term": { "lines.product_id": self.product_id } });
            clauses.push(json!({ "nested": { "path": "lines", "query": term } }));
        }
        // No order is placed before 1970, and the field holds no earlier time: an earlier bound is moved there. An upper bound
        // always comes with a lower one: without it a date_histogram over nanoseconds rounds the beginning of all time and fails.
        let earliest = self.placed_to.map(|_| 0);
        let from = self.placed_from.filter(|nanos| *nanos > 0).or(earliest).map(time_text::format);
        let to = self.placed_to.map(|nanos| time_text::format(nanos.max(0)));
        clauses.extend(range("placed_at", ("gte", from), ("lt", to)));
        clauses.extend(range("total", ("gte", self.min_total), ("lte", self.max_total)));
        clauses
    }
}

fn range<T: Into<Value>>(field: &str, from: (&str, Option<T>), to: (&str, Option<T>)) -> Option<Value> {
    let bounds: serde_json::Map<_, _> = [from, to]
        .into_iter()
        .filter_map(|(operator, bound)| Some((operator.to_owned(), bound?.into())))
        .collect();
    (!bounds.is_empty()).then(|| json!({ "range": { field: bounds } }))
}

/// Order of the rows; ties by `order_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Sort {
    PlacedDescending,
    PlacedAscending,
    TotalDescending,
    TotalAscending,
    UpdatedDescending,
    /// Best match first; searches only.
    BestMatch,
}

impl Sort {
    fn to_json(self) -> Value {
        let (field, order) = match self {
            Self::PlacedDescending => ("placed_at", "desc"),
            Self::PlacedAscending => ("placed_at", "asc"),
            Self::TotalDescending => ("total", "desc"),
            Self::TotalAscending => ("total", "asc"),
            Self::UpdatedDescending => ("updated_at", "desc"),
            Self::BestMatch => ("_score", "desc"),
        };
        json!([{ field: order }, { "order_id": "asc" }])
    }
}

/// Where a row stands in its order: what the next page starts after.
#[derive(Clone, Debug, PartialEq)]
pub enum SortValue {
    /// Nanoseconds since 1970, or minor units.
    Number(i64),
    /// A score: a sum of the fixed constants of [`search`], exact in any float.
    Score(f64),
    /// An id.
    Text(String),
}

impl SortValue {
    /// Reads one sort value of a hit; `None` where it is of a form that no [`Sort`] yields.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => {
                number.as_i64().map(Self::Number).or_else(|| number.as_f64().map(Self::Score))
            }
            Value::String(text) => Some(Self::Text(text.clone())),
            _ => None,
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Score(score) => json!(score),
            Self::Text(text) => json!(text),
        }
    }
}

/// Which rows of the order.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Rows wanted, from 1.
    pub size: u32,
    /// Where they start.
    pub start: Start,
}

/// Where a page starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// After so many rows; with the page's size at most [`WINDOW`].
    Offset(u32),
    /// After the row with these sort values.
    After(Vec<SortValue>),
}

impl Page {
    /// Puts the page into a body. One row more than wanted is asked for: it tells whether another page follows.
    fn put_into(&self, body: &mut Value) {
        match &self.start {
            Start::Offset(offset) => {
                body["from"] = json!(offset);
                // The extra row may lie outside the window; then the total tells.
                body["size"] = json!(self.size.saturating_add(1).min(WINDOW.saturating_sub(*offset)));
            }
            Start::After(values) => {
                body["size"] = json!(self.size.saturating_add(1));
                body["search_after"] = values.iter().map(SortValue::to_json).collect();
            }
        }
    }

    /// Whether rows follow this page, where the answer had `rows` rows and a total of `total`, exact or a lower bound.
    #[must_use]
    pub fn has_next(&self, rows: usize, total: u64, total_is_exact: bool) -> bool {
        let size = self.size as usize;
        let end_of_window =
            matches!(self.start, Start::Offset(offset) if offset.saturating_add(self.size) >= WINDOW);
        rows > size || (end_of_window && rows == size && (!total_is_exact || total > u64::from(WINDOW)))
    }
}

#[cfg(test)]
mod tests;
