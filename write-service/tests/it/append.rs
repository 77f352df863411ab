//! Group commit: concurrent callers share commits and are answered each for itself.

use std::sync::Arc;

use tokio::sync::Notify;
use uuid::Uuid;
use write_service::append::{AppendError, Appender};
use write_service::event_store::{EventStore, Outcome};

use crate::event_store::append;
use crate::support::database;

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
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap() == Outcome::Stored));
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
    let stored = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(Outcome::Stored))).count();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let (_database, pool) = database().await;
    // Nobody runs the writers: what is appended waits.
    let (appender, _writers) = Appender::new(&EventStore::new(pool), &Arc::new(Notify::new()));
    let mut waiting = Vec::new();
    loop {
        let mut call = Box::pin(appender.append(append(Uuid::now_v7(), 0, 1)));
        match futures_util::poll!(&mut call) {
            std::task::Poll::Pending => waiting.push(call),
            std::task::Poll::Ready(outcome) => {
                assert!(matches!(outcome, Err(AppendError::QueueFull)), "{outcome:?}");
                break;
            }
        }
    }
    assert_eq!(waiting.len(), 4_096);
}
