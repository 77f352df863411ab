//! `read-service rebuild PROJECTION [--watch]`: asks a running service for a rebuild, and follows it where that is wanted.
//!
//! Progress goes to standard error, a bar on a terminal and plain lines elsewhere; what became of it goes to standard output and into
//! the exit code. The rebuild is the service's: leaving does not stop it.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use proto::v1::rebuild::State;
use proto::v1::{GetRebuildRequest, Rebuild, StartRebuildRequest, WatchRebuildRequest};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use super::{AGAIN, LEFT, LINE_EVERY, PATIENCE, Running, may_pass, refused, tell};

/// Rebuild a projection in a running service.
#[derive(Args, Clone, Debug)]
pub struct RebuildCommand {
    /// "orders", "customers" or "products".
    projection: String,
    #[command(flatten)]
    service: Running,
    /// Follow it to its end.
    #[arg(long)]
    watch: bool,
    /// Build and verify, but do not switch.
    #[arg(long)]
    dry_run: bool,
    /// Upper limit; 0: none.
    #[arg(long, default_value = "0")]
    max_streams_per_second: i32,
    /// The same id gives the same rebuild; unset: a new one.
    #[arg(long)]
    request_id: Option<String>,
}

/// Asks for the rebuild; the exit code is 0 where it succeeded or, without `--watch`, was started.
///
/// # Errors
/// Where the URL is none.
pub async fn run(command: RebuildCommand) -> anyhow::Result<ExitCode> {
    let mut admin = command.service.admin()?;
    let request_id = command.request_id.unwrap_or_else(|| Uuid::now_v7().to_string());
    let again = format!("read-service rebuild {} --watch --request-id {request_id}", command.projection);
    let request = StartRebuildRequest {
        projection: command.projection,
        request_id,
        dry_run: command.dry_run,
        max_streams_per_second: command.max_streams_per_second,
    };
    let started = match admin.start_rebuild(request).await {
        Ok(started) => started.into_inner().rebuild.unwrap_or_default(),
        Err(status) => return Ok(refused(&status)),
    };
    if !command.watch {
        print(format_args!("rebuild {} is under way; to follow it: {again}", started.rebuild_id));
        return Ok(ExitCode::SUCCESS);
    }
    let ended = tokio::select! {
        ended = follow(admin, started) => ended,
        _ = tokio::signal::ctrl_c() => {
            tell(format_args!("the rebuild goes on; to follow it again: {again}"));
            return Ok(ExitCode::from(LEFT));
        }
    };
    Ok(match ended {
        Ok(ended) => outcome(&ended),
        Err(status) => refused(&status),
    })
}

