//! Repairs that meet each other, and the switch of a rebuild: nothing is harmed, and what they promise holds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use proto::reason::Reason;
use proto::v1::finding::Kind;
use proto::v1::rebuild::State;
use proto::v1::*;
use read_service::projection::Orders;
use serde_json::json;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::audit::{Hand, kinds};
use super::rebuild::sales;
use crate::grpc::world::{World, id, refusal};
use crate::support::{History, Search, confirmed};

const ORDERS: usize = 60;
/// Orders that are spoilt and repaired at each copy, again and again. A switch may come between damage and repair of some of them,
/// hardly of all.
const SPOILT: [[usize; 3]; 2] = [[7, 8, 9], [50, 51, 52]];
/// How long a rebuild may take that repairs meet again and again.
const PATIENCE: Duration = Duration::from_mins(2);

fn repair(stream_keys: Vec<String>) -> AuditProjectionRequest {
    AuditProjectionRequest { projection: "orders".into(), repair: true, stream_keys }
}

fn audit() -> AuditProjectionRequest {
    AuditProjectionRequest { repair: false, ..repair(Vec::new()) }
}

async fn two_copies(search: &Search, history: &History) -> [World; 2] {
    let copies = [World::on(search, history).await, World::on(search, history).await];
    for copy in &copies {
        copy.orders_are(|orders| orders.owners.len() > 1).await;
    }
    copies
}

/// Every document is the fold of its events, and there are no others.
async fn exact(search: &Search, copies: &[World; 2], history: &History, orders: usize) {
    for copy in copies {
        copy.caught_up(history).await;
        assert_eq!(copy.findings(audit()).await, []);
    }
    for number in 0..orders {
        let expected = history.folded::<Orders>(&id(number));
        assert_eq!(search.document::<Orders>(&id(number)).await, Some((expected.version, expected)));
    }
    let listed = copies[0].list(ListOrdersRequest::default()).await.unwrap();
    assert_eq!(listed.total_size, i64::try_from(orders).unwrap());
}

#[tokio::test]
async fn of_two_repairs_of_everything_at_a_copy_one_is_refused_and_two_copies_do_no_harm() {
    let search = Search::start("repairs-all").await;
    let history = sales(8);
    let copies = two_copies(&search, &history).await;
    for _ in 0..3 {
        Hand(&search).plant_each(&history).await;
        let asked = [&copies[0], &copies[0], &copies[1]].map(|copy| copy.audited(repair(Vec::new())));
        let [first, second, other] = join_all(asked).await.try_into().unwrap();
        let (refused, done): (Vec<_>, Vec<_>) = [first, second].into_iter().partition(Result::is_err);
        assert_eq!((refused.len(), done.len()), (1, 1), "{refused:?}, {done:?}");
        for refused in refused {
            let (code, reason, _) = refusal(refused);
            assert_eq!((code, reason), (Code::Aborted, Reason::AuditRunning));
        }
        let told = done.into_iter().chain([other]).flat_map(Result::unwrap);
        let found: BTreeSet<_> =
            told.filter_map(|told| told.finding).map(|finding| finding.stream_key).collect();
        let planted = [0, 1, 2, 3, 99].map(id).into_iter().chain(["no-uuid".to_owned()]);
        assert_eq!(found, planted.collect(), "each was found by one of them, or by both");
        exact(&search, &copies, &history, 8).await;
    }
}

#[tokio::test]
async fn the_same_streams_are_repaired_by_many_at_once_while_they_change() {
    let search = Search::start("repairs-some").await;
    let mut history = sales(8);
    let copies = two_copies(&search, &history).await;
    Hand(&search).plant_each(&history).await;
    let keys = [0, 1, 2, 3].map(id).to_vec();
    let mut begun = Vec::new();
    for copy in &copies {
        for _ in 0..4 {
            begun.push(copy.begin_audit(repair(keys.clone())).await.unwrap());
        }
        // So many at a time.
        let (code, reason, _) = refusal(copy.begin_audit(repair(keys.clone())).await);
        assert_eq!((code, reason), (Code::Aborted, Reason::AuditRunning));
    }
    for number in 0..8 {
        history.order(&id(number), confirmed());
    }
    for copy in &copies {
        copy.feed.publish(&history);
    }
    let ends = begun.into_iter().map(async |mut told| {
        let mut found = Vec::new();
        while let Some(message) = told.message().await? {
            found.extend(message.finding);
        }
        Ok::<_, Status>(found)
    });
    let found: Vec<_> = try_join_all(ends).await.unwrap().into_iter().flatten().collect();
    assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
    // An event that comes heals some of them before anybody looks; what is ahead no event heals.
    assert!(found.iter().all(|finding| keys.contains(&finding.stream_key)), "{found:?}");
    assert!(found.iter().any(|finding| finding.stream_key == id(2)), "{found:?}");
    // Those that nobody named.
    let orphans = copies[1].findings(repair(Vec::new())).await;
    assert_eq!(kinds(&orphans), [(&*id(99), Kind::Orphan), ("no-uuid", Kind::Orphan)]);
    exact(&search, &copies, &history, 8).await;
}

