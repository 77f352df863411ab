//! Audits: what differs is found, and nothing else; what is found is put right.

use std::time::Duration;

use elasticsearch::http::Method;
use local::testing::until;
use proto::reason::Reason;
use proto::v1::finding::Kind;
use proto::v1::recorded_event::Body;
use proto::v1::{
    AuditProjectionRequest, AuditProjectionResponse, Finding, ListOrdersRequest, OrderShipped, RecordedEvent,
    StreamCategory,
};
use read_service::projection::{Orders, Projection as _};
use serde_json::{Value, json};
use tokio::time::{interval, timeout};
use tonic::{Status, Streaming};

use super::rebuild::sales;
use crate::grpc::world::{Sale, World, id, refusal};
use crate::support::{DEADLINE, History, Search, confirmed};

fn of_orders() -> AuditProjectionRequest {
    AuditProjectionRequest { projection: "orders".into(), ..Default::default() }
}

impl World {
    pub async fn begin_audit(
        &self,
        request: AuditProjectionRequest,
    ) -> Result<Streaming<AuditProjectionResponse>, Status> {
        Ok(self.admin().audit_projection(request).await?.into_inner())
    }

    /// Everything that an audit says.
    pub async fn audited(
        &self,
        request: AuditProjectionRequest,
    ) -> Result<Vec<AuditProjectionResponse>, Status> {
        let mut told = self.begin_audit(request).await?;
        let all = async {
            let mut all: Vec<AuditProjectionResponse> = Vec::new();
            while let Some(message) = told.message().await? {
                let before = all.last().map_or(0, |last| last.streams_checked);
                assert!(message.streams_checked >= before, "{message:?} after {all:?}");
                all.push(message);
            }
            Ok(all)
        };
        timeout(DEADLINE, all).await.expect("the audit ends in time")
    }

    /// What an audit finds, by key.
    pub async fn findings(&self, request: AuditProjectionRequest) -> Vec<Finding> {
        let told = self.audited(request).await.unwrap();
        let last = told.last().unwrap();
        assert_eq!(last.streams_checked, last.streams_total, "{last:?}");
        let mut found: Vec<_> = told.into_iter().filter_map(|message| message.finding).collect();
        found.sort_by(|a, b| a.stream_key.cmp(&b.stream_key));
        found
    }
}

pub fn kinds(findings: &[Finding]) -> Vec<(&str, Kind)> {
    findings.iter().map(|finding| (finding.stream_key.as_str(), finding.kind())).collect()
}

/// Documents of the first index of orders, written past the service.
pub struct Hand<'a>(pub &'a Search);

impl Hand<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/{}/{rest}", self.0.name("orders-v1-1"))
    }

    pub async fn source(&self, key: &str) -> Value {
        self.0.raw(Method::Get, &self.path(&format!("_doc/{key}")), None).await["_source"].clone()
    }

    pub async fn put(&self, key: &str, version: i64, document: &Value) -> bool {
        let path = format!("_doc/{key}?version={version}&version_type=external_gte&refresh=true");
        self.0.raw(Method::Put, &self.path(&path), Some(document.clone())).await["_version"] == version
    }

    async fn delete(&self, key: &str) {
        let deleted = self.0.raw(Method::Delete, &self.path(&format!("_doc/{key}?refresh=true")), None).await;
        assert_eq!(deleted["result"], "deleted");
    }

    async fn keep_tombstones(&self, time: Value) {
        let body = json!({ "index.gc_deletes": time });
        let set = self.0.raw(Method::Put, &self.path("_settings"), Some(body)).await;
        assert_eq!(set["acknowledged"], true);
    }

    /// Puts a document in place of a later version.
    pub async fn put_back(&self, key: &str, version: i64, document: &Value) {
        self.delete(key).await;
        self.keep_tombstones("0s".into()).await;
        until(DEADLINE, "the tombstone goes", async || {
            self.0.raw(Method::Post, &self.path("_refresh"), None).await;
            self.put(key, version, document).await.then_some(())
        })
        .await;
        self.keep_tombstones(Value::Null).await;
    }

    /// Plants one difference of each kind, in the orders 0 to 3 and in ids that no order has.
    pub async fn plant_each(&self, history: &History) {
        self.delete(&id(0)).await;
        let key = id(1);
        let two = history.stream(StreamCategory::Order, &key).take(2);
        let two = read_service::projection::fold::<Orders>(two).unwrap().unwrap();
        let two = read_service::index::whole(&two, &Orders::search(&two));
        self.put_back(&id(1), 2, &two).await;
        assert!(self.put(&id(2), 9, &self.source(&id(2)).await).await);
        let mut altered = self.source(&id(3)).await;
        altered["reference"] = json!("ALTERED");
        altered["lines"][0]["quantity"] = json!(2);
        assert!(self.put(&id(3), 3, &altered).await);
        assert!(self.put(&id(99), 1, &altered).await);
        assert!(self.put("no-uuid", 7, &altered).await);
    }
}

