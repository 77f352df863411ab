//! Processes: told apart from later ones of the same id, waited for, ended in order, and reported on when they crash.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use crate::run::Program;

/// Lines of its log that the error about a crashed process shows.
const TAIL: usize = 8;
/// Characters of each.
const LINE: usize = 240;
const POLL: Duration = Duration::from_millis(20);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A process that cannot be confused with a later one of the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process id.
    pub id: u32,
    /// Start time in clock ticks since boot, from `/proc`.
    pub start: u64,
}

impl Identity {
    /// The running process with this id; `None` where there is none.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// Reads the text of `/proc/<id>/stat`; `None` for a process that has ended and waits for its parent.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (head, rest) = line.rsplit_once(") ")?;
        let id = head.split(' ').next()?.parse().ok()?;
        // Fields are counted from behind the name, which may hold spaces: the start time is field 22.
        let start = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
        (!rest.starts_with('Z')).then_some(Self { id, start })
    }

    /// This process.
    ///
    /// # Errors
    /// Where `/proc` cannot be read: the local stack needs Linux.
    pub fn own() -> anyhow::Result<Self> {
        Self::of(std::process::id()).context("/proc cannot be read: the local stack needs Linux")
    }

    /// Whether it still runs.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.id) == Some(self)
    }
}

/// A started process. Dropped, it is asked to end, unless it was left to the watchdog.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    log: PathBuf,
    stop: Signal,
    entry: PathBuf,
    id: u32,
    child: Child,
    guarded: bool,
}

impl Process {
    pub(crate) fn new(program: &Program, entry: PathBuf, id: u32, child: Child) -> Self {
        let Program { name, log, stop, .. } = program;
        Self { name, log: log.clone(), stop: *stop, entry, id, child, guarded: true }
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The file that takes what it prints.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Who it is; `None` once it has ended.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        Identity::of(self.id)
    }

    /// Waits for the end and says it in one sentence with the end of the log.
    pub async fn crashed(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => crash_report(self.name, Some(status), &self.log),
            Err(error) => anyhow::Error::new(error).context(format!("cannot wait for {}", self.name)),
        }
    }

    /// Waits for the end of a program that is meant to end.
    ///
    /// # Errors
    /// Where it fails, with the end of its log.
    pub async fn finished(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await.with_context(|| format!("cannot wait for {}", self.name))?;
        self.ended();
        if status.success() { Ok(()) } else { Err(crash_report(self.name, Some(status), &self.log)) }
    }

    /// Asks it and all its children to end and waits; after `limit` kills them.
    ///
    /// # Errors
    /// Where they had to be killed.
    pub async fn stop(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.signal(self.stop);
        let in_time = timeout(limit, self.group_ended()).await;
        if in_time.is_err() {
            self.signal(Signal::SIGKILL);
            // A process that is killed ends, if not at once: nobody can do more.
            timeout(KILL_LIMIT, self.group_ended()).await.ok();
        }
        self.ended();
        in_time.with_context(|| format!("{} did not end within {limit:?} and was killed", self.name))
    }

    async fn group_ended(&mut self) {
        self.child.wait().await.ok();
        while self.signal(None) {
            sleep(POLL).await;
        }
    }

    /// Leaves it running beyond this handle: the watchdog ends it.
    pub fn leave_to_watchdog(mut self) {
        self.guarded = false;
    }

    fn ended(&mut self) {
        self.guarded = false;
        // Where the run itself has ended the entry is gone already.
        fs::remove_file(&self.entry).ok();
    }

    /// Sends a signal to the process and all its children; false where none of them is left.
    fn signal(&self, signal: impl Into<Option<Signal>>) -> bool {
        i32::try_from(self.id).is_ok_and(|id| killpg(Pid::from_raw(id), signal).is_ok())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.guarded && self.identity().is_some() {
            self.signal(self.stop);
        }
    }
}

/// Kills a started process with all its children, now; those of one that has ended too.
pub fn kill_group(leader: Identity) {
    signal_group(leader, Some(Signal::SIGKILL));
}

/// Whether a started process or one of its children runs.
#[must_use]
pub fn group_alive(leader: Identity) -> bool {
    signal_group(leader, None)
}

/// The id of a leader is not given away as long as one of its children is left; once it is, the group is another one.
fn signal_group(leader: Identity, signal: Option<Signal>) -> bool {
    let ours = Identity::of(leader.id).is_none_or(|process| process == leader);
    ours && i32::try_from(leader.id).is_ok_and(|id| killpg(Pid::from_raw(id), signal).is_ok())
}

/// One sentence about a process that ended by itself, with the end of its log.
#[must_use]
pub fn crash_report(name: &str, status: Option<ExitStatus>, log: &Path) -> anyhow::Error {
    let status = status.map_or_else(String::new, |status| format!(" ({status})"));
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail: Vec<String> = lines[lines.len().saturating_sub(TAIL)..]
        .iter()
        .map(|line| format!("  {}", line.chars().take(LINE).collect::<String>()))
        .collect();
    if tail.is_empty() {
        anyhow::anyhow!("{name} ended unexpectedly{status}; its log {} is empty", log.display())
    } else {
        anyhow::anyhow!(
            "{name} ended unexpectedly{status}; the end of {}:\n{}",
            log.display(),
            tail.join("\n")
        )
    }
}
