//! Many orders: lists, searches, reports.

use std::collections::HashMap;

use proto::reason::{Error, Reason};
use proto::v1::{Freshness, GetSalesReportResponse, ListOrdersResponse, SearchOrdersResponse};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokio::time::Instant;

use super::request::{LIST, Rows, SEARCH, SalesReport};
use super::{Questions, answer};
use crate::Queries;
use crate::consistency::{Read, Wanted};
use crate::index::{Found, IndexError, SearchAnswer};
use crate::page_token::Bound;
use crate::projection::{CustomerDocument, OrderDocument, ProductDocument};
use crate::query::highlight::highlights;
use crate::query::report::{self, GroupBy, ReportError};
use crate::query::{SortValue, list, search};

/// Hits of a search that are read with their lines at once. The lines of a larger page are read in portions, so that its memory
/// is bounded however large its orders are.
const WITH_LINES: u32 = 50;
/// Lines in such a portion.
const LINES: usize = 10_000;
/// Bytes of the highlights of a page: with 500 summaries they stay below the 4 MiB that gRPC clients take.
const HIGHLIGHT_BYTES: usize = 1024 * 1024;

/// One page of orders.
struct Listed {
    orders: Vec<OrderDocument>,
    next_page_token: String,
    total_size: i64,
    total_is_exact: bool,
    freshness: Freshness,
}

impl Questions {
    pub(super) async fn list(&self, request: Rows, by: Instant) -> Result<ListOrdersResponse, Error> {
        let body = list::body(&request.filter, request.sort, &request.page);
        let found = self.page(&request, LIST, &body, by).await?;
        Ok(ListOrdersResponse {
            orders: found.orders.iter().map(answer::summary).collect(),
            next_page_token: found.next_page_token,
            total_size: found.total_size,
            total_is_exact: found.total_is_exact,
            freshness: Some(found.freshness),
        })
    }

    pub(super) async fn search(&self, request: Rows, by: Instant) -> Result<SearchOrdersResponse, Error> {
        let with_lines = request.page.size <= WITH_LINES;
        let body = search::body(&request.terms, &request.filter, request.sort, &request.page, with_lines);
        let found = self.page(&request, SEARCH, &body, by).await?;
        let bytes = HIGHLIGHT_BYTES / found.orders.len().max(1);
        let mut hits = Vec::with_capacity(found.orders.len());
        for orders in portions(&found.orders, if with_lines { usize::MAX } else { LINES }) {
            let whole = if with_lines { Vec::new() } else { self.whole(orders).await? };
            for (i, order) in orders.iter().enumerate() {
                let shown = whole.get(i).and_then(Option::as_ref).map_or(order, |found| &found.source);
                hits.push(answer::search_hit(order, highlights(&request.terms, shown, bytes)));
            }
        }
        Ok(SearchOrdersResponse {
            hits,
            next_page_token: found.next_page_token,
            total_size: found.total_size,
            total_is_exact: found.total_is_exact,
            freshness: Some(found.freshness),
        })
    }

    /// These orders with their lines.
    async fn whole(&self, orders: &[OrderDocument]) -> Result<Vec<Option<Found<OrderDocument>>>, Error> {
        let ids: Vec<_> = orders.iter().map(|order| order.order_id.as_str()).collect();
        let found = self.queries.index.mget(&self.queries.aliases.orders, &ids).await;
        found.map_err(|error| answer::index_error(&error))
    }

    pub(super) async fn report(
        &self,
        request: SalesReport,
        by: Instant,
    ) -> Result<GetSalesReportResponse, Error> {
        let body = report::body(request.group_by, &request.filter, request.limit, &request.time_zone);
        let mut freshness = self.fresh(&request.wanted).await?;
        let answer = self.found::<IgnoredAny>(&body, by).await?;
        // All of the body is ours but the name of the zone, and the server may know fewer of them than we do.
        let unknown_zone =
            |error: &IndexError| error.is_kind("x_content_parse_exception") && request.time_zone != "UTC";
        let answer = answer.map_err(|error| {
            if unknown_zone(&error) {
                Error::invalid("time_zone", "is not known to the search index")
            } else {
                answer::index_error(&error)
            }
        })?;
        let (rows, total) = report::rows(answer.aggregations, answer.total).map_err(|error| match error {
            ReportError::TooLarge => Error::new(
                Reason::TotalOverflow,
                "the report's sums pass 2^53 and would not be exact; narrow it",
            ),
            ReportError::Malformed(error) => {
                tracing::error!(%error, "a report was answered in an unknown form");
                Error::bug()
            }
        })?;
        let keys: Vec<_> = rows.iter().map(|row| row.key.as_str()).collect();
        let mut names = self.names(request.group_by, &keys, &mut freshness).await?;
        let currency = request.filter.currency.as_str();
        let rows = rows.into_iter().map(|row| {
            let name = names.remove(&row.key);
            answer::sales_row(row, name, currency)
        });
        Ok(GetSalesReportResponse {
            rows: rows.collect(),
            total: Some(answer::sales_row(total, None, currency)),
            freshness: Some(freshness),
        })
    }