#[tokio::test]
async fn each_kind_of_difference_is_found_and_nothing_else() {
    let search = Search::start("audit-kinds").await;
    let history = sales(8);
    let world = World::on(&search, &history).await;
    assert_eq!(world.findings(of_orders()).await, []);

    Hand(&search).plant_each(&history).await;
    let found = world.findings(of_orders()).await;
    let expected = [
        (&*id(0), Kind::Missing),
        (&*id(1), Kind::Behind),
        (&*id(2), Kind::Ahead),
        (&*id(3), Kind::Different),
        (&*id(99), Kind::Orphan),
        ("no-uuid", Kind::Orphan),
    ];
    assert_eq!(kinds(&found), expected);
    let details: Vec<_> = found.iter().map(|finding| finding.detail.as_str()).collect();
    assert_eq!(
        details[..5],
        [
            "is missing",
            "is behind: version 2, event 3 was applied",
            "is ahead: version 9, its stream ends at 3",
            "differs from the fold of its events up to 3: lines[0].quantity, reference",
            "is nobody's: there is no such stream",
        ]
    );
    assert!(found.iter().all(|finding| !finding.repaired));

    // Only those that are named; another look changed nothing.
    let stream_keys = [0, 3, 4, 99, 100].map(id).to_vec();
    let named = world.findings(AuditProjectionRequest { stream_keys, ..of_orders() }).await;
    assert_eq!(kinds(&named), [expected[0], expected[3], expected[4]]);
}

#[tokio::test]
async fn a_parked_stream_is_right_as_far_as_it_could_be_applied() {
    let search = Search::start("audit-parked").await;
    let mut history = sales(3);
    history.unknown(&id(1)).order(&id(1), confirmed()).unknown(&id(7));
    let world = World::over(&search, &search.url, &history).await;
    world.ready().await;
    world.orders_are(|orders| orders.position == history.head() && orders.parked_streams == 2).await;
    assert_eq!(world.findings(of_orders()).await, []);

    let hand = Hand(&search);
    let mut altered = hand.source(&id(1)).await;
    altered["reference"] = json!("ALTERED");
    assert!(hand.put(&id(1), 3, &altered).await);
    let [different] = &world.findings(of_orders()).await[..] else { panic!("one differs") };
    assert_eq!((different.stream_key.as_str(), different.kind()), (&*id(1), Kind::Different));
    hand.delete(&id(1)).await;
    let [missing] = &world.findings(of_orders()).await[..] else { panic!("one differs") };
    assert_eq!(missing.kind(), Kind::Missing);
    assert_eq!(missing.detail, "has version 0, its stream is parked at 4");
}

#[tokio::test]
async fn what_is_not_applied_yet_is_no_difference_and_one_audit_goes_at_a_time() {
    let search = Search::start("audit-behind").await;
    let mut history = sales(3);
    let world = World::on(&search, &history).await;
    world.feed.change(|script| script.stops_at = history.head());
    history.order(&id(1), confirmed());
    world.feed.publish(&history);

    // It waits for the event.
    let waiting = world.begin_audit(of_orders()).await.unwrap();
    let (_, reason, _) = refusal(world.begin_audit(of_orders()).await);
    assert_eq!(reason, Reason::AuditRunning);
    // A caller who hangs up ends it.
    drop(waiting);
    let second =
        until(DEADLINE, "the first audit has ended", async || world.begin_audit(of_orders()).await.ok())
            .await;
    drop(second);
    // Where nothing moves it does not wait for ever.
    let one = AuditProjectionRequest { stream_keys: vec![id(1)], ..of_orders() };
    assert_eq!(world.findings(one.clone()).await, []);
    // What should be there is missed all the same.
    Hand(&search).delete(&id(1)).await;
    assert_eq!(kinds(&world.findings(one).await), [(&*id(1), Kind::Missing)]);
}

