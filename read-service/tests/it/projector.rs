//! The loop of a projection, against the real Elasticsearch and a feed that delivers as feeds do: twice, late, or not
//! at all.

use std::collections::HashSet;

use elasticsearch::http::Method;
use proto::v1::StreamCategory;
use read_service::index::Index;
use read_service::parking::Fault;
use read_service::projection::{Customers, OrderDocument, Orders, Projection};
use read_service::projector::{Limits, Projector, State, Step, Trouble};
use serde_json::{Value, json};
use shared::clock::Clock;

use crate::support::feed::ScriptedFeed;
use crate::support::{
    Cable, History, Search, added, cancelled, confirmed, created, drive, quick, submitted, until,
};

/// Three orders and two customers, interleaved.
fn history() -> History {
    let mut history = History::default();
    history
        .customer("17850", "José Müller")
        .order("a", created("a", "R-1"))
        .order("b", created("b", "R-2"))
        .order("a", added(1, 6, 255))
        .order("b", added(1, 2, 100))
        .order("a", added(2, 1, 1_000))
        .order("c", created("c", "R-3"))
        .customer("17851", "Zoë")
        .order("a", submitted(2_530))
        .order("b", cancelled())
        .order("a", confirmed());
    history
}

async fn assert_folded<P: Projection>(search: &Search, history: &History, keys: &[&str])
where
    P::Document: PartialEq,
{
    for key in keys {
        let expected = history.folded::<P>(key);
        let version = P::version(&expected);
        assert_eq!(search.document::<P>(key).await, Some((version, expected)), "{key}");
    }
}

/// Steps until the checkpoints stand at this position.
async fn recorded<P: Projection>(search: &Search, projector: &mut Projector<P>, position: i64) {
    let stands = async {
        while search.checkpoint::<P>().await < position {
            projector.step().await.unwrap();
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, stands).await.expect("the checkpoint gets there in time");
    assert_eq!(search.checkpoint::<P>().await, position);
}

#[tokio::test]
async fn events_become_documents_and_documents_become_visible() {
    let search = Search::start("documents").await;
    let history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    let mut customers = search.projector::<Customers>(&feed.feed);
    drive(&mut orders, history.head()).await;
    drive(&mut customers, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
    assert_folded::<Customers>(&search, &history, &["17850", "17851"]).await;

    let progress = orders.progress();
    progress.request_refresh().await.unwrap();
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.state, snapshot.visible_position), (State::Live, history.head()));
    assert_eq!((snapshot.index, snapshot.store_id.as_str()), (search.name("orders-v1-1"), "store-1"));
    assert!(progress.visible_lag_seconds() < f64::EPSILON);
    let query = json!({ "query": { "term": { "search": "muller" } } });
    let answer = search.index.search::<OrderDocument>(&search.name("orders"), &query).await.unwrap();
    assert_eq!(answer.total, 3);

    recorded(&search, &mut orders, history.head()).await;
}

#[tokio::test]
async fn what_comes_later_is_applied_and_refreshed_without_being_asked() {
    let search = Search::start("follow").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    history.order("c", added(1, 1, 1)).order("d", created("d", "R-4"));
    feed.publish(&history);
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c", "d"]).await;
    while orders.progress().snapshot().visible_position < history.head() {
        orders.step().await.unwrap();
    }
    let all = json!({ "query": { "match_all": {} } });
    assert_eq!(search.index.search::<Value>(&search.name("orders"), &all).await.unwrap().total, 4);
}

#[tokio::test]
async fn an_order_changed_often_is_written_once() {
    let search = Search::start("coalesce").await;
    let mut history = History::default();
    history.order("a", created("a", "R-1"));
    for line in 1..=40 {
        history.order("a", added(line, 1, 100));
    }
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    until(&mut orders, Step::Opened).await;
    until(&mut orders, Step::Applied(41)).await;
    assert_folded::<Orders>(&search, &history, &["a"]).await;
    let stats = search.raw(Method::Get, &format!("/{}/_stats/indexing", search.name("orders")), None).await;
    // The order and its forty lines, which are documents of their own to the server.
    let written = stats["_all"]["primaries"]["indexing"]["index_total"].as_i64().unwrap();
    assert!([1, 41].contains(&written), "{written}");
}

