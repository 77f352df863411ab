//! Settings that cannot be used; a process of its own, as logs are installed all the same.

use shared::telemetry::{self, TelemetryConfig};

#[tokio::test]
async fn bad_settings_are_named() {
    let config = |filter: &str, endpoint: &str| TelemetryConfig {
        log_filter: filter.to_owned(),
        otlp_endpoint: Some(endpoint.to_owned()),
        ..TelemetryConfig::default()
    };
    let refused = |config| telemetry::init("test-service", &config).unwrap_err().to_string();
    assert_eq!(refused(config("info,=,", "")), "LOG_FILTER: \"info,=,\" is not a filter");
    let text = refused(config("info", "collector:4317"));
    assert_eq!(text, "OTEL_EXPORTER_OTLP_ENDPOINT: \"collector:4317\" must begin with http://");
    assert!(tracing::enabled!(tracing::Level::ERROR), "the caller must be able to log why it stops");
}
