//! The body of `ListOrders`: orders by exact fields.

use serde_json::{Value, json};

use super::{COUNTED, Filter, Page, Sort};

/// Orders that pass `filter`, without their lines.
#[must_use]
pub fn body(filter: &Filter, sort: Sort, page: &Page) -> Value {
    let mut body = json!({
        "query": { "bool": { "filter": filter.clauses() } },
        "sort": sort.to_json(),
        "track_total_hits": COUNTED,
        "_source": { "excludes": ["lines", "search"] },
    });
    page.put_into(&mut body);
    body
}
