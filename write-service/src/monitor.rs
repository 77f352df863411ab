//! Looks at the store from time to time: is it there, does it have this release's schema, how long is the backlog.

use std::time::Duration;

use metrics::gauge;
use shared::probes::Condition;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::feed::Pages;

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps `ready` and the gauges true until `draining`.
pub(crate) async fn watch(pages: Pages, pool: PgPool, ready: Condition, draining: CancellationToken) {
    let mut last_error = None;
    loop {
        let error = look(&pages, &pool).await.err().map(|error| error.to_string());
        if error != last_error {
            if let Some(error) = &error {
                tracing::warn!(error = %error, "event store is not ready");
            } else {
                tracing::info!("event store is ready");
            }
        }
        ready.set(error.is_none());
        last_error = error;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = draining.cancelled() => return,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats; positions stay below 2^53")]
async fn look(pages: &Pages, pool: &PgPool) -> Result<(), sqlx::Error> {
    let (head, backlog) = pages.head_and_backlog().await?;
    gauge!("feed_head_position").set(head.position as f64);
    gauge!("outbox_backlog_events").set(backlog.events as f64);
    gauge!("outbox_oldest_seconds").set(backlog.oldest_seconds);
    gauge!("database_connections", "state" => "open").set(f64::from(pool.size()));
    gauge!("database_connections", "state" => "idle").set(pool.num_idle() as f64);
    Ok(())
}
