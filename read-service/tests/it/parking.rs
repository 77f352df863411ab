//! Streams set aside: each alone and in order, until what was at fault is gone.

use std::collections::HashSet;
use std::time::Duration;

use elasticsearch::http::Method;
use proto::v1::StreamCategory;
use proto::v1::recorded_event::Body;
use read_service::parking::{Fault, ParkedStream, Retried};
use read_service::projection::{Orders, Projection as _, fold};
use read_service::projector::{Projector, Step};
use serde_json::json;

use crate::support::feed::ScriptedFeed;
use crate::support::{DEADLINE, History, Search, added, created, drive, submitted, until};

/// Orders of a large history whose events are mixed.
const TOGETHER: usize = 1_000;
/// What a keyword does not hold.
const TOO_LONG: usize = 32_767;

fn long(line: i32) -> Body {
    let Body::ItemAdded(item) = added(line, 1, 100) else { unreachable!() };
    Body::ItemAdded(proto::v1::ItemAdded { product_id: "x".repeat(TOO_LONG), ..item })
}

impl Search {
    /// What is parked of orders, by key.
    async fn parked(&self) -> Vec<ParkedStream> {
        self.parking::<Orders>().await.list().await.unwrap()
    }

    /// From now on the index takes what was too long.
    async fn lift_limit(&self) {
        let field = json!({ "type": "keyword", "ignore_above": 1_000 });
        let lines = json!({ "type": "nested", "properties": { "product_id": field } });
        let path = format!("/{}/_mapping", self.name("orders-v1-1"));
        let answer = self.raw(Method::Put, &path, Some(json!({ "properties": { "lines": lines } }))).await;
        assert_eq!(answer["acknowledged"], true, "{answer}");
    }

    async fn is_folded(&self, history: &History, keys: &[&str]) {
        for key in keys {
            let expected = history.folded::<Orders>(key);
            let stored = self.document::<Orders>(key).await;
            assert_eq!(stored, Some((Orders::version(&expected), expected)), "{key}");
        }
    }

    /// Changes the record of a parked order past the service.
    async fn put_record(&self, key: &str, record: serde_json::Value) {
        let id = format!("parked:{}:{key}", self.name("orders-v1-1"));
        let path = format!("/{}/_doc/{id}", self.name("control"));
        let answer = self.raw(Method::Put, &path, Some(record)).await;
        assert!(answer["error"].is_null(), "{answer}");
    }
}

