//! Copies of the service that share the slices: they come, leave, die and sleep, and every range of slices finds an owner.

use std::time::{Duration, Instant};

use elasticsearch::http::Method;
use local::testing;
use read_service::index::Index;
use read_service::lease::{LeaseError, Leases, Owner, Place, Standings};
use read_service::projection::{Orders, Projection as _};
use read_service::projector::{Limits, Progress, Projector, Step};
use serde_json::json;
use shared::clock::Clock;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::feed::ScriptedFeed;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{DEADLINE, History, Search, added, created, drive, quick, until};

mod storm;

/// A copy at work. Dropped, it is gone without a word.
struct Copy {
    progress: Progress,
    asleep: watch::Sender<bool>,
    draining: CancellationToken,
    task: JoinHandle<()>,
}

impl Copy {
    fn start(mut projector: Projector<Orders>) -> Self {
        let asleep = watch::Sender::new(false);
        let draining = CancellationToken::new();
        let (mut rest, end) = (asleep.subscribe(), draining.clone());
        let progress = projector.progress();
        let task = tokio::spawn(async move {
            while !end.is_cancelled() {
                rest.wait_for(|asleep| !asleep).await.unwrap();
                // Sleep comes at any moment of a step.
                tokio::select! {
                    biased;
                    _ = rest.wait_for(|asleep| *asleep) => {}
                    () = end.cancelled() => {}
                    step = projector.step() => { step.unwrap(); }
                }
            }
            projector.run(end).await.unwrap();
        });
        Self { progress, asleep, draining, task }
    }

    async fn leave(mut self) {
        self.draining.cancel();
        timeout(DEADLINE, &mut self.task).await.unwrap().unwrap();
    }

    /// Waits until it sees that so many copies own so many slices each; says how long that took.
    async fn sees(&self, shares: &[i32]) -> Duration {
        let begun = Instant::now();
        let mut seen = self.progress.subscribe();
        let as_wanted = seen.wait_for(|snapshot| sorted_shares(&snapshot.owners) == shares);
        assert!(timeout(DEADLINE, as_wanted).await.is_ok(), "{:?}", self.progress.snapshot().owners);
        begun.elapsed()
    }

