//! PostgreSQL stands still or has no room: callers are told what is known, and what they repeat has one effect.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::reason::Reason;
use proto::v1::CreateOrderRequest;
use sqlx::PgPool;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{World, create, lantern, new_id, refusal, until};

/// From a command to the answer that the database gives none.
const TOLD: Duration = Duration::from_secs(14);

/// The backends that have stored something.
async fn writers(pool: &PgPool) -> Vec<Pid> {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
                                            AND query LIKE '%batch AS MATERIALIZED%'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    pids.into_iter().map(Pid::from_raw).collect()
}

#[tokio::test]
async fn a_database_that_stands_still_is_given_up_on() {
    let mut world = World::start().await;
    world.create(create(vec![lantern(1)], true)).await.unwrap();
    let stopped = writers(&world.pool).await;
    assert!(!stopped.is_empty());
    for pid in &stopped {
        kill(*pid, Signal::SIGSTOP).unwrap();
    }
    // The other writer may be without a connection yet; then it makes one, which works.
    let (repeated, status, waited) = until("a command meets a frozen connection", async || {
        let request = CreateOrderRequest { request_id: new_id(), ..create(vec![lantern(2)], true) };
        let sent = Instant::now();
        let answer = timeout(TOLD, world.create(request.clone())).await.expect("no answer in time");
        answer.err().map(|status| (request, status, sent.elapsed()))
    })
    .await;
    assert_eq!(refusal::<()>(Err(status)), (Code::Unavailable, Reason::EventStoreDown));
    assert!(waited > Duration::from_secs(10), "given up on after {waited:?}");
    for pid in &stopped {
        kill(*pid, Signal::SIGCONT).unwrap();
    }
    // Whether it was stored was unknown; repeated, it is stored once.
    let receipt = world.create(repeated.clone()).await.unwrap();
    assert_eq!((receipt.order_id.as_str(), receipt.version), (repeated.request_id.as_str(), 3));
    assert_eq!(world.history(&receipt.order_id).await.len(), 3);
}

/// PostgreSQL says so itself, with the code of a full disk; to fill a disk, a test would have to own one.
const FULL: &str = "
    CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full';
    END $$;
    CREATE TRIGGER no_room BEFORE INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION no_room()";

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_was_stored() {
    let mut world = World::start().await;
    let order_id = world.draft().await;
    sqlx::raw_sql(FULL).execute(&world.pool).await.unwrap();
    let created = CreateOrderRequest { request_id: new_id(), ..create(vec![lantern(1)], true) };
    for refused in [world.create(created.clone()).await, world.submit(&order_id).await] {
        let status = refused.unwrap_err();
        assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
        assert_eq!(refusal::<()>(Err(status)), (Code::ResourceExhausted, Reason::StorageFull));
    }
    assert_eq!(world.history(&order_id).await.len(), 2);
    // There is room again: the service goes on by itself.
    sqlx::raw_sql("DROP TRIGGER no_room ON event").execute(&world.pool).await.unwrap();
    let receipt = world.create(created).await.unwrap();
    assert_eq!((receipt.version, receipt.replayed), (3, false));
    assert_eq!(world.submit(&order_id).await.unwrap().version, 3);
}
