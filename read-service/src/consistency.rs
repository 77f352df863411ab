//! Read your own writes: waits until the versions that consistency tokens name can be read.
//!
//! Tokens enter; the answer is that all of them are reached, that they are not, or that Elasticsearch failed. Reached means: a
//! read by id shows at least these versions, and for a search, that a refresh which began afterwards has ended.
//!
//! However many wait, Elasticsearch is asked once a round: one task per projection gathers what is waited for and reads the
//! versions of what came new by one multi-get. What this copy's projector stores meanwhile it is told; all that is waited for is
//! read again after a short while, as another copy may be the one that writes. Refreshes are shared in the same way by the projector.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::token::ConsistencyToken;
use proto::v1::StreamCategory;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::index::{Index, IndexError};
use crate::projector::Progress;

/// First and longest pause between two rounds that read the versions of all who wait.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// An answer that takes longer than this when time is up is what is missing, and not the version.
const SILENT: Duration = Duration::from_millis(250);
/// Waiters that may stand before the task that serves them.
const QUEUE: usize = 1_024;

/// What to do where a version is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Wait until the deadline, then fail.
    Wait,
    /// Answer with what is there.
    Answer,
    /// Fail at once.
    Fail,
}

/// What a reader is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Read by id, which sees every write.
    ById,
    /// Search, which sees what was refreshed.
    Search,
}

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The versions that must be seen.
    pub tokens: Vec<ConsistencyToken>,
    /// What to do where one is not.
    pub on_stale: OnStale,
    /// When waiting ends.
    pub until: Instant,
}

/// A token is not honoured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConsistencyError {
    /// Not reached in time, or at once where that was asked.
    #[error("a version is not visible yet")]
    Stale,
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Knows what can be read. Clones share the tasks, which end with the last of them.
#[derive(Clone, Debug)]
pub struct Consistency {
    orders: Versions,
    customers: Versions,
    products: Versions,
}

impl Consistency {
    /// Over the versions of the three projections. Call it inside the runtime.
    #[must_use]
    pub fn new(orders: Versions, customers: Versions, products: Versions) -> Self {
        Self { orders, customers, products }
    }

    /// Makes sure that a read sees what is wanted. True where it does; false where it may not and that was allowed.
    ///
    /// # Errors
    /// [`ConsistencyError`].
    pub async fn reach(&self, wanted: &Wanted, read: Read) -> Result<bool, ConsistencyError> {
        if wanted.tokens.is_empty() {
            return Ok(true);
        }
        let wait = wanted.on_stale == OnStale::Wait;
        let refreshing = AtomicBool::new(false);
        let reached = timeout_at(wanted.until, self.reached(wanted, read, wait, &refreshing)).await;
        let reached = reached.unwrap_or_else(|_| {
            let silent = [&self.orders, &self.customers, &self.products].into_iter().any(Versions::is_silent);
            if silent || refreshing.load(Ordering::Relaxed) {
                Err(IndexError::Unavailable("timed out".to_owned()))
            } else {
                Ok(false)
            }
        });
        match (reached?, wanted.on_stale) {
            (true, _) => Ok(true),
            (false, OnStale::Answer) => Ok(false),
            (false, OnStale::Wait | OnStale::Fail) => Err(ConsistencyError::Stale),
        }
    }

    async fn reached(
        &self,
        wanted: &Wanted,
        read: Read,
        wait: bool,
        refreshing: &AtomicBool,
    ) -> Result<bool, IndexError> {
        let asked = wanted.tokens.iter().map(|token| {
            let versions = match token.category {
                StreamCategory::Order | StreamCategory::Unspecified => &self.orders,
                StreamCategory::Customer => &self.customers,
                StreamCategory::Product => &self.products,
            };
            versions.reached(&token.key, token.version, wait)
        });
        let all = futures_util::future::try_join_all(asked).await?.into_iter().all(|reached| reached);
        // Only orders are searched; today's names are read by id.
        let of_orders = wanted.tokens.iter().any(|token| token.category == StreamCategory::Order);
        if all && of_orders && read == Read::Search {
            refreshing.store(true, Ordering::Relaxed);
            self.orders.progress.request_refresh().await?;
        }
        Ok(all)
    }
}

/// The versions of one projection's documents, read for all who wait at once.
#[derive(Clone, Debug)]
pub struct Versions {
    waiters: mpsc::Sender<Waiter>,
    progress: Progress,
    /// Since when Elasticsearch owes an answer.
    asked_at: watch::Sender<Option<Instant>>,
}

#[derive(Debug)]
struct Waiter {
    key: String,
    version: i64,
    /// Answer false rather than wait.
    at_once: bool,
    reply: oneshot::Sender<Result<bool, IndexError>>,
}

impl Versions {
    /// Versions of the documents behind `alias`, which `progress` tells about. Call it inside the runtime.
    #[must_use]
    pub fn new(index: Index, alias: String, progress: Progress) -> Self {
        let (waiters, queue) = mpsc::channel(QUEUE);
        let asked_at = watch::Sender::new(None);
        tokio::spawn(serve(index, alias, progress.clone(), queue, asked_at.clone()));
        Self { waiters, progress, asked_at }
    }

    /// Whether Elasticsearch has owed an answer for long.
    fn is_silent(&self) -> bool {
        self.asked_at.borrow().is_some_and(|asked_at| asked_at.elapsed() > SILENT)
    }

