//! Every way to be refused, with code, reason and path.

use prost_types::Timestamp;
use proto::reason::Reason;
use proto::v1::get_order_request::AsOf;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::*;
use tonic::Code;

use super::world::{DAY, Sale, World, history, id, ids_of, refusal, time, token};
use crate::support::{Cable, DEADLINE, Search};

fn malformed(paths: &[&str]) -> (Code, Reason, Vec<String>) {
    (Code::InvalidArgument, Reason::InvalidField, paths.iter().map(|path| (*path).to_owned()).collect())
}

const BAD_TIME: Option<Timestamp> = Some(Timestamp { seconds: 0, nanos: -1 });

#[expect(clippy::unnecessary_wraps, reason = "messages hold it as an option")]
fn tokens(tokens: Vec<String>) -> Option<Consistency> {
    Some(Consistency { tokens, on_stale: 0 })
}

#[tokio::test]
async fn malformed_questions_about_one_order() {
    let world = World::of("bad-one", &history([&Sale::number(1)])).await;
    let good = GetOrderRequest { order_id: id(1), ..Default::default() };
    let as_of = |as_of| GetOrderRequest { as_of: Some(as_of), ..good.clone() };
    for (request, paths) in [
        (GetOrderRequest { order_id: String::new(), ..good.clone() }, vec!["order_id"]),
        (GetOrderRequest { order_id: "nonsense".into(), ..good.clone() }, vec!["order_id"]),
        (GetOrderRequest { order_id: id(1).replace('-', ""), ..good.clone() }, vec!["order_id"]),
        (GetOrderRequest { order_id: uuid::Uuid::nil().to_string(), ..good.clone() }, vec!["order_id"]),
        (as_of(AsOf::AsOfVersion(0)), vec!["as_of_version"]),
        (as_of(AsOf::AsOfVersion(-1)), vec!["as_of_version"]),
        (as_of(AsOf::AsOfTime(BAD_TIME.unwrap())), vec!["as_of_time"]),
        (
            GetOrderRequest {
                consistency: tokens(vec![token(StreamCategory::Order, "k", 1), "x".into()]),
                ..good.clone()
            },
            vec!["consistency.tokens[1]"],
        ),
        (
            GetOrderRequest {
                consistency: tokens(vec![token(StreamCategory::Order, &id(1), 1); 21]),
                ..good.clone()
            },
            vec!["consistency.tokens"],
        ),
        (
            GetOrderRequest {
                consistency: Some(Consistency { tokens: vec![], on_stale: 7 }),
                ..good.clone()
            },
            vec!["consistency.on_stale"],
        ),
    ] {
        assert_eq!(refusal(world.get(request.clone()).await), malformed(&paths), "{request:?}");
    }
    let history = GetOrderHistoryRequest { order_id: "x".into() };
    assert_eq!(refusal(world.client.clone().get_order_history(history).await), malformed(&["order_id"]));
    let watch = world.client.clone().watch_order(WatchOrderRequest { order_id: "x".into() }).await;
    assert_eq!(refusal(watch.map(|_| ())), malformed(&["order_id"]));
}