/// Steps until nothing is parked.
async fn all_released(search: &Search, orders: &mut Projector<Orders>) {
    let released = async {
        while orders.progress().snapshot().parked_streams > 0 {
            orders.step().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, released).await.expect("nothing is parked in time");
    assert_eq!(search.parked().await, []);
}

fn fault(version: i64, position: i64, error: &str) -> Fault {
    Fault { version, position, error: error.to_owned() }
}

#[tokio::test]
async fn every_kind_of_fault_parks_its_stream_alone_and_in_order_until_it_is_gone() {
    let search = Search::start("parking-kinds").await;
    let mut history = History::default();
    for key in ["fold", "good", "mapping", "unknown", "unreadable"] {
        history.order(key, created(key, key)).order(key, added(1, 1, 100));
    }
    history.unknown("unknown").order("unreadable", added(2, 1, 100)).order("mapping", long(2));
    history.order("fold", submitted(99));
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.unreadable = HashSet::from([12]));
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    until(&mut orders, Step::Idle).await;
    drop(orders);

    // Later events wait behind it, after a restart too; all others go on.
    for key in ["fold", "good", "mapping", "unknown", "unreadable"] {
        history.order(key, added(3, 1, 100));
    }
    feed.publish(&history);
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    search.is_folded(&history, &["good"]).await;
    let poisoned = ["fold", "mapping", "unknown", "unreadable"];
    for key in poisoned {
        let (version, document) = search.document::<Orders>(key).await.unwrap();
        assert_eq!((version, document.lines.len()), (2, 1), "{key}: what comes before is applied");
    }
    let no_body = "event 3 has no body that this release knows";
    let unfit = "elasticsearch refused with 400 document_parsing_exception";
    let wrong = "event 3 cannot follow: the total submitted is not the sum of the lines";
    let faults = [fault(3, 14, wrong), fault(3, 13, unfit), fault(3, 11, no_body), fault(3, 12, no_body)];
    let parked = search.parked().await;
    let keys: Vec<_> = parked.iter().map(|parked| parked.stream_key.as_str()).collect();
    assert_eq!(keys, poisoned);
    for (parked, fault) in parked.iter().zip(&faults) {
        assert_eq!((&parked.fault, parked.attempts), (fault, 1));
        assert_eq!(
            (parked.projection.as_str(), parked.category.as_str()),
            ("orders", "STREAM_CATEGORY_ORDER")
        );
    }
    assert_eq!(orders.progress().snapshot().parked_streams, 4);

    // While what is at fault is there, each attempt is counted; the document stays.
    for (attempts, key) in [(2, "unreadable"), (3, "unreadable"), (2, "mapping"), (2, "fold"), (2, "unknown")]
    {
        let Retried::Still(still) = search.retry::<Orders>(&feed.feed, key).await.unwrap() else {
            panic!("{key} was applied")
        };
        assert_eq!((still.attempts, still.fault.version), (attempts, 3), "{key}");
        assert_eq!(search.document::<Orders>(key).await.unwrap().0, 2, "{key}");
    }
    let unreadable = search.parked().await.pop().unwrap();
    assert_eq!(unreadable.fault, fault(3, 12, "event 3 cannot be read: its bytes are damaged"));

    // Its cause gone, a stream is applied whole, whoever is asked, and later events follow.
    search.lift_limit().await;
    feed.change(|script| script.unreadable.clear());
    history.events[10].body = Some(added(2, 1, 1));
    history.events[13].body = Some(added(2, 1, 1));
    feed.publish(&history);
    for key in poisoned {
        assert_eq!(search.retry::<Orders>(&feed.feed, key).await, Ok(Retried::Applied));
        assert_eq!(search.retry::<Orders>(&feed.feed, key).await, Ok(Retried::NotParked));
    }
    search.is_folded(&history, &poisoned).await;
    for key in poisoned {
        history.order(key, added(4, 1, 100));
    }
    feed.publish(&history);
    drive(&mut orders, history.head()).await;
    search.is_folded(&history, &poisoned).await;
    all_released(&search, &mut orders).await;
}

#[tokio::test]
async fn of_many_versions_written_at_once_the_first_that_does_not_fit_is_parked() {
    let search = Search::start("parking-first").await;
    let mut history = History::default();
    history.order("a", created("a", &"x".repeat(TOO_LONG))).order("b", created("b", "R"));
    for line in 1..=9 {
        history.order("b", if line == 6 { long(line) } else { added(line, 1, 100) });
    }
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.batch = 100);
    let mut orders = search.projector::<Orders>(&feed.feed);
    until(&mut orders, Step::Opened).await;
    until(&mut orders, Step::Applied(11)).await;
    let unfit = "elasticsearch refused with 400 document_parsing_exception";
    let parked: Vec<_> =
        search.parked().await.into_iter().map(|parked| (parked.stream_key, parked.fault)).collect();
    assert_eq!(parked, [("a".to_owned(), fault(1, 1, unfit)), ("b".to_owned(), fault(7, 8, unfit))]);
    assert_eq!(search.document::<Orders>("a").await, None);
    let (version, document) = search.document::<Orders>("b").await.unwrap();
    assert_eq!((version, document.lines.len()), (6, 5), "the document holds all that can be applied");
}

