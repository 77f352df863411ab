//! Many clients on one order, through two copies of the service; and a copy whose memory of an order is no longer true.

use futures_util::future::join_all;
use proto::reason::Reason;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use proto::v1::*;
use sqlx::{Connection as _, PgConnection};
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;
use write_service::event_store::{EventStore, Outcome};
use write_service::order::MAX_LINES;

use crate::event_store::append;
use crate::outbox::{assert_dense, published};
use crate::support::{World, create, lantern, new_id, refusal, serve, until};

const CLIENTS: usize = 64;

type Client = OrderCommandServiceClient<Channel>;

/// Each client's outcome, all at once, every other one through a second copy of the service.
async fn race<T>(
    world: &World,
    command: impl AsyncFn(Client) -> Result<T, Status>,
) -> Vec<Result<T, Status>> {
    let (channel, _lifecycle) = serve(&world.database.url).await;
    let other = OrderCommandServiceClient::new(channel);
    let clients = [&world.orders, &other].into_iter().cycle().take(CLIENTS).cloned();
    let outcomes = join_all(clients.map(|client| command(client))).await;
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    outcomes
}

fn add(order_id: &str) -> AddItemRequest {
    AddItemRequest { order_id: order_id.into(), item: Some(lantern(1)), ..Default::default() }
}

