//! The relay: dense positions in commit order, whoever runs it and whenever it dies.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use write_service::event_store::EventStore;
use write_service::outbox::{FEED_GREW, Relay, Step};

use crate::event_store::append;
use crate::support::{PATIENCE, database};

/// (position, stream, version) of everything published, unnested by plain SQL.
pub async fn published(pool: &PgPool) -> Vec<(i64, Uuid, i64)> {
    sqlx::query_as(
        "SELECT position - event_count + row_number() OVER (PARTITION BY position ORDER BY place, version),
                stream_id, version
         FROM feed,
              unnest(stream_ids, first_versions, counts) WITH ORDINALITY AS a (stream_id, first_version, count, place),
              generate_series(first_version, first_version + count - 1) AS version
         ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

pub fn assert_dense(published: &[(i64, Uuid, i64)], expected: usize) {
    let positions: Vec<_> = published.iter().map(|(position, ..)| *position).collect();
    let dense: Vec<_> = (1..=i64::try_from(expected).unwrap()).collect();
    assert_eq!(positions, dense);
    let mut last = std::collections::HashMap::new();
    for (_, stream, version) in published {
        let before = last.insert(*stream, *version).unwrap_or(0);
        assert_eq!(*version, before + 1, "streams keep their order");
    }
}

fn relay(pool: &PgPool) -> Relay {
    Relay::new(pool.clone(), Arc::new(Notify::new()))
}

async fn drain(relay: &Relay) {
    while let Step::Moved { .. } = relay.step().await.unwrap() {}
}

#[tokio::test]
async fn nothing_to_move_is_done() {
    let (_database, pool) = database().await;
    assert_eq!(relay(&pool).step().await.unwrap(), Step::Done);
}

#[tokio::test]
async fn an_append_that_commits_late_is_not_skipped() {
    let (_database, pool) = database().await;
    let store = EventStore::new(pool.clone());
    let relay = relay(&pool);
    // An early transaction draws its outbox id and stays open while a later one commits and is published.
    let (early, late) = (Uuid::now_v7(), Uuid::now_v7());
    let mut open = pool.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO event (stream_id, version, batch_id, category, slice, type, schema, metadata, body)
         VALUES ($1, 1, nextval('outbox_id_seq'), 1, 0, 'OrderConfirmed', 1, '', '')",
    )
    .bind(early)
    .execute(&mut *open)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO outbox (id, stream_ids, first_versions, counts, event_count)
         VALUES (currval('outbox_id_seq'), ARRAY[$1::uuid], '{1}', '{1}', 1)",
    )
    .bind(early)
    .execute(&mut *open)
    .await
    .unwrap();
    store.writer().append(&[append(late, 0, 2)]).await.unwrap();
    assert_eq!(relay.step().await.unwrap(), Step::Moved { events: 2, head: 2 });
    open.commit().await.unwrap();
    assert_eq!(relay.step().await.unwrap(), Step::Moved { events: 1, head: 3 });
    assert_eq!(published(&pool).await, [(1, late, 1), (2, late, 2), (3, early, 1)]);
}

#[tokio::test]
async fn a_move_says_where_the_feed_ends_now() {
    let (_database, pool) = database().await;
    let mut writer = EventStore::new(pool.clone()).writer();
    let relay = relay(&pool);
    let mut wake_ups = PgListener::connect_with(&pool).await.unwrap();
    wake_ups.listen(FEED_GREW).await.unwrap();
    for (events, head) in [(2, "2"), (3, "5")] {
        writer.append(&[append(Uuid::now_v7(), 0, events)]).await.unwrap();
        drain(&relay).await;
        let notice = timeout(PATIENCE, wake_ups.recv()).await.expect("a notice in time").unwrap();
        assert_eq!(notice.payload(), head);
    }
}

#[tokio::test]
async fn two_relays_at_once_leave_one_dense_order() {
    let (_database, pool) = database().await;
    let store = EventStore::new(pool.clone());
    let done = CancellationToken::new();
    let relays = (0..2).map(|_| {
        let (relay, done) = (relay(&pool), done.clone());
        tokio::spawn(async move {
            while !done.is_cancelled() {
                relay.step().await.unwrap();
                tokio::task::yield_now().await;
            }
            drain(&relay).await;
        })
    });
    let relays: Vec<_> = relays.collect();
    let writers = (0..4).map(|_| {
        let store = store.clone();
        async move {
            let mut writer = store.writer();
            let mut streams: Vec<_> = (0..10).map(|_| Uuid::now_v7()).collect();
            streams.sort_unstable();
            for round in 0..25 {
                let batch: Vec<_> = streams.iter().map(|stream| append(*stream, round * 2, 2)).collect();
                writer.append(&batch).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    done.cancel();
    for relay in relays {
        relay.await.unwrap();
    }
    assert_dense(&published(&pool).await, 4 * 10 * 25 * 2);
}

#[tokio::test]
async fn a_relay_killed_in_the_middle_of_a_move_loses_and_doubles_nothing() {
    let (_database, pool) = database().await;
    let mut writer = EventStore::new(pool.clone()).writer();
    let relay = relay(&pool);
    for round in 0..20 {
        writer.append(&[append(Uuid::now_v7(), 0, 3)]).await.unwrap();
        // Held up behind this lock, the step is under way when its backend is killed.
        let mut fence = pool.begin().await.unwrap();
        let lock = if round % 2 == 0 {
            "SELECT 1 FROM feed_head FOR UPDATE"
        } else {
            "LOCK TABLE feed IN EXCLUSIVE MODE"
        };
        sqlx::query(lock).execute(&mut *fence).await.unwrap();
        let step = relay.step();
        let kill = async {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            loop {
                let killed: i64 = sqlx::query_scalar(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'",
                )
                .fetch_one(&pool)
                .await
                .unwrap();
                if killed > 0 {
                    break;
                }
                assert!(tokio::time::Instant::now() < deadline, "the step never waited");
            }
        };
        let (outcome, ()) = tokio::join!(step, kill);
        assert!(outcome.is_err());
        fence.rollback().await.unwrap();
    }
    drain(&relay).await;
    assert_dense(&published(&pool).await, 20 * 3);
}

#[tokio::test]
async fn the_elected_relay_is_replaced_when_it_stops() {
    let (_database, pool) = database().await;
    let mut writer = EventStore::new(pool.clone()).writer();
    let first = CancellationToken::new();
    let second = CancellationToken::new();
    let one = tokio::spawn(relay(&pool).run(first.clone()));
    let two = tokio::spawn(relay(&pool).run(second.clone()));
    for round in 1..=2_i64 {
        writer.append(&[append(Uuid::now_v7(), 0, 1)]).await.unwrap();
        let arrives = async {
            while published(&pool).await.len() < usize::try_from(round).unwrap() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, arrives).await.unwrap();
        if round == 1 {
            first.cancel();
        }
    }
    second.cancel();
    let stop = async { (one.await.unwrap(), two.await.unwrap()) };
    tokio::time::timeout(Duration::from_secs(5), stop).await.unwrap();
}
