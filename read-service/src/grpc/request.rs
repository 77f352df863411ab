//! From request messages to typed questions: every field checked, every malformed one named.

use prost::Message;
use proto::reason::{Error, Reason};
use proto::token::ConsistencyToken;
use proto::v1::consistency::OnStale as GivenOnStale;
use proto::v1::get_order_request::AsOf as GivenAsOf;
use proto::v1::get_sales_report_request::GroupBy as GivenGroupBy;
use proto::v1::{self, GetOrderRequest, GetSalesReportRequest, ListOrdersRequest, SearchOrdersRequest};
use tokio::time::Instant;

use super::check::Check;
use crate::consistency::{OnStale, Wanted};
use crate::page_token::{Bound, PageTokenError, PageTokens};
use crate::projection::Status;
use crate::query::report::GroupBy;
use crate::query::search::{self, Term};
use crate::query::{Filter, Page, Sort, Start, WINDOW};

/// Rows of a page unless asked for, and at most.
pub(super) const PAGE_SIZE: u32 = 50;
pub(super) const MAX_PAGE_SIZE: u32 = 500;
/// Rows of a report unless asked for, and at most.
const REPORT_ROWS: u32 = 20;
const MAX_REPORT_ROWS: u32 = 1_000;
/// Most consistency tokens of a request.
const MAX_TOKENS: usize = 20;
/// Most characters of a search.
const MAX_QUERY: usize = 200;
/// Most words of a search, parts of words counted: each costs Elasticsearch a look at several fields.
const MAX_WORDS: usize = 32;
/// Most characters of a country, as in the command that sets it.
const MAX_COUNTRY: usize = 64;
/// Statuses of a report unless asked for: what was or will be paid.
const SOLD: [Status; 4] = [Status::Submitted, Status::Confirmed, Status::Shipped, Status::Delivered];

/// `GetOrder`.
#[derive(Debug)]
pub(super) struct GetOrder {
    pub order_id: String,
    pub wanted: Wanted,
    pub as_of: Option<AsOf>,
}

/// A state of an order that was.
#[derive(Clone, Copy, Debug)]
pub(super) enum AsOf {
    /// After this version.
    Version(i64),
    /// At this time, in nanoseconds since 1970.
    Time(i64),
}

/// `ListOrders` and `SearchOrders`.
#[derive(Debug)]
pub(super) struct Rows {
    /// Words to be found; none in a list.
    pub terms: Vec<Term>,
    pub filter: Filter,
    pub sort: Sort,
    pub page: Page,
    pub wanted: Wanted,
    /// What the next page's token is bound to.
    pub fields: Vec<u8>,
}

/// `GetSalesReport`.
#[derive(Debug)]
pub(super) struct SalesReport {
    pub group_by: GroupBy,
    pub filter: Filter,
    pub limit: u32,
    pub time_zone: String,
    pub wanted: Wanted,
}

/// The id of `GetOrderHistory` and `WatchOrder`.
///
/// # Errors
/// `INVALID_FIELD`.
pub(super) fn order_id(text: &str) -> Result<String, Error> {
    let mut check = Check::default();
    let order_id = check.order_id("order_id", text);
    check.finish()?;
    Ok(order_id)
}

/// `until`: when waiting for a version ends.
///
/// # Errors
/// `INVALID_FIELD`.
pub(super) fn get_order(message: GetOrderRequest, until: Instant) -> Result<GetOrder, Error> {
    let mut check = Check::default();
    let order_id = check.order_id("order_id", &message.order_id);
    let as_of = match message.as_of {
        None => None,
        Some(GivenAsOf::AsOfVersion(version)) => {
            if version < 1 {
                check.refuse("as_of_version", "must be at least 1");
            }
            Some(AsOf::Version(version))
        }
        Some(GivenAsOf::AsOfTime(time)) => check.time("as_of_time", Some(&time)).map(AsOf::Time),
    };
    let wanted = wanted(message.consistency, until, &mut check);
    check.finish()?;
    Ok(GetOrder { order_id, wanted, as_of })
}

