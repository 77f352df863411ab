//! How fresh answers are: what they claim, and what callers can ask for.

use std::time::{Duration, Instant};

use proto::reason::Reason;
use proto::v1::consistency::OnStale;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::*;
use tonic::{Code, Request, Status};

use super::world::{Sale, World, consistency, history, hits_of, id, ids_of, refusal, token};
use crate::support::{History, Meter, Search, confirmed};

/// A service with one order, and the history in which a second one and a change of the first follow.
async fn world(name: &str) -> (World, History) {
    let mut events = history([&Sale::number(1)]);
    let world = World::of(name, &events).await;
    Sale::number(2).put_into(&mut events);
    events.order(&id(1), confirmed());
    (world, events)
}

/// Every kind of question with this consistency; its freshness and how many orders it saw.
async fn all_questions(
    world: &World,
    wanted: Option<Consistency>,
) -> Vec<Result<(Freshness, usize), Status>> {
    let get = GetOrderRequest { order_id: id(1), consistency: wanted.clone(), ..Default::default() };
    let list = ListOrdersRequest { consistency: wanted.clone(), ..Default::default() };
    let search =
        SearchOrdersRequest { query: "heart".into(), consistency: wanted.clone(), ..Default::default() };
    let report = GetSalesReportRequest {
        group_by: GroupBy::Day.into(),
        currency_code: "GBP".into(),
        consistency: wanted,
        ..Default::default()
    };
    vec![
        world.get(get).await.map(|answer| (answer.freshness.unwrap(), 1)),
        world.list(list).await.map(|answer| (answer.freshness.unwrap(), answer.orders.len())),
        world.search(search).await.map(|answer| (answer.freshness.unwrap(), answer.hits.len())),
        world.report(report).await.map(|answer| {
            let orders = usize::try_from(answer.total.unwrap().order_count).unwrap();
            (answer.freshness.unwrap(), orders)
        }),
    ]
}

fn both() -> Vec<String> {
    vec![token(StreamCategory::Order, &id(2), 3), token(StreamCategory::Order, &id(1), 4)]
}

#[tokio::test]
async fn an_answer_says_how_fresh_it_is() {
    let (world, _) = world("fresh").await;
    for answer in all_questions(&world, None).await {
        let (freshness, orders) = answer.unwrap();
        assert_eq!((orders, freshness.position, freshness.head_position), (1, 3, 3));
        assert!(freshness.index.starts_with(&format!("{}orders-", world.prefix)), "{freshness:?}");
        assert!(freshness.lag_seconds.abs() < f64::EPSILON && !freshness.stale, "{freshness:?}");
    }
}

#[tokio::test]
async fn whoever_wants_it_at_once_is_told() {
    let (world, _) = world("once").await;
    for answer in all_questions(&world, consistency(both(), OnStale::Answer)).await {
        let (freshness, orders) = answer.unwrap();
        assert!(freshness.stale);
        assert_eq!(orders, 1);
    }
    let asked = Instant::now();
    for answer in all_questions(&world, consistency(both(), OnStale::Fail)).await {
        assert_eq!(refusal(answer), (Code::Unavailable, Reason::Stale, vec![]));
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "nobody waited");
    // An order that a token proves to exist is not "not there".
    let tokens = vec![token(StreamCategory::Order, &id(2), 1)];
    let request = GetOrderRequest {
        order_id: id(2),
        consistency: consistency(tokens, OnStale::Answer),
        ..Default::default()
    };
    assert_eq!(refusal(world.get(request).await), (Code::Unavailable, Reason::Stale, vec![]));
}

#[tokio::test]
async fn whoever_waits_sees_it() {
    let (world, events) = world("wait").await;
    let waiting = all_questions(&world, consistency(both(), OnStale::Unspecified));
    let (answers, ()) = tokio::join!(waiting, async { world.feed.publish(&events) });
    for (answer, orders) in answers.into_iter().zip([1, 2, 2, 2]) {
        let (freshness, seen) = answer.unwrap();
        assert_eq!((seen, freshness.stale), (orders, false));
        // What is claimed may be less than what was seen, never more than there is.
        assert!((3..=events.head()).contains(&freshness.position), "{freshness:?}");
    }
    let first = world.order(&id(1)).await.summary.unwrap();
    assert_eq!((first.version, first.status()), (4, OrderStatus::Confirmed));
}

#[tokio::test]
async fn each_write_is_seen_by_the_list_and_the_search_that_follow() {
    let mut events = history([&Sale::number(0)]);
    let world = World::of("follow", &events).await;
    for number in 1..15 {
        Sale::number(number).put_into(&mut events);
        world.feed.publish(&events);
        let tokens = vec![token(StreamCategory::Order, &id(number), 3)];
        let wanted = consistency(tokens, OnStale::Unspecified);
        let list = ListOrdersRequest { consistency: wanted.clone(), ..Default::default() };
        let query = format!("R-{number}");
        let search = SearchOrdersRequest { query, consistency: wanted, ..Default::default() };
        if number % 2 == 0 {
            assert!(ids_of(&world.list(list).await.unwrap().orders).contains(&id(number)));
        } else {
            assert_eq!(hits_of(&world.search(search).await.unwrap())[0], id(number));
        }
    }
}

#[tokio::test]
async fn waiting_ends_before_the_callers_deadline() {
    let (world, _) = world("deadline").await;
    for category in [StreamCategory::Order, StreamCategory::Customer, StreamCategory::Product] {
        let tokens = vec![token(category, "unheard-of", 1)];
        let wanted = consistency(tokens, OnStale::Unspecified);
        let mut request = Request::new(ListOrdersRequest { consistency: wanted, ..Default::default() });
        request.set_timeout(Duration::from_secs(1));
        let answer = world.client.clone().list_orders(request).await;
        assert_eq!(refusal(answer), (Code::Unavailable, Reason::Stale, vec![]));
    }
}

#[tokio::test]
async fn names_of_today_wait_for_their_tokens() {
    let mut events = history([&Sale::number(1)]);
    let world = World::of("named", &events).await;
    events.customer("17850", "Jürgen Schmidt");
    let wanted = consistency(vec![token(StreamCategory::Customer, "17850", 1)], OnStale::Unspecified);
    let request = GetOrderRequest { order_id: id(1), consistency: wanted, ..Default::default() };
    let (answer, ()) = tokio::join!(world.get(request), async { world.feed.publish(&events) });
    assert_eq!(answer.unwrap().order.unwrap().customer_current_name, "Jürgen Schmidt");
}

#[tokio::test]
async fn those_who_wait_together_share_refreshes() {
    const CALLERS: usize = 200;
    let mut events = history([&Sale::number(1)]);
    let search = Search::start("shared").await;
    let meter = Meter::before(&search.url, "/_refresh".to_owned()).await;
    let world = World::over(&search, &meter.url, &events).await;
    world.ready().await;
    world.caught_up(&events).await;
    let before = meter.count();
    // All of them wait for what is not there yet.
    let waiting = (0..CALLERS).map(|_| {
        let tokens = vec![token(StreamCategory::Order, &id(1), 4)];
        let request = ListOrdersRequest {
            consistency: consistency(tokens, OnStale::Unspecified),
            ..Default::default()
        };
        let mut client = world.client.clone();
        tokio::spawn(async move { client.list_orders(request).await.unwrap().into_inner().orders[0].version })
    });
    let waiting: Vec<_> = waiting.collect();
    events.order(&id(1), confirmed());
    world.feed.publish(&events);
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), 4);
    }
    let refreshes = meter.count() - before;
    assert!((1..=20).contains(&refreshes), "{refreshes} refreshes for {CALLERS} callers");
}
