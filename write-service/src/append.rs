//! Group commit: appends that arrive together are stored together, and each caller gets its own answer.
//!
//! No timer decides when a batch is full: while one commits, the next one collects. Callers wait in a bounded queue; where it
//! is full, the surplus is refused at once.

use std::collections::HashSet;
use std::sync::Arc;

use metrics::{counter, histogram};
use thiserror::Error;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use crate::event_store::{Append, EventStore, Outcome, StoreError};

/// Batches under way at a time; the second collects and runs while the first commits.
const WRITERS: usize = 2;
/// Appends in a batch at most: larger ones gain nothing (measured: 300 is 30 % above 100, then flat).
const MAX_APPENDS: usize = 500;
/// Events in a batch at most, except where a single append has more: bounds the size of a statement.
const MAX_EVENTS: usize = 2_000;
/// Appends that wait at most; at 10,000 a second a full queue is 0.4 s.
const QUEUE: usize = 4_096;

/// Why an append was not stored, or not known to be.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The queue is full; nothing was stored.
    #[error("append queue is full")]
    QueueFull,
    /// The service stops; nothing was stored.
    #[error("append queue is closed")]
    Closed,
    /// The store did not answer: whether the append is stored is unknown.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
}

type Answer = Result<Outcome, AppendError>;

struct Waiting {
    append: Append,
    answer: oneshot::Sender<Answer>,
}

/// The way into the store. Cheap to clone; the writers end when the last clone is gone.
#[derive(Clone)]
pub struct Appender {
    queue: mpsc::Sender<Waiting>,
}

/// What the writers share.
struct Collector {
    queue: mpsc::Receiver<Waiting>,
    /// Taken from the queue, but left for a later batch.
    left: Vec<Waiting>,
}

impl Appender {
    /// An appender and its writers, to be run by the caller. `stored` is notified after each commit that stored something.
    #[must_use]
    pub fn new(
        store: &EventStore,
        stored: &Arc<Notify>,
    ) -> (Self, Vec<impl Future<Output = ()> + Send + 'static + use<>>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let collector = Arc::new(Mutex::new(Collector { queue, left: Vec::new() }));
        let writers =
            (0..WRITERS).map(|_| write(store.clone(), Arc::clone(&collector), Arc::clone(stored))).collect();
        (Self { queue: sender }, writers)
    }

    /// Stores the append together with whatever else waits.
    ///
    /// # Errors
    /// See [`AppendError`]; only [`AppendError::Store`] leaves the outcome unknown.
    pub async fn append(&self, append: Append) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { append, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AppendError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => AppendError::Closed,
        })?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }
}

async fn write(store: EventStore, collector: Arc<Mutex<Collector>>, stored: Arc<Notify>) {
    loop {
        let batch = collector.lock().await.next_batch().await;
        if batch.is_empty() {
            return;
        }
        let (appends, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.append, w.answer)).unzip();
        let started = std::time::Instant::now();
        let outcomes = store.append(&appends).await;
        histogram!("append_batch_seconds").record(started.elapsed());
        histogram!("append_batch_size").record(u32::try_from(appends.len()).unwrap_or(u32::MAX));
        match outcomes {
            Ok(outcomes) => {
                let conflicts = outcomes.iter().filter(|outcome| **outcome == Outcome::Conflict).count();
                counter!("append_conflicts_total").increment(conflicts as u64);
                if conflicts < outcomes.len() {
                    stored.notify_one();
                }
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that has left needs no answer.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), batch.appends = appends.len(), "append failed");
                let error = Arc::new(error);
                for answer in answers {
                    let _ = answer.send(Err(AppendError::Store(Arc::clone(&error))));
                }
            }
        }
    }
}

impl Collector {
    /// What waits, sorted by stream, at most one append per stream; empty once the queue is closed and drained.
    async fn next_batch(&mut self) -> Vec<Waiting> {
        let mut waiting = std::mem::take(&mut self.left);
        if waiting.is_empty() {
            self.queue.recv_many(&mut waiting, MAX_APPENDS).await;
        } else {
            while waiting.len() < MAX_APPENDS
                && let Ok(next) = self.queue.try_recv()
            {
                waiting.push(next);
            }
        }
        let mut batch: Vec<Waiting> = Vec::with_capacity(waiting.len());
        let mut streams = HashSet::with_capacity(waiting.len());
        let mut events = 0;
        for next in waiting {
            let size = next.append.events.len();
            let fits = batch.is_empty() || events + size <= MAX_EVENTS;
            if fits && streams.insert(next.append.stream_id) {
                events += size;
                batch.push(next);
            } else {
                self.left.push(next);
            }
        }
        batch.sort_unstable_by_key(|waiting| waiting.append.stream_id);
        batch
    }
}

fn error_chain(error: &StoreError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
