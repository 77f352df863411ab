//! What Elasticsearch may do to a bulk: refuse it, or some of it, lose it, cut it, block its index, die, stand still. Whatever it
//! is, nobody is parked, nothing is lost, and it goes on by itself.

use std::collections::HashMap;
use std::time::Duration;

use elasticsearch::http::Method;
use local::process::kill_group;
use local::testing;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use read_service::index::{Bulk, Index, ItemOutcome};
use read_service::lanes::{Bounds, Lanes};
use read_service::projection::{Orders, Projection as _};
use read_service::projector::{Limits, Projector, State, Step};
use serde_json::json;
use shared::clock::Clock;
use tokio::time::{interval, timeout};

use crate::support::feed::ScriptedFeed;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{DEADLINE, History, Search, added, created, drive, quick, until};

const ORDERS: usize = 60;
/// Renewals that take longer than a lease of [`quick`] lasts.
const RENEWALS: i64 = 10;
/// Of documents of some 600 bytes.
const SMALL: Bounds = Bounds { least_bytes: 2_000, most_bytes: 16_000, most_documents: 1_000, in_flight: 2 };

/// Sixty orders and a projector of theirs behind a proxy, up to date.
struct Scene {
    search: Search,
    history: History,
    feed: ScriptedFeed,
    proxy: Proxy,
    orders: Projector<Orders>,
    lines: i32,
}

fn key(number: usize) -> String {
    format!("order-{number:03}")
}

impl Scene {
    async fn begin(name: &str) -> Self {
        let search = Search::start(name).await;
        let mut history = History::default();
        for number in 0..ORDERS {
            history.order(&key(number), created(&key(number), "R"));
        }
        let feed = ScriptedFeed::start(&history).await;
        feed.change(|script| script.batch = 1_000);
        let proxy = Proxy::before(&search.url, &search.name("orders-v1-1")).await;
        let index = Index::new(&proxy.url).unwrap();
        let limits = Limits { bulks: SMALL, ..quick() };
        let mut orders = Projector::new(
            index,
            feed.feed.clone(),
            &search.prefix,
            name.to_owned(),
            limits,
            Clock::system(),
        );
        drive(&mut orders, history.head()).await;
        proxy.seen();
        Self { search, history, feed, proxy, orders, lines: 0 }
    }

    /// Another line for every order.
    fn publish(&mut self) {
        self.lines += 1;
        for number in 0..ORDERS {
            self.history.order(&key(number), added(self.lines, 1, 100));
        }
        self.feed.publish(&self.history);
    }

    /// Steps until all is applied, and looks at every order.
    async fn settles(&mut self) {
        drive(&mut self.orders, self.history.head()).await;
        for number in 0..ORDERS {
            let expected = self.history.folded::<Orders>(&key(number));
            let stored = self.search.document::<Orders>(&key(number)).await;
            assert_eq!(stored, Some((Orders::version(&expected), expected)));
        }
        let snapshot = self.orders.progress().snapshot();
        assert_eq!((snapshot.parked_streams, snapshot.last_error.as_str()), (0, ""));
    }
}

#[tokio::test]
async fn only_what_is_refused_is_sent_again() {
    let mut scene = Scene::begin("refused-items").await;
    let busy = Fault::EverySecond(429, "es_rejected_execution_exception");
    let moving = Fault::EverySecond(503, "unavailable_shards_exception");
    for fault in [busy, moving] {
        scene.publish();
        scene.proxy.next([fault; 3]);
        scene.settles().await;
        assert_eq!(scene.proxy.left(), 0);
        let seen = scene.proxy.seen();
        let mut sent: HashMap<&str, usize> = HashMap::new();
        let mut refused: HashMap<&str, usize> = HashMap::new();
        for bulk in &seen {
            for (place, id) in bulk.ids.iter().enumerate() {
                *sent.entry(id).or_default() += 1;
                *refused.entry(id).or_default() += usize::from(bulk.fault.is_some() && place % 2 == 0);
            }
        }
        assert_eq!(sent.len(), ORDERS);
        assert!(refused.values().sum::<usize>() > 3, "{seen:?}");
        for (id, times) in sent {
            assert_eq!(times, 1 + refused[id], "{id}: as often as it was refused, and once");
        }
    }
}

