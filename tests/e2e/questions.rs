//! A question of each kind, asked by a client.

use std::time::Duration;

use proto::reason::Reason;
use proto::v1::get_order_request::AsOf;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::*;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

pub type Queries = OrderQueryServiceClient<Channel>;

/// A question of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Get,
    List,
    Search,
    Report,
    History,
    AsOf,
}

/// What Elasticsearch answers.
pub const SEARCHED: [Question; 4] = [Question::Get, Question::List, Question::Search, Question::Report];
/// What the event store answers.
pub const STORED: [Question; 2] = [Question::History, Question::AsOf];

fn within<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

/// Asks about this order, with the token of a command.
pub async fn ask(
    mut queries: Queries,
    question: Question,
    receipt: &OrderReceipt,
    token: bool,
    deadline: Option<Duration>,
) -> Result<(), Status> {
    let order_id = receipt.order_id.clone();
    let tokens = if token { vec![receipt.consistency_token.clone()] } else { Vec::new() };
    let consistency = Some(Consistency { tokens, ..Default::default() });
    match question {
        Question::Get => {
            let get = GetOrderRequest { order_id, consistency, ..Default::default() };
            queries.get_order(within(get, deadline)).await.map(drop)
        }
        Question::List => {
            let list = ListOrdersRequest { consistency, ..Default::default() };
            queries.list_orders(within(list, deadline)).await.map(drop)
        }
        Question::Search => {
            let search = SearchOrdersRequest { query: "lantern".into(), consistency, ..Default::default() };
            queries.search_orders(within(search, deadline)).await.map(drop)
        }
        Question::Report => {
            let group_by = get_sales_report_request::GroupBy::Customer.into();
            let currency_code = "GBP".into();
            let report = GetSalesReportRequest { group_by, currency_code, consistency, ..Default::default() };
            queries.get_sales_report(within(report, deadline)).await.map(drop)
        }
        Question::History => {
            let history = GetOrderHistoryRequest { order_id };
            queries.get_order_history(within(history, deadline)).await.map(drop)
        }
        Question::AsOf => {
            let get = GetOrderRequest { order_id, as_of: Some(AsOf::AsOfVersion(1)), ..Default::default() };
            queries.get_order(within(get, deadline)).await.map(drop)
        }
    }
}

/// Whether a part of the pair that is away is named, with the advice to come back.
pub fn is_refusal(status: &Status, reason: Reason) -> bool {
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    (status.code(), Reason::of(status)) == (Code::Unavailable, Some(reason)) && delay.is_some()
}
