//! The floor: bulks that are made before the clock runs.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use read_service::index::{Index, SealedBulk};
use read_service::projection::{Orders, Projection as _};
use uuid::Uuid;

/// Bulks that travel at a time.
const IN_FLIGHT: usize = 2;

/// A name that no index has yet.
pub fn fresh(name: &str) -> String {
    format!("{name}-{}-", Uuid::now_v7().simple())
}

/// Sends the bulks into a new index, up to the end of a refresh.
pub async fn send(url: &str, bulks: &[SealedBulk]) -> anyhow::Result<Duration> {
    let (index, name) = (Index::new(url)?, fresh("floor"));
    let live = index.ensure(&name, &format!("{name}v1-1"), Orders::MAPPING).await?;
    let started = Instant::now();
    stream::iter(bulks)
        .map(|bulk| index.bulk(&live.name, bulk))
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    index.refresh(&live.name).await?;
    Ok(started.elapsed())
}

/// Sends the bulks again and again, until about so many documents were taken.
pub async fn warm_up(url: &str, bulks: &[SealedBulk], documents: usize) -> anyhow::Result<()> {
    let each: usize = bulks.iter().map(SealedBulk::len).sum();
    for _ in 0..documents.div_ceil(each.max(1)) {
        send(url, bulks).await?;
    }
    Ok(())
}
