//! How fast a call is refused when the service is full: the store stands still, all room is taken, and one call after the other finds
//! none.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use proto::reason::Reason;
use proto::v1::execute_commands_request::Command;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use tokio::task::JoinSet;

use crate::load::{Load, Shape};
use rig::latency::Latencies;
use rig::pair::Pair;

/// Connections that fill the service, each with fewer calls than a connection may have under way.
const CONNECTIONS: usize = 10;
const CALLS: usize = 900;
/// Refusals that are measured.
const REFUSALS: usize = 1_000;

/// The latencies of refusals.
pub async fn run(pair: &Pair) -> anyhow::Result<Latencies> {
    let mut lock = pair.pool.begin().await?;
    sqlx::query("LOCK TABLE event IN EXCLUSIVE MODE").execute(&mut *lock).await?;
    let mut calls = JoinSet::new();
    let mut load = Load::new(Shape::Order, 1);
    for _ in 0..CONNECTIONS {
        let client = OrderCommandServiceClient::new(pair.connect().await?);
        for _ in 0..CALLS {
            let Command::CreateOrder(order) = load.next() else { bail!("the load has orders only") };
            let mut client = client.clone();
            calls.spawn(async move { client.create_order(order).await });
        }
    }
    // The first refusal says that there is no room left.
    let first = calls.join_next().await.context("no call was made")??;
    ensure!(first.as_ref().err().and_then(Reason::of) == Some(Reason::Overloaded), "not refused: {first:?}");
    let mut client = OrderCommandServiceClient::new(pair.connect().await?);
    let mut latencies = Latencies::default();
    for _ in 0..REFUSALS {
        let Command::CreateOrder(order) = load.next() else { bail!("the load has orders only") };
        let started = Instant::now();
        let outcome = client.create_order(order).await;
        latencies.add(started.elapsed());
        let refused = outcome.as_ref().err().and_then(Reason::of);
        ensure!(refused == Some(Reason::Overloaded), "not refused: {outcome:?}");
    }
    lock.rollback().await?;
    let ended = async { while calls.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(30), ended).await?;
    Ok(latencies)
}
