//! The first import of the bundled sample, and the wait until the read side shows what the write side has stored.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::order_query_service_client::OrderQueryServiceClient;
use proto::v1::{GetHeadRequest, GetHeadResponse, ListOrdersRequest};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::import;
use crate::screen::Screen;

/// The bundled orders, from the workspace's root.
const SAMPLE: &str = "deploy/local/sample/online-retail-sample.csv.gz";
/// How long the read side may stand still before the wait is given up.
const STANDSTILL: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);

/// Imports the sample into a store that has not had it yet. `marker` remembers which store has: an import that was cut off
/// is repeated, and another store gets its own.
///
/// # Errors
/// Where the import fails or the write service does not answer.
pub async fn import_once(
    workspace: &Path,
    marker: &Path,
    write: SocketAddr,
    screen: &Screen,
) -> anyhow::Result<()> {
    let store_id = head(write).await?.store_id;
    if fs::read_to_string(marker).is_ok_and(|had| had == store_id) {
        return Ok(());
    }
    let step = screen.step("sample");
    let to = format!("http://{write}");
    let summary = import::run(&workspace.join(SAMPLE), &to, screen, &CancellationToken::new()).await?;
    if summary.rejected > 0 {
        bail!("the write service rejected {} orders of the sample", summary.rejected);
    }
    fs::write(marker, store_id).with_context(|| format!("cannot write {}", marker.display()))?;
    step.done(format_args!("{} real orders with {} lines imported", summary.answered(), summary.lines));
    Ok(())
}

/// Waits until the read service shows every event stored; gives the position.
///
/// # Errors
/// Where a service does not answer, or the read side stands still for a minute.
pub async fn caught_up(write: SocketAddr, read: SocketAddr, screen: &Screen) -> anyhow::Result<i64> {
    let step = screen.step("read side");
    let (mut moved, mut last) = (Instant::now(), -1);
    loop {
        let head = head(write).await?;
        let position = position(read).await?;
        if head.outbox_backlog == 0 && position >= head.head_position {
            step.done(format_args!("caught up at position {position}"));
            return Ok(position);
        }
        if position > last {
            (moved, last) = (Instant::now(), position);
            if screen.is_terminal() {
                step.report(format_args!("at position {position} of {}", head.head_position));
            }
        }
        if moved.elapsed() > STANDSTILL {
            bail!("the read side stands still at position {position} of {}", head.head_position);
        }
        sleep(POLL).await;
    }
}

async fn head(write: SocketAddr) -> anyhow::Result<GetHeadResponse> {
    let context = || format!("the write service on {write} does not tell its head");
    let mut feed = OrderFeedServiceClient::connect(format!("http://{write}")).await.with_context(context)?;
    Ok(feed.get_head(GetHeadRequest {}).await.with_context(context)?.into_inner())
}

/// Up to which position lists of the read service are complete.
async fn position(read: SocketAddr) -> anyhow::Result<i64> {
    let context = || format!("the read service on {read} does not answer");
    let mut orders =
        OrderQueryServiceClient::connect(format!("http://{read}")).await.with_context(context)?;
    let request = ListOrdersRequest { page_size: 1, ..ListOrdersRequest::default() };
    let answer = orders.list_orders(request).await.with_context(context)?.into_inner();
    Ok(answer.freshness.map_or(0, |freshness| freshness.position))
}