/// Shows a rebuild until it has ended. A service that restarts meanwhile is asked again.
async fn follow(
    mut admin: ProjectionAdminServiceClient<Channel>,
    mut last: Rebuild,
) -> Result<Rebuild, Status> {
    let mut screen = Screen::new();
    let mut heard = Instant::now();
    screen.show(&last);
    loop {
        let request = WatchRebuildRequest { rebuild_id: last.rebuild_id.clone() };
        let failed = match admin.watch_rebuild(request).await {
            Ok(told) => {
                let mut told = told.into_inner();
                loop {
                    match told.message().await {
                        Ok(Some(message)) => {
                            last = message.rebuild.unwrap_or_default();
                            heard = Instant::now();
                            screen.show(&last);
                        }
                        Ok(None) if is_ended(&last) => {
                            screen.close();
                            return Ok(last);
                        }
                        Ok(None) => break Status::unavailable("the watch ended early"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        if !may_pass(&failed) || heard.elapsed() > PATIENCE {
            screen.close();
            return Err(failed);
        }
        sleep(AGAIN).await;
        // One that ended meanwhile tells so at once.
        let request = GetRebuildRequest { rebuild_id: last.rebuild_id.clone() };
        if let Ok(now) = admin.get_rebuild(request).await {
            last = now.into_inner().rebuild.unwrap_or(last);
        }
    }
}

fn is_ended(rebuild: &Rebuild) -> bool {
    matches!(rebuild.state(), State::Succeeded | State::Failed | State::Cancelled | State::Verified)
}

/// Says what became of it.
fn outcome(rebuild: &Rebuild) -> ExitCode {
    let (index, id) = (&rebuild.target_index, &rebuild.rebuild_id);
    let exit = match rebuild.state() {
        State::Succeeded => {
            print(format_args!("rebuild {id} succeeded: queries are answered by {index}"));
            ExitCode::SUCCESS
        }
        State::Verified => {
            print(format_args!("rebuild {id} was built and verified, not switched"));
            ExitCode::SUCCESS
        }
        State::Cancelled => {
            print(format_args!("rebuild {id} was cancelled"));
            ExitCode::from(2)
        }
        _ => {
            print(format_args!("rebuild {id} failed: {}", rebuild.error));
            ExitCode::FAILURE
        }
    };
    if let Some(verification) = &rebuild.verification {
        print(format_args!(
            "{} documents expected, {} found, {} compared, {} different",
            verification.documents_expected,
            verification.documents_found,
            verification.documents_compared,
            verification.documents_different
        ));
        verification.examples.iter().for_each(|example| print(format_args!("  {example}")));
    }
    exit
}

fn print(text: std::fmt::Arguments<'_>) {
    // The exit code says it to those who do not read.
    super::print(text).ok();
}

/// A bar on a terminal, plain lines elsewhere.
struct Screen {
    bar: Option<ProgressBar>,
    line: Option<(Instant, State)>,
}

impl Screen {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1_000), ProgressDrawTarget::stderr());
            // The template is a constant that has its form.
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, line: None }
    }

    fn show(&mut self, rebuild: &Rebuild) {
        let text = text(rebuild);
        if let Some(bar) = &self.bar {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000")]
            bar.set_position((rebuild.percent.clamp(0.0, 100.0) * 10.0) as u64);
            bar.set_message(text);
            return;
        }
        let state = rebuild.state();
        if self.line.is_none_or(|(at, last)| at.elapsed() >= LINE_EVERY || last != state) {
            tell(format_args!("{text}"));
            self.line = Some((Instant::now(), state));
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far it is, in one line.
fn text(rebuild: &Rebuild) -> String {
    let doing = match rebuild.state() {
        State::Scanning | State::Unspecified => "scanning",
        State::CatchingUp => "catching up",
        State::Verifying => "verifying",
        State::Paused => "paused",
        State::Succeeded | State::Failed | State::Cancelled | State::Verified => "ended",
    };
    let left = match rebuild.state() {
        State::Scanning if rebuild.eta_seconds > 0.0 => format!(", {:.0} s left", rebuild.eta_seconds),
        _ => String::new(),
    };
    let why = if rebuild.error.is_empty() { String::new() } else { format!(" ({})", rebuild.error) };
    let Rebuild { percent, streams_done, streams_total, streams_per_second, .. } = rebuild;
    format!(
        "{percent:5.1} % {doing}, {streams_done} of {streams_total} streams, {streams_per_second:.0}/s{left}{why}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_done_and_why_it_stands_still() {
        let mut rebuild = Rebuild {
            state: State::Scanning.into(),
            percent: 40.0,
            streams_done: 50,
            streams_total: 100,
            streams_per_second: 12.4,
            eta_seconds: 5.2,
            ..Default::default()
        };
        assert_eq!(text(&rebuild), " 40.0 % scanning, 50 of 100 streams, 12/s, 5 s left");
        rebuild.state = State::Verifying.into();
        rebuild.error = "waits: feed does not answer".into();
        assert_eq!(
            text(&rebuild),
            " 40.0 % verifying, 50 of 100 streams, 12/s (waits: feed does not answer)"
        );
    }
}