    async fn applied(&self, position: i64) {
        let mut seen = self.progress.subscribe();
        let applied = seen.wait_for(|snapshot| snapshot.applied_position >= position);
        assert!(timeout(DEADLINE, applied).await.is_ok(), "{:?}", self.progress.snapshot());
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How many slices each owner has, the fewest first; a range without an owner is a share of a copy without a name.
fn sorted_shares(owners: &[Owner]) -> Vec<i32> {
    let mut shares = std::collections::BTreeMap::new();
    for owner in owners {
        *shares.entry(&owner.copy).or_default() += owner.last_slice - owner.first_slice + 1;
    }
    let mut shares: Vec<i32> = shares.into_values().collect();
    shares.sort_unstable();
    shares
}

/// Orders in all ranges of slices, one event each.
fn orders(count: usize) -> History {
    let mut history = History::default();
    for number in 0..count {
        let key = key(number);
        history.order(&key, created(&key, "R"));
    }
    history
}

fn key(number: usize) -> String {
    format!("order-{number}")
}

/// Another line for each order.
fn line(history: &mut History, count: usize, line: i32) {
    for number in 0..count {
        history.order(&key(number), added(line, 1, 100));
    }
}

async fn assert_folded(search: &Search, history: &History, count: usize) {
    for number in 0..count {
        let expected = history.folded::<Orders>(&key(number));
        let version = Orders::version(&expected);
        assert_eq!(search.document::<Orders>(&key(number)).await, Some((version, expected)), "{number}");
    }
}

#[tokio::test]
async fn whoever_joins_gets_a_share_and_whoever_leaves_gives_it_back_at_once() {
    let search = Search::start("join").await;
    let mut history = orders(64);
    let feed = ScriptedFeed::start(&history).await;
    let start = || Copy::start(search.projector_with(&feed.feed, Limits::default()));
    let first = start();
    first.sees(&[1024]).await;
    first.applied(64).await;
    let second = start();
    let joined = second.sees(&[512, 512]).await;
    assert!(joined < Duration::from_secs(10), "{joined:?}");
    let third = start();
    let joined = third.sees(&[320, 320, 384]).await;
    assert!(joined < Duration::from_secs(10), "{joined:?}");

    line(&mut history, 64, 1);
    feed.publish(&history);
    for copy in [&first, &second, &third] {
        copy.applied(128).await;
    }
    assert_folded(&search, &history, 64).await;
    first.leave().await;
    let left = second.sees(&[512, 512]).await;
    assert!(left < Duration::from_secs(4), "nobody waited for a lease to expire: {left:?}");
    third.leave().await;
    second.sees(&[1024]).await;
    line(&mut history, 64, 2);
    feed.publish(&history);
    second.applied(192).await;
    assert_folded(&search, &history, 64).await;
}

#[tokio::test]
async fn whoever_dies_is_replaced() {
    let search = Search::start("die").await;
    let mut history = orders(64);
    let feed = ScriptedFeed::start(&history).await;
    let start = || Copy::start(search.projector_with(&feed.feed, Limits::default()));
    let (one, two) = (start(), start());
    one.sees(&[512, 512]).await;
    drop(two);
    line(&mut history, 64, 1);
    feed.publish(&history);
    let replaced = one.sees(&[1024]).await;
    assert!(replaced < Duration::from_secs(15), "{replaced:?}");
    one.applied(128).await;
    assert_folded(&search, &history, 64).await;
}

#[tokio::test]
async fn who_cannot_renew_has_stopped_by_its_own_clock_before_another_may_begin() {
    let search = Search::start("margin").await;
    let feed = ScriptedFeed::start(&orders(1)).await;
    until(&mut search.projector::<Orders>(&feed.feed), Step::Opened).await;
    let live = search.index.live(&search.name("orders-v1-1")).await.unwrap().unwrap();
    let open = async |copy: &str| {
        let place = Place {
            index: search.index.clone(),
            control: search.name("control"),
            live: live.clone(),
            projection: Orders::NAME,
        };
        let store_id = async { Ok::<_, LeaseError>("store-1".to_owned()) };
        Leases::open(place, copy, quick().leases, store_id).await.unwrap()
    };
    // The projector that made the index is gone without a word.
    let (mut one, mut other) = (open("one").await, open("other").await);
    let standings = Standings::default();
    let rounds = async {
        while one.held().contains(&false) {
            one.round(&standings).await.unwrap();
        }
        // From now on the first one hears and says nothing.
        while !other.held().contains(&true) {
            let stopped = !one.held().contains(&true);
            other.round(&standings).await.unwrap();
            assert!(stopped || !other.held().contains(&true), "both may project");
        }
    };
    timeout(DEADLINE, rounds).await.unwrap();
}

#[tokio::test]
async fn whoever_slept_beyond_its_lease_does_no_harm() {
    let search = Search::start("sleep").await;
    let mut history = orders(64);
    let feed = ScriptedFeed::start(&history).await;
    let one = Copy::start(search.projector(&feed.feed));
    one.sees(&[1024]).await;
    let two = Copy::start(search.projector(&feed.feed));
    two.sees(&[512, 512]).await;
    let mut checkpoint = 0;
    for round in 1..=6 {
        // Asleep in the middle of its work: the events come at the same moment.
        line(&mut history, 64, round);
        feed.publish(&history);
        one.asleep.send_replace(true);
        two.sees(&[1024]).await;
        two.applied(history.head()).await;
        one.asleep.send_replace(false);
        two.sees(&[512, 512]).await;
        one.applied(history.head()).await;
        assert_folded(&search, &history, 64).await;
        let now = search.checkpoint::<Orders>().await;
        assert!(now >= checkpoint, "{now} after {checkpoint}");
        checkpoint = now;
    }
}

#[tokio::test]
async fn parked_streams_stay_parked_under_a_new_owner() {
    let search = Search::start("heir").await;
    let mut history = orders(16);
    let feed = ScriptedFeed::start(&history).await;
    let (one, two) = (Copy::start(search.projector(&feed.feed)), Copy::start(search.projector(&feed.feed)));
    one.sees(&[512, 512]).await;
    two.sees(&[512, 512]).await;
    // Each copy parks those of its own share; the other one has not heard of them.
    for number in 0..8 {
        history.unknown(&key(number));
    }
    feed.publish(&history);
    two.applied(history.head()).await;
    let parked = two.progress.snapshot().parked_streams;
    assert!((1..8).contains(&parked), "{parked} of 8 are in its share");
    drop(one);
    two.sees(&[1024]).await;
    line(&mut history, 16, 1);
    feed.publish(&history);
    two.applied(history.head()).await;
    assert_eq!(two.progress.snapshot().parked_streams, 8);
    for number in 0..16 {
        let (version, _) = search.document::<Orders>(&key(number)).await.unwrap();
        assert_eq!(version, if number < 8 { 1 } else { 2 }, "{number}");
    }
}

#[tokio::test]
async fn all_slices_go_on_where_a_release_without_slices_stopped() {
    let search = Search::start("whole").await;
    let history = orders(32);
    let feed = ScriptedFeed::start(&history).await;
    until(&mut search.projector::<Orders>(&feed.feed), Step::Opened).await;
    let index = search.name("orders-v1-1");
    let described = search.raw(Method::Get, &format!("/{index}/_settings"), None).await;
    search.forget_checkpoint::<Orders>().await;
    let record = json!({
        "kind": "checkpoint",
        "projection": "orders",
        "index": index,
        "index_uuid": described[index.as_str()]["settings"]["index"]["uuid"],
        "store_id": "store-1",
        "position": 20,
        "as_of": "2026-01-01T00:00:00Z",
    });
    let path = format!("/{}/_doc/checkpoint:{index}", search.name("control"));
    search.raw(Method::Put, &path, Some(record)).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    assert_eq!(search.document::<Orders>(&key(19)).await, None, "applied before, says the checkpoint");
    for number in 20..32 {
        assert_eq!(search.document::<Orders>(&key(number)).await.unwrap().0, 1);
    }
}

#[tokio::test]
async fn a_range_far_behind_catches_up_beside_the_others() {
    let search = Search::start("far").await;
    let mut history = orders(6_000);
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.batch = 1_000);
    let mut orders = search.projector_with::<Orders>(&feed.feed, quick());
    drive(&mut orders, history.head()).await;
    drop(orders);
    // As if the owner of the fifth range had died long ago and nobody had come after it.
    let path = format!("/{}/_doc/range:{}:0256", search.name("control"), search.name("orders-v1-1"));
    let mut record = search.raw(Method::Get, &path, None).await["_source"].clone();
    record["position"] = json!(0);
    record["owner"] = json!("");
    search.raw(Method::Put, &path, Some(record)).await;
    history.order(&key(0), added(1, 1, 100));
    feed.publish(&history);
    let mut orders = search.projector_with::<Orders>(&feed.feed, quick());
    drive(&mut orders, history.head()).await;
    let owners = orders.progress().snapshot().owners;
    assert_eq!(sorted_shares(&owners), [1024]);
    assert_folded(&search, &history, 40).await;
}

#[tokio::test]
async fn who_loses_a_lease_gives_up_all_that_is_under_way() {
    const ORDERS: usize = 40;
    let search = Search::start("given-up").await;
    let mut history = orders(ORDERS);
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.batch = ORDERS);
    let proxy = Proxy::before(&search.url, &search.name("orders-v1-1")).await;
    let (index, limits) = (Index::new(&proxy.url).unwrap(), Limits { batch_events: ORDERS, ..quick() });
    let (copy, clock) = ("one".to_owned(), Clock::system());
    let mut one = Projector::<Orders>::new(index, feed.feed.clone(), &search.prefix, copy, limits, clock);
    drive(&mut one, history.head()).await;

    // One batch stands still on its way; the next brings what no order can be folded with.
    line(&mut history, ORDERS, 1);
    let whole = history.clone();
    for number in 0..ORDERS {
        history.order(&key(number), created(&key(number), "again"));
    }
    proxy.next([Fault::Stall]);
    feed.publish(&history);
    let one = Copy::start(one);
    testing::until(DEADLINE, "it stands still", async || proxy.peek().last()?.fault).await;
    let two = Copy::start(search.projector::<Orders>(&feed.feed));
    two.sees(&[512, 512]).await;
    proxy.go_on();
    tokio::join!(one.applied(history.head()), two.applied(history.head()));
    assert_folded(&search, &whole, ORDERS).await;
    assert_eq!(search.parking::<Orders>().await.list().await.unwrap().len(), ORDERS);
}