#[tokio::test]
async fn events_delivered_twice_change_nothing() {
    let search = Search::start("twice").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&history).await;
    feed.change(|script| script.times = 2);
    let limits = Limits { batch_events: 2, ..quick() };
    let mut orders = search.projector_with::<Orders>(&feed.feed, limits.clone());
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;

    // Everything again from the beginning, for a copy that knows nothing.
    drop(orders);
    search.forget_checkpoint::<Orders>().await;
    let mut again = search.projector_with::<Orders>(&feed.feed, limits);
    drive(&mut again, history.head()).await;
    history.order("c", added(1, 1, 1));
    feed.publish(&history);
    drive(&mut again, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
    assert_eq!(again.progress().snapshot().parked_streams, 0);
}

#[tokio::test]
async fn a_gap_is_healed_from_the_stream() {
    let search = Search::start("gap").await;
    let history = history();
    let feed = ScriptedFeed::start(&history).await;
    // Of "a" the creation and the second line, of "b" the line.
    feed.change(|script| script.lost = HashSet::from([2, 5, 6]));
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
    assert_eq!(orders.progress().snapshot().parked_streams, 0);
}

#[tokio::test]
async fn a_gap_in_the_store_itself_parks_the_stream() {
    let search = Search::start("hole").await;
    let mut history = history();
    history.events.retain(|event| event.position != 4);
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, 11).await;
    assert_folded::<Orders>(&search, &history, &["b", "c"]).await;
    let (version, held) = search.document::<Orders>("a").await.unwrap();
    assert_eq!((version, held.lines.len()), (1, 0));
    let parked = search.parking::<Orders>().await.list().await.unwrap().remove(0);
    let fault = Fault { version: 3, position: 6, error: "event 3 found where 2 is next".into() };
    assert_eq!((parked.stream_key.as_str(), parked.fault), ("a", fault));
}

#[tokio::test]
async fn it_can_stop_after_any_step() {
    let search = Search::start("restart").await;
    let mut history = History::default();
    for key in ["a", "b", "c", "d"] {
        history.order(key, created(key, key));
    }
    for line in 1..=5 {
        for key in ["a", "b", "c", "d"] {
            history.order(key, added(line, 1, 100));
        }
    }
    let feed = ScriptedFeed::start(&history).await;
    let limits = Limits { batch_events: 1, ..quick() };
    let mut last = 0;
    for steps in 1..100 {
        let mut orders = search.projector_with::<Orders>(&feed.feed, limits.clone());
        for _ in 0..steps {
            orders.step().await.unwrap();
        }
        let applied = orders.progress().snapshot().applied_position;
        drop(orders);
        let checkpoint = search.checkpoint::<Orders>().await;
        assert!(checkpoint >= last && checkpoint <= applied, "{last} {checkpoint} {applied}");
        last = checkpoint;
        if applied == history.head() {
            break;
        }
    }
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c", "d"]).await;
}

#[tokio::test]
async fn a_crash_between_bulk_and_checkpoint_costs_nothing() {
    let search = Search::start("crash").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&History::default()).await;
    let mut orders = search.projector_with::<Orders>(&feed.feed, Limits::default());
    until(&mut orders, Step::Idle).await;
    let path = format!("/{}/_settings", search.name("control"));
    let block = |closed: bool| search.raw(Method::Put, &path, Some(json!({ "index.blocks.write": closed })));
    block(true).await;
    feed.publish(&history);
    // Documents are stored; the checkpoint is not, and what refuses it is for a person to look at.
    let halted = async {
        loop {
            if let Err(trouble) = orders.step().await {
                break trouble;
            }
        }
    };
    let halted = tokio::time::timeout(crate::support::DEADLINE, halted).await.unwrap();
    assert!(matches!(halted, Trouble::Halt(_)), "{halted}");
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
    drop(orders);
    block(false).await;
    assert_eq!(search.checkpoint::<Orders>().await, 0);

    history.order("c", added(1, 1, 1));
    feed.publish(&history);
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
}

