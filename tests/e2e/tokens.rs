//! Tokens that are not reached: that is told as was asked. Tokens that are, while a refresh takes long.

use std::time::{Duration, Instant};

use local::testing;
use proto::reason::Reason;
use proto::token::ConsistencyToken;
use proto::v1::consistency::OnStale;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::*;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::questions::Queries;
use crate::turnstile::{Turnstile, Wanted};
use crate::world::{World, create};

/// Asks each of the four questions under a condition.
async fn all_four(
    queries: &Queries,
    order_id: &str,
    consistency: Consistency,
    deadline: Duration,
) -> [Result<Freshness, Status>; 4] {
    fn within<T>(message: T, deadline: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        request
    }
    let consistency = Some(consistency);
    let [mut get, mut list, mut search, mut report] = [(); 4].map(|()| queries.clone());
    let got = GetOrderRequest { order_id: order_id.into(), consistency: consistency.clone(), as_of: None };
    let listed = ListOrdersRequest { consistency: consistency.clone(), ..Default::default() };
    let searched = SearchOrdersRequest {
        query: "lantern".into(),
        consistency: consistency.clone(),
        ..Default::default()
    };
    let reported = GetSalesReportRequest {
        group_by: GroupBy::Customer.into(),
        currency_code: "GBP".into(),
        consistency,
        ..Default::default()
    };
    let (got, listed, searched, reported) = tokio::join!(
        get.get_order(within(got, deadline)),
        list.list_orders(within(listed, deadline)),
        search.search_orders(within(searched, deadline)),
        report.get_sales_report(within(reported, deadline)),
    );
    [
        got.map(|answer| answer.into_inner().freshness.unwrap()),
        listed.map(|answer| answer.into_inner().freshness.unwrap()),
        searched.map(|answer| answer.into_inner().freshness.unwrap()),
        reported.map(|answer| answer.into_inner().freshness.unwrap()),
    ]
}

#[tokio::test]
async fn a_token_that_is_not_reached_is_told_as_was_asked() {
    let world = World::start().await;
    let order = world.create(create(1)).await;
    world.settle().await;
    let second = Duration::from_secs(1);
    for (category, key) in [
        (StreamCategory::Order, order.order_id.as_str()),
        (StreamCategory::Customer, "17850"),
        (StreamCategory::Product, "71053"),
    ] {
        let token = ConsistencyToken { category, key: key.to_owned(), version: 1_000 }.encode();
        for on_stale in [OnStale::Unspecified, OnStale::Answer, OnStale::Fail] {
            let consistency = Consistency { tokens: vec![token.clone()], on_stale: on_stale.into() };
            let begun = Instant::now();
            let answers = all_four(&world.queries(), &order.order_id, consistency, second).await;
            let took = begun.elapsed();
            for (question, answer) in answers.into_iter().enumerate() {
                let told = format!("{category:?} {on_stale:?}, question {question}, {took:?}: {answer:?}");
                if on_stale == OnStale::Answer {
                    assert!(answer.unwrap().stale, "{told}");
                } else {
                    let status = answer.unwrap_err();
                    let reason = (status.code(), Reason::of(&status));
                    assert_eq!(reason, (Code::Unavailable, Some(Reason::Stale)), "{told}");
                    assert!(status.get_details_retry_info().is_some(), "{told}");
                }
            }
            let waited = took > Duration::from_millis(700);
            assert_eq!(waited, on_stale == OnStale::Unspecified, "{category:?} {on_stale:?}: {took:?}");
            assert!(took < second, "{category:?} {on_stale:?}: {took:?}");
        }
    }
}

/// A list that includes the order.
async fn listed(queries: &Queries, receipt: &OrderReceipt) -> bool {
    let tokens = vec![receipt.consistency_token.clone()];
    let consistency = Some(Consistency { tokens, ..Default::default() });
    let request = ListOrdersRequest { consistency, ..Default::default() };
    let list = queries.clone().list_orders(request).await.unwrap().into_inner();
    list.orders.iter().any(|order| order.order_id == receipt.order_id)
}

#[tokio::test]
async fn orders_are_stored_while_a_refresh_takes_long() {
    let elasticsearch = testing::elasticsearch().await.unwrap();
    let turnstile = Turnstile::before(elasticsearch.trim_start_matches("http://").to_owned()).await;
    let world = World::start_on(format!("http://{}", turnstile.address)).await;
    let early = world.create(create(1)).await;
    world.settle().await;
    turnstile.hold(Wanted {
        begins: format!("POST /{}/_refresh", world.index("orders")),
        contains: String::new(),
        after: 0,
        done: false,
    });
    let queries = world.queries();
    let asked = tokio::spawn(async move { listed(&queries, &early).await });
    turnstile.holds().await;
    let mut orders = Vec::new();
    for quantity in 1..5 {
        let order = world.create(create(quantity)).await;
        let found = world.order(&order.order_id, &order.consistency_token).await.unwrap();
        assert!(found.order.is_some());
        orders.push(order);
    }
    assert!(turnstile.is_held() && !asked.is_finished(), "the refresh was not held");
    turnstile.let_go();
    assert!(asked.await.unwrap());
    for order in orders {
        assert!(listed(&world.queries(), &order).await, "{} is not found", order.order_id);
    }
}
