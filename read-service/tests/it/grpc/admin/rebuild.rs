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

#[tokio::test]
async fn documents_altered_dropped_or_added_are_refused_with_examples() {
    let search = Search::start("rebuild-defects").await;
    let history = sales(40);
    let world = World::over(&search, &search.url, &history).await;
    world.ready().await;
    world.caught_up(&history).await;
    let slow = StartRebuildRequest { max_streams_per_second: 10, ..Default::default() };
    let started = world.start_rebuild(slow).await;
    world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.streams_done >= 10).await;

    let target = search.name("orders-v1-2");
    let path = |key: &str| format!("/{target}/_doc/{key}");
    let found = search.raw(Method::Get, &path(&id(1)), None).await;
    let mut altered: Value = found["_source"].clone();
    altered["reference"] = json!("ALTERED");
    let same = format!("{}?version={}&version_type=external_gte", path(&id(1)), found["_version"]);
    assert_eq!(search.raw(Method::Put, &same, Some(altered.clone())).await["result"], "updated");
    assert_eq!(search.raw(Method::Delete, &path(&id(2)), None).await["result"], "deleted");
    let added = format!("{}?version=1&version_type=external", path(&id(777)));
    assert_eq!(search.raw(Method::Put, &added, Some(altered)).await["result"], "created");

    let failed = world.rebuild_is(&started.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
    assert_eq!(failed.state(), State::Failed, "{failed:?}");
    assert!(failed.error.contains("not the fold"), "{failed:?}");
    let verification = failed.verification.unwrap();
    let mut examples = verification.examples.clone();
    examples.sort();
    assert_eq!(
        examples,
        [
            format!("{} differs from the fold of its events up to 3", id(1)),
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
    assert_eq!(verification.examples, [format!("{} differs from the fold of its events up to 3", id(3))]);
    // What is read right now is refused no more.
    let again = until(DEADLINE, "the rebuild before is cleared away", async || {
        let request = StartRebuildRequest { projection: "orders".into(), ..Default::default() };
        world.admin().start_rebuild(request).await.ok()?.into_inner().rebuild
    })
    .await;
    let done = world.rebuild_is(&again.rebuild_id, |rebuild| rebuild.end_time.is_some()).await;
    assert_eq!(done.state(), State::Succeeded, "{done:?}");
}

#[tokio::test]
async fn a_parked_stream_counts_as_such_and_the_previous_index_goes_after_its_time() {
    let search = Search::start("rebuild-grace").await;
    let mut history = sales(20);
    history.unknown(&id(4)).order(&id(5), crate::support::confirmed());
    let grace = ["--rebuild-grace-seconds=2"];
    let world = World::with(&search, &search.url, &history, &grace).await;
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