/// # Errors
/// `INVALID_FIELD`, `PAGE_TOKEN_INVALID`, `PAGE_WINDOW_EXCEEDED`.
pub(super) fn list(message: ListOrdersRequest, until: Instant, tokens: &PageTokens) -> Result<Rows, Error> {
    let fields = ListOrdersRequest {
        page_size: 0,
        page_token: String::new(),
        offset: 0,
        consistency: None,
        ..message.clone()
    }
    .encode_to_vec();
    let mut check = Check::default();
    let (placed_from, placed_to) = check.placed(message.placed_from.as_ref(), message.placed_to.as_ref());
    let filter = Filter {
        customer_id: check.key("customer_id", message.customer_id),
        statuses: check.statuses("statuses", &message.statuses),
        delivery_country: check.text("delivery_country", message.delivery_country, MAX_COUNTRY),
        product_id: check.key("product_id", message.product_id),
        placed_from,
        placed_to,
        ..Filter::default()
    };
    let sort = check.sort("sort", message.sort, Sort::PlacedDescending);
    let size = check.rows("page_size", message.page_size, PAGE_SIZE, MAX_PAGE_SIZE);
    let offset = check.rows("offset", message.offset, 0, u32::MAX);
    if offset > 0 && !message.page_token.is_empty() {
        check.refuse("offset", "must not be set together with page_token");
    }
    let wanted = wanted(message.consistency, until, &mut check);
    check.finish()?;
    if offset.saturating_add(size) > WINDOW {
        let text = format!("offset + page_size is at most {WINDOW}; page with page_token beyond it");
        return Err(Error::new(Reason::PageWindowExceeded, text).with("limit", WINDOW));
    }
    let bound = Bound { method: LIST, fields: &fields };
    let start = after(tokens, bound, &message.page_token)?.unwrap_or(Start::Offset(offset));
    Ok(Rows { terms: Vec::new(), filter, sort, page: Page { size, start }, wanted, fields })
}

/// # Errors
/// `INVALID_FIELD`, `PAGE_TOKEN_INVALID`.
pub(super) fn search(
    message: SearchOrdersRequest,
    until: Instant,
    tokens: &PageTokens,
) -> Result<Rows, Error> {
    let fields =
        SearchOrdersRequest { page_size: 0, page_token: String::new(), consistency: None, ..message.clone() }
            .encode_to_vec();
    let mut check = Check::default();
    let (placed_from, placed_to) = check.placed(message.placed_from.as_ref(), message.placed_to.as_ref());
    let (min_total, max_total) = (message.min_total_minor_units, message.max_total_minor_units);
    if min_total.zip(max_total).is_some_and(|(min, max)| max < min) {
        check.refuse("max_total_minor_units", "must not be below min_total_minor_units");
    }
    let filter = Filter {
        customer_id: check.key("customer_id", message.customer_id),
        statuses: check.statuses("statuses", &message.statuses),
        delivery_country: check.text("delivery_country", message.delivery_country, MAX_COUNTRY),
        placed_from,
        placed_to,
        min_total,
        max_total,
        ..Filter::default()
    };
    let terms = terms(message.query, &mut check);
    let sort = check.sort("sort", message.sort, Sort::BestMatch);
    let size = check.rows("page_size", message.page_size, PAGE_SIZE, MAX_PAGE_SIZE);
    let wanted = wanted(message.consistency, until, &mut check);
    check.finish()?;
    let bound = Bound { method: SEARCH, fields: &fields };
    let start = after(tokens, bound, &message.page_token)?.unwrap_or(Start::Offset(0));
    Ok(Rows { terms, filter, sort, page: Page { size, start }, wanted, fields })
}

/// Names of the methods whose pages have tokens.
pub(super) const LIST: &str = "ListOrders";
/// See [`LIST`].
pub(super) const SEARCH: &str = "SearchOrders";

