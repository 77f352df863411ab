//! Orders that are watched: by many, by slow ones, while parts are away.

use std::collections::BTreeMap;

use local::testing;
use proto::reason::Reason;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::recorded_event::Body;
use proto::v1::*;
use read_service::Aliases;
use read_service::projector::Progress;
use read_service::subscription::FeedError;
use read_service::watch::{Limits, Sources, WatchError, Watches};
use shared::clock::Clock;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::world::{Sale, World, history, id, refusal};
use crate::support::feed::ScriptedFeed;
use crate::support::{Cable, DEADLINE, History, Meter, Search, added, confirmed, created};

const WATCHERS: usize = 2_000;
const ORDERS: usize = 200;
const CONNECTIONS: usize = 4;
/// Changes that a slow watcher does not look at.
const CHANGES: i64 = 500;

async fn watch(world: &World, order_id: String) -> Streaming<WatchOrderResponse> {
    world.client.clone().watch_order(WatchOrderRequest { order_id }).await.unwrap().into_inner()
}

async fn next(changes: &mut Streaming<WatchOrderResponse>) -> Result<Order, Status> {
    let message = timeout(DEADLINE, changes.message()).await.expect("nothing is heard in time")?;
    Ok(message.expect("the stream does not end by itself").order.unwrap())
}

async fn version(changes: &mut Streaming<WatchOrderResponse>) -> i64 {
    next(changes).await.unwrap().summary.unwrap().version
}

fn delivered() -> [Body; 3] {
    let shipped = OrderShipped { carrier: "Royal Mail".into(), tracking_number: "RM1".into() };
    [confirmed(), Body::OrderShipped(shipped), Body::OrderDelivered(OrderDelivered {})]
}

#[tokio::test]
async fn two_thousand_watchers_cost_one_subscription_and_one_read_of_each_order() {
    let sales: Vec<_> = (0..ORDERS).map(Sale::number).collect();
    let mut events = history(&sales);
    let search = Search::start("watchers").await;
    let meter = Meter::before(&search.url, format!("GET /{}orders/_doc/", search.prefix)).await;
    let world = World::over(&search, &meter.url, &events).await;
    world.ready().await;
    world.caught_up(&events).await;
    let before = meter.count();
    let mut watchers = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = OrderQueryServiceClient::connect(world.url.clone()).await.unwrap();
        for watcher in 0..WATCHERS / CONNECTIONS {
            let mut client = client.clone();
            watchers.push(tokio::spawn(async move {
                let request = WatchOrderRequest { order_id: id((watcher + connection) % ORDERS) };
                let mut changes = client.watch_order(request).await.unwrap().into_inner();
                assert_eq!(version(&mut changes).await, 3);
                changes
            }));
        }
    }
    let mut watching = Vec::new();
    for watcher in watchers {
        watching.push(watcher.await.unwrap());
    }
    assert_eq!(meter.count() - before, ORDERS);
    // Changes come one after the other and together.
    let bodies = delivered();
    let readers: Vec<_> = watching
        .into_iter()
        .map(|mut changes| {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.last() != Some(&6) {
                    seen.push(version(&mut changes).await);
                }
                seen
            })
        })
        .collect();
    for body in bodies {
        for sale in &sales {
            events.order(&sale.id, body.clone());
        }
        world.feed.publish(&events);
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), [4, 5, 6]);
    }
    assert_eq!(meter.count() - before, ORDERS);
    let tails = world.feed.subscribed().into_iter().filter(|asked| asked.categories.len() == 2);
    assert_eq!(tails.count(), 1);
}

