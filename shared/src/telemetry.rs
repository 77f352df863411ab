//! Logs, traces and metrics of a process, installed once at its start and flushed at its end.
//!
//! Logs go to stderr, one line an event, with trace and span id. Spans always have ids; they are exported over OTLP only
//! where an endpoint is configured. Metrics are kept for the scraper in every case.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub mod log;
pub mod metrics;
pub mod trace;

/// How long the last spans may take to reach the collector.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// What a process tells about itself, and where to.
#[derive(Args, Clone, Debug)]
pub struct TelemetryConfig {
    /// Form of the log lines; text on a terminal, json otherwise
    #[arg(long, env = "LOG_FORMAT", value_enum, global = true)]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or directives such as `info,write_service=debug`
    #[arg(long, env = "LOG_FILTER", default_value = "info", global = true)]
    pub log_filter: String,
    /// Collector for traces (OTLP over gRPC), such as `http://127.0.0.1:4317`; none where unset
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log_format: None, log_filter: "info".to_owned(), otlp_endpoint: None }
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The installed telemetry; flushes the last spans when dropped, so that a failure at start is seen too.
#[derive(Debug)]
#[must_use = "dropping it ends the export of traces"]
pub struct Telemetry {
    provider: SdkTracerProvider,
}

/// Installs logs, traces and metrics for the process. Call inside the runtime, before anything else.
///
/// # Errors
/// A malformed filter or endpoint; telemetry that is installed already. Logs work even then, so that the caller can say so.
pub fn init(service: &'static str, config: &TelemetryConfig) -> anyhow::Result<Telemetry> {
    let terminal = std::io::stderr().is_terminal();
    let format = config.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let (filter, provider) = match settings(service, config) {
        Ok(settings) => settings,
        Err(error) => {
            // Refused only where there are logs already.
            tracing_subscriber::registry()
                .with(LevelFilter::INFO)
                .with(log::layer(format, terminal, std::io::stderr))
                .try_init()
                .ok();
            return Err(error);
        }
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer(service)))
        .with(log::layer(format, terminal, std::io::stderr))
        .try_init()
        .context("telemetry is installed already")?;
    log::panics();
    metrics::build_info(service);
    Ok(Telemetry { provider })
}

fn settings(
    service: &'static str,
    config: &TelemetryConfig,
) -> anyhow::Result<(EnvFilter, SdkTracerProvider)> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .with_context(|| format!("LOG_FILTER: {:?} is not a filter", config.log_filter))?;
    Ok((filter, provider(service, config.otlp_endpoint.as_deref())?))
}

impl Telemetry {
    /// Sends the last spans, for at most three seconds. Blocks: the runtime needs another thread to send them.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_LIMIT) {
            tracing::warn!(%error, "last traces could not be sent");
        }
    }
}

/// Without a collector only callers that sample their trace get spans recorded; ids exist in every case.
fn provider(service: &'static str, endpoint: Option<&str>) -> anyhow::Result<SdkTracerProvider> {
    let builder =
        SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name(service).build());
    let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(builder.with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff))).build());
    };
    if !endpoint.starts_with("http://") {
        bail!("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?} must begin with http://");
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?} cannot be used"))?;
    Ok(builder.with_batch_exporter(exporter).build())
}