/// Spoils an order in the live index again and again, and has it repaired; gives how often the alias moved during a repair, and whether
/// it moved in between, so that the order is still spoilt in the index before.
async fn repairs(search: &Search, copy: &World, number: usize, over: &CancellationToken) -> (usize, bool) {
    let hand = Hand(search);
    let (mut repaired, mut met) = (0, 0);
    while !over.is_cancelled() {
        let mut spoilt = hand.source(&id(number)).await;
        spoilt["reference"] = json!("ALTERED");
        let version = spoilt["version"].as_i64().unwrap();
        if !hand.put(&id(number), version, &spoilt).await {
            // An event came in between.
            continue;
        }
        let live = async || search.index.live(&search.name("orders")).await.unwrap().unwrap().name;
        let before = live().await;
        let found: Vec<_> = copy.audited(repair(vec![id(number)])).await.unwrap();
        let found: Vec<_> = found.into_iter().filter_map(|told| told.finding).collect();
        if found.is_empty() {
            assert_ne!(live().await, search.name("orders-v1-1"), "it was seen in the live index");
            return (met, true);
        }
        assert!(found.iter().all(|finding| finding.repaired), "{found:?}");
        repaired += 1;
        if before != live().await {
            met += 1;
            break;
        }
    }
    assert!(repaired > 0);
    (met, false)
}

/// No order is absent, and none goes back, whichever copy is asked.
async fn reads(copies: &[World; 2], over: &CancellationToken) {
    let seen: Mutex<HashMap<usize, i64>> = Mutex::default();
    let (seen, readers) = (&seen, copies.iter());
    join_all(readers.map(|copy| async move {
        for number in (0..ORDERS).cycle() {
            if over.is_cancelled() {
                break;
            }
            let least = seen.lock().unwrap().get(&number).copied().unwrap_or(0);
            let version = copy.order(&id(number)).await.summary.unwrap().version;
            assert!(version >= least, "{number} went back from {least} to {version}");
            let mut seen = seen.lock().unwrap();
            seen.entry(number).and_modify(|known| *known = version.max(*known)).or_insert(version);
        }
    }))
    .await;
    assert_eq!(seen.lock().unwrap().len(), ORDERS);
}

#[tokio::test]
async fn a_repair_that_meets_a_switch_lets_no_document_go_back() {
    let search = Search::start("repairs-switch").await;
    let mut history = sales(ORDERS);
    let copies = two_copies(&search, &history).await;
    let over = CancellationToken::new();
    let rebuilt = async {
        let slow = StartRebuildRequest { max_streams_per_second: 40, ..Default::default() };
        let started = copies[0].start_rebuild(slow).await;
        let mut tick = interval(Duration::from_millis(50));
        for number in 0..ORDERS {
            history.order(&id(number), confirmed());
            for copy in &copies {
                copy.feed.publish(&history);
            }
            tick.tick().await;
        }
        let request = WatchRebuildRequest { rebuild_id: started.rebuild_id };
        let mut told = copies[0].admin().watch_rebuild(request).await.unwrap().into_inner();
        let mut last = Rebuild::default();
        let ended = timeout(PATIENCE, async {
            while let Some(message) = told.message().await.unwrap() {
                last = message.rebuild.unwrap();
            }
        })
        .await;
        assert!(ended.is_ok(), "it goes on: {last:?}");
        assert_eq!(last.state(), State::Succeeded, "{last:?}");
        over.cancel();
    };
    let spoilt = || copies.iter().zip(SPOILT).flat_map(|(copy, some)| some.map(|number| (copy, number)));
    let repaired = join_all(spoilt().map(|(copy, number)| repairs(&search, copy, number, &over)));
    let ((), repaired, ()) = tokio::join!(rebuilt, repaired, reads(&copies, &over));
    assert!(repaired.iter().any(|(met, _)| *met > 0), "a repair met the switch");
    exact(&search, &copies, &history, ORDERS).await;

    // The way back: what was spoilt and not repaired any more, and nothing else.
    let rollback = RollbackProjectionRequest { projection: "orders".into() };
    copies[1].admin().rollback_projection(rollback).await.unwrap();
    let left = spoilt().zip(&repaired).filter(|(_, (_, left))| *left);
    let expected: Vec<_> = left.map(|((_, number), _)| (id(number), Kind::Different)).collect();
    let found = copies[0].findings(repair(Vec::new())).await;
    let found: Vec<_> = found.iter().map(|finding| (finding.stream_key.clone(), finding.kind())).collect();
    assert_eq!(found, expected);
    exact(&search, &copies, &history, ORDERS).await;
}