#[tokio::test]
async fn under_concurrent_writes_nothing_is_found() {
    let search = Search::start("audit-writes").await;
    let mut history = sales(40);
    let world = World::on(&search, &history).await;
    let writes = async {
        let mut tick = interval(Duration::from_millis(10));
        for number in 40..240 {
            Sale::number(number).put_into(&mut history);
            if let Some(before) = (number % 3 == 0).then(|| id(number - 20)) {
                history.order(&before, confirmed());
            }
            world.feed.publish(&history);
            tick.tick().await;
        }
    };
    let audits = async {
        let mut checked = 0;
        for _ in 0..3 {
            let told = world.audited(of_orders()).await.unwrap();
            let found: Vec<_> = told.iter().filter_map(|message| message.finding.as_ref()).collect();
            assert!(found.is_empty(), "{found:?}");
            checked += told.last().unwrap().streams_checked;
        }
        checked
    };
    let ((), checked) = tokio::join!(writes, audits);
    assert!(checked > 120, "{checked}");
}

#[tokio::test]
async fn malformed_requests_and_other_stores_are_refused() {
    let search = Search::start("audit-refused").await;
    let history = sales(1).identified();
    let world = World::on(&search, &history).await;
    until(DEADLINE, "the checkpoint is stored", async || {
        (search.checkpoint::<Orders>().await == history.head()).then_some(())
    })
    .await;
    let request = AuditProjectionRequest { projection: "nonsense".into(), ..Default::default() };
    assert_eq!(refusal(world.audited(request).await).2, ["projection"]);
    let stream_keys = vec![id(0), "no-uuid".into(), String::new()];
    let request = AuditProjectionRequest { stream_keys, ..of_orders() };
    assert_eq!(refusal(world.audited(request).await).2, ["stream_keys[1]", "stream_keys[2]"]);
    let request = AuditProjectionRequest { stream_keys: vec![id(0); 1_001], ..of_orders() };
    assert_eq!(refusal(world.audited(request).await).2, ["stream_keys"]);
    let stream_keys = vec!["a b".into(), "17850".into()];
    let request = AuditProjectionRequest { projection: "customers".into(), stream_keys, repair: false };
    assert_eq!(refusal(world.audited(request).await).2, ["stream_keys[0]"]);

    world.feed.change(|script| script.store_id = "store-2".to_owned());
    let (_, reason, _) = refusal(world.audited(of_orders()).await);
    assert_eq!(reason, Reason::StoreChanged);
    let lost = history.events.last().unwrap().clone();
    world.feed.change(|script| {
        script.store_id = "store-1".to_owned();
        script.events.pop();
    });
    let (_, reason, _) = refusal(world.audited(of_orders()).await);
    assert_eq!(reason, Reason::PositionAhead);
    // Restored, and as far again by another event.
    let other = RecordedEvent { event_id: uuid::Uuid::now_v7().to_string(), ..lost };
    world.feed.change(|script| script.events.push(other));
    let (_, reason, _) = refusal(world.audited(of_orders()).await);
    assert_eq!(reason, Reason::PositionAhead);
    world.feed.change(|script| script.down = true);
    let (_, reason, _) = refusal(world.audited(of_orders()).await);
    assert_eq!(reason, Reason::EventStoreDown);
}

