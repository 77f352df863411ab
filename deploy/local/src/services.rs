//! The two services as programs: built by cargo, started with their addresses, waited for by their probes.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::http;
use crate::process::Process;
use crate::run::Program;

/// How long a service may take to be ready.
const READY_LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(100);

/// Builds both services in the profile of this program, showing cargo's own progress; gives their folder.
///
/// # Errors
/// Where cargo is missing or fails.
pub async fn build(workspace: &Path) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let folder = program.parent().context("this program lies in no folder")?;
    // Tests and benchmarks lie a folder deeper.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Named as in the alias `cargo up`: without packages, so that both share what is compiled.
    command.args(["build", "--bin", "write-service", "--bin", "read-service"]);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    // `cargo run` describes this package to its program. A build script that watches these variables, as ring's does, would
    // run again, and all that depends on it would be compiled again, at every change between `cargo up` and `cargo test`.
    let described = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if described.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let status = command.current_dir(workspace).kill_on_drop(true).status().await;
    if !status.context("cannot run cargo: install Rust from https://rustup.rs")?.success() {
        bail!("the services could not be built, see cargo's message above");
    }
    Ok(folder.to_owned())
}

/// One of the services.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of the package and the program.
    pub name: &'static str,
    /// Folder of the built programs.
    pub programs: PathBuf,
    /// Takes its log.
    pub logs: PathBuf,
    /// Address of its probes.
    pub metrics: SocketAddr,
    /// Its configuration.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Service {
    /// How to start it with this subcommand.
    #[must_use]
    pub fn program(&self, subcommand: &str) -> Program {
        let mut environment = self.environment.clone();
        environment.push(("METRICS_LISTEN", self.metrics.to_string().into()));
        Program {
            name: self.name,
            path: self.programs.join(self.name),
            arguments: vec![subcommand.into()],
            environment,
            log: self.logs.join(format!("{}.log", self.name)),
            folder: self.logs.clone(),
            server: false,
            stage: 1,
            stop: Signal::SIGTERM,
        }
    }

    /// Waits until the started service says that it is ready.
    ///
    /// # Errors
    /// Where it ends, or is not ready within two minutes.
    pub async fn ready(&self, process: &mut Process) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            tokio::select! {
                answer = http::get(self.metrics, "/readyz") => {
                    let reason = match answer {
                        Ok((200, _)) => return Ok(()),
                        Ok((_, body)) => body.trim().to_owned(),
                        Err(error) => error.to_string(),
                    };
                    if Instant::now() > deadline {
                        let limit = READY_LIMIT.as_secs();
                        bail!("{} is not ready after {limit} s ({reason}), see {}", self.name, process.log().display());
                    }
                    sleep(POLL).await;
                }
                error = process.crashed() => return Err(error),
            }
        }
    }
}

/// Where a client on this machine finds a service that listens on `address`.
#[must_use]
pub fn local(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        _ => address,
    }
}
