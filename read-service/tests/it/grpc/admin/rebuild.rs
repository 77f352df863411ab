//! Rebuilds: what is refused at the gate, what is left of them, and how an index of another mapping is replaced.

use elasticsearch::http::Method;
use local::testing::until;
use proto::reason::Reason;
use proto::v1::projection::State as Doing;
use proto::v1::rebuild::State;
use proto::v1::*;
use read_service::projection::{Orders, Projection as _};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::grpc::world::{Sale, World, history, id};
use crate::support::{DEADLINE, History, Search};

pub fn sales(count: usize) -> History {
    history(&(0..count).map(Sale::number).collect::<Vec<_>>())
}

impl World {
    pub async fn start_rebuild(&self, request: StartRebuildRequest) -> Rebuild {
        let request = StartRebuildRequest { projection: "orders".into(), ..request };
        self.admin().start_rebuild(request).await.unwrap().into_inner().rebuild.unwrap()
    }

    /// The same once the rebuild before is cleared away.
    async fn start_next_rebuild(&self, request: StartRebuildRequest) -> Rebuild {
        let request = StartRebuildRequest { projection: "orders".into(), ..request };
        until(DEADLINE, "the rebuild before is cleared away", async || {
            self.admin().start_rebuild(request.clone()).await.ok()?.into_inner().rebuild
        })
        .await
    }

    /// The rebuild once it is like this.
    pub async fn rebuild_is(&self, rebuild_id: &str, like_this: impl Fn(&Rebuild) -> bool) -> Rebuild {
        until(DEADLINE, "the rebuild gets there", async || {
            let request = GetRebuildRequest { rebuild_id: rebuild_id.into() };
            let now = self.admin().get_rebuild(request).await.unwrap().into_inner().rebuild.unwrap();
            like_this(&now).then_some(now)
        })
        .await
    }

    async fn rebuilt(&self, request: StartRebuildRequest) -> Rebuild {
        let started = self.start_rebuild(request).await;
        self.rebuild_is(&started.rebuild_id, |rebuild| rebuild.end_time.is_some()).await
    }
}

/// Waits until there is no such index.
async fn gone(search: &Search, index: &str) {
    until(DEADLINE, "the index is dropped", async || {
        search.raw(Method::Get, &format!("/{index}"), None).await.get("error").map(drop)
    })
    .await;
}

/// Spoils an index: order 1 is altered and at this version, order 2 is dropped, one is added that nobody has.
async fn spoil(search: &Search, index: &str, version: i64, alter: impl FnOnce(&mut Value)) {
    let path = |key: &str| format!("/{index}/_doc/{key}");
    let mut altered = search.raw(Method::Get, &path(&id(1)), None).await["_source"].clone();
    alter(&mut altered);
    let at = format!("{}?version={version}&version_type=external_gte", path(&id(1)));
    assert_eq!(search.raw(Method::Put, &at, Some(altered.clone())).await["result"], "updated");
    assert_eq!(search.raw(Method::Delete, &path(&id(2)), None).await["result"], "deleted");
    let added = format!("{}?version=1&version_type=external", path(&id(777)));
    assert_eq!(search.raw(Method::Put, &added, Some(altered)).await["result"], "created");
}

#[tokio::test]
async fn documents_altered_dropped_or_added_are_refused_with_examples() {
    let search = Search::start("rebuild-defects").await;
    let history = sales(40);
    let world = World::on(&search, &history).await;
    let slow = StartRebuildRequest { max_streams_per_second: 10, ..Default::default() };
    let started = world.start_rebuild(slow).await;
    world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.streams_done >= 10).await;

    let target = search.name("orders-v1-2");
    spoil(&search, &target, 3, |order| order["reference"] = json!("ALTERED")).await;

    let failed = world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
    assert_eq!(failed.state(), State::Failed, "{failed:?}");
    assert!(failed.error.contains("not the fold"), "{failed:?}");
    let verification = failed.verification.unwrap();
    let mut examples = verification.examples.clone();
    examples.sort();
    assert_eq!(
        examples,
        [
            format!("{} differs from the fold of its events up to 3: reference", id(1)),
            format!("{} is missing", id(2)),
            format!("{} is nobody's: there is no such stream", id(777)),
        ]
    );
    assert_eq!(verification.documents_different, 3);
    // The old index stays, the new one goes.
    world.orders_are(|orders| orders.live_index == search.name("orders-v1-1")).await;
    gone(&search, &target).await;
    assert_eq!(world.order(&id(1)).await.summary.unwrap().reference, "R-1");
}