#[tokio::test]
async fn what_is_found_is_put_right_when_that_is_asked() {
    let search = Search::start("audit-repair").await;
    let history = sales(8);
    let world = World::on(&search, &history).await;
    let hand = Hand(&search);
    hand.plant_each(&history).await;

    let stream_keys = [0, 4].map(id).to_vec();
    let one = world.findings(AuditProjectionRequest { stream_keys, repair: true, ..of_orders() }).await;
    assert_eq!(kinds(&one), [(&*id(0), Kind::Missing)]);
    assert_eq!(search.document::<Orders>(&id(0)).await.unwrap().1, history.folded::<Orders>(&id(0)));
    let repaired = world.findings(AuditProjectionRequest { repair: true, ..of_orders() }).await;
    let kinds: Vec<_> = repaired.iter().map(Finding::kind).collect();
    assert_eq!(kinds, [Kind::Behind, Kind::Ahead, Kind::Different, Kind::Orphan, Kind::Orphan]);
    assert!(repaired.iter().all(|finding| finding.repaired), "{repaired:?}");

    assert_eq!(world.findings(of_orders()).await, []);
    for number in 0..8 {
        let (version, document) = search.document::<Orders>(&id(number)).await.unwrap();
        assert_eq!((version, document), (3, history.folded::<Orders>(&id(number))));
    }
    // Searches see it, and Elasticsearch keeps tombstones again.
    assert_eq!(world.list(ListOrdersRequest::default()).await.unwrap().total_size, 8);
    let settings = search.raw(Method::Get, &hand.path("_settings"), None).await;
    assert_eq!(settings[search.name("orders-v1-1")]["settings"]["index"].get("gc_deletes"), None);
}

#[tokio::test]
async fn what_was_put_right_stays_right_whatever_projectors_had_read() {
    let search = Search::start("audit-memory").await;
    let mut history = sales(4);
    let first = World::on(&search, &history).await;
    first.lifecycle.drain();
    timeout(DEADLINE, first.lifecycle.stopped()).await.unwrap();

    // What a new copy reads before it folds the next event onto it.
    let hand = Hand(&search);
    let mut altered = hand.source(&id(1)).await;
    altered["reference"] = json!("ALTERED");
    assert!(hand.put(&id(1), 3, &altered).await);
    let mut ahead = hand.source(&id(2)).await;
    ahead["version"] = json!(9);
    assert!(hand.put(&id(2), 9, &ahead).await);
    history.order(&id(1), confirmed()).order(&id(2), confirmed());
    let copies = [
        World::over(&search, &search.url, &history).await,
        World::over(&search, &search.url, &history).await,
    ];
    for copy in &copies {
        copy.ready().await;
        copy.caught_up(&history).await;
    }
    assert_eq!(hand.source(&id(1)).await["reference"], "ALTERED", "the fold goes on from it");

    let found = copies[0].findings(AuditProjectionRequest { repair: true, ..of_orders() }).await;
    assert_eq!(kinds(&found), [(&*id(1), Kind::Different), (&*id(2), Kind::Ahead)]);
    assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
    let shipped =
        Body::OrderShipped(OrderShipped { carrier: "Royal Mail".into(), tracking_number: "1".into() });
    history.order(&id(1), shipped.clone()).order(&id(2), shipped);
    for copy in &copies {
        copy.feed.publish(&history);
    }
    copies[0].caught_up(&history).await;
    for number in [1, 2] {
        let (version, document) = search.document::<Orders>(&id(number)).await.unwrap();
        assert_eq!((version, document), (5, history.folded::<Orders>(&id(number))));
    }
    assert_eq!(copies[1].findings(of_orders()).await, []);
}

#[tokio::test]
async fn what_cannot_be_put_right_is_told() {
    let search = Search::start("audit-unfit").await;
    let mut history = sales(2);
    history.unknown(&id(1));
    let world = World::over(&search, &search.url, &history).await;
    world.ready().await;
    world.orders_are(|orders| orders.position == history.head() && orders.parked_streams == 1).await;
    // Nobody knows any more that it is parked.
    let record = format!("/{}/_doc/parked:{}:{}", search.name("control"), search.name("orders-v1-1"), id(1));
    assert_eq!(search.raw(Method::Delete, &record, None).await["result"], "deleted");
    let found = world.findings(AuditProjectionRequest { repair: true, ..of_orders() }).await;
    let [behind] = &found[..] else { panic!("{found:?}") };
    assert!(behind.kind() == Kind::Behind && !behind.repaired, "{behind:?}");
    assert_eq!(behind.detail, "is behind: version 3, event 4 was applied (not repaired)");
}
