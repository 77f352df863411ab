//! `local up | down | import FILE`: the pair on one machine, as `cargo up`, `cargo down` and `cargo import`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use local::home::Home;
use local::interrupt::Interrupts;
use local::screen::Screen;
use local::{import, stack};

/// Ended by Ctrl-C before it was done: 128 and SIGINT, as shells count it.
const INTERRUPTED: u8 = 130;

/// The pair on one machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a private PostgreSQL, a real Elasticsearch and both services, and run them until Ctrl-C
    Up(stack::Options),
    /// Remove the data that `up` keeps
    Down,
    /// Import orders from a CSV file in the Online Retail form; fails where an order is rejected
    Import {
        /// The file: FILE.csv or FILE.csv.gz
        file: PathBuf,
        /// The write service
        #[arg(long, env = "WRITE_URL", default_value = "http://127.0.0.1:50051")]
        to: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    run(Arguments::parse()).await.unwrap_or_else(|error| {
        writeln!(std::io::stderr(), "error: {error:#}").ok();
        ExitCode::FAILURE
    })
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let screen = Screen::stderr();
    let mut output = std::io::stdout();
    let interrupted = match arguments.action {
        Action::Up(options) => stack::up(&options, &screen, &Interrupts::listen()?).await?,
        Action::Down => {
            let removed = Home::of_this_workspace().remove().await?;
            if removed.is_empty() {
                writeln!(output, "there is nothing to remove")?;
            }
            for folder in removed {
                writeln!(output, "removed {}", folder.display())?;
            }
            false
        }
        Action::Import { file, to } => {
            let summary = import::run(&file, &to, &screen, &Interrupts::listen()?.first).await?;
            writeln!(output, "{summary}")?;
            if summary.rejected > 0 && !summary.interrupted {
                return Ok(ExitCode::FAILURE);
            }
            summary.interrupted
        }
    };
    Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}