#[tokio::test]
async fn malformed_lists_and_searches() {
    let world = World::of("bad-many", &history([&Sale::number(1)])).await;
    let list = ListOrdersRequest::default();
    let long = "x".repeat(65);
    for (request, paths) in [
        (ListOrdersRequest { customer_id: "no spaces".into(), ..list.clone() }, vec!["customer_id"]),
        (ListOrdersRequest { customer_id: long.clone(), ..list.clone() }, vec!["customer_id"]),
        (ListOrdersRequest { product_id: "ä".into(), ..list.clone() }, vec!["product_id"]),
        (ListOrdersRequest { delivery_country: long.clone(), ..list.clone() }, vec!["delivery_country"]),
        (ListOrdersRequest { delivery_country: "a\0b".into(), ..list.clone() }, vec!["delivery_country"]),
        (ListOrdersRequest { statuses: vec![1, 0, 99], ..list.clone() }, vec!["statuses[1]", "statuses[2]"]),
        (ListOrdersRequest { statuses: vec![1; 13], ..list.clone() }, vec!["statuses"]),
        (ListOrdersRequest { placed_from: BAD_TIME, ..list.clone() }, vec!["placed_from"]),
        (
            ListOrdersRequest { placed_to: Some(Timestamp { seconds: i64::MAX, nanos: 0 }), ..list.clone() },
            vec!["placed_to"],
        ),
        (
            ListOrdersRequest { placed_from: time(DAY), placed_to: time(DAY - 1), ..list.clone() },
            vec!["placed_to"],
        ),
        (ListOrdersRequest { sort: 99, ..list.clone() }, vec!["sort"]),
        (ListOrdersRequest { page_size: -1, ..list.clone() }, vec!["page_size"]),
        (ListOrdersRequest { offset: -1, ..list.clone() }, vec!["offset"]),
        (ListOrdersRequest { offset: 1, page_token: "x".into(), ..list.clone() }, vec!["offset"]),
        (ListOrdersRequest { page_size: -1, sort: -1, ..list.clone() }, vec!["sort", "page_size"]),
    ] {
        assert_eq!(refusal(world.list(request.clone()).await), malformed(&paths), "{request:?}");
    }
    let search = SearchOrdersRequest { query: "heart".into(), ..Default::default() };
    let query = |query: &str| SearchOrdersRequest { query: query.into(), ..search.clone() };
    for (request, paths) in [
        (query(""), vec!["query"]),
        (query("  "), vec!["query"]),
        (query("* & ?"), vec!["query"]),
        (query("a\nb"), vec!["query"]),
        (query("a\0"), vec!["query"]),
        (query(&"ä".repeat(201)), vec!["query"]),
        (query(&"a ".repeat(33).replace('a', "ab")), vec![]),
        (query(&"東".repeat(33)), vec!["query"]),
        (SearchOrdersRequest { customer_id: "/".into(), ..search.clone() }, vec!["customer_id"]),
        (
            SearchOrdersRequest {
                min_total_minor_units: Some(2),
                max_total_minor_units: Some(1),
                ..search.clone()
            },
            vec!["max_total_minor_units"],
        ),
        (SearchOrdersRequest { page_size: i32::MIN, ..search.clone() }, vec!["page_size"]),
    ] {
        let answer = world.search(request.clone()).await;
        if paths.is_empty() {
            assert!(answer.is_ok(), "a word counts once: {answer:?}");
        } else {
            assert_eq!(refusal(answer), malformed(&paths), "{request:?}");
        }
    }
}

#[tokio::test]
async fn malformed_reports() {
    let world = World::of("bad-report", &history([&Sale::number(1)])).await;
    let good = GetSalesReportRequest {
        group_by: GroupBy::Day.into(),
        currency_code: "GBP".into(),
        ..Default::default()
    };
    for (request, paths) in [
        (GetSalesReportRequest { group_by: 0, ..good.clone() }, vec!["group_by"]),
        (GetSalesReportRequest { group_by: 99, ..good.clone() }, vec!["group_by"]),
        (GetSalesReportRequest { currency_code: String::new(), ..good.clone() }, vec!["currency_code"]),
        (GetSalesReportRequest { currency_code: "gbp".into(), ..good.clone() }, vec!["currency_code"]),
        (GetSalesReportRequest { limit: -1, ..good.clone() }, vec!["limit"]),
        (GetSalesReportRequest { time_zone: "Mars/Olympus".into(), ..good.clone() }, vec!["time_zone"]),
        (GetSalesReportRequest { placed_from: BAD_TIME, ..good.clone() }, vec!["placed_from"]),
        // A zone that is younger than the Java of some servers.
        (GetSalesReportRequest { time_zone: "America/Coyhaique".into(), ..good.clone() }, vec!["time_zone"]),
    ] {
        let answer = world.report(request.clone()).await;
        if answer.is_ok() && request.time_zone == "America/Coyhaique" {
            continue;
        }
        assert_eq!(refusal(answer), malformed(&paths), "{request:?}");
    }
}

