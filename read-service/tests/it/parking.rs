//! Streams set aside, in the real control index.

use read_service::parking::Parking;
use read_service::projection::Orders;
use shared::clock::Clock;

use crate::support::Search;

async fn load(search: &Search, target: &str) -> Parking {
    let control = search.name("control");
    let (index, clock) = (search.index.clone(), Clock::fixed(5_000));
    Parking::load::<Orders>(index, control, target.to_owned(), clock).await.unwrap()
}

#[tokio::test]
async fn a_parked_stream_is_known_everywhere_until_it_is_taken_back() {
    let search = Search::start("parking").await;
    let mapping = include_str!("../../index/control.json");
    search.index.ensure_plain(&search.name("control"), mapping).await.unwrap();
    let mut here = load(&search, "orders-v1-1").await;
    assert!(here.is_empty());
    assert!(!here.is_parked("a").await.unwrap());
    here.park("b", 3, "event 3 cannot follow").await.unwrap();
    here.park("a", 7, "event 7 cannot follow").await.unwrap();
    let again = here.park("a", 7, "still").await.unwrap();
    assert_eq!((again.attempts, again.version, again.parked_at), (2, 7, 5_000));

    let mut there = load(&search, "orders-v1-1").await;
    let listed = there.list().await.unwrap();
    let listed: Vec<_> =
        listed.iter().map(|parked| (parked.stream_key.as_str(), parked.error.as_str())).collect();
    assert_eq!(listed, [("a", "still"), ("b", "event 3 cannot follow")]);
    assert!(there.is_parked("a").await.unwrap());
    assert!(load(&search, "orders-v1-2").await.is_empty(), "another index has its own");

    there.unpark("a").await.unwrap();
    there.unpark("a").await.unwrap();
    assert!(!here.is_parked("a").await.unwrap(), "what another copy took back is noticed");
    assert_eq!(here.len(), 1);
}