#[tokio::test]
async fn one_poisoned_order_among_a_hundred_thousand_leaves_all_others_exact() {
    let search = Search::start("parking-many").await;
    let keys: Vec<_> = (0..100_000).map(|number| format!("order-{number:05}")).collect();
    let poisoned = &keys[54_321];
    let mut history = History::default();
    for some in keys.chunks(TOGETHER) {
        for version in 1..=3 {
            for key in some {
                let body = match version {
                    1 => Some(created(key, key)),
                    2 if key == poisoned => None,
                    _ => Some(added(version, 1, 100)),
                };
                history.push(StreamCategory::Order, key, version.into(), body);
            }
        }
    }
    let feed = ScriptedFeed::start(&history).await;
    // Some orders are whole in a batch, of others the end comes with the next.
    feed.change(|script| script.batch = 4 * TOGETHER);
    let mut orders = search.projector::<Orders>(&feed.feed);
    for through in (1..=history.head()).filter(|position| position % 20_000 == 0) {
        drive(&mut orders, through).await;
    }
    let [parked] = &search.parked().await[..] else { panic!("one is parked") };
    assert_eq!((&parked.stream_key, parked.fault.version), (poisoned, 2));
    let mut exact = 0;
    for (some, events) in keys.chunks(TOGETHER).zip(history.events.chunks(3 * TOGETHER)) {
        let ids: Vec<&str> = some.iter().map(String::as_str).collect();
        let documents = search.index.mget(&search.name("orders"), &ids).await.unwrap();
        for (number, (key, found)) in some.iter().zip(documents).enumerate() {
            let events = events.iter().skip(number).step_by(TOGETHER);
            let expected = fold::<Orders>(events.take(if key == poisoned { 1 } else { 3 })).unwrap();
            let version = expected.as_ref().map(Orders::version);
            assert_eq!(found.as_ref().map(|found| found.version), version, "{key}");
            assert_eq!(found.map(|found| found.source), expected, "{key}");
            exact += usize::from(key != poisoned);
        }
    }
    assert_eq!(exact, 99_999);
    search.raw(Method::Post, &format!("/{}/_refresh", search.name("orders")), None).await;
    let counted = search.raw(Method::Get, &format!("/{}/_count", search.name("orders")), None).await;
    assert_eq!(counted["count"], 100_000, "there is nothing else");
}

/// Orders that are parked at their second event, with a third behind it.
async fn parked_orders(search: &Search, keys: &[String]) -> (History, ScriptedFeed) {
    let mut history = History::default();
    for key in keys {
        history.order(key, created(key, key)).unknown(key).order(key, added(2, 1, 100));
    }
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    until(&mut orders, Step::Idle).await;
    assert_eq!(search.parked().await.len(), keys.len());
    for event in history.events.iter_mut().filter(|event| event.version == 2) {
        event.body = Some(added(1, 1, 100));
    }
    feed.publish(&history);
    (history, feed)
}

#[tokio::test]
async fn a_retry_loses_nothing_of_what_comes_meanwhile() {
    let search = Search::start("parking-race").await;
    let keys: Vec<_> = (0..12).map(|number| format!("order-{number:02}")).collect();
    let (mut history, feed) = parked_orders(&search, &keys).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    until(&mut orders, Step::Opened).await;
    let busy = async {
        // Each order gets events before, while and after it is retried, by two callers at once.
        for (number, key) in keys.iter().enumerate() {
            let retries = async {
                tokio::join!(search.retry::<Orders>(&feed.feed, key), search.retry::<Orders>(&feed.feed, key),)
            };
            let events = async {
                for line in 3..9 {
                    history.order(key, added(line, 1, 100));
                    feed.publish(&history);
                    tokio::time::sleep(Duration::from_millis(u64::try_from(number).unwrap())).await;
                }
            };
            let ((one, two), ()) = tokio::join!(retries, events);
            let outcomes = [one.unwrap(), two.unwrap()];
            let known = |outcome| matches!(outcome, &Retried::Applied | &Retried::NotParked);
            assert!(outcomes.iter().all(known) && outcomes.contains(&Retried::Applied), "{outcomes:?}");
        }
    };
    let steps = async {
        loop {
            orders.step().await.unwrap();
        }
    };
    tokio::select! {
        () = busy => {}
        () = steps => {}
    }
    drive(&mut orders, history.head()).await;
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    search.is_folded(&history, &keys).await;
    all_released(&search, &mut orders).await;
}

