//! A run: a folder, and a watchdog that ends every process started in it when the process it serves is gone.
//!
//! The watchdog is a shell script of its own, so it outlives Ctrl-C, `kill -9` and crashes. A child registers itself before
//! it turns into the server: there is no moment at which a server runs unregistered, and none starts once a run has ended.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::process::{Identity, Process, kill_group};
use crate::user::{ServerUser, reachable};

const WATCHDOG: &str = include_str!("watchdog.sh");

/// Turns into the given program after writing the own line of `/proc` to the register.
const REGISTERED: &str = r#"IFS= read -r stat <"/proc/$$/stat" && echo "$stat" && exec "$@" >&2"#;

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name for messages and for the register.
    pub name: &'static str,
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments.
    pub arguments: Vec<OsString>,
    /// Added to the environment.
    pub environment: Vec<(&'static str, OsString)>,
    /// Takes standard output and standard error.
    pub log: PathBuf,
    /// Working folder.
    pub folder: PathBuf,
    /// One of the servers: runs as the servers' user where the caller is root, and without variables of the caller's
    /// shell that would turn it into another server.
    pub server: bool,
    /// Where the watchdog ends a run, lower stages end first.
    pub stage: u8,
    /// Asks it to end.
    pub stop: Signal,
}

/// A folder for one run, and the watchdog over it.
#[derive(Clone, Debug)]
pub struct Run {
    folder: PathBuf,
    /// Where this process started it.
    watchdog: Option<Identity>,
}

impl Run {
    /// Opens the run in `folder`, which all processes of the run share; the first one starts the watchdog.
    ///
    /// # Errors
    /// Where the folder cannot be made or the watchdog cannot be started.
    pub fn open(folder: &Path, watched: Identity) -> anyhow::Result<Self> {
        let context = || format!("cannot make the run folder {}", folder.display());
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).with_context(context)?;
        let lock = File::create(folder.join("lock")).with_context(context)?;
        lock.lock().with_context(context)?;
        let running = folder.join("running");
        let mut watchdog = None;
        if !running.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&running).with_context(context)?;
            let child = std::process::Command::new("/bin/sh")
                .args(["-c", WATCHDOG, "order-pair-watchdog"])
                .arg(folder)
                .args([watched.id.to_string(), watched.start.to_string()])
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ctrl-C on the terminal goes to the group of the caller, not to this one.
                .process_group(0)
                .spawn()
                .context("cannot start /bin/sh for the watchdog")?;
            watchdog = Identity::of(child.id());
        }
        Ok(Self { folder: folder.to_owned(), watchdog })
    }

    /// Opens a run in a folder of its own under the system's temporary folder, or under `/var/tmp` where the servers' user
    /// cannot reach that one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn temporary(name: &str, watched: Identity) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir();
        let base = if reachable(&folder) { folder } else { "/var/tmp".into() };
        Self::open(&base.join(format!("{name}-{}-{}", watched.id, watched.start)), watched)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The processes that were started in the run whose folder this is, and that have not been waited for.
    #[must_use]
    pub fn registered(folder: &Path) -> Vec<Identity> {
        ["running", "ended"]
            .iter()
            .filter_map(|name| fs::read_dir(folder.join(name)).ok())
            .flat_map(Iterator::flatten)
            .filter_map(|entry| Identity::parse(&fs::read_to_string(entry.path()).ok()?))
            .collect()
    }

    /// Starts a program under the watchdog.
    ///
    /// # Errors
    /// Where its log or its entry in the register cannot be made, or the operating system refuses.
    pub fn start(&self, program: &Program) -> anyhow::Result<Process> {
        let context = || format!("cannot start {}", program.name);
        let signal = program.stop.as_str().trim_start_matches("SIG");
        let entry = self.folder.join("running").join(format!("{}-{}.{signal}", program.stage, program.name));
        let register = File::create(&entry).with_context(context)?;
        if let Some(folder) = program.log.parent() {
            fs::create_dir_all(folder).with_context(context)?;
        }
        let log = File::create(&program.log).with_context(context)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", REGISTERED, program.name]).arg(&program.path).args(&program.arguments);
        for name in std::env::vars_os().map(|(name, _)| name).filter(|name| program.server && disturbs(name))
        {
            command.env_remove(name);
        }
        command.envs(program.environment.iter().map(|(name, value)| (name, value)));
        command
            .current_dir(&program.folder)
            .stdin(Stdio::null())
            .stdout(register)
            .stderr(log)
            .process_group(0);
        if let (true, Some(user)) = (program.server, ServerUser::needed()) {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().with_context(context)?;
        let id = child.id().with_context(context)?;
        Ok(Process::new(program, entry, id, child))
    }

    /// Ends the run: the watchdog leaves, the folder goes. For a run whose processes have been stopped.
    pub fn close(self) {
        // A folder that cannot be removed now is removed by the next start.
        fs::remove_dir_all(&self.folder).ok();
        if let Some(watchdog) = self.watchdog {
            kill_group(watchdog);
        }
    }
}

/// Whether PostgreSQL or Elasticsearch read this variable.
fn disturbs(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("ES_"))
}