    /// Whether the document has at least this version, now or, where `wait` is set, as soon as it has.
    async fn reached(&self, key: &str, version: i64, wait: bool) -> Result<bool, IndexError> {
        let gone = || IndexError::Unavailable("the service is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        let waiter = Waiter { key: key.to_owned(), version, at_once: !wait, reply };
        self.waiters.send(waiter).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Answers waiters until nobody can ask any more. Rests while nobody waits.
async fn serve(
    index: Index,
    alias: String,
    progress: Progress,
    mut queue: mpsc::Receiver<Waiter>,
    asked_at: watch::Sender<Option<Instant>>,
) {
    let mut changes = progress.subscribe();
    // Those whose versions are to be read, and those who were too early when they were.
    let (mut new, mut waiting): (Vec<Waiter>, Vec<Waiter>) = Default::default();
    // When those who wait are asked about again, whoever comes in between.
    let (mut pause, mut again) = (PAUSE_FIRST, Instant::now());
    loop {
        if waiting.is_empty() {
            pause = PAUSE_FIRST;
            again = Instant::now() + pause;
        } else if again <= Instant::now() {
            new.append(&mut waiting);
            pause = (pause * 2).min(PAUSE_MAX);
            again = Instant::now() + pause;
        }
        if new.is_empty() && waiting.is_empty() {
            progress.wait_for(std::iter::empty());
            if queue.recv_many(&mut new, QUEUE).await == 0 {
                return;
            }
        }
        while new.len() + waiting.len() < QUEUE
            && let Ok(waiter) = queue.try_recv()
        {
            new.push(waiter);
        }
        // In this order: what is stored after the versions were read is told, and heard of.
        progress.wait_for(waiting.iter().chain(&new).map(|waiter| waiter.key.as_str()));
        let mut stored = changes.borrow_and_update().stored;
        waiting = untold(waiting, &progress);
        let keys: BTreeSet<&str> = new.iter().map(|waiter| waiter.key.as_str()).collect();
        let keys = Vec::from_iter(keys);
        asked_at.send_replace(Some(Instant::now()));
        let versions = index.versions(&alias, &keys).await;
        asked_at.send_replace(None);
        let versions = versions.map(|versions| {
            let found =
                keys.iter().zip(versions).filter_map(|(key, version)| Some(((*key).to_owned(), version?)));
            found.collect::<HashMap<_, _>>()
        });
        waiting.extend(unanswered(std::mem::take(&mut new), versions));
        while new.is_empty() && !waiting.is_empty() && Instant::now() < again {
            tokio::select! {
                received = queue.recv_many(&mut new, QUEUE) => if received == 0 { return },
                Ok(now) = changes.wait_for(|now| now.stored != stored) => {
                    stored = now.stored;
                    drop(now);
                    waiting = untold(waiting, &progress);
                }
                () = sleep_until(again) => {}
            }
        }
    }
}

/// Answers those whose versions this copy has stored meanwhile; gives those who go on waiting.
fn untold(waiting: Vec<Waiter>, progress: &Progress) -> Vec<Waiter> {
    let told = waiting.iter().map(|waiter| (waiter.key.clone(), progress.stored(&waiter.key))).collect();
    unanswered(waiting, Ok(told))
}

/// Answers those whose versions are known to suffice, who would not wait, or whose read failed; gives those who go on waiting.
fn unanswered(waiting: Vec<Waiter>, versions: Result<HashMap<String, i64>, IndexError>) -> Vec<Waiter> {
    let mut rest = Vec::new();
    // A waiter who has left does not hear the answer; that is fine.
    match versions {
        Err(error) => waiting.into_iter().for_each(|waiter| drop(waiter.reply.send(Err(error.clone())))),
        Ok(versions) => {
            for waiter in waiting {
                let there = versions.get(&waiter.key).is_some_and(|version| *version >= waiter.version);
                if there || waiter.at_once {
                    drop(waiter.reply.send(Ok(there)));
                } else if !waiter.reply.is_closed() {
                    rest.push(waiter);
                }
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(version: i64, at_once: bool) -> (Waiter, oneshot::Receiver<Result<bool, IndexError>>) {
        let (reply, answer) = oneshot::channel();
        (Waiter { key: "k".into(), version, at_once, reply }, answer)
    }

    #[test]
    fn only_those_go_on_waiting_who_can_be_helped() {
        let (there, mut told) = waiter(2, false);
        let (early, mut patient) = waiter(3, false);
        let (hasty, mut refused) = waiter(3, true);
        let (gone, left) = waiter(3, false);
        let (mut absent, mut still) = waiter(1, false);
        absent.key = "absent".into();
        drop(left);
        let versions = Ok(HashMap::from([("k".to_owned(), 2)]));
        let rest = unanswered(vec![there, early, hasty, gone, absent], versions);
        assert_eq!(rest.iter().map(|waiter| waiter.version).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(told.try_recv().unwrap(), Ok(true));
        assert_eq!(refused.try_recv().unwrap(), Ok(false));
        assert!(patient.try_recv().is_err() && still.try_recv().is_err());
    }

    #[test]
    fn a_failure_is_told_to_all() {
        let (waiter, mut told) = waiter(1, false);
        let error = IndexError::Unavailable("gone".into());
        assert!(unanswered(vec![waiter], Err(error.clone())).is_empty());
        assert_eq!(told.try_recv().unwrap(), Err(error));
    }
}
