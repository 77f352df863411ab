//! Searches that take too long, and too many of them: who is told what, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proto::reason::Reason;
use proto::v1::get_sales_report_request::GroupBy;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::{Code, Request};

use super::world::{Sale, World, history, id, refusal};
use crate::support::{History, Search};

const DOWN: (Code, Reason, Vec<String>) = (Code::Unavailable, Reason::SearchDown, vec![]);
const TOO_LATE: (Code, Reason, Vec<String>) = (Code::DeadlineExceeded, Reason::DeadlinePassed, vec![]);
const OVERLOADED: (Code, Reason, Vec<String>) = (Code::ResourceExhausted, Reason::Overloaded, vec![]);

/// A way to Elasticsearch on which requests of one kind can be held back.
pub(super) struct Gate {
    url: String,
    held: Arc<watch::Sender<&'static str>>,
    /// Requests held back so far.
    count: Arc<watch::Sender<usize>>,
}

impl Gate {
    async fn to(url: &str) -> Self {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let held = Arc::new(watch::Sender::new(""));
        let count = Arc::new(watch::Sender::new(0));
        let (state, counted) = (Arc::clone(&held), Arc::clone(&count));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&target).await.unwrap();
                let (mut from, mut back) = near.into_split();
                let (mut answers, mut on) = far.into_split();
                let (mut held, counted) = (state.subscribe(), Arc::clone(&counted));
                tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from.read(&mut buffer).await {
                        // A connection carries one request after the other, and a request's first line comes first.
                        let sent = buffer[..length].to_vec();
                        let line = String::from_utf8_lossy(sent.split(|byte| *byte == b'\r').next().unwrap());
                        let passes = |held: &&'static str| held.is_empty() || !line.contains(held);
                        if !passes(&held.borrow()) {
                            counted.send_modify(|count| *count += 1);
                        }
                        if held.wait_for(passes).await.is_err() || on.write_all(&sent).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, held, count }
    }

    /// Holds back what has this in its first line; all goes through where it is empty.
    pub fn hold(&self, part: &'static str) {
        self.held.send_replace(part);
    }

    /// Waits until so many requests have been held back.
    async fn holds(&self, requests: usize) {
        self.count.subscribe().wait_for(|count| *count >= requests).await.unwrap();
    }
}

async fn world(name: &str, searches_at_once: usize) -> (World, Gate) {
    gated(name, &history([&Sale::number(1)]), searches_at_once).await
}

/// A service behind a gate, in which all of `events` can be searched.
pub(super) async fn gated(name: &str, events: &History, searches_at_once: usize) -> (World, Gate) {
    let search = Search::start(name).await;
    let gate = Gate::to(&search.url).await;
    let world = World::set(&search, &gate.url, events, searches_at_once).await;
    world.ready().await;
    world.caught_up(events).await;
    (world, gate)
}

fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn report() -> GetSalesReportRequest {
    GetSalesReportRequest {
        group_by: GroupBy::Product.into(),
        currency_code: "GBP".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_slow_elasticsearch_is_to_blame_and_not_the_deadline() {
    let (world, gate) = world("slow", 16).await;
    let limit = Duration::from_millis(1_500);
    let search = SearchOrdersRequest { query: "heart".into(), ..Default::default() };
    let order = GetOrderRequest { order_id: id(1), ..Default::default() };

    gate.hold("_search");
    let mut clients = std::array::from_fn::<_, 4, _>(|_| world.client.clone());
    let [listing, searching, reporting, reading] = &mut clients;
    let asked = Instant::now();
    let (listed, searched, reported, ()) = tokio::join!(
        listing.list_orders(within(ListOrdersRequest::default(), limit)),
        searching.search_orders(within(search, limit)),
        reporting.get_sales_report(within(report(), limit)),
        async {
            // Whoever reads by id has an answer meanwhile.
            reading.get_order(order.clone()).await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(1), "read by id in {:?}", asked.elapsed());
        },
    );
    assert_eq!(refusal(listed), DOWN);
    assert_eq!(refusal(searched), DOWN);
    assert_eq!(refusal(reported), DOWN);

    gate.hold("_doc/");
    let read = world.client.clone().get_order(within(order.clone(), limit)).await;
    assert_eq!(refusal(read), DOWN);
    gate.hold("");
    world.get(order).await.unwrap();
    assert_eq!(world.list(ListOrdersRequest::default()).await.unwrap().total_size, 1);
}

#[tokio::test]
async fn who_leaves_no_time_to_answer_hears_that_it_has_passed() {
    let (world, gate) = world("hurry", 16).await;
    // A channel of tonic's gives up by itself, before it can hear anything.
    let http = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let client = OrderQueryServiceClient::with_origin(http, world.url.parse().unwrap());
    let search = SearchOrdersRequest { query: "heart".into(), ..Default::default() };
    let order = GetOrderRequest { order_id: id(1), ..Default::default() };
    for (limit, refused) in [(Duration::from_millis(15), TOO_LATE), (Duration::from_secs(2), DOWN)] {
        gate.hold("_search");
        let mut clients = std::array::from_fn::<_, 4, _>(|_| client.clone());
        let [listing, searching, reporting, reading] = &mut clients;
        let (listed, searched, reported) = tokio::join!(
            listing.list_orders(within(ListOrdersRequest::default(), limit)),
            searching.search_orders(within(search.clone(), limit)),
            reporting.get_sales_report(within(report(), limit)),
        );
        assert_eq!(refusal(listed), refused);
        assert_eq!(refusal(searched), refused);
        assert_eq!(refusal(reported), refused);
        gate.hold("_doc/");
        assert_eq!(refusal(reading.get_order(within(order.clone(), limit)).await), refused);
        gate.hold("");
    }
    assert_eq!(world.list(ListOrdersRequest::default()).await.unwrap().total_size, 1);
}

#[tokio::test]
async fn surplus_searches_are_refused_and_the_others_answered() {
    let (world, gate) = world("surplus", 2).await;
    gate.hold("_search");
    // Two are under way, and thirty wait for them.
    let ask = || async { world.list(ListOrdersRequest::default()).await };
    let mut asked: FuturesUnordered<_> = (0..40).map(|_| ask()).collect();
    for _ in 0..8 {
        assert_eq!(refusal(asked.next().await.unwrap()), OVERLOADED);
    }
    let search = SearchOrdersRequest { query: "heart".into(), ..Default::default() };
    assert_eq!(refusal(world.search(search).await), OVERLOADED);
    assert_eq!(refusal(world.report(report()).await), OVERLOADED);
    world.get(GetOrderRequest { order_id: id(1), ..Default::default() }).await.unwrap();
    gate.hold("");
    while let Some(answer) = asked.next().await {
        assert_eq!(answer.unwrap().total_size, 1);
    }
}

#[tokio::test]
async fn a_turn_that_does_not_come_in_time_is_told_before_the_deadline() {
    let (world, gate) = world("turn", 2).await;
    gate.hold("_search");
    let ask = || async { world.list(ListOrdersRequest::default()).await };
    let late = async {
        gate.holds(2).await;
        let late = within(ListOrdersRequest::default(), Duration::from_millis(1_500));
        let late = world.client.clone().list_orders(late).await;
        gate.hold("");
        late
    };
    let (first, second, late) = tokio::join!(ask(), ask(), late);
    assert_eq!(refusal(late), OVERLOADED);
    assert_eq!((first.unwrap().total_size, second.unwrap().total_size), (1, 1));
}
