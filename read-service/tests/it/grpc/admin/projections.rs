//! `ListProjections` tells the truth in every state.

use elasticsearch::http::Method;
use proto::v1::Projection;
use proto::v1::projection::State;
use serde_json::json;

use crate::grpc::world::{Sale, World, history, id};
use crate::support::{Cable, History, Search};

fn sales(count: usize) -> History {
    history(&(0..count).map(Sale::number).collect::<Vec<_>>())
}

fn is(state: State) -> impl Fn(&Projection) -> bool {
    move |projection| projection.state() == state
}

#[tokio::test]
async fn a_projection_that_follows_the_head_is_live() {
    let history = sales(3);
    let world = World::of("admin-live", &history).await;
    let orders = world.orders_are(is(State::Live)).await;
    assert_eq!((orders.position, orders.head_position), (history.head(), history.head()));
    assert_eq!((orders.document_count, orders.parked_streams), (3, 0));
    assert_eq!(orders.live_index, format!("{}orders-v1-1", world.prefix));
    assert_eq!((orders.previous_index.as_str(), orders.last_error.as_str()), ("", ""));
    assert!(orders.lag_seconds < 1e-9, "{orders:?}");
    assert!(orders.last_progress_time.is_some());
}

#[tokio::test]
async fn a_projection_that_lacks_events_is_catching_up() {
    let search = Search::start("admin-behind").await;
    let history = sales(4);
    let world = World::over(&search, &search.url, &History::default()).await;
    world.orders_are(is(State::Live)).await;
    world.feed.change(|script| script.stops_at = 5);
    world.feed.publish(&history);
    let orders = world.orders_are(|orders| orders.position == 5).await;
    assert_eq!(orders.state(), State::CatchingUp, "{orders:?}");
    assert_eq!(orders.head_position, history.head());
    assert!(orders.lag_seconds > 60.0, "the events are years old: {orders:?}");
    world.feed.change(|script| script.stops_at = i64::MAX);
    world.orders_are(is(State::Live)).await;
}

#[tokio::test]
async fn without_elasticsearch_a_projection_waits_and_says_for_what() {
    let search = Search::start("admin-no-search").await;
    let cable = Cable::to(&search.url).await;
    let history = sales(2);
    let world = World::over(&search, &cable.url, &history).await;
    world.orders_are(|orders| orders.state() == State::Live && orders.document_count == 2).await;
    cable.cut();
    let orders = world.orders_are(is(State::Waiting)).await;
    assert!(orders.last_error.contains("elasticsearch does not answer"), "{orders:?}");
    assert_eq!((orders.document_count, orders.position), (2, history.head()), "what was known stays known");
    cable.restore();
    let orders = world.orders_are(is(State::Live)).await;
    assert_eq!(orders.last_error, "");
}

#[tokio::test]
async fn without_the_write_service_a_projection_waits_and_its_lag_grows() {
    let world = World::of("admin-no-feed", &sales(2)).await;
    world.orders_are(is(State::Live)).await;
    world.feed.change(|script| script.down = true);
    let before = world.orders_are(is(State::Waiting)).await;
    assert!(before.last_error.contains("feed does not answer"), "{before:?}");
    world.orders_are(|orders| orders.lag_seconds > before.lag_seconds + 1.0).await;
    world.feed.change(|script| script.down = false);
    let orders = world.orders_are(is(State::Live)).await;
    assert!(orders.lag_seconds < 1e-9, "{orders:?}");
}

#[tokio::test]
async fn parked_streams_are_counted_at_every_copy() {
    let mut history = sales(2);
    history.unknown(&id(0));
    let search = Search::start("admin-parked").await;
    let one = World::over(&search, &search.url, &history).await;
    let two = World::over(&search, &search.url, &history).await;
    for copy in [&one, &two] {
        // It holds up nobody.
        let orders =
            copy.orders_are(|orders| is(State::Live)(orders) && orders.position == history.head()).await;
        assert_eq!(orders.parked_streams, 1, "{orders:?}");
    }
}

#[tokio::test]
async fn another_store_halts_a_projection() {
    let world = World::of("admin-store", &sales(2)).await;
    world.orders_are(is(State::Live)).await;
    world.feed.change(|script| script.down = true);
    world.orders_are(is(State::Waiting)).await;
    world.feed.change(|script| {
        script.store_id = "store-2".to_owned();
        script.down = false;
    });
    let orders = world.orders_are(is(State::Halted)).await;
    assert!(orders.last_error.contains("created anew"), "{orders:?}");
}

#[tokio::test]
async fn an_index_of_another_mapping_halts_a_projection() {
    let search = Search::start("admin-mapping").await;
    let (alias, index) = (search.name("orders"), search.name("orders-v1-1"));
    let body = json!({ "aliases": { alias: {} }, "mappings": { "_meta": { "mapping_hash": "another" } } });
    search.raw(Method::Put, &format!("/{index}"), Some(body)).await;
    let world = World::over(&search, &search.url, &sales(1)).await;
    let orders = world.orders_are(is(State::Halted)).await;
    assert!(orders.last_error.contains("made with another mapping"), "{orders:?}");
}

#[tokio::test]
async fn the_owners_of_all_slices_are_told_at_every_copy() {
    let history = sales(1);
    let search = Search::start("admin-owners").await;
    let one = World::over(&search, &search.url, &history).await;
    let two = World::over(&search, &search.url, &history).await;
    for copy in [&one, &two] {
        let shared = |orders: &Projection| {
            let names: std::collections::HashSet<_> =
                orders.owners.iter().map(|owner| owner.owner.clone()).collect();
            names.len() == 2
        };
        let mut owners = copy.orders_are(shared).await.owners;
        owners.sort_by_key(|owner| owner.first_slice);
        let mut next = 0;
        for owner in owners {
            assert_eq!(owner.first_slice, next);
            next = owner.last_slice + 1;
            let ends = proto::time::to_nanos(&owner.lease_expire_time.unwrap()).unwrap();
            let left = ends - shared::clock::Clock::system().now_nanos();
            assert!((0..=8_000_000_000).contains(&left), "{left}");
        }
        assert_eq!(next, 1024);
    }
}