/// # Errors
/// `INVALID_FIELD`.
pub(super) fn report(message: GetSalesReportRequest, until: Instant) -> Result<SalesReport, Error> {
    let mut check = Check::default();
    let group_by = match GivenGroupBy::try_from(message.group_by) {
        Ok(GivenGroupBy::Day) => GroupBy::Day,
        Ok(GivenGroupBy::Month) => GroupBy::Month,
        Ok(GivenGroupBy::DeliveryCountry) => GroupBy::DeliveryCountry,
        Ok(GivenGroupBy::Customer) => GroupBy::Customer,
        Ok(GivenGroupBy::Product) => GroupBy::Product,
        Ok(GivenGroupBy::Unspecified) => {
            check.refuse("group_by", "is required");
            GroupBy::Day
        }
        Err(_) => {
            check.refuse("group_by", "must be a known grouping");
            GroupBy::Day
        }
    };
    let (placed_from, placed_to) = check.placed(message.placed_from.as_ref(), message.placed_to.as_ref());
    let mut statuses = check.statuses("statuses", &message.statuses);
    if statuses.is_empty() {
        statuses.extend(SOLD);
    }
    let currency = check.currency("currency_code", message.currency_code);
    let filter = Filter { statuses, currency, placed_from, placed_to, ..Filter::default() };
    let limit = check.rows("limit", message.limit, REPORT_ROWS, MAX_REPORT_ROWS);
    let time_zone = check.time_zone("time_zone", message.time_zone);
    let wanted = wanted(message.consistency, until, &mut check);
    check.finish()?;
    Ok(SalesReport { group_by, filter, limit, time_zone, wanted })
}

fn terms(query: String, check: &mut Check) -> Vec<Term> {
    if query.trim().is_empty() {
        check.refuse("query", "is required");
        return Vec::new();
    }
    let query = check.text("query", query, MAX_QUERY);
    if query.chars().nth(MAX_QUERY).is_some() {
        return Vec::new();
    }
    let terms = search::terms(&query);
    match terms.iter().map(|term| term.parts.len()).sum::<usize>() {
        0 => check.refuse("query", "must contain a letter or a digit"),
        1..=MAX_WORDS => {}
        _ => check.refuse("query", format!("must have at most {MAX_WORDS} words")),
    }
    terms
}

fn wanted(given: Option<v1::Consistency>, until: Instant, check: &mut Check) -> Wanted {
    let given = given.unwrap_or_default();
    let on_stale = match GivenOnStale::try_from(given.on_stale) {
        Ok(GivenOnStale::Unspecified) => OnStale::Wait,
        Ok(GivenOnStale::Answer) => OnStale::Answer,
        Ok(GivenOnStale::Fail) => OnStale::Fail,
        Err(_) => {
            check.refuse("consistency.on_stale", "must be a known way");
            OnStale::Wait
        }
    };
    if given.tokens.len() > MAX_TOKENS {
        check.refuse("consistency.tokens", format!("must be at most {MAX_TOKENS}"));
    }
    let mut tokens = Vec::new();
    for (i, text) in given.tokens.iter().take(MAX_TOKENS).enumerate() {
        match ConsistencyToken::decode(text) {
            Ok(token) => tokens.push(token),
            Err(error) => check.refuse(format!("consistency.tokens[{i}]"), error.to_string()),
        }
    }
    Wanted { tokens, on_stale, until }
}

/// Where the page begins whose token this is; `None` without one.
///
/// # Errors
/// `PAGE_TOKEN_INVALID`.
pub(super) fn after(tokens: &PageTokens, bound: Bound<'_>, text: &str) -> Result<Option<Start>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let values = tokens.open(bound, text).map_err(|error| {
        let text = match error {
            PageTokenError::Foreign => {
                "page_token is not one of this request: all fields but page_size must be as before"
            }
            PageTokenError::Expired => "page_token has expired; begin again",
        };
        Error::new(Reason::PageTokenInvalid, text)
    })?;
    Ok(Some(Start::After(values)))
}
