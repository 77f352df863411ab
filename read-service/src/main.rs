//! `read-service serve | rebuild | projections`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use read_service::Config;
use read_service::command::projections::{self, ProjectionsCommand};
use read_service::command::rebuild::{self, RebuildCommand};
use shared::arguments::{self, BAD_CONFIGURATION};
use shared::lifecycle::Lifecycle;
use shared::telemetry::{self, TelemetryConfig};

/// Events and documents are many short texts, which the system's allocator takes long to give and to take back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    Serve(Box<Config>),
    /// Build a projection again in a running service.
    Rebuild(RebuildCommand),
    /// Show the projections of a running service.
    Projections(ProjectionsCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Arguments = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    let config = match arguments.action {
        Action::Serve(config) => *config,
        Action::Rebuild(command) => return rebuild::run(command).await.unwrap_or_else(|error| wrong(&error)),
        Action::Projections(command) => {
            return projections::run(command).await.unwrap_or_else(|error| wrong(&error));
        }
    };
    let telemetry = match telemetry::init("read-service", &arguments.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "telemetry cannot start");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let exit = serve(config).await.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "stopped");
        ExitCode::FAILURE
    });
    telemetry.shutdown();
    exit
}

fn wrong(error: &anyhow::Error) -> ExitCode {
    // Nowhere to report that nobody reads.
    let _ = writeln!(std::io::stderr(), "{error:#}");
    ExitCode::from(BAD_CONFIGURATION)
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let lifecycle = Lifecycle::new(config.server.drain_limit);
    let service = read_service::build(config).await?;
    lifecycle.spawn("service", service.run(lifecycle.clone()));
    Ok(lifecycle.run().await)
}
