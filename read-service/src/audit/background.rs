//! The slow audit: all streams and all documents of the live index within a period, a page now and then. It never writes to the index.
//!
//! One copy of the service does it, the one that owns the first range of slices; should two think so for a moment, one of them cannot
//! store what it did. How far it is and what it found is a record in the control index, so a pass survives restarts, and every copy
//! shows the same gauges. An audit of everything that a caller asked for counts as a pass too.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::pass::{self, Pass};
use super::{AuditError, PATIENCE, live, same_history};
use crate::compare::{Comparison, Difference, Kind, NOBODYS, Outcome};
use crate::index::Record;
use crate::projection::Projection;
use crate::projector::Tools;

/// Documents in a page.
const DOCUMENTS: usize = 200;
/// How often is looked whether a page is due, at the most and at the least.
const LOOK_LEAST: Duration = Duration::from_millis(50);
const LOOK_MOST: Duration = Duration::from_secs(10);
/// Looks in a period, unless that is too often or too seldom.
const LOOKS: u32 = 100;
/// A projection that is further behind is left alone.
const BEHIND: f64 = 30.0;
/// Most differences that a pass logs one by one.
const LOGGED: i64 = 20;

/// Compares the live index again and again until the service drains; where the period is zero it only shows what is known.
///
/// # Errors
/// None: what goes wrong is logged and tried again.
pub(crate) async fn run<P: Projection>(
    tools: Tools,
    period: Duration,
    draining: CancellationToken,
) -> anyhow::Result<()> {
    let look = if period.is_zero() { LOOK_MOST } else { (period / LOOKS).clamp(LOOK_LEAST, LOOK_MOST) };
    let mut tick = interval(look);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = Instant::now();
    while draining.run_until_cancelled(tick.tick()).await.is_some() {
        let wanted = !period.is_zero() && due <= Instant::now() && is_mine(&tools);
        let done = async {
            if wanted {
                let share = page::<P>(&tools).await?;
                due = Instant::now() + period.mul_f64(share);
            }
            let known = pass::find::<P>(&tools).await?;
            known.map(|known| known.value).unwrap_or_default().show(P::NAME);
            Ok::<_, AuditError>(())
        };
        if let Some(Err(error)) = draining.run_until_cancelled(done).await {
            // A dependency that is away is told by those who need it.
            tracing::debug!(projection = P::NAME, %error, "background audit is tried again");
        }
    }
    Ok(())
}

/// Whether this copy does it, now.
fn is_mine(tools: &Tools) -> bool {
    let snapshot = tools.progress.snapshot();
    let first = snapshot.owners.first();
    first.is_some_and(|owner| owner.first_slice == 0 && owner.copy == tools.copy)
        && tools.progress.lag_seconds() < BEHIND
}

/// Compares the next page; gives the share of the whole that it was.
async fn page<P: Projection>(tools: &Tools) -> Result<f64, AuditError> {
    let place = live::<P>(tools).await?;
    same_history::<P>(tools, &place).await?;
    let seen = pass::find::<P>(tools).await?;
    let (stamp, mut pass) =
        seen.map_or((None, Pass::default()), |Record { stamp, value }| (Some(stamp), value));
    if pass.index_uuid != place.live.uuid {
        pass = pass.begun(&place.live.uuid);
    }
    let documents = tools.index.count(&place.live.name, None).await?;
    let comparison = Comparison::<P>::new(tools.feed.clone(), place, Some(PATIENCE));
    let (compared, is_over) = match pass.documents_after {
        None => (streams(tools, &comparison, &mut pass).await?, false),
        Some(after) => {
            let documents = orphans(&comparison, &mut pass, after).await?;
            (documents, documents == 0)
        }
    };
    let all = pass.streams.max(pass.checked).saturating_add(documents);
    if is_over {
        let differences: i64 = pass.found.iter().sum();
        tracing::info!(projection = P::NAME, streams = pass.checked, differences, "background audit passed");
        pass = pass.completed(tools.clock.now_nanos());
    }
    pass::store::<P>(tools, stamp, pass).await?;
    Ok(share(compared, all))
}

/// Compares the next streams with their documents.
async fn streams<P: Projection>(
    tools: &Tools,
    comparison: &Comparison<P>,
    pass: &mut Pass,
) -> Result<i64, AuditError> {
    let mut scan = tools.feed.scan(P::CATEGORY, &pass.cursor).await?;
    while let Some(page) = scan.next().await? {
        pass.streams = pass.streams.max(page.estimated_streams);
        if page.streams.is_empty() {
            continue;
        }
        let sight = comparison.sight(&page.streams, |_| true).await?;
        for (key, outcome) in comparison.look(sight.doubtful).await? {
            if let Outcome::Wrong(difference) = outcome {
                note::<P>(pass, &key, &difference);
            }
        }
        let compared = i64::try_from(page.streams.len()).unwrap_or(i64::MAX);
        pass.cursor = page.cursor;
        pass.checked += compared;
        return Ok(compared);
    }
    // There are no more.
    pass.documents_after = Some(-1);
    pass.documents_until = comparison.last_write().await?;
    Ok(0)
}

/// Looks whether the next documents have streams; none where there are no more.
async fn orphans<P: Projection>(
    comparison: &Comparison<P>,
    pass: &mut Pass,
    after: i64,
) -> Result<i64, AuditError> {
    let place = comparison.place();
    let written = place.index.written(&place.live.name, after, pass.documents_until, DOCUMENTS).await?;
    let compared = i64::try_from(written.len()).unwrap_or(i64::MAX);
    pass.documents_after = written.last().map(|(_, last)| *last).or(pass.documents_after);
    let ids = written.into_iter().map(|(id, _)| id).collect();
    for id in comparison.orphans(ids).await? {
        note::<P>(pass, &id, &Difference { kind: Kind::Orphan, detail: NOBODYS.to_owned() });
    }
    Ok(compared)
}

fn note<P: Projection>(pass: &mut Pass, key: &str, difference: &Difference) {
    let Difference { kind, detail } = difference;
    if pass.found.iter().sum::<i64>() < LOGGED {
        tracing::warn!(
            projection = P::NAME,
            stream = key,
            kind = kind.name(),
            detail,
            "a document is not the fold of its events"
        );
    }
    pass.found[kind.place()] += 1;
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no last digit")]
fn share(compared: i64, all: i64) -> f64 {
    if all == 0 { 1.0 } else { (compared as f64 / all as f64).min(1.0) }
}