#[tokio::test]
async fn documents_that_are_not_compared_whole_are_compared_by_version() {
    let search = Search::start("rebuild-versions").await;
    let history = sales(40);
    let none = ["--rebuild-compared=0"];
    let world = World::with(&search, &search.url, &history, &none).await;
    world.ready().await;
    world.caught_up(&history).await;
    let done = world.rebuilt(StartRebuildRequest { dry_run: true, ..Default::default() }).await;
    assert_eq!(done.state(), State::Verified, "{done:?}");
    let proof = done.verification.unwrap();
    assert_eq!((proof.documents_expected, proof.documents_found, proof.documents_compared), (40, 40, 0));

    let slow = StartRebuildRequest { max_streams_per_second: 10, ..Default::default() };
    let started = world.start_next_rebuild(slow).await;
    let begun = world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.streams_done >= 10).await;
    spoil(&search, &begun.target_index, 10, |_| ()).await;
    let failed = world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
    assert_eq!(failed.state(), State::Failed, "{failed:?}");
    let mut examples = failed.verification.unwrap().examples;
    examples.sort();
    assert_eq!(
        examples,
        [
            format!("{} is ahead: version 10, its stream ends at 3", id(1)),
            format!("{} is missing", id(2)),
            format!("{} is nobody's: there is no such stream", id(777)),
        ]
    );
}

#[tokio::test]
async fn a_projection_that_folded_wrongly_is_refused() {
    let history = sales(5);
    let world = World::of("rebuild-fold", &history).await;
    let mut wrong = history.clone();
    for event in wrong.events.iter_mut().filter(|event| event.stream_key == id(3)) {
        if let Some(recorded_event::Body::OrderCreated(created)) = &mut event.body {
            created.customer_name = "Somebody Else".into();
        }
    }
    world.feed.change(|script| script.misread = wrong.events);
    let failed = world.rebuilt(StartRebuildRequest::default()).await;
    assert_eq!(failed.state(), State::Failed, "{failed:?}");
    let verification = failed.verification.unwrap();
    let [example] = &verification.examples[..] else { panic!("{verification:?}") };
    let differs = format!("{} differs from the fold of its events up to 3: customer_name", id(3));
    assert!(example.starts_with(&differs), "{example}");
    // What is read right now is refused no more.
    let again = world.start_next_rebuild(StartRebuildRequest::default()).await;
    let done = world.rebuild_is(&again.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
}

#[tokio::test]
async fn a_parked_stream_counts_as_such_and_the_previous_index_goes_after_its_time() {
    let search = Search::start("rebuild-grace").await;
    let mut history = sales(20);
    history.unknown(&id(4)).order(&id(5), crate::support::confirmed());
    let few = ["--rebuild-grace-seconds=2", "--rebuild-compared=5"];
    let world = World::with(&search, &search.url, &history, &few).await;
    world.ready().await;
    world.orders_are(|orders| orders.position == history.head() && orders.parked_streams == 1).await;
    let done = world.rebuilt(StartRebuildRequest::default()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
    assert_eq!(done.verification.unwrap().documents_found, 20);
    let orders = world.orders_are(|orders| orders.live_index == search.name("orders-v1-2")).await;
    assert_eq!((orders.parked_streams, orders.document_count), (1, 20), "{orders:?}");
    gone(&search, &search.name("orders-v1-1")).await;
    let rollback = RollbackProjectionRequest { projection: "orders".into() };
    let refused = world.admin().rollback_projection(rollback).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::NoPreviousIndex));
    let nonsense = StartRebuildRequest { projection: "nonsense".into(), ..Default::default() };
    let refused = world.admin().start_rebuild(nonsense).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Some(Reason::InvalidField));
}

/// An index of orders as an older release made it, with what it had.
async fn older(search: &Search, history: &History) {
    let world = World::over(search, &search.url, history).await;
    world.ready().await;
    world.caught_up(history).await;
    world.lifecycle.drain();
    timeout(DEADLINE, world.lifecycle.stopped()).await.unwrap();
    let mapping = format!("/{}/_mapping", search.name("orders-v1-1"));
    let meta = json!({ "_meta": { "mapping_hash": "older" } });
    assert_eq!(search.raw(Method::Put, &mapping, Some(meta)).await["acknowledged"], true);
}

