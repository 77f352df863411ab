//! `write-service serve` or `write-service migrate`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::arguments::{self, BAD_CONFIGURATION};
use shared::lifecycle::Lifecycle;
use shared::telemetry::{self, TelemetryConfig};
use write_service::Config;

/// Decides order commands, stores their events, publishes the feed.
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
    /// Serve commands, catalog and feed until a signal.
    Serve(Config),
    /// Bring the database's schema up to this release, then exit.
    Migrate(Config),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Arguments = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let telemetry = match telemetry::init("write-service", &arguments.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "telemetry cannot start");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let outcome = match arguments.action {
        Action::Serve(config) => serve(config).await,
        Action::Migrate(config) => write_service::migrate(&config).await.map(|()| ExitCode::SUCCESS),
    };
    let exit = outcome.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "stopped");
        ExitCode::FAILURE
    });
    telemetry.shutdown();
    exit
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let lifecycle = Lifecycle::new(config.server.drain_limit);
    let service = write_service::build(config).await?;
    lifecycle.spawn("service", service.run(lifecycle.clone()));
    Ok(lifecycle.run().await)
}
