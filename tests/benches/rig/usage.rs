//! CPU time and resident memory of processes, as the kernel counts them.

use std::fs;
use std::time::Duration;

/// Clock ticks a second in `/proc`: fixed by the kernel's interface to programs.
const TICKS: u64 = 100;
/// How the threads that compile are called, as far as the kernel keeps it.
const COMPILERS: [&str; 2] = ["(C1 Compiler", "(C2 Compiler"];

/// CPU time used so far, by whom.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// The load generator: this process.
    pub client: Duration,
    /// The service.
    pub service: Duration,
    /// PostgreSQL with all its backends.
    pub postgres: Duration,
}

impl Cpu {
    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            client: self.client.saturating_sub(earlier.client),
            service: self.service.saturating_sub(earlier.service),
            postgres: self.postgres.saturating_sub(earlier.postgres),
        }
    }

    /// What each of so many things used.
    pub fn each(self, count: usize) -> Self {
        let each = |time: Duration| time / u32::try_from(count).unwrap_or(u32::MAX).max(1);
        Self { client: each(self.client), service: each(self.service), postgres: each(self.postgres) }
    }
}

/// CPU time of a process and of its children, those that have ended and those that run.
pub fn cpu_of_family(id: u32) -> Duration {
    of_ticks(family(id).filter_map(ticks_of).sum())
}

/// CPU time that the JVM of this family has spent on compiling.
pub fn cpu_of_compilers(id: u32) -> Duration {
    let threads = family(id)
        .flat_map(|process| fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten());
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    let compilers = stats.filter(|line| COMPILERS.iter().any(|name| line.contains(name)));
    of_ticks(compilers.map(|line| own_ticks(&line)).sum())
}

/// CPU time of this process alone: its children are what it measures.
pub fn own_cpu() -> Duration {
    let line = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    of_ticks(own_ticks(&line))
}

/// Largest resident memory that a process has had, in MiB.
pub fn peak_memory_mib(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// A process and its children that run.
fn family(id: u32) -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.filter(move |process| *process == id || parent_of(*process) == Some(id))
}

/// Fields of `/proc/<id>/stat` behind the name, which may hold spaces; the first is the state.
fn fields(id: u32) -> Option<Vec<String>> {
    let line = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(of_line(&line).map(str::to_owned).collect())
}

/// The same of such a line.
fn of_line(line: &str) -> impl Iterator<Item = &str> {
    line.rsplit_once(") ").map_or("", |(_, rest)| rest).split_ascii_whitespace()
}

/// User and system time, its own alone.
fn own_ticks(line: &str) -> u64 {
    of_line(line).skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / TICKS)
}

fn parent_of(id: u32) -> Option<u32> {
    fields(id)?.get(1)?.parse().ok()
}

/// User and system time, its own and of children that were waited for.
fn ticks_of(id: u32) -> Option<u64> {
    fields(id)?.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}
