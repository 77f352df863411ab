//! Group commit: appends that arrive together are stored together, and each caller gets its own answer.
//!
//! No timer decides when a batch is full: while one commits, the next one collects. How much may wait is bounded where commands
//! are admitted, not here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use metrics::{counter, histogram};
use thiserror::Error;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use crate::event_store::{Append, EventStore, Outcome, StoreError, Writer};

/// Appends in a batch at most: larger ones gain nothing (measured: 300 is 30 % above 100, then flat).
const MAX_APPENDS: usize = 500;
/// Events in a batch at most, except where a single append has more: bounds the size of a statement.
const MAX_EVENTS: usize = 2_000;
/// Appends that are worth a second commit beside one under way. Fewer wait for its end: two small batches cost the database
/// half as much again as one (ceiling, hint 5).
const WORTH_A_SECOND: usize = 64;

/// Why an append was not stored, or not known to be.
#[derive(Clone, Debug, Error)]
pub enum AppendError {
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
    queue: mpsc::UnboundedSender<Waiting>,
}

impl Appender {
    /// An appender and its two writers, to be run by the caller. `stored` is notified after each commit that stored something.
    pub fn new(
        store: &EventStore,
        stored: &Arc<Notify>,
    ) -> (Self, [impl Future<Output = ()> + Send + 'static + use<>; 2]) {
        let (sender, queue) = mpsc::unbounded_channel();
        let collector = Arc::new(Collector {
            queue: Mutex::new(Queue { queue, left: Vec::new() }),
            under_way: AtomicUsize::new(0),
            ended: Notify::new(),
        });
        let writers = [(), ()].map(|()| write(store.writer(), Arc::clone(&collector), Arc::clone(stored)));
        (Self { queue: sender }, writers)
    }

    /// Stores the append together with whatever else waits. Dropped before its batch has begun, it is not stored.
    ///
    /// # Errors
    /// See [`AppendError`]; only [`AppendError::Store`] may leave the outcome unknown.
    pub async fn append(&self, append: Append) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Waiting { append, answer }).map_err(|_| AppendError::Closed)?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }
}

/// What the two writers share.
struct Collector {
    queue: Mutex<Queue>,
    /// Batches that are being stored.
    under_way: AtomicUsize,
    /// Notified when one has ended.
    ended: Notify,
}

struct Queue {
    queue: mpsc::UnboundedReceiver<Waiting>,
    /// Taken from the queue, but left for a later batch.
    left: Vec<Waiting>,
}

async fn write(mut writer: Writer, collector: Arc<Collector>, stored: Arc<Notify>) {
    loop {
        let batch = collector.next_batch().await;
        if batch.is_empty() {
            return;
        }
        if let Err(error) = store(&mut writer, batch, &stored).await {
            collector.fail_waiting(&error);
        }
        collector.under_way.fetch_sub(1, Ordering::AcqRel);
        collector.ended.notify_one();
    }
}

/// Stores a batch and answers its callers.
async fn store(writer: &mut Writer, batch: Vec<Waiting>, stored: &Notify) -> Result<(), AppendError> {
    let (appends, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.append, w.answer)).unzip();
    let started = Instant::now();
    shared::crash::point("append.collected");
    let outcomes = writer.append(&appends).await;
    shared::crash::point("append.committed");
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
            Ok(())
        }
        Err(error) => {
            tracing::warn!(error = %error_chain(&error), batch.appends = appends.len(), "append failed");
            let error = AppendError::Store(Arc::new(error));
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
            Err(error)
        }
    }
}

impl Collector {
    /// What waits, sorted by stream, at most one append per stream; empty once the queue is closed and drained. The batch counts
    /// as under way.
    async fn next_batch(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock().await;
        loop {
            let (waiting, open) = self.gather(&mut queue).await;
            let batch = queue.pick(waiting);
            if !batch.is_empty() {
                self.under_way.fetch_add(1, Ordering::AcqRel);
                return batch;
            }
            if !open && queue.left.is_empty() {
                return batch;
            }
        }
    }

    /// Waits for appends that are worth a commit, and takes what there is; whether more can come.
    async fn gather(&self, queue: &mut Queue) -> (Vec<Waiting>, bool) {
        let mut waiting = std::mem::take(&mut queue.left);
        let mut open = true;
        while open && waiting.len() < WORTH_A_SECOND {
            let room = MAX_APPENDS - waiting.len();
            if waiting.is_empty() {
                open = queue.queue.recv_many(&mut waiting, room).await > 0;
            } else if self.under_way.load(Ordering::Acquire) > 0 {
                tokio::select! {
                    taken = queue.queue.recv_many(&mut waiting, room) => open = taken > 0,
                    () = self.ended.notified() => {}
                }
            } else {
                break;
            }
        }
        while waiting.len() < MAX_APPENDS
            && let Ok(next) = queue.queue.try_recv()
        {
            waiting.push(next);
        }
        (waiting, open)
    }

    /// Answers everyone who waits with the error that the store has just given: they should not each wait for their own. Where
    /// the other writer collects, it will meet the error itself.
    fn fail_waiting(&self, error: &AppendError) {
        let Ok(mut queue) = self.queue.try_lock() else { return };
        let left = std::mem::take(&mut queue.left);
        let queued = std::iter::from_fn(|| queue.queue.try_recv().ok());
        for waiting in left.into_iter().chain(queued) {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }
}

impl Queue {
    /// A batch of those that wait; the others are left for a later one.
    fn pick(&mut self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        let mut batch: Vec<Waiting> = Vec::with_capacity(waiting.len());
        let mut streams = HashSet::with_capacity(waiting.len());
        let mut events = 0;
        // Whoever has left, by a deadline or by hanging up, wants nothing stored any more.
        for next in waiting.into_iter().filter(|waiting| !waiting.answer.is_closed()) {
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