#[tokio::test]
async fn a_request_that_fails_as_a_whole_is_sent_again() {
    let mut scene = Scene::begin("refused-requests").await;
    let faults =
        [Fault::Status(429), Fault::Status(503), Fault::Status(502), Fault::CutRequest, Fault::CutAnswer];
    for fault in faults {
        scene.publish();
        scene.proxy.next([fault; 2]);
        scene.settles().await;
        assert_eq!(scene.proxy.left(), 0, "{fault:?}");
    }
    // Longer than the lanes try: what is left waits in its batch.
    scene.publish();
    scene.proxy.next([Fault::Status(429); 40]);
    let waits = async { while scene.orders.step().await.unwrap() != Step::Waiting {} };
    timeout(DEADLINE, waits).await.unwrap();
    assert_eq!(scene.orders.progress().snapshot().state, State::Waiting);
    assert_eq!(scene.orders.progress().snapshot().parked_streams, 0);
    scene.settles().await;

    // An answer that does not come holds up its batch and nothing else: leases are renewed.
    scene.publish();
    scene.proxy.seen();
    scene.proxy.next([Fault::Stall]);
    let head = scene.history.head();
    let Scene { search, proxy, orders, .. } = &mut scene;
    let slow = async {
        testing::until(DEADLINE, "a bulk arrives", async || (!proxy.peek().is_empty()).then_some(())).await;
        let enough = search.beats::<Orders>().await + RENEWALS;
        let renewed = async || (search.beats::<Orders>().await >= enough).then_some(());
        testing::until(DEADLINE, "the leases outlive what they were before", renewed).await;
        proxy.go_on();
    };
    tokio::join!(drive(orders, head), slow);
    scene.settles().await;
}

#[tokio::test]
async fn what_is_read_ahead_of_a_bulk_that_stands_still_is_bounded_in_bytes() {
    const ORDERS: usize = 6_000;
    /// Of an event, and of all that may be under way: three batches, what follows them, and what the connection holds.
    const EVENT: usize = 4_000;
    const UNDER_WAY: usize = 8 * 1024 * 1024;
    let search = Search::start("read-ahead").await;
    let (mut history, reference) = (History::default(), "R".repeat(EVENT));
    for number in 0..ORDERS {
        history.order(&key(number), created(&key(number), &reference));
    }
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.batch = 50);
    let proxy = Proxy::before(&search.url, &search.name("orders-v1-1")).await;
    let bulks = Bounds { least_bytes: 256 * 1024, most_bytes: 512 * 1024, ..SMALL };
    let limits = Limits { bulks, batch_bytes: 512 * 1024, ..quick() };
    let (index, copy, clock) = (Index::new(&proxy.url).unwrap(), "one".to_owned(), Clock::system());
    let mut orders = Projector::<Orders>::new(index, feed.feed.clone(), &search.prefix, copy, limits, clock);
    proxy.next([Fault::Stall; SMALL.in_flight]);
    let stands_still = async {
        let (mut looks, mut given, mut same) = (interval(Duration::from_millis(100)), 0, 0);
        while given == 0 || proxy.left() > 0 || same < 15 {
            looks.tick().await;
            same = if given == feed.given() { same + 1 } else { 0 };
            given = feed.given();
        }
        proxy.go_on();
        usize::try_from(given).unwrap()
    };
    let ((), given) = tokio::join!(drive(&mut orders, history.head()), stands_still);
    assert!(given * EVENT < UNDER_WAY, "{given} of {ORDERS} events were read");
    assert!(given < ORDERS / 2, "{given} are no small part of {ORDERS}");
}

