//! `read-service serve`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use read_service::Config;
use shared::lifecycle::Lifecycle;
use shared::telemetry::{self, TelemetryConfig};

/// Projects the published events into Elasticsearch, answers questions about orders.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    telemetry: TelemetryConfig,
}

#[derive(Subcommand)]
enum Action {
    /// Project and answer until a signal.
    Serve(Config),
}

/// The configuration is wrong: `EX_USAGE` of sysexits.h.
const BAD_CONFIGURATION: u8 = 64;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nowhere to report a failure to print.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    let telemetry = match telemetry::init("read-service", &arguments.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "telemetry cannot start");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let Action::Serve(config) = arguments.action;
    let exit = serve(config).await.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "stopped");
        ExitCode::FAILURE
    });
    telemetry.shutdown();
    exit
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let lifecycle = Lifecycle::new(config.server.drain_limit);
    let service = read_service::build(config).await?;
    lifecycle.spawn("service", service.run(lifecycle.clone()));
    Ok(lifecycle.run().await)
}
