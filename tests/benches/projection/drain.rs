//! A standing backlog, from the first event to the end of the refresh that shows the last.

use std::time::{Duration, Instant};

use anyhow::bail;
use read_service::index::Index;
use read_service::projection::Orders;
use read_service::projector::{Limits, Projector, Step};
use read_service::subscription::Feed;
use rig::per_second;
use rig::search::ReadSide;
use rig::table::{Round, Row};
use shared::clock::Clock;

use crate::backlog::Backlog;
use crate::{floor, row};

/// So few that no order is changed twice in a batch.
const APART: usize = 1_000;

/// Documents a second, beside bulks of the same.
pub async fn against_bulks(
    read: &ReadSide,
    backlog: &Backlog,
    name: &'static str,
    rounds: usize,
) -> anyhow::Result<Row> {
    let mut row = row(name, "docs/s", 0.5, 0.75);
    let whole = backlog.head > i64::try_from(backlog.count())? * 2;
    let limits = if whole { Limits::default() } else { Limits { batch_events: APART, ..Limits::default() } };
    let floor = async || {
        let took = floor::send(&read.elasticsearch_url, &backlog.documents).await?;
        anyhow::Ok(per_second(backlog.count(), took))
    };
    // What drains it warms up, too.
    read.warm(async || drain(read, backlog, limits.clone()).await.map(drop)).await?;
    let mut before = floor().await?;
    for _ in 0..rounds {
        let figure = per_second(backlog.count(), drain(read, backlog, limits.clone()).await?);
        let after = floor().await?;
        row.rounds.push(Round { figure, floor: f64::midpoint(before, after) });
        before = after;
    }
    Ok(row)
}

/// Events a second with batches as large as they come, beside those where each event made a document.
pub async fn coalesced(
    read: &ReadSide,
    backlog: &Backlog,
    name: &'static str,
    apart: &Row,
    rounds: usize,
) -> anyhow::Result<Row> {
    let mut row = row(name, "events/s", 1.3, 2.0);
    for round in 0..rounds {
        let figure =
            per_second(usize::try_from(backlog.head)?, drain(read, backlog, Limits::default()).await?);
        row.rounds.push(Round { figure, floor: apart.rounds[round].figure });
    }
    Ok(row)
}

async fn drain(read: &ReadSide, backlog: &Backlog, limits: Limits) -> anyhow::Result<Duration> {
    let (index, feed) = (Index::new(&read.elasticsearch_url)?, Feed::new(&backlog.feed_url())?);
    let (copy, clock) = ("bench".to_owned(), Clock::system());
    let mut orders = Projector::<Orders>::new(index, feed, &floor::fresh("drain"), copy, limits, clock);
    // Index and leases are there before the clock runs.
    while orders.step().await? != Step::Opened {}
    let progress = orders.progress();
    let started = Instant::now();
    while progress.snapshot().applied_position < backlog.head {
        if orders.step().await? == Step::Waiting {
            bail!("a dependency does not answer: {}", progress.snapshot().last_error);
        }
    }
    progress.request_refresh().await?;
    Ok(started.elapsed())
}
