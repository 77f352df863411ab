//! Commands over one `ExecuteCommands` call: so many sent and not yet answered.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use proto::v1::ExecuteCommandsRequest;
use proto::v1::execute_commands_response::Outcome;
use proto::v1::order_command_service_client::OrderCommandServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::load::{Load, Shape};
use crate::{Measured, Stopwatch};
use rig::latency::Latencies;
use rig::pair::Pair;

/// Answers before the clock runs.
const WARM_UP: usize = 20_000;

/// Keeps `window` commands under way for `duration`, after a warm-up.
pub async fn run(pair: &Pair, shape: Shape, window: usize, duration: Duration) -> anyhow::Result<Measured> {
    let mut client = OrderCommandServiceClient::new(pair.connect().await?);
    let (sender, receiver) = mpsc::channel(window);
    let mut load = Load::new(shape, 1);
    let mut times: Vec<Instant> = Vec::new();
    let mut send = |times: &mut Vec<Instant>| {
        let request = ExecuteCommandsRequest { sequence: times.len() as u64, command: Some(load.next()) };
        times.push(Instant::now());
        // Room is made by the answer that each but the first ones follows.
        sender.try_send(request).ok().context("more commands under way than the window")
    };
    for _ in 0..window {
        send(&mut times)?;
    }
    let mut answers = client.execute_commands(ReceiverStream::new(receiver)).await?.into_inner();
    let mut latencies = Latencies::default();
    let mut warming = WARM_UP;
    let mut stopwatch = Stopwatch::start(pair);
    let mut count = 0;
    loop {
        let Some(answer) = answers.message().await? else { bail!("the service ended the call") };
        match answer.outcome {
            Some(Outcome::Receipt(_)) => {}
            outcome => bail!("a command failed: {outcome:?}"),
        }
        let sequence = usize::try_from(answer.sequence)?;
        if warming > 0 {
            warming -= 1;
            if warming == 0 {
                stopwatch = Stopwatch::start(pair);
            }
        } else {
            count += 1;
            latencies.add(times[sequence].elapsed());
            if count % 256 == 0 && stopwatch.began.elapsed() >= duration {
                break;
            }
        }
        send(&mut times)?;
    }
    let measured = stopwatch.stop(pair, count, latencies);
    drop(sender);
    while answers.message().await?.is_some() {}
    Ok(measured)
}
