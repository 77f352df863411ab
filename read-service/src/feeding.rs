//! Which projectors this copy runs: one for each index of a projection that is fed.
//!
//! Looks at the record of the indices about once a second, starts a projector for each index that is new in it and ends those of
//! indices that are no longer in it. An index is fed by all copies: its leases share the work.

use std::collections::HashMap;

use shared::backoff::Backoff;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::feeds::{Indices, LOOK_EVERY};
use crate::index::EnsureError;
use crate::projection::Projection;
use crate::projector::{Limits, Projector, RETRY_BASE, RETRY_MAX, Tools};

/// A share of the memory for documents that an index gets which is not live.
const OTHERS_CACHE: usize = 3;

/// Runs the projectors of all indices of a projection until the service drains.
///
/// # Errors
/// None: what goes wrong is shown by the projection's progress, and retried or left to a person.
pub(crate) async fn run<P: Projection>(tools: Tools, draining: CancellationToken) -> anyhow::Result<()> {
    let mut projectors = HashMap::new();
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
    let mut established = false;
    while !draining.is_cancelled() {
        let looked = draining.run_until_cancelled(look(&tools, established)).await;
        let pause = match looked {
            Some(Ok(indices)) => {
                established = true;
                backoff.reset();
                arrange::<P>(&tools, &indices, &mut projectors, &draining).await?;
                LOOK_EVERY
            }
            Some(Err(error)) => {
                tell::<P>(&tools, &error, established);
                established = false;
                backoff.next()
            }
            None => break,
        };
        draining.run_until_cancelled(sleep(pause)).await;
    }
    for (_, projector) in projectors {
        projector.end().await;
    }
    Ok(())
}

async fn look(tools: &Tools, established: bool) -> Result<Indices, EnsureError> {
    if established { Ok(tools.feeds.look().await?) } else { tools.feeds.establish().await }
}

/// What keeps this copy from looking. Projectors that run meet it too and tell it themselves.
fn tell<P: Projection>(tools: &Tools, error: &EnsureError, established: bool) {
    if established {
        tracing::warn!(projection = P::NAME, %error, "the projection's indices are not known");
    } else if error.is_transient() {
        if tools.progress.waiting(&error.to_string()) {
            tracing::warn!(projection = P::NAME, %error, "waiting for a dependency");
        }
    } else {
        tracing::error!(projection = P::NAME, %error, "projection halted, documents are not updated");
        tools.progress.halted(&error.to_string());
    }
}

async fn arrange<P: Projection>(
    tools: &Tools,
    indices: &Indices,
    projectors: &mut HashMap<String, Running>,
    draining: &CancellationToken,
) -> anyhow::Result<()> {
    // None ends by itself but by a bug: the service ends with it, as with any other part.
    let fallen =
        projectors.iter().find(|(_, projector)| projector.task.is_finished()).map(|(name, _)| name.clone());
    if let Some(projector) =
        fallen.filter(|_| !draining.is_cancelled()).and_then(|name| projectors.remove(&name))
    {
        projector.fallen().await?;
    }
    let gone: Vec<_> =
        projectors.keys().filter(|name| !indices.fed().any(|fed| fed == *name)).cloned().collect();
    for name in gone {
        if let Some(projector) = projectors.remove(&name) {
            projector.end().await;
        }
        tools.progress.forget(&name);
    }
    for name in indices.fed().filter(|name| !name.is_empty()) {
        if !projectors.contains_key(name) {
            let share = if name == indices.live { 1 } else { OTHERS_CACHE };
            let limits = Limits { cache_bytes: tools.limits.cache_bytes / share, ..tools.limits.clone() };
            let end = draining.child_token();
            let projector = Projector::<P>::of(Tools { limits, ..tools.clone() }, name);
            let task = tokio::spawn(projector.run(end.clone()));
            projectors.insert(name.to_owned(), Running { end, task });
        }
    }
    Ok(())
}

/// A projector at work.
struct Running {
    end: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Ends it: its checkpoints are brought up to date and its slices left to other copies.
    async fn end(mut self) {
        self.end.cancel();
        // It bounds its own end; whatever hangs is dropped.
        if timeout(3 * LOOK_EVERY, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }

    /// What it fell by.
    async fn fallen(mut self) -> anyhow::Result<()> {
        (&mut self.task).await?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
