//! What operators say on the command line to a running service.
//!
//! What was asked for goes to standard output, what is told beside it to standard error, the outcome into the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

pub mod rebuild;
pub mod projections;

/// Exit codes of refused calls begin here: the gRPC code is added.
const REFUSED: u8 = 64;
/// Exit code where the caller left before the end: that of a program that Ctrl-C ends.
const LEFT: u8 = 130;
/// How often a service is asked again, and how long in all where it does not answer.
const AGAIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_mins(5);
/// Time between two reports where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where the service runs.
#[derive(Args, Clone, Debug)]
struct Running {
    /// The running service.
    #[arg(long, env = "READ_SERVICE_URL", default_value = "http://127.0.0.1:50052")]
    connect: String,
}

impl Running {
    /// Its admin service; connects when it is first asked.
    fn admin(self) -> anyhow::Result<ProjectionAdminServiceClient<Channel>> {
        Ok(ProjectionAdminServiceClient::new(Endpoint::from_shared(self.connect)?.connect_lazy()))
    }
}

/// Whether asking again may help.
fn may_pass(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

fn refused(status: &Status) -> ExitCode {
    tell(format_args!("{:?}: {}", status.code(), status.message()));
    ExitCode::from(REFUSED + u8::try_from(i32::from(status.code())).unwrap_or(0))
}

fn print(text: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

fn tell(text: std::fmt::Arguments<'_>) {
    // Nowhere to report that nobody reads.
    let _ = writeln!(io::stderr(), "{text}");
}