#[tokio::test]
async fn a_slow_watcher_gets_the_newest_state() {
    let quantity = |quantity| Body::ItemQuantityChanged(ItemQuantityChanged { line: 1, quantity });
    // Some 30 KB each time it is shown: what is on the way holds a few dozen.
    let mut sale = Sale::number(1);
    sale.status = OrderStatus::Draft;
    for line in 0..400 {
        sale = sale.line(&format!("P-{line}"), "A NAME OF AN ORDINARY LENGTH FOR A PRODUCT", 1, 100);
    }
    let mut events = history([&sale]);
    let world = World::of("slow", &events).await;
    let mut slow = watch(&world, id(1)).await;
    let mut quick = watch(&world, id(1)).await;
    let first = version(&mut slow).await;
    assert_eq!(version(&mut quick).await, first);
    for change in 1..=CHANGES {
        events.order(&id(1), quantity(1 + i32::try_from(change % 2).unwrap()));
        if change % 10 == 0 {
            world.feed.publish(&events);
        }
    }
    // The slow one holds up nobody.
    while version(&mut quick).await < first + CHANGES {}
    let mut seen = vec![first];
    while *seen.last().unwrap() < first + CHANGES {
        seen.push(version(&mut slow).await);
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert!(seen.len() < 100, "{} states waited for a slow reader", seen.len());
}

#[tokio::test]
async fn watchers_stay_while_the_feed_is_away_and_miss_nothing() {
    let mut events = history([&Sale::number(1), &Sale::number(2)]);
    let world = World::of("away", &events).await;
    let mut changes = watch(&world, id(1)).await;
    assert_eq!(version(&mut changes).await, 3);
    world.feed.change(|script| script.down = true);
    events.order(&id(1), confirmed());
    world.feed.publish(&events);
    // Whoever comes meanwhile is shown what the index has.
    let mut late = watch(&world, id(2)).await;
    assert_eq!(version(&mut late).await, 3);
    events.order(&id(2), confirmed());
    world.feed.publish(&events);
    world.feed.change(|script| script.down = false);
    assert_eq!((version(&mut changes).await, version(&mut late).await), (4, 4));
    // What the feed loses is read from the store.
    let lost = events.head() + 1;
    world.feed.change(|script| script.lost = [lost].into());
    for body in delivered().into_iter().skip(1) {
        events.order(&id(1), body);
        world.feed.publish(&events);
    }
    assert_eq!((version(&mut changes).await, version(&mut changes).await), (5, 6));
}

#[tokio::test]
async fn an_index_that_lags_or_is_away_is_made_good_by_the_store() {
    let events = history([&Sale::number(1)]);
    let search = Search::start("cut").await;
    let cable = Cable::to(&search.url).await;
    let world = World::over(&search, &cable.url, &events).await;
    world.ready().await;
    world.caught_up(&events).await;
    cable.cut();
    let mut newer = events.clone();
    newer.order(&id(1), confirmed());
    Sale::number(2).put_into(&mut newer);
    world.feed.publish(&newer);
    for (order_id, expected) in [(id(1), 4), (id(2), 3)] {
        assert_eq!(version(&mut watch(&world, order_id).await).await, expected);
    }
    let absent = world.client.clone().watch_order(WatchOrderRequest { order_id: id(3) }).await;
    let code = refusal(absent.map(|_| ())).0;
    assert_eq!(code, Code::NotFound);
}

#[tokio::test]
async fn the_name_of_today_is_kept_up() {
    let mut events = history([&Sale::number(1)]);
    events.customer("17850", "Jürgen Müller");
    let world = World::of("names", &events).await;
    let mut changes = watch(&world, id(1)).await;
    assert_eq!(next(&mut changes).await.unwrap().customer_current_name, "");
    let renamed = CustomerRenamed { customer_id: "17850".into(), name: "Jürgen Schmidt".into() };
    events.add(StreamCategory::Customer, "17850", Some(Body::CustomerRenamed(renamed)));
    events.order(&id(1), confirmed());
    world.feed.publish(&events);
    let order = next(&mut changes).await.unwrap();
    assert_eq!((order.summary.unwrap().version, order.customer_current_name.as_str()), (4, "Jürgen Schmidt"));
}

#[tokio::test]
async fn another_store_or_an_earlier_one_ends_the_watch() {
    let events = history([&Sale::number(1)]);
    for reason in [Reason::StoreChanged, Reason::PositionAhead] {
        let code = reason.code();
        let world = World::of("other", &events).await;
        let mut changes = watch(&world, id(1)).await;
        assert_eq!(version(&mut changes).await, 3);
        world.feed.change(|script| script.down = true);
        world.feed.change(|script| match reason {
            Reason::StoreChanged => script.store_id = "store-2".into(),
            _ => script.events.truncate(2),
        });
        world.feed.change(|script| script.down = false);
        assert_eq!(refusal(next(&mut changes).await), (code, reason, vec![]));
        // Nor does another begin.
        let again = world.client.clone().watch_order(WatchOrderRequest { order_id: id(1) }).await;
        assert_eq!(refusal(again.map(|_| ())), (code, reason, vec![]));
    }
}

/// Watches over a feed alone: there are no indices.
fn follow(search: &Search, feed: &ScriptedFeed, limits: Limits) -> Watches {
    let aliases = Aliases::new(&search.prefix);
    let orders = Progress::new("orders", search.index.clone(), aliases.orders.clone(), Clock::system());
    let sources = Sources { index: search.index.clone(), aliases, feed: feed.feed.clone(), orders };
    Watches::new(sources, limits)
}

#[tokio::test]
async fn watchers_and_what_they_watch_are_bounded() {
    let mut sales: Vec<_> = (0..3).map(Sale::number).collect();
    sales[0].status = OrderStatus::Draft;
    let mut events = history(&sales);
    let (search, feed) = (Search::start("bounds").await, ScriptedFeed::start(&events).await);
    let few = follow(&search, &feed, Limits { watchers: 2, bytes: 1_000_000 });
    let (first, _second) = (few.watch(&id(0)).await.unwrap(), few.watch(&id(0)).await.unwrap());
    assert_eq!(few.watch(&id(0)).await.unwrap_err(), WatchError::Full);
    drop(first);
    few.watch(&id(1)).await.unwrap();

    // Two small orders fit, a third does not, nor may one of them grow.
    let small = follow(&search, &feed, Limits { watchers: 100, bytes: 1_500 });
    let mut first = small.watch(&id(0)).await.unwrap();
    let mut second = small.watch(&id(1)).await.unwrap();
    assert_eq!(small.watch(&id(2)).await.map(drop), Err(WatchError::Full));
    assert_eq!(first.next().await.unwrap().order.version, 2);
    assert_eq!(second.next().await.unwrap().order.version, 3);
    for line in 2..4 {
        events.order(&id(0), added(line, 1, 100));
    }
    events.order(&id(1), confirmed());
    feed.publish(&events);
    let grown =
        async { while first.next().await.map_err(|error| assert_eq!(error, WatchError::Full)).is_ok() {} };
    timeout(DEADLINE, grown).await.expect("it may not grow");
    assert_eq!(second.next().await.unwrap().order.version, 4);
}

#[tokio::test]
async fn a_watcher_too_many_is_told_to_come_back() {
    let search = Search::start("too-many-watchers").await;
    let history = history([&Sale::number(1)]);
    let world = World::with(&search, &search.url, &history, &["--watchers=2"]).await;
    world.ready().await;
    world.caught_up(&history).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut watcher = watch(&world, id(1)).await;
        assert_eq!(version(&mut watcher).await, 3);
        held.push(watcher);
    }
    let another = async || world.client.clone().watch_order(WatchOrderRequest { order_id: id(1) }).await;
    assert_eq!(refusal(another().await), (Code::ResourceExhausted, Reason::Overloaded, vec![]));
    held.pop();
    let mut watcher = testing::until(DEADLINE, "one has left", async || another().await.ok()).await;
    assert_eq!(version(watcher.get_mut()).await, 3);
}

