//! What an orchestrator and a scraper ask over HTTP: `/livez`, `/readyz`, `/metrics`.
//!
//! Alive means that the process answers; nothing else, so that a slow dependency never restarts it. Ready means that every
//! condition named by a room holds and draining has not begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::MetricsHandle;

/// How often samples are moved into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// The conditions under which the process can serve; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<watch::Sender<BTreeMap<&'static str, bool>>>);

/// One condition, owned by the room that knows whether it holds.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Without conditions: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, not fulfilled yet. `name` is shown to the operator: "event store", "first lease".
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Condition {
        self.0.send_modify(|conditions| {
            conditions.insert(name, false);
        });
        Condition { name, readiness: self.clone() }
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().values().all(|holds| *holds)
    }

    /// The conditions that do not hold, by name.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.0.borrow().iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
    }

    /// Returns at the next change of any condition.
    pub(crate) fn changes(&self) -> watch::Receiver<BTreeMap<&'static str, bool>> {
        self.0.subscribe()
    }
}

impl Condition {
    /// Says whether the condition holds.
    pub fn set(&self, holds: bool) {
        self.readiness.0.send_if_modified(|conditions| conditions.insert(self.name, holds) != Some(holds));
    }
}

/// Answers on `listener` for as long as the tasks of `lifecycle` live, draining included.
pub fn serve(listener: TcpListener, readiness: Readiness, metrics: MetricsHandle, lifecycle: &Lifecycle) {
    let routes = routes(readiness, metrics.clone(), lifecycle.draining());
    lifecycle.attend("probes", async move {
        tokio::select! {
            served = axum::serve(listener, routes).into_future() => Ok(served?),
            () = upkeep(metrics) => Ok(()),
        }
    });
}

fn routes(readiness: Readiness, metrics: MetricsHandle, draining: CancellationToken) -> Router {
    let ready = Router::new().route("/readyz", get(readyz)).with_state((readiness, draining));
    let metrics = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    Router::new().route("/livez", get(|| async { "alive\n" })).merge(ready).merge(metrics)
}

async fn readyz(State((readiness, draining)): State<(Readiness, CancellationToken)>) -> impl IntoResponse {
    let mut reasons = readiness.waiting_for();
    if draining.is_cancelled() {
        reasons.push("draining");
    }
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join(", ")))
    }
}

async fn scrape(State(metrics): State<MetricsHandle>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

async fn upkeep(metrics: MetricsHandle) {
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests;
