//! Group commit: concurrent callers share commits and are answered each for itself.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;
use write_service::append::{AppendError, Appender};
use write_service::event_store::{EventStore, Outcome};

use crate::event_store::append;
use crate::support::{PATIENCE, database};

#[tokio::test]
async fn appends_that_arrive_together_share_commits() {
    let (_database, pool) = database().await;
    let (appender, writers) = Appender::new(&EventStore::new(pool.clone()), &Arc::new(Notify::new()));
    let calls = (0..1_000).map(|_| appender.append(append(Uuid::now_v7(), 0, 1)));
    let calls = futures_util::future::join_all(calls.collect::<Vec<_>>());
    let writing = futures_util::future::join_all(writers);
    tokio::pin!(writing);
    let outcomes = tokio::select! {
        outcomes = calls => outcomes,
        _ = &mut writing => unreachable!("writers end with the last appender"),
    };
    assert!(outcomes.into_iter().all(|outcome| matches!(outcome, Ok(Outcome::Stored { .. }))));
    let batches: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&pool).await.unwrap();
    assert!((2..=20).contains(&batches), "{batches} commits for 1,000 appends");
    drop(appender);
    writing.await;
}

#[tokio::test]
async fn two_appends_to_one_stream_do_not_share_a_batch_and_one_wins() {
    let (_database, pool) = database().await;
    let (appender, writers) = Appender::new(&EventStore::new(pool), &Arc::new(Notify::new()));
    for writer in writers {
        tokio::spawn(writer);
    }
    let stream = Uuid::now_v7();
    let calls = (0..20).map(|_| appender.append(append(stream, 0, 2)));
    let outcomes = futures_util::future::join_all(calls.collect::<Vec<_>>()).await;
    let stored = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(Outcome::Stored { .. }))).count();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn who_has_left_stores_nothing() {
    let (_database, pool) = database().await;
    let store = EventStore::new(pool);
    let (appender, writers) = Appender::new(&store, &Arc::new(Notify::new()));
    let (gone, stays) = (Uuid::now_v7(), Uuid::now_v7());
    // Nobody runs the writers yet: what is appended waits.
    let mut leaves = Box::pin(appender.append(append(gone, 0, 1)));
    assert!(futures_util::poll!(&mut leaves).is_pending());
    let mut waits = Box::pin(appender.append(append(stays, 0, 1)));
    assert!(futures_util::poll!(&mut waits).is_pending());
    drop(leaves);
    for writer in writers {
        tokio::spawn(writer);
    }
    assert!(matches!(waits.await, Ok(Outcome::Stored { .. })));
    assert_eq!(store.read(gone, 1, 0).await.unwrap(), []);
}

#[tokio::test]
async fn all_who_wait_learn_that_the_store_is_down() {
    let nobody = PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
    let (appender, writers) = Appender::new(&EventStore::new(nobody), &Arc::new(Notify::new()));
    let mut calls: Vec<_> =
        (0..2_000).map(|_| Box::pin(appender.append(append(Uuid::now_v7(), 0, 1)))).collect();
    for call in &mut calls {
        assert!(futures_util::poll!(call).is_pending());
    }
    for writer in writers {
        tokio::spawn(writer);
    }
    let outcomes = tokio::time::timeout(PATIENCE, futures_util::future::join_all(calls)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(AppendError::Store(_)))));
}