#[tokio::test]
async fn what_cannot_be_read_ends_the_watch_of_its_order_alone() {
    let mut events = history([&Sale::number(1), &Sale::number(2)]);
    let (search, feed) = (Search::start("unread").await, ScriptedFeed::start(&events).await);
    let following = follow(&search, &feed, Limits { watchers: 100, bytes: 1_000_000 });
    let mut watchers = BTreeMap::new();
    for number in [1, 2] {
        let mut watcher = following.watch(&id(number)).await.unwrap();
        assert_eq!(watcher.next().await.unwrap().order.version, 3);
        watchers.insert(number, watcher);
    }
    events.unknown(&id(1));
    events.order(&id(2), confirmed());
    feed.publish(&events);
    let outcome = watchers.get_mut(&1).unwrap().next().await;
    assert_eq!(outcome.map(drop), Err(WatchError::Unreadable));
    assert_eq!(watchers.get_mut(&2).unwrap().next().await.unwrap().order.version, 4);
}

#[tokio::test]
async fn where_neither_index_nor_store_answers_it_is_said() {
    let (search, feed) = (Search::start("neither").await, ScriptedFeed::start(&History::default()).await);
    feed.change(|script| script.down = true);
    let following = follow(&search, &feed, Limits { watchers: 1, bytes: 1_000_000 });
    let refused = following.watch(&id(1)).await.map(drop).unwrap_err();
    assert!(
        matches!(refused, WatchError::Index(_) | WatchError::Feed(FeedError::Unavailable(_))),
        "{refused}"
    );
    // The place is free again, and the store is asked as soon as it answers.
    let mut events = History::default();
    events.order(&id(1), created(&id(1), "R-1"));
    feed.publish(&events);
    feed.change(|script| script.down = false);
    let found = async {
        loop {
            match following.watch(&id(1)).await {
                Ok(mut watcher) => return watcher.next().await.unwrap().order.version,
                Err(error) => assert!(!matches!(error, WatchError::Full | WatchError::NotFound), "{error}"),
            }
        }
    };
    assert_eq!(timeout(DEADLINE, found).await.unwrap(), 1);
}