/// The number of successes, and why the others were refused.
fn split<T: std::fmt::Debug>(outcomes: Vec<Result<T, Status>>) -> (usize, Vec<(Code, Reason)>) {
    let (stored, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    (stored.len(), refused.into_iter().map(refusal).collect())
}

#[tokio::test]
async fn of_64_submits_one_succeeds() {
    let mut world = World::start().await;
    let order_id = world.draft().await;
    let outcomes = race(&world, async |mut client: Client| {
        client.submit_order(SubmitOrderRequest { order_id: order_id.clone(), ..Default::default() }).await
    });
    let (stored, refused) = split(outcomes.await);
    assert_eq!(stored, 1);
    assert_eq!(refused, [(Code::FailedPrecondition, Reason::IllegalOrderState); CLIENTS - 1]);
    assert_eq!(world.history(&order_id).await.len(), 3);
}

#[tokio::test]
async fn of_64_items_as_many_are_added_as_the_order_has_room_for() {
    const ROOM: usize = 10;
    let mut world = World::start().await;
    let lines = vec![lantern(1); MAX_LINES - ROOM];
    let order_id = world.create(create(lines, false)).await.unwrap().order_id;
    let outcomes = race(&world, async |mut client: Client| {
        loop {
            // A race lost too often is the caller's to repeat.
            match client.add_item(add(&order_id)).await {
                Err(status) if status.code() == Code::Aborted => {}
                outcome => break outcome,
            }
        }
    });
    let (stored, refused) = split(outcomes.await);
    assert_eq!(stored, ROOM);
    assert_eq!(refused, [(Code::FailedPrecondition, Reason::TooManyLines); CLIENTS - ROOM]);
    assert_eq!(world.history(&order_id).await.len(), 1 + MAX_LINES);
}

#[tokio::test]
async fn of_64_that_expect_one_version_one_succeeds() {
    const VERSIONS: i64 = 8;
    let mut world = World::start().await;
    let order_id = world.draft().await;
    let outcomes = race(&world, async |mut client: Client| {
        let mut stored = 0;
        for version in 2..2 + VERSIONS {
            // Everyone tries every version, however long the others take to get there.
            stored += loop {
                let request = AddItemRequest { expected_version: Some(version), ..add(&order_id) };
                let Err(status) = client.add_item(request).await else { break 1 };
                let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
                assert_eq!(refusal::<()>(Err(status)), (Code::Aborted, Reason::VersionConflict));
                if info.metadata["current_version"].parse::<i64>().unwrap() > version {
                    break 0;
                }
            };
        }
        Ok(stored)
    });
    let stored: i64 = outcomes.await.into_iter().map(Result::unwrap).sum();
    assert_eq!(stored, VERSIONS);
    assert_eq!(world.history(&order_id).await.len(), 10);
}

/// Another copy that wins the race for each of these versions of the order: from now on every append of a service waits before
/// it takes its place, until the rival, which is to be run beside it, has taken that.
async fn rival(
    world: &World,
    order_id: &str,
    versions: std::ops::RangeInclusive<i64>,
) -> impl Future<Output = ()> + use<> {
    let mut referee = PgConnection::connect(&world.database.url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(version) FROM generate_series($1, $2) AS version")
        .bind(versions.start())
        .bind(versions.end())
        .execute(&mut referee)
        .await
        .unwrap();
    sqlx::raw_sql(
        "CREATE OR REPLACE FUNCTION await_rival() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_advisory_lock_shared(NEW.version);
             PERFORM pg_advisory_unlock_shared(NEW.version);
             RETURN NEW;
         END $$;
         CREATE OR REPLACE TRIGGER await_rival BEFORE INSERT ON event FOR EACH ROW
         WHEN (current_setting('application_name') = 'write-service') EXECUTE FUNCTION await_rival()",
    )
    .execute(&mut referee)
    .await
    .unwrap();
    let stream_id = Uuid::parse_str(order_id).unwrap();
    let store = EventStore::new(world.pool.clone());
    let pool = world.pool.clone();
    async move {
        for version in versions {
            until("the append reaches its place", async || {
                let waits: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
                                    WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted
                                      AND classid = 0 AND objid::bigint = $1)",
                )
                .bind(version)
                .fetch_one(&pool)
                .await
                .unwrap();
                waits.then_some(())
            })
            .await;
            // An event that leaves a draft as it is.
            let rival = append(stream_id, version - 1, 1);
            assert!(matches!(store.writer().append(&[rival]).await.unwrap()[..], [Outcome::Stored { .. }]));
            sqlx::query("SELECT pg_advisory_unlock($1)").bind(version).execute(&mut referee).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_race_lost_again_and_again_is_the_callers_to_repeat() {
    let mut world = World::start().await;
    let order_id = world.draft().await;
    let rival = rival(&world, &order_id, 3..=5).await;
    let (outcome, ()) = tokio::join!(world.submit(&order_id), rival);
    assert_eq!(refusal(outcome), (Code::Aborted, Reason::VersionConflict));
    assert_eq!(world.history(&order_id).await.len(), 5, "the rival's events, none of the loser's");
    assert_eq!(world.submit(&order_id).await.unwrap().version, 6);
}

#[tokio::test]
async fn a_race_lost_twice_is_won_by_the_service_itself() {
    let mut world = World::start().await;
    let order_id = world.draft().await;
    let rival = rival(&world, &order_id, 3..=4).await;
    let (outcome, ()) = tokio::join!(world.submit(&order_id), rival);
    let receipt = outcome.unwrap();
    assert_eq!((receipt.version, receipt.status()), (5, OrderStatus::Submitted));
}

#[tokio::test]
async fn a_store_that_went_back_is_noticed_by_the_next_command() {
    let mut world = World::start().await;
    let (grown, submitted, repeated) = (world.draft().await, world.draft().await, world.draft().await);
    let kept = world.published().await;
    let request = AddItemRequest { request_id: new_id(), ..add(&repeated) };
    for _ in 0..2 {
        world.orders.add_item(add(&grown)).await.unwrap();
        world.orders.add_item(add(&repeated)).await.unwrap();
    }
    world.submit(&submitted).await.unwrap();
    let first = world.orders.add_item(request.clone()).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((first.version, first.lines), (5, vec![4]));
    let lost = world.draft().await;
    world.published().await;

    // Back to an earlier point, under a service that goes on.
    let mut restore = world.pool.begin().await.unwrap();
    for statement in [
        "DELETE FROM event WHERE batch_id IN (SELECT batch_id FROM feed WHERE position > $1)",
        "DELETE FROM feed WHERE position > $1",
        "UPDATE feed_head SET position = $1",
    ] {
        sqlx::query(statement).bind(kept).execute(&mut *restore).await.unwrap();
    }
    restore.commit().await.unwrap();

    let added = world.orders.add_item(add(&grown)).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((added.version, added.lines), (3, vec![2]), "an append onto what is gone");
    let added = world.orders.add_item(add(&submitted)).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((added.version, added.status()), (3, OrderStatus::Draft), "a refusal by what is gone");
    let again = world.orders.add_item(request).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((again.version, again.lines, again.replayed), (3, vec![2], false), "a repeat of what is gone");
    assert_eq!(refusal(world.submit(&lost).await), (Code::NotFound, Reason::OrderNotFound));
    let head = world.published().await;
    assert_dense(&published(&world.pool).await, usize::try_from(head).unwrap());
}
