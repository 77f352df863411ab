//! Many orders: lists, searches, reports.

use std::collections::HashMap;

use proto::reason::Error;
use proto::v1::{Freshness, GetSalesReportResponse, ListOrdersResponse, SearchOrdersResponse};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::request::{LIST, Rows, SEARCH, SalesReport};
use super::{Questions, answer};
use crate::Queries;
use crate::consistency::{Read, Wanted};
use crate::index::{Found, IndexError};
use crate::page_token::Bound;
use crate::projection::{CustomerDocument, OrderDocument, ProductDocument};
use crate::query::highlight::highlights;
use crate::query::report::{self, GroupBy};
use crate::query::{SortValue, list, search};

/// One page of orders.
struct Listed {
    orders: Vec<OrderDocument>,
    next_page_token: String,
    total_size: i64,
    total_is_exact: bool,
    freshness: Freshness,
}

impl Questions {
    pub(super) async fn list(&self, request: Rows) -> Result<ListOrdersResponse, Error> {
        let body = list::body(&request.filter, request.sort, &request.page);
        let found = self.page(&request, LIST, &body).await?;
        Ok(ListOrdersResponse {
            orders: found.orders.iter().map(answer::summary).collect(),
            next_page_token: found.next_page_token,
            total_size: found.total_size,
            total_is_exact: found.total_is_exact,
            freshness: Some(found.freshness),
        })
    }

    pub(super) async fn search(&self, request: Rows) -> Result<SearchOrdersResponse, Error> {
        let body = search::body(&request.terms, &request.filter, request.sort, &request.page);
        let found = self.page(&request, SEARCH, &body).await?;
        let hit = |order| answer::search_hit(order, highlights(&request.terms, order));
        Ok(SearchOrdersResponse {
            hits: found.orders.iter().map(hit).collect(),
            next_page_token: found.next_page_token,
            total_size: found.total_size,
            total_is_exact: found.total_is_exact,
            freshness: Some(found.freshness),
        })
    }

    pub(super) async fn report(&self, request: SalesReport) -> Result<GetSalesReportResponse, Error> {
        let body = report::body(request.group_by, &request.filter, request.limit, &request.time_zone);
        let mut freshness = self.fresh(&request.wanted).await?;
        let orders = &self.queries.aliases.orders;
        let answer = self.queries.index.search::<IgnoredAny>(orders, &body).await;
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
        let (rows, total) = report::rows(answer.aggregations, answer.total).map_err(|error| {
            tracing::error!(%error, "a report was answered in an unknown form");
            Error::bug()
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

    async fn page(&self, request: &Rows, method: &str, body: &Value) -> Result<Listed, Error> {
        let mut freshness = self.fresh(&request.wanted).await?;
        let answer = self.queries.index.search::<OrderDocument>(&self.queries.aliases.orders, body).await;
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

fn named<D>(
    keys: &[&str],
    found: Vec<Option<Found<D>>>,
    name: impl Fn(D) -> String,
) -> HashMap<String, String> {
    let named =
        keys.iter().zip(found).filter_map(|(key, found)| Some(((*key).to_owned(), name(found?.source))));
    named.collect()
}