    async fn page(&self, request: &Rows, method: &str, body: &Value, by: Instant) -> Result<Listed, Error> {
        let mut freshness = self.fresh(&request.wanted).await?;
        let answer = self.found::<OrderDocument>(body, by).await?;
        let mut answer = answer.map_err(|error| answer::index_error(&error))?;
        if let Some(hit) = answer.hits.first() {
            freshness.index.clone_from(&hit.index);
        }
        let total = u64::try_from(answer.total).unwrap_or(0);
        let more = request.page.has_next(answer.hits.len(), total, answer.total_is_exact);
        answer.hits.truncate(request.page.size as usize);
        let mut next_page_token = String::new();
        if let Some(last) = answer.hits.last().filter(|_| more) {
            let after: Option<Vec<_>> = last.sort.iter().map(SortValue::from_json).collect();
            let bound = Bound { method, fields: &request.fields };
            next_page_token = self.tokens.issue(bound, &after.ok_or_else(Error::bug)?);
        }
        Ok(Listed {
            orders: answer.hits.into_iter().filter_map(|hit| hit.source).collect(),
            next_page_token,
            total_size: answer.total,
            total_is_exact: answer.total_is_exact,
            freshness,
        })
    }

    /// Searches for orders, in its turn, up to a moment.
    async fn found<D: DeserializeOwned>(
        &self,
        body: &Value,
        by: Instant,
    ) -> Result<Result<SearchAnswer<D>, IndexError>, Error> {
        let _turn = self.turns.take(by).await?;
        let limit = by.saturating_duration_since(Instant::now());
        Ok(self.queries.index.search_within(&self.queries.aliases.orders, body, limit).await)
    }

    /// Makes sure that a search is as fresh as wanted, and says how fresh it will be. Taken before the search: what it
    /// claims is then surely included.
    async fn fresh(&self, wanted: &Wanted) -> Result<Freshness, Error> {
        let reached = self.consistency.reach(wanted, Read::Search).await;
        let stale = !reached.map_err(|error| answer::consistency_error(&error))?;
        Ok(Freshness { stale, ..self.searched() })
    }

    /// Today's names of customers or products; a key without one is left out. The answer is then no fresher than they are.
    async fn names(
        &self,
        group_by: GroupBy,
        keys: &[&str],
        freshness: &mut Freshness,
    ) -> Result<HashMap<String, String>, Error> {
        let Queries { index, aliases, customers, products, .. } = &self.queries;
        let (progress, names) = match group_by {
            GroupBy::Day | GroupBy::Month | GroupBy::DeliveryCountry => return Ok(HashMap::new()),
            GroupBy::Customer => {
                let known = self.by_id([customers]);
                let found = index.mget::<CustomerDocument>(&aliases.customers, keys).await;
                (known, found.map(|found| named(keys, found, |customer| customer.name)))
            }
            GroupBy::Product => {
                let known = self.by_id([products]);
                let found = index.mget::<ProductDocument>(&aliases.products, keys).await;
                (known, found.map(|found| named(keys, found, |product| product.name)))
            }
        };
        freshness.position = freshness.position.min(progress.position);
        freshness.lag_seconds = freshness.lag_seconds.max(progress.lag_seconds);
        names.map_err(|error| answer::index_error(&error))
    }
}

/// The orders in portions of so many lines, each of at least one order.
fn portions(orders: &[OrderDocument], lines: usize) -> impl Iterator<Item = &[OrderDocument]> {
    let mut rest = orders;
    std::iter::from_fn(move || {
        let mut left = i64::try_from(lines).unwrap_or(i64::MAX);
        let fits = |order: &&OrderDocument| {
            left -= order.item_count;
            left >= 0
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (portion, behind) = rest.split_at(count);
        rest = behind;
        (!portion.is_empty()).then_some(portion)
    })
}

fn named<D>(
    keys: &[&str],
    found: Vec<Option<Found<D>>>,
    name: impl Fn(D) -> String,
) -> HashMap<String, String> {
    let named =
        keys.iter().zip(found).filter_map(|(key, found)| Some(((*key).to_owned(), name(found?.source))));
    named.collect()
}