#[tokio::test]
async fn bulks_shrink_when_refused_and_grow_again() {
    let mut scene = Scene::begin("pace").await;
    let largest = |scene: &Scene| scene.proxy.seen().iter().map(|bulk| bulk.bytes).max().unwrap();
    scene.publish();
    scene.settles().await;
    let before = largest(&scene);
    scene.publish();
    scene.proxy.next([Fault::Status(429); 3]);
    scene.settles().await;
    scene.proxy.seen();
    scene.publish();
    scene.settles().await;
    let shrunk = largest(&scene);
    assert!(shrunk < before * 3 / 4, "{before} {shrunk}");
    let grows = async {
        loop {
            scene.publish();
            scene.settles().await;
            if largest(&scene) >= before {
                break;
            }
        }
    };
    timeout(DEADLINE, grows).await.unwrap();

    // A size that the server refuses is not tried twice.
    scene.proxy.limit(before / 2);
    let refused = |scene: &Scene| {
        scene.proxy.seen().iter().filter(|bulk| bulk.fault == Some(Fault::Status(413))).count()
    };
    scene.publish();
    scene.settles().await;
    assert!(refused(&scene) > 0);
    for _ in 0..3 {
        scene.publish();
        scene.settles().await;
    }
    assert_eq!(refused(&scene), 0);
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let mut scene = Scene::begin("full").await;
    let path = format!("/{}/_settings", scene.search.name("orders-v1-1"));
    // What the server itself does at the flood-stage watermark.
    let block = json!({ "index.blocks.read_only_allow_delete": true });
    scene.search.raw(Method::Put, &path, Some(block)).await;
    scene.publish();
    until(&mut scene.orders, Step::Waiting).await;
    let snapshot = scene.orders.progress().snapshot();
    assert_eq!((snapshot.state, snapshot.parked_streams), (State::Waiting, 0));
    assert_eq!(snapshot.last_error, "elasticsearch is overloaded: cluster_block_exception");
    assert!(scene.orders.progress().lag_seconds() > 0.0);
    until(&mut scene.orders, Step::Waiting).await;
    let clear = json!({ "index.blocks.read_only_allow_delete": null });
    scene.search.raw(Method::Put, &path, Some(clear)).await;
    scene.settles().await;
}

#[tokio::test]
async fn a_node_that_is_killed_or_stands_still_is_waited_for() {
    let run = testing::private_run().unwrap();
    let node = testing::node(&run, 512).await.unwrap();
    let server = node.start(&run).await.unwrap();
    let search = Search::at(node.url(), "killed");
    let mut history = History::default();
    history.order("a", created("a", "R-1"));
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector_with::<Orders>(&feed.feed, Limits::default());
    drive(&mut orders, history.head()).await;

    let group = |server: &local::process::Process| Pid::from_raw(server.identity().unwrap().id.cast_signed());
    killpg(group(&server), Signal::SIGSTOP).unwrap();
    history.order("a", added(1, 1, 100));
    feed.publish(&history);
    let pause = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        killpg(group(&server), Signal::SIGCONT).unwrap();
    };
    tokio::join!(drive(&mut orders, history.head()), pause);

    kill_group(server.identity().unwrap());
    history.order("a", added(2, 1, 100)).order("b", created("b", "R-2"));
    feed.publish(&history);
    until(&mut orders, Step::Waiting).await;
    assert_eq!(orders.progress().snapshot().state, State::Waiting);
    // It comes back to a projector that never stopped asking.
    let mut start = Box::pin(node.start(&run));
    let server = loop {
        tokio::select! {
            started = &mut start => break started.unwrap(),
            step = orders.step() => assert!(step.is_ok(), "{step:?}"),
        }
    };
    drop(start);
    drive(&mut orders, history.head()).await;
    for key in ["a", "b"] {
        let expected = history.folded::<Orders>(key);
        assert_eq!(search.document::<Orders>(key).await, Some((Orders::version(&expected), expected)));
    }
    assert_eq!(orders.progress().snapshot().parked_streams, 0);
    kill_group(server.identity().unwrap());
    run.close();
}

#[tokio::test]
async fn documents_travel_while_something_else_is_awaited() {
    let scene = Scene::begin("beside").await;
    let bounds = Bounds { most_documents: 2, in_flight: 1, ..SMALL };
    let target = scene.search.name("orders-v1-1");
    let mut lanes = Lanes::new(Index::new(&scene.proxy.url).unwrap(), target.clone(), "orders", bounds);
    scene.proxy.next([Fault::Stall]);
    for new in ["a", "b", "c"] {
        let document = scene.history.folded::<Orders>(&key(0));
        let write = |new: &&str, bulk: &mut Bulk| bulk.index(new, 1, &document, &Orders::search(&document));
        timeout(DEADLINE, lanes.put(new, write)).await.unwrap();
    }
    // The first two travel and are not answered; the third is alone in the open bulk.
    let other = async {
        testing::until(DEADLINE, "the bulk stands", async || (scene.proxy.left() == 0).then_some(())).await;
        testing::until(DEADLINE, "the third arrives", async || {
            scene.proxy.go_on();
            scene.search.document::<Orders>("c").await
        })
        .await;
    };
    timeout(DEADLINE, lanes.beside(other)).await.unwrap();
    let mut outcomes = Vec::new();
    while let Some(outcome) = timeout(DEADLINE, lanes.next()).await.unwrap() {
        outcomes.push(outcome);
    }
    assert_eq!(outcomes, ["a", "b", "c"].map(|new| (new, ItemOutcome::Applied)));
}
