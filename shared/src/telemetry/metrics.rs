//! Metrics: one recorder for the process, read by the scraper.
//!
//! Rooms record through the macros of the `metrics` crate. Names end in their unit; histograms in seconds share one set
//! of buckets, so that they can be added up.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of every histogram whose name ends in `_seconds`: 0.25 ms to 1 min.
const SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
/// Buckets of every other histogram: counts.
const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4];

static HANDLE: OnceLock<MetricsHandle> = OnceLock::new();

/// Reads what the process recorded.
#[derive(Clone, Debug)]
pub struct MetricsHandle(PrometheusHandle);

/// The recorder of the process, installed by the first call.
#[must_use]
pub fn handle() -> MetricsHandle {
    HANDLE.get_or_init(install).clone()
}

impl MetricsHandle {
    /// Everything recorded, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Moves samples into their buckets. Without it they pile up where nobody scrapes.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Says which release of which service runs.
pub(super) fn build_info(service: &'static str) {
    let _installed = handle();
    metrics::gauge!("build_info", "service" => service, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn install() -> MetricsHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets(COUNTS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS))
        .expect("refused only where a list of buckets is empty")
        .build_recorder();
    let handle = MetricsHandle(recorder.handle());
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another recorder is installed, /metrics stays empty");
    }
    handle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_recorder_serves_every_caller() {
        let first = handle();
        metrics::histogram!("test_wait_seconds").record(0.003);
        metrics::histogram!("test_batch").record(3.0);
        build_info("test");
        first.run_upkeep();
        let text = handle().render();
        assert!(text.contains("test_wait_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("test_batch_bucket{le=\"5\"} 1"), "{text}");
        assert!(text.contains("build_info{service=\"test\",version="), "{text}");
    }
}
