//! What a caller hears while a part of the pair is away, and that it goes on when the part is back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local::testing;
use proto::reason::Reason;
use proto::v1::get_order_request::AsOf;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::*;
use sqlx::{Connection as _, PgConnection};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::gate::{Gate, Way};
use crate::world::{PATIENCE, Paths, World, create};

type Queries = OrderQueryServiceClient<Channel>;

/// A question of each kind.
#[derive(Clone, Copy, Debug)]
enum Question {
    Get,
    List,
    Search,
    Report,
    History,
    AsOf,
}

const SEARCHED: [Question; 4] = [Question::Get, Question::List, Question::Search, Question::Report];
const STORED: [Question; 2] = [Question::History, Question::AsOf];

fn within<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

/// Asks about this order, with the token of a command.
async fn ask(
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

/// Every one of these questions is answered with this reason, in time and with the advice to come back.
async fn refused(
    queries: &Queries,
    questions: &[Question],
    receipt: &OrderReceipt,
    reason: Reason,
    why: &str,
) {
    let deadlines = [1, 2].map(|seconds| Some(Duration::from_secs(seconds)));
    let asked = questions.iter().flat_map(|question| {
        let each = deadlines.into_iter().flat_map(|deadline| [(deadline, false), (deadline, true)]);
        each.map(move |(deadline, token)| async move {
            let begun = Instant::now();
            let answer = ask(queries.clone(), *question, receipt, token, deadline).await;
            let (status, took) = (answer.expect_err(why), begun.elapsed());
            let told = format!("{why}: {question:?} within {deadline:?}, token {token}: {status:?}");
            assert_eq!((status.code(), Reason::of(&status)), (Code::Unavailable, Some(reason)), "{told}");
            assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{told}");
            assert!(deadline.is_some_and(|deadline| took < deadline), "{told} after {took:?}");
        })
    });
    join_all(asked).await;
}

/// Waits until a question is answered again.
async fn answered(queries: &Queries, question: Question, receipt: &OrderReceipt) {
    testing::until(PATIENCE, "it comes back by itself", async || {
        ask(queries.clone(), question, receipt, true, Some(Duration::from_secs(2))).await.ok()
    })
    .await;
}

#[tokio::test]
async fn elasticsearch_that_does_not_answer_is_named_before_the_deadline() {
    let world = World::start().await;
    let gate = Gate::before(world.paths().elasticsearch).await;
    let read = world.another_read(&Paths { elasticsearch: gate.address.clone(), ..world.paths() }).await;
    let receipt = world.create(create(1)).await;
    world.settle_at(&read.queries()).await;
    for way in [
        Way::Frozen,
        Way::Gone,
        Way::Slow(Duration::from_secs(3)),
        Way::Answers(429),
        Way::Answers(503),
        Way::Cut,
    ] {
        gate.set(way);
        refused(&read.queries(), &SEARCHED, &receipt, Reason::SearchDown, &format!("{way:?}")).await;
        // What was needs no Elasticsearch.
        for question in STORED {
            ask(read.queries(), question, &receipt, false, Some(Duration::from_secs(2))).await.unwrap();
        }
        gate.set(Way::Open);
        for question in SEARCHED {
            answered(&read.queries(), question, &receipt).await;
        }
    }
    // What was written meanwhile is there, nothing is lost.
    gate.set(Way::Gone);
    let second = world.create(create(2)).await;
    gate.set(Way::Open);
    answered(&read.queries(), Question::List, &second).await;
    read.stop().await;
}

#[tokio::test]
async fn questions_go_on_without_the_write_service_but_for_what_was() {
    let world = World::start().await;
    let gate = Gate::before(world.paths().feed).await;
    let read = world.another_read(&Paths { feed: gate.address.clone(), ..world.paths() }).await;
    let receipt = world.create(create(1)).await;
    world.settle_at(&read.queries()).await;
    for way in [Way::Frozen, Way::Gone] {
        gate.set(way);
        refused(&read.queries(), &STORED, &receipt, Reason::EventStoreDown, &format!("{way:?}")).await;
        for question in SEARCHED {
            ask(read.queries(), question, &receipt, true, Some(Duration::from_secs(2))).await.unwrap();
        }
        gate.set(Way::Open);
        answered(&read.queries(), Question::History, &receipt).await;
    }
    read.stop().await;
}

async fn list(queries: &Queries) -> ListOrdersResponse {
    queries.clone().list_orders(ListOrdersRequest::default()).await.unwrap().into_inner()
}

/// The projections have stopped; what they have is still answered, and said to be old.
async fn halted(world: &World, orders: i64, receipt: &OrderReceipt, reason: Reason) {
    testing::until(PATIENCE, "answers say how old they are", async || {
        let answer = list(&world.queries()).await;
        assert_eq!(answer.total_size, orders);
        answer.freshness.filter(|freshness| freshness.lag_seconds > 12.0)
    })
    .await;
    for question in SEARCHED {
        ask(world.queries(), question, receipt, true, Some(Duration::from_secs(2))).await.unwrap();
    }
    let watch = WatchOrderRequest { order_id: receipt.order_id.clone() };
    let refused = world.queries().watch_order(watch).await.map(drop).unwrap_err();
    assert_eq!((refused.code(), Reason::of(&refused)), (reason.code(), Some(reason)));
}

#[tokio::test]
async fn a_store_restored_to_an_earlier_point_halts_the_projections() {
    let mut world = World::start().await;
    world.create(create(1)).await;
    let before = world.stop_write().await;
    let (server, name) = before.rsplit_once('/').unwrap();
    let mut postgres = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let copy = format!("CREATE DATABASE {name}_copy TEMPLATE {name}");
    // Connections of the service that has stopped may still be closing.
    testing::until(PATIENCE, "the store is copied", async || {
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy.clone())).execute(&mut postgres).await.ok()
    })
    .await;
    world.start_write(&before).await;
    let receipt = world.create(create(2)).await;
    world.settle().await;
    world.stop_write().await;
    world.start_write(&format!("{before}_copy")).await;
    halted(&world, 2, &receipt, Reason::PositionAhead).await;
}

#[tokio::test]
async fn another_store_halts_the_projections() {
    let mut world = World::start().await;
    let receipt = world.create(create(1)).await;
    world.settle().await;
    world.stop_write().await;
    let other = testing::database().await.unwrap();
    world.start_write(&other.url).await;
    halted(&world, 1, &receipt, Reason::StoreChanged).await;
}