#[tokio::test]
async fn a_retry_left_unfinished_is_finished_by_the_owner() {
    let search = Search::start("parking-unfinished").await;
    let (mut history, feed) = parked_orders(&search, &["a".to_owned()]).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    until(&mut orders, Step::Opened).await;
    let record = json!({
        "kind": "parked", "projection": "orders", "index": search.name("orders-v1-1"),
        "category": "STREAM_CATEGORY_ORDER", "stream_key": "a", "version": 2, "position": 2,
        "error": "unknown", "parked_at": "2026-01-01T00:00:00Z", "attempts": 1, "releasing": true,
    });
    search.put_record("a", record).await;
    // Nothing new comes; the third event was skipped before.
    all_released(&search, &mut orders).await;
    search.is_folded(&history, &["a"]).await;
    history.order("a", added(3, 1, 100));
    feed.publish(&history);
    drive(&mut orders, history.head()).await;
    search.is_folded(&history, &["a"]).await;
}

#[tokio::test]
async fn what_a_copy_parked_too_late_hides_nothing() {
    let search = Search::start("parking-late").await;
    let mut history = History::default();
    history.order("a", created("a", "R-1")).order("a", added(1, 1, 100)).order("a", added(2, 1, 100));
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    // Another copy, of a release that does not know the second event, slept while this one applied it.
    search.parking::<Orders>().await.park("a", &fault(2, 2, "unknown")).await.unwrap();
    drop(orders);
    let mut orders = search.projector::<Orders>(&feed.feed);
    until(&mut orders, Step::Opened).await;
    assert_eq!(orders.progress().snapshot().parked_streams, 1);
    history.order("a", added(3, 1, 100));
    feed.publish(&history);
    drive(&mut orders, history.head()).await;
    search.is_folded(&history, &["a"]).await;
    all_released(&search, &mut orders).await;
}

#[tokio::test]
async fn a_parked_stream_is_known_to_every_copy_and_counted_by_attempts() {
    let search = Search::start("parking-known").await;
    let mapping = include_str!("../../index/control.json");
    search.index.ensure_plain(&search.name("control"), mapping).await.unwrap();
    search.index.ensure_plain(&search.name("orders-v1-1"), Orders::MAPPING).await.unwrap();
    let mut here = search.parking::<Orders>().await;
    assert!(here.is_empty());
    let faults = [("b".to_owned(), fault(3, 0, "no")), ("a".to_owned(), fault(7, 70, "no"))];
    here.park_all(&faults).await.unwrap();
    here.park("a", &fault(7, 0, "still")).await.unwrap();
    here.park("b", &fault(4, 0, "still")).await.unwrap();

    let mut there = search.parking::<Orders>().await;
    let listed: Vec<_> = there
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|parked| (parked.stream_key, parked.fault, parked.attempts))
        .collect();
    let expected = [("a".to_owned(), fault(7, 70, "still"), 2), ("b".to_owned(), fault(4, 0, "still"), 2)];
    assert_eq!(listed, expected, "a place in the feed stays known");
    for parking in [&mut here, &mut there] {
        parking.look(["a", "c"]).await.unwrap();
        assert!(parking.is_parked("a") && !parking.is_parked("c"));
    }
    let id = format!("parked:{}:a", search.name("orders-v1-1"));
    search.raw(Method::Delete, &format!("/{}/_doc/{id}", search.name("control")), None).await;
    here.look(["a"]).await.unwrap();
    assert!(!here.is_parked("a"), "what another copy took back is noticed");
    assert_eq!(here.len(), 1);
}
