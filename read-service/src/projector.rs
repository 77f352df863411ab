//! The only loop of a projection: take a batch, load the state, fold, write, checkpoint.
//!
//! Published events enter; documents leave, each changed one once a batch, whole, with its stream's version as
//! external version. Guaranteed: a checkpoint passes an event only when its document, or the record that its stream
//! is parked, is stored; a document never goes back; a stream that cannot be applied holds up no other; a dependency
//! that is down parks nobody. The process may die between any two steps: what was done is done again, to the same
//! effect.
//!
//! [`Projector::step`] does one thing and returns, [`Projector::run`] repeats it until the service drains.
//!
//! - `running`: where it stands: leases, checkpoints, the rhythm of refreshes.
//! - `readers`: what is read of the feed.
//! - `apply`: batches into the index.
//! - `batch`: events gathered, then folded by stream.
//! - `course`: the batches under way.
//! - `documents`, `recent`: what events are folded onto.
//! - `progress`, `snapshot`: the same for everyone who asks.
//! - `trouble`: wait or halt.

use std::fmt;
use std::time::Duration;

use shared::backoff::Backoff;
use shared::clock::Clock;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::demand::Demand;
use crate::feeds::Feeds;
use crate::index::Index;
use crate::lanes::Bounds;
use crate::lease::Times;
use crate::projection::Projection;
use crate::subscription::Feed;

mod running;
mod readers;
mod apply;
mod batch;
mod course;
mod documents;
mod recent;
mod progress;
mod snapshot;
mod trouble;

pub use progress::{IndexProgress, Progress};
pub use snapshot::{Snapshot, State};
pub use trouble::Trouble;

pub(crate) use batch::fold_onto;

use running::Running;

/// Waits after a dependency failed.
pub(crate) const RETRY_BASE: Duration = Duration::from_millis(50);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the last checkpoint may take when the service drains.
const LAST_CHECKPOINT_LIMIT: Duration = Duration::from_secs(2);

/// How much is done at a time.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Events folded together while behind, so that a document changed often is written once.
    pub batch_events: usize,
    /// Bytes that the events folded together take in memory, about; as many are read ahead.
    pub batch_bytes: usize,
    /// Bulks of changed documents.
    pub bulks: Bounds,
    /// Bytes of documents kept in memory, so that they need not be read before they are changed (hint 2).
    pub cache_bytes: usize,
    /// The rhythm of leases.
    pub leases: Times,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_events: 10_000,
            batch_bytes: 8 * 1024 * 1024,
            bulks: Bounds::default(),
            cache_bytes: 12 * 1024 * 1024,
            leases: Times::default(),
        }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Found or made the index and its checkpoint.
    Opened,
    /// Applied a batch of so many events.
    Applied(usize),
    /// Nothing to apply.
    Idle,
    /// A dependency does not answer; waited before the next attempt.
    Waiting,
}

/// What a projection works with.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub index: Index,
    pub feed: Feed,
    pub feeds: Feeds,
    /// Name of this copy of the service.
    pub copy: String,
    pub limits: Limits,
    pub clock: Clock,
    pub progress: Progress,
    /// What is asked of this copy.
    pub demand: Demand,
}

/// Feeds one index of a projection.
pub struct Projector<P: Projection> {
    tools: Tools,
    /// The index; `None` where it is the one that is live when it begins.
    name: Option<String>,
    backoff: Backoff,
    /// Why the last step waited.
    waited_for: Option<String>,
    running: Option<Running<P>>,
}

impl<P: Projection> Projector<P> {
    /// A projector of the live index that has not begun; all names of indices begin with `prefix`. No two that feed one index may
    /// have the same name `copy`.
    #[must_use]
    pub fn new(index: Index, feed: Feed, prefix: &str, copy: String, limits: Limits, clock: Clock) -> Self {
        let progress = Progress::new(P::NAME, index.clone(), format!("{prefix}{}", P::NAME), clock.clone());
        let feeds = Feeds::new::<P>(index.clone(), prefix, progress.clone());
        let demand = Demand::default();
        Self::with(Tools { index, feed, feeds, copy, limits, clock, progress, demand }, None)
    }

    /// A projector of the index with this name.
    #[must_use]
    pub(crate) fn of(tools: Tools, name: &str) -> Self {
        Self::with(tools, Some(name.to_owned()))
    }

    fn with(tools: Tools, name: Option<String>) -> Self {
        let backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
        Self { tools, name, backoff, waited_for: None, running: None }
    }

    /// How far the live index is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.tools.progress.clone()
    }

    /// How far the index is that this one feeds.
    fn own(&self) -> IndexProgress {
        let progress = &self.tools.progress;
        self.name.as_ref().map_or_else(|| progress.shown(), |name| progress.of(name))
    }

    /// Steps until the service drains; then the checkpoints are brought up to date and the slices left to other copies. A halt
    /// ends the steps, not the service.
    ///
    /// # Errors
    /// None: what goes wrong is shown by [`Self::progress`], and retried or left to a person.
    pub async fn run(mut self, draining: CancellationToken) -> anyhow::Result<()> {
        loop {
            let step = tokio::select! {
                biased;
                () = draining.cancelled() => break,
                step = self.step() => step,
            };
            if step.is_err() {
                draining.cancelled().await;
                break;
            }
        }
        let Some(running) = &mut self.running else { return Ok(()) };
        match timeout(LAST_CHECKPOINT_LIMIT, running.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(projection = P::NAME, %error, "last checkpoint not stored"),
            Err(_) => tracing::warn!(projection = P::NAME, "last checkpoint not stored in time"),
        }
        Ok(())
    }

    /// Does the next thing there is to do. May be dropped at any time.
    ///
    /// # Errors
    /// [`Trouble::Halt`] where going on would be wrong; a dependency that does not answer is [`Step::Waiting`].
    pub async fn step(&mut self) -> Result<Step, Trouble> {
        match self.advance().await {
            Ok(step) => {
                self.backoff.reset();
                if let Some(error) = self.waited_for.take() {
                    self.own().over(&error);
                }
                Ok(step)
            }
            Err(Trouble::Wait(error)) => {
                if self.own().waiting(&error) {
                    tracing::warn!(projection = P::NAME, error, "waiting for a dependency");
                }
                self.waited_for = Some(error);
                sleep(self.backoff.next()).await;
                Ok(Step::Waiting)
            }
            Err(Trouble::Halt(error)) => {
                tracing::error!(
                    projection = P::NAME,
                    error,
                    "projection halted, documents are no longer updated"
                );
                self.own().halted(&error);
                Err(Trouble::Halt(error))
            }
        }
    }

    async fn advance(&mut self) -> Result<Step, Trouble> {
        let Some(running) = &mut self.running else {
            self.running = Some(Running::open(self.tools.clone(), self.name.as_deref()).await?);
            return Ok(Step::Opened);
        };
        running.step().await
    }
}

impl<P: Projection> fmt::Debug for Projector<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projector").field("progress", &self.tools.progress.snapshot()).finish_non_exhaustive()
    }
}
