//! Commands as single calls over one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::v1::execute_commands_request::Command;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::load::{Load, Shape};
use crate::{Measured, Stopwatch};
use rig::latency::Latencies;
use rig::pair::Pair;

/// How long the callers call before the clock runs.
const WARM_UP: Duration = Duration::from_millis(500);

/// Keeps `in_flight` callers busy for `duration`, after a warm-up.
pub async fn run(pair: &Pair, in_flight: usize, duration: Duration) -> anyhow::Result<Measured> {
    let client = OrderCommandServiceClient::new(pair.connect().await?);
    let counting = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..in_flight {
        let (mut client, counting, done) = (client.clone(), Arc::clone(&counting), Arc::clone(&done));
        callers.spawn(async move {
            let mut load = Load::new(Shape::Life, in_flight);
            let mut latencies = Latencies::default();
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let started = Instant::now();
                call(&mut client, load.next()).await?;
                if counting.load(Ordering::Relaxed) {
                    count += 1;
                    latencies.add(started.elapsed());
                }
            }
            Ok::<_, Status>((count, latencies))
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let stopwatch = Stopwatch::start(pair);
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(duration).await;
    done.store(true, Ordering::Relaxed);
    let mut measured = stopwatch.stop(pair, 0, Latencies::default());
    while let Some(caller) = callers.join_next().await {
        let (count, latencies) = caller??;
        measured.count += count;
        measured.latencies.extend(latencies);
    }
    Ok(measured)
}

/// One call after the other.
pub async fn one_by_one(pair: &Pair, count: usize) -> anyhow::Result<Measured> {
    let mut client = OrderCommandServiceClient::new(pair.connect().await?);
    let mut load = Load::new(Shape::Life, 1);
    let mut latencies = Latencies::default();
    let stopwatch = Stopwatch::start(pair);
    for _ in 0..count {
        let started = Instant::now();
        call(&mut client, load.next()).await?;
        latencies.add(started.elapsed());
    }
    Ok(stopwatch.stop(pair, count, latencies))
}

async fn call(client: &mut OrderCommandServiceClient<Channel>, command: Command) -> Result<(), Status> {
    match command {
        Command::CreateOrder(request) => client.create_order(request).await.map(drop),
        Command::AddItem(request) => client.add_item(request).await.map(drop),
        Command::SubmitOrder(request) => client.submit_order(request).await.map(drop),
        other => unreachable!("the load has no {other:?}"),
    }
}
