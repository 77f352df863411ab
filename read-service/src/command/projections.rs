//! `read-service projections [--watch]`: how the projections of a running service are.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use proto::v1::projection_admin_service_client::ProjectionAdminServiceClient;
use proto::v1::{ListProjectionsRequest, Projection};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::{AGAIN, LEFT, LINE_EVERY, PATIENCE, Running, may_pass, print, refused, tell};
use crate::projection::time_text;

/// Clears a terminal.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";
const HEADINGS: [&str; 9] =
    ["NAME", "STATE", "DOCUMENTS", "POSITION", "HEAD", "LAG", "PARKED", "INDEX", "LAST ERROR"];
/// Columns of numbers, which are read from their right end.
const NUMBERS: std::ops::RangeInclusive<usize> = 2..=6;

/// Show the projections of a running service.
#[derive(Args, Clone, Debug)]
pub struct ProjectionsCommand {
    #[command(flatten)]
    service: Running,
    /// Show them again every second until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// In which form.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// One line of JSON each time.
    Json,
    /// One YAML document each time.
    Yaml,
}

/// Shows the projections; the exit code is 0 where they could be shown.
///
/// # Errors
/// Where the URL is none.
pub async fn run(command: ProjectionsCommand) -> anyhow::Result<ExitCode> {
    let ProjectionsCommand { service, watch, output } = command;
    let admin = service.admin()?;
    tokio::select! {
        exit = show(admin, watch, output) => Ok(exit),
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(LEFT)),
    }
}

async fn show(mut admin: ProjectionAdminServiceClient<Channel>, watch: bool, output: Output) -> ExitCode {
    let redraws = watch && output == Output::Table && io::stdout().is_terminal();
    // Tables one below the other are many lines.
    let every = if output == Output::Table && !redraws { LINE_EVERY } else { AGAIN };
    let mut heard = Instant::now();
    loop {
        match admin.list_projections(ListProjectionsRequest {}).await {
            Ok(told) => {
                let text = text(&told.into_inner().projections, output);
                let shown = print(format_args!("{}{text}", if redraws { CLEAR } else { "" }));
                if shown.is_err() || !watch {
                    return ExitCode::SUCCESS;
                }
                heard = Instant::now();
            }
            Err(status) if watch && may_pass(&status) && heard.elapsed() <= PATIENCE => {
                tell(format_args!("{:?}: {}", status.code(), status.message()));
            }
            Err(status) => return refused(&status),
        }
        sleep(every).await;
    }
}

fn text(projections: &[Projection], output: Output) -> String {
    match output {
        Output::Table => table(projections),
        Output::Json => {
            let object = |projection| {
                let fields = fields(projection).map(|(name, value)| format!("\"{name}\":{value}"));
                format!("{{{}}}", fields.join(","))
            };
            format!("[{}]", projections.iter().map(object).collect::<Vec<_>>().join(","))
        }
        Output::Yaml => {
            let mapping = |projection| {
                // What JSON says of a text or number, YAML takes.
                let fields = fields(projection).map(|(name, value)| format!("{name}: {value}"));
                format!("\n- {}", fields.join("\n  "))
            };
            format!("---{}", projections.iter().map(mapping).collect::<String>())
        }
    }
}

/// What the contract says of a projection, under its names; owners apart.
fn fields(projection: &Projection) -> [(&'static str, Value); 11] {
    let last_progress = projection.last_progress_time.as_ref().and_then(proto::time::to_nanos);
    [
        ("name", json!(projection.name)),
        ("state", json!(state(projection))),
        ("document_count", json!(projection.document_count)),
        ("position", json!(projection.position)),
        ("head_position", json!(projection.head_position)),
        ("lag_seconds", json!(projection.lag_seconds)),
        ("parked_streams", json!(projection.parked_streams)),
        ("live_index", json!(projection.live_index)),
        ("previous_index", json!(projection.previous_index)),
        ("last_error", json!(projection.last_error)),
        ("last_progress_time", json!(last_progress.map(time_text::format))),
    ]
}

fn table(projections: &[Projection]) -> String {
    let row = |projection: &Projection| {
        [
            projection.name.clone(),
            state(projection).to_lowercase().replace('_', " "),
            projection.document_count.to_string(),
            projection.position.to_string(),
            projection.head_position.to_string(),
            duration(projection.lag_seconds),
            projection.parked_streams.to_string(),
            projection.live_index.clone(),
            projection.last_error.clone(),
        ]
    };
    let rows: Vec<[String; 9]> =
        std::iter::once(HEADINGS.map(str::to_owned)).chain(projections.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |row: &[String; 9]| {
        let cell = |(column, text): (usize, &String)| {
            let width = widths[column];
            if NUMBERS.contains(&column) { format!("{text:>width$}") } else { format!("{text:width$}") }
        };
        let cells: Vec<_> = row.iter().enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn state(projection: &Projection) -> &'static str {
    projection.state().as_str_name().trim_start_matches("STATE_")
}

/// Seconds as people say them.
fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.1} s"),
        60.0..7_200.0 => format!("{:.0} min", seconds / 60.0),
        7_200.0..172_800.0 => format!("{:.0} h", seconds / 3_600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::projection::State;

    use super::*;

    fn two() -> [Projection; 2] {
        let orders = Projection {
            name: "orders".into(),
            live_index: "orders-v1-1".into(),
            document_count: 1_234_567,
            position: 99,
            head_position: 14_739,
            lag_seconds: 300.0,
            parked_streams: 1,
            state: State::CatchingUp.into(),
            ..Projection::default()
        };
        let customers = Projection {
            name: "customers".into(),
            live_index: "customers-v1-12".into(),
            last_error: "feed does not answer: \"timed out\"".into(),
            last_progress_time: Some(proto::time::from_nanos(1_322_727_960_123_456_789)),
            state: State::Waiting.into(),
            ..Projection::default()
        };
        [orders, customers]
    }

    #[test]
    fn a_table_is_aligned() {
        let expected = "\
NAME       STATE        DOCUMENTS  POSITION   HEAD    LAG  PARKED  INDEX            LAST ERROR
orders     catching up    1234567        99  14739  5 min       1  orders-v1-1
customers  waiting              0         0      0  0.0 s       0  customers-v1-12  feed does not answer: \"timed out\"";
        assert_eq!(text(&two(), Output::Table), expected);
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let json: Value = serde_json::from_str(&text(&two(), Output::Json)).unwrap();
        assert_eq!(json[0]["document_count"], 1_234_567);
        assert_eq!(json[0]["state"], "CATCHING_UP");
        assert_eq!(json[0]["last_progress_time"], Value::Null);
        assert_eq!(json[1]["last_progress_time"], "2011-12-01T08:26:00.123456789Z");
        let yaml = text(&two(), Output::Yaml);
        let names: Vec<_> = yaml.lines().filter(|line| line.starts_with("- ")).collect();
        assert_eq!(names, ["- name: \"orders\"", "- name: \"customers\""]);
        assert!(yaml.starts_with("---\n"), "{yaml}");
        assert!(yaml.contains("\n  lag_seconds: 300.0\n"), "{yaml}");
        assert!(yaml.contains(r#"last_error: "feed does not answer: \"timed out\"""#), "{yaml}");
    }

    #[test]
    fn a_lag_is_said_in_words() {
        let said = [0.04, 59.0, 61.0, 7_199.0, 7_201.0, 1e6].map(duration);
        assert_eq!(said, ["0.0 s", "59.0 s", "1 min", "120 min", "2 h", "12 days"]);
    }
}