#[tokio::test]
async fn a_dependency_that_is_down_parks_nobody() {
    let search = Search::start("away").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&history).await;
    let cable = Cable::to(&search.url).await;
    let index = Index::new(&cable.url).unwrap();
    cable.cut();
    feed.change(|script| script.down = true);
    let (copy, clock) = ("copy".to_owned(), Clock::system());
    let mut orders = Projector::<Orders>::new(index, feed.feed.clone(), &search.prefix, copy, quick(), clock);
    // At the start, first one away, then the other.
    until(&mut orders, Step::Waiting).await;
    assert_eq!(orders.progress().snapshot().state, State::Waiting);
    cable.restore();
    let index_found = async {
        while orders.progress().snapshot().index.is_empty() {
            orders.step().await.unwrap();
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, index_found).await.unwrap();
    feed.change(|script| script.down = false);
    drive(&mut orders, history.head()).await;

    // While running: what was received stays, and is applied when it can be.
    cable.cut();
    history.order("c", added(1, 1, 1));
    feed.publish(&history);
    // It may notice by a lease first.
    let received = async {
        loop {
            orders.step().await.unwrap();
            let snapshot = orders.progress().snapshot();
            if (snapshot.state, snapshot.head_position) == (State::Waiting, history.head()) {
                break snapshot;
            }
        }
    };
    let snapshot = tokio::time::timeout(crate::support::DEADLINE, received).await.unwrap();
    assert!(snapshot.last_error.starts_with("elasticsearch does not answer"), "{}", snapshot.last_error);
    assert!(orders.progress().lag_seconds() > 0.0);
    cable.restore();
    drive(&mut orders, history.head()).await;

    feed.change(|script| script.down = true);
    let interrupted = async {
        while orders.progress().snapshot().state != State::Waiting {
            orders.step().await.unwrap();
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, interrupted).await.unwrap();
    history.order("c", added(2, 1, 1));
    feed.publish(&history);
    feed.change(|script| script.down = false);
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
    let snapshot = orders.progress().snapshot();
    assert_eq!((snapshot.parked_streams, snapshot.last_error.as_str()), (0, ""));
}

#[tokio::test]
async fn another_store_and_a_position_ahead_halt() {
    let search = Search::start("halt").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    recorded(&search, &mut orders, history.head()).await;
    drop(orders);

    let halt = async |said: &str| {
        let mut orders = search.projector::<Orders>(&feed.feed);
        let halted = loop {
            if let Err(trouble) = orders.step().await {
                break trouble;
            }
        };
        assert!(matches!(&halted, Trouble::Halt(text) if text.contains(said)), "{halted}");
        let snapshot = orders.progress().snapshot();
        assert_eq!((snapshot.state, snapshot.last_error), (State::Halted, halted.to_string()));
        assert_eq!(snapshot.index, search.name("orders-v1-1"), "questions are still answered");
    };
    history.events.truncate(5);
    feed.publish(&history);
    halt("restored to an earlier point").await;
    feed.change(|script| script.store_id = "store-2".to_owned());
    halt("created anew").await;
}

#[tokio::test]
async fn an_index_that_was_made_anew_is_fed_from_the_beginning() {
    let search = Search::start("anew").await;
    let history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    recorded(&search, &mut orders, history.head()).await;
    drop(orders);
    search.raw(Method::Delete, &format!("/{}", search.name("orders-v1-1")), None).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
}

#[tokio::test]
async fn two_copies_on_one_index_do_no_harm() {
    let search = Search::start("two").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut one = search.projector_with::<Orders>(&feed.feed, Limits { batch_events: 2, ..quick() });
    let mut two = search.projector::<Orders>(&feed.feed);
    until(&mut one, Step::Opened).await;
    until(&mut two, Step::Opened).await;
    tokio::join!(drive(&mut one, history.head()), drive(&mut two, history.head()));
    for key in ["a", "b", "c"] {
        if key != "b" {
            history.add(StreamCategory::Order, key, None).events.last_mut().unwrap().body = Some(cancelled());
        }
    }
    feed.publish(&history);
    tokio::join!(drive(&mut two, history.head()), drive(&mut one, history.head()));
    assert_folded::<Orders>(&search, &history, &["a", "b", "c"]).await;
    let recorded = async {
        while search.checkpoint::<Orders>().await < history.head() {
            until(&mut one, Step::Idle).await;
            until(&mut two, Step::Idle).await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, recorded).await.unwrap();
}