#[tokio::test]
async fn an_index_of_another_mapping_is_read_and_not_fed_until_it_is_rebuilt() {
    let search = Search::start("rebuild-mapping").await;
    let mut history = sales(3);
    older(&search, &history).await;
    history.order(&id(1), crate::support::confirmed());
    let world = World::over(&search, &search.url, &history).await;
    let halted = world.orders_are(|orders| orders.state() == Doing::Halted).await;
    assert!(halted.last_error.contains("another mapping"), "{halted:?}");
    assert_eq!(world.order(&id(1)).await.summary.unwrap().version, 3);
    assert_eq!(world.list(ListOrdersRequest::default()).await.unwrap().total_size, 3);
    let done = world.rebuilt(StartRebuildRequest::default()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
    world.orders_are(|orders| orders.state() == Doing::Live && orders.last_error.is_empty()).await;
    assert_eq!(world.order(&id(1)).await.summary.unwrap().version, 4);
    let live = search.index.live(&search.name("orders")).await.unwrap().unwrap();
    assert!(live.has(Orders::MAPPING) && live.name == search.name("orders-v1-2"));
}

#[tokio::test]
async fn an_index_of_another_mapping_is_rebuilt_by_itself_where_that_is_wanted() {
    let search = Search::start("rebuild-by-itself").await;
    let history = sales(3);
    older(&search, &history).await;
    let world = World::with(&search, &search.url, &history, &["--rebuild-on-other-mapping"]).await;
    until(DEADLINE, "it is rebuilt", async || {
        let live = search.index.live(&search.name("orders")).await.unwrap().unwrap();
        live.has(Orders::MAPPING).then_some(())
    })
    .await;
    world.orders_are(|orders| orders.state() == Doing::Live).await;
}

#[tokio::test]
async fn what_a_dropped_index_left_does_not_bind_the_next() {
    let search = Search::start("rebuild-names").await;
    let cured = {
        let mut history = sales(6);
        history.order(&id(4), crate::support::confirmed());
        history
    };
    let mut broken = cured.clone();
    let event = broken.events.iter_mut().rfind(|event| event.stream_key == id(4)).unwrap();
    event.body = None;
    let world = World::with(&search, &search.url, &broken, &[]).await;
    world.ready().await;
    world.orders_are(|orders| orders.position == broken.head() && orders.parked_streams == 1).await;
    let dry = world.rebuilt(StartRebuildRequest { dry_run: true, ..Default::default() }).await;
    assert_eq!(dry.state(), State::Verified, "{dry:?}");
    gone(&search, &dry.target_index).await;
    let of_it = json!({ "query": { "term": { "index": dry.target_index } } });
    until(DEADLINE, "its records are forgotten", async || {
        let control = search.name("control");
        search.raw(Method::Post, &format!("/{control}/_refresh"), None).await;
        let path = format!("/{control}/_count");
        let left = search.raw(Method::Get, &path, Some(of_it.clone())).await;
        (left["count"] == json!(0)).then_some(())
    })
    .await;

    // A release that knows the event takes it; a projector could not, as the stream is parked.
    world.feed.publish(&cured);
    let done = world.rebuilt(StartRebuildRequest::default()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
    assert_ne!(done.target_index, dry.target_index, "no name is given twice");
    let orders = world.orders_are(|orders| orders.live_index == done.target_index).await;
    assert_eq!(orders.parked_streams, 0, "{orders:?}");
    assert_eq!(world.order(&id(4)).await.summary.unwrap().version, 4);
}

#[tokio::test]
async fn an_index_that_vanishes_while_it_catches_up_ends_its_rebuild() {
    let search = Search::start("rebuild-vanished").await;
    let mut history = sales(8);
    let world = World::on(&search, &history).await;
    let slow = StartRebuildRequest { max_streams_per_second: 2, ..Default::default() };
    let started = world.start_rebuild(slow).await;
    world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.streams_done > 0).await;
    // Recorded during the scan, and withheld from those who subscribe.
    world.feed.change(|script| script.stops_at = history.head());
    history.order(&id(1), crate::support::confirmed());
    world.feed.publish(&history);
    let waits = world
        .rebuild_is(&started.rebuild_id, |rebuild| {
            rebuild.state() == State::CatchingUp && !rebuild.error.is_empty()
        })
        .await;
    assert!(waits.error.contains("stands at position"), "it says for what it waits: {waits:?}");

    search.raw(Method::Delete, &format!("/{}", waits.target_index), None).await;
    let failed = world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
    assert_eq!(failed.state(), State::Failed, "{failed:?}");
    assert!(failed.error.contains("is gone"), "{failed:?}");
}

#[tokio::test]
async fn indices_that_nobody_names_go_while_a_rebuild_rests_and_what_it_fills_stays() {
    let search = Search::start("rebuild-orphans").await;
    let orphan = async |name: &str, meta: Value| {
        let body = json!({ "mappings": { "_meta": meta } });
        let made = search.raw(Method::Put, &format!("/{}", search.name(name)), Some(body)).await;
        assert_eq!(made["acknowledged"], true, "{made}");
    };
    orphan("orders-v1-70", json!({ "mapping_hash": "old" })).await;
    orphan("orders-v1-71", json!({ "somebody": "else" })).await;
    let flags = ["--rebuild-orphan-seconds=0", "--rebuild-grace-seconds=1"];
    let history = sales(4);
    let world = World::with(&search, &search.url, &history, &flags).await;
    gone(&search, &search.name("orders-v1-70")).await;
    let done = world.rebuilt(StartRebuildRequest::default()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");

    let slow = StartRebuildRequest { max_streams_per_second: 1, ..Default::default() };
    let again = world.start_next_rebuild(slow).await;
    let pause = PauseRebuildRequest { rebuild_id: again.rebuild_id.clone() };
    world.rebuild_is(&again.rebuild_id, |rebuild| rebuild.streams_done > 0).await;
    world.admin().pause_rebuild(pause).await.unwrap();
    let rests = |rebuild: &Rebuild| rebuild.state() == State::Paused;
    let paused = world.rebuild_is(&again.rebuild_id, rests).await;
    // The time of the index before is over, whether or not a rebuild is under way.
    gone(&search, &search.name("orders-v1-1")).await;
    // Every copy sweeps when it starts.
    orphan("orders-v1-80", json!({ "mapping_hash": "old" })).await;
    let second = World::with(&search, &search.url, &history, &flags).await;
    gone(&search, &search.name("orders-v1-80")).await;
    let mut left: Vec<_> = search
        .index
        .own_indices(&search.name("orders-"))
        .await
        .unwrap()
        .into_iter()
        .map(|own| own.name)
        .collect();
    left.sort();
    let mut named = vec![done.target_index, paused.target_index.clone()];
    named.sort();
    assert_eq!(left, named);
    let foreign = search.raw(Method::Get, &format!("/{}", search.name("orders-v1-71")), None).await;
    assert!(foreign.get("error").is_none(), "it is not ours: {foreign}");
    let cancel = CancelRebuildRequest { rebuild_id: again.rebuild_id };
    second.admin().cancel_rebuild(cancel).await.unwrap();
    gone(&search, &paused.target_index).await;
}

#[tokio::test]
async fn a_rebuild_takes_a_projection_over_to_another_store() {
    let search = Search::start("rebuild-store").await;
    let history = sales(5);
    let world = World::on(&search, &history).await;
    world.feed.change(|script| script.down = true);
    world.orders_are(|orders| orders.state() == Doing::Waiting).await;
    let other = sales(3);
    world.feed.change(|script| {
        script.events.clone_from(&other.events);
        script.store_id = "store-2".to_owned();
        script.down = false;
    });
    world.orders_are(|orders| orders.state() == Doing::Halted).await;
    let done = world.rebuilt(StartRebuildRequest::default()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
    let orders = world.orders_are(|orders| orders.state() == Doing::Live).await;
    assert_eq!((orders.document_count, orders.position), (3, other.head()), "{orders:?}");
    let newer = {
        let mut newer = other;
        newer.order(&id(1), crate::support::confirmed());
        newer
    };
    world.feed.publish(&newer);
    world.orders_are(|orders| orders.position == newer.head()).await;
    assert_eq!(world.order(&id(1)).await.summary.unwrap().version, 4);
}