#[tokio::test]
async fn pages_that_cannot_be_opened() {
    let sales: Vec<_> = (0..5).map(Sale::number).collect();
    let world = World::of("tokens", &history(&sales)).await;
    let list =
        ListOrdersRequest { page_size: 2, delivery_country: "United Kingdom".into(), ..Default::default() };
    let page = world.list(list.clone()).await.unwrap();
    let good = ListOrdersRequest { page_token: page.next_page_token.clone(), ..list.clone() };
    assert_eq!(ids_of(&world.list(good.clone()).await.unwrap().orders), [id(2), id(3)]);

    let invalid = (Code::InvalidArgument, Reason::PageTokenInvalid, vec![]);
    let mut altered = page.next_page_token.clone().into_bytes();
    altered[20] ^= 1;
    for request in [
        ListOrdersRequest { page_token: String::from_utf8(altered).unwrap(), ..good.clone() },
        ListOrdersRequest { page_token: "nonsense".into(), ..good.clone() },
        ListOrdersRequest { page_token: "x".repeat(100_000), ..good.clone() },
        ListOrdersRequest { delivery_country: "EIRE".into(), ..good.clone() },
        ListOrdersRequest { customer_id: "17850".into(), ..good.clone() },
        ListOrdersRequest { sort: OrderSort::TotalAsc.into(), ..good.clone() },
        ListOrdersRequest { statuses: vec![OrderStatus::Draft.into()], ..good.clone() },
    ] {
        assert_eq!(refusal(world.list(request).await), invalid);
    }
    // Another method, in both directions.
    let search = SearchOrdersRequest { query: "heart".into(), page_size: 2, ..Default::default() };
    let theirs = world.search(search.clone()).await.unwrap().next_page_token;
    let ours = SearchOrdersRequest { page_token: page.next_page_token, ..search.clone() };
    assert_eq!(refusal(world.search(ours).await), invalid);
    let other = SearchOrdersRequest { query: "hearts".into(), page_token: theirs.clone(), ..search };
    assert_eq!(refusal(world.search(other).await), invalid);
    assert_eq!(refusal(world.list(ListOrdersRequest { page_token: theirs, ..list }).await), invalid);
}

#[tokio::test]
async fn offsets_end_at_ten_thousand() {
    let world = World::of("window", &history([&Sale::number(1)])).await;
    let exceeded = (Code::InvalidArgument, Reason::PageWindowExceeded, vec![]);
    for (offset, page_size, fits) in [
        (9_500, 500, true),
        (9_999, 1, true),
        (9_501, 500, false),
        (9_501, i32::MAX, false),
        (10_000, 1, false),
        (i32::MAX, i32::MAX, false),
    ] {
        let answer = world.list(ListOrdersRequest { offset, page_size, ..Default::default() }).await;
        if fits {
            assert_eq!(answer.unwrap().total_size, 1);
        } else {
            assert_eq!(refusal(answer), exceeded, "{offset} {page_size}");
        }
    }
}

#[tokio::test]
async fn nobody_is_found_while_elasticsearch_is_away() {
    let search = Search::start("away").await;
    let cable = Cable::to(&search.url).await;
    let events = history([&Sale::number(1)]);
    let world = World::over(&search, &cable.url, &events).await;
    world.ready().await;
    world.caught_up(&events).await;
    cable.cut();
    let down = (Code::Unavailable, Reason::SearchDown, vec![]);
    let tokens = tokens(vec![token(StreamCategory::Order, &id(1), 9)]);
    assert_eq!(refusal(world.get(GetOrderRequest { order_id: id(1), ..Default::default() }).await), down);
    assert_eq!(refusal(world.list(ListOrdersRequest::default()).await), down);
    let waiting = ListOrdersRequest { consistency: tokens, ..Default::default() };
    let answer = tokio::time::timeout(DEADLINE, world.list(waiting)).await.unwrap();
    let text = answer.as_ref().unwrap_err().message().to_owned();
    assert!(!text.contains("127.0.0.1") && !text.contains("http"), "{text}");
    assert_eq!(refusal(answer), down);
    cable.restore();
    assert_eq!(world.order(&id(1)).await.summary.unwrap().version, 3);
}
