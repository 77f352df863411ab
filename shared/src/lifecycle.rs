//! The life of a process: its tasks, and their end in two stages.
//!
//! A first signal begins draining: no new work, what is under way finishes. A second signal, or the drain limit, aborts:
//! whatever still runs is dropped. A task that fails or panics begins draining too and makes the exit code 1; so does a
//! task that had to be dropped. After the model of matrix-authentication-service: a soft token under a hard one.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take from the first signal to their end, unless configured.
pub const DRAIN_LIMIT: Duration = Duration::from_mins(1);
/// How long a dropped task may take to reach its next await point before the process ends without it.
const DROP_LIMIT: Duration = Duration::from_secs(5);

/// Handle on the life cycle; clones share it.
#[derive(Clone, Debug)]
pub struct Lifecycle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hard: CancellationToken,
    soft: CancellationToken,
    tasks: TaskTracker,
    leave: CancellationToken,
    attendants: TaskTracker,
    failed: AtomicBool,
    drain_limit: Duration,
}

impl Lifecycle {
    /// A life cycle without tasks, whose draining may take `drain_limit`.
    #[must_use]
    pub fn new(drain_limit: Duration) -> Self {
        let hard = CancellationToken::new();
        Self(Arc::new(Inner {
            soft: hard.child_token(),
            hard,
            tasks: TaskTracker::new(),
            leave: CancellationToken::new(),
            attendants: TaskTracker::new(),
            failed: AtomicBool::new(false),
            drain_limit,
        }))
    }

    /// Cancelled at the first stage: take no new work, finish what is under way, end endless streams.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.0.soft.clone()
    }

    /// Cancelled at the second stage; every task is dropped then, whether it listens or not.
    #[must_use]
    pub fn aborting(&self) -> CancellationToken {
        self.0.hard.clone()
    }

    /// Runs a task that the end waits for; it must end by itself once [`draining`](Self::draining) is cancelled.
    ///
    /// An `Err` or a panic is logged, begins draining and makes the exit code 1.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let (lifecycle, hard) = (self.clone(), self.aborting());
        self.0.tasks.spawn(async move {
            tokio::select! {
                biased;
                outcome = AssertUnwindSafe(task).catch_unwind() => lifecycle.ended(name, outcome),
                () = hard.cancelled() => lifecycle.dropped(name),
            }
        });
    }

    /// Runs a task that attends the others, such as the probes: it goes on while they drain and is dropped when they ended.
    pub fn attend(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let (lifecycle, leave) = (self.clone(), self.0.leave.clone());
        self.0.attendants.spawn(async move {
            tokio::select! {
                outcome = AssertUnwindSafe(task).catch_unwind() => lifecycle.ended(name, outcome),
                () = leave.cancelled() => {}
            }
        });
    }

    /// Begins the first stage.
    pub fn drain(&self) {
        self.0.soft.cancel();
    }

    /// Begins the second stage.
    pub fn abort(&self) {
        self.0.hard.cancel();
    }

    /// Whether a task failed, panicked or had to be dropped.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.0.failed.load(Ordering::SeqCst)
    }

    /// Waits for the end of all tasks spawned so far and since; enforces the drain limit. Not to be awaited by such a task.
    pub async fn stopped(&self) {
        let inner = &self.0;
        inner.tasks.close();
        tokio::select! {
            () = inner.tasks.wait() => {}
            () = self.enforce_limit() => {
                if timeout(DROP_LIMIT, inner.tasks.wait()).await.is_err() {
                    inner.failed.store(true, Ordering::SeqCst);
                    tracing::error!(tasks = inner.tasks.len(), "tasks do not yield, leaving them behind");
                }
            }
        }
        inner.leave.cancel();
        inner.attendants.close();
        if timeout(DROP_LIMIT, inner.attendants.wait()).await.is_err() {
            tracing::warn!("probes do not yield, leaving them behind");
        }
    }

    /// Waits for the end of all tasks; SIGINT or SIGTERM drains, a second one aborts. Spawn the tasks first.
    pub async fn run(&self) -> ExitCode {
        let (mut interrupt, mut terminate) = match signals() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals cannot be received");
                return ExitCode::FAILURE;
            }
        };
        let stopped = self.stopped();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                _ = interrupt.recv() => self.signalled(),
                _ = terminate.recv() => self.signalled(),
            }
        }
        if self.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn signalled(&self) {
        if self.0.soft.is_cancelled() {
            tracing::warn!("second signal, aborting");
            self.abort();
        } else {
            tracing::info!(limit_s = self.0.drain_limit.as_secs(), "signal received, draining");
            self.drain();
        }
    }

    /// Returns once the second stage has begun, by itself at the latest when draining took too long.
    async fn enforce_limit(&self) {
        self.0.soft.cancelled().await;
        if timeout(self.0.drain_limit, self.0.hard.cancelled()).await.is_err() {
            tracing::warn!(limit_s = self.0.drain_limit.as_secs(), "drain limit passed, aborting");
            self.abort();
        }
    }

    fn ended(&self, name: &'static str, outcome: Result<anyhow::Result<()>, Box<dyn Any + Send>>) {
        let error = match outcome {
            Ok(Ok(())) => return tracing::debug!(task = name, "task ended"),
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
        };
        tracing::error!(task = name, error, "task failed, draining");
        self.0.failed.store(true, Ordering::SeqCst);
        self.drain();
    }

    fn dropped(&self, name: &'static str) {
        tracing::warn!(task = name, "task dropped before its end");
        self.0.failed.store(true, Ordering::SeqCst);
    }
}

fn signals() -> std::io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}

#[cfg(test)]
mod tests;
