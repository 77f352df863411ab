//! Documents on their way into an index: in one by one, out an outcome for each.
//!
//! Documents are written straight into the open bulk; full bulks travel side by side, a few at a time. How large they are and
//! how many travel follows from what Elasticsearch makes of them (`pace`). What a failure is about is found out here:
//!
//! - an item refused for now is sent again, it alone, after a jittered wait; so is a request that got no answer;
//! - a request that Elasticsearch cannot take is halved until the one document remains that is to blame;
//! - what is still refused after [`RETRY_FOR`], or waits for a person, as a full disk does, is handed back.
//!
//! A document's bytes are held once, however often they are sent. Held at a time are the open bulk, those that travel and those
//! that wait for another attempt: no more than may travel, and one. Dropping the lanes ends what travels: its outcome is unknown,
//! and as versions only go up, all of it may be written again.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::backoff::Backoff;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use crate::index::{Bulk, Index, IndexError, ItemOutcome, SealedBulk};
use crate::task::unwound;

mod pace;

pub use pace::{Bounds, Pace};

/// How long what is refused for now is tried here.
const RETRY_FOR: Duration = Duration::from_secs(3);
/// Waits between the attempts.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The way of documents into one index. Each carries a `T`, which comes back with its outcome.
#[derive(Debug)]
pub struct Lanes<T> {
    index: Index,
    /// Physical name of the index.
    target: String,
    /// What metrics call it.
    name: &'static str,
    pace: Pace,
    open: Bulk,
    open_tags: Vec<T>,
    /// Closed bulks that do not travel, those to be sent first in front.
    waiting: VecDeque<Load<T>>,
    travelling: JoinSet<Arrival<T>>,
    outcomes: VecDeque<(T, ItemOutcome)>,
}

/// A closed bulk.
#[derive(Debug)]
struct Load<T> {
    bulk: SealedBulk,
    tags: Vec<T>,
    /// When it is due.
    at: Instant,
    retries: Option<Retries>,
}

/// The attempts of what was refused for now.
#[derive(Clone, Debug)]
struct Retries {
    until: Instant,
    backoff: Backoff,
}

#[derive(Debug)]
struct Arrival<T> {
    load: Load<T>,
    took: Duration,
    answer: Result<Vec<ItemOutcome>, IndexError>,
}

impl<T: Send + 'static> Lanes<T> {
    /// Empty lanes into the index with the physical name `target`; `name` is that of the projection.
    #[must_use]
    pub fn new(index: Index, target: String, name: &'static str, bounds: Bounds) -> Self {
        Self {
            index,
            target,
            name,
            pace: Pace::new(bounds),
            open: Bulk::default(),
            open_tags: Vec::new(),
            waiting: VecDeque::new(),
            travelling: JoinSet::new(),
            outcomes: VecDeque::new(),
        }
    }

    /// Forgets all documents, whatever became of them; how large bulks may be is remembered.
    pub fn clear(&mut self) {
        self.open = Bulk::default();
        self.open_tags.clear();
        self.waiting.clear();
        self.travelling = JoinSet::new();
        self.outcomes.clear();
    }

    /// Sends a document on its way, which `write` writes. Waits while the lanes are full. May be dropped while it waits: the
    /// document is on its way then.
    pub async fn put(&mut self, tag: T, write: impl FnOnce(&T, &mut Bulk)) {
        write(&tag, &mut self.open);
        self.open_tags.push(tag);
        if self.pace.is_full(self.open.bytes(), self.open.len()) {
            self.close();
            while self.travelling.len() + self.waiting.len() > self.pace.in_flight() {
                self.turn().await;
            }
        }
    }

    /// An outcome that is there already.
    pub fn settled(&mut self) -> Option<(T, ItemOutcome)> {
        while let Some(arrival) = self.travelling.try_join_next() {
            self.arrived(unwound(arrival));
            self.start();
        }
        self.outcomes.pop_front()
    }

    /// The next outcome, which is waited for; `None` where none is to come. The open bulk is sent as it is once there is room for
    /// it. May be dropped at any time.
    pub async fn next(&mut self) -> Option<(T, ItemOutcome)> {
        while self.outcomes.is_empty() {
            if self.travelling.len() < self.pace.in_flight() {
                self.close();
            }
            if self.travelling.is_empty() && self.waiting.is_empty() {
                break;
            }
            self.turn().await;
        }
        self.outcomes.pop_front()
    }

    /// Waits for something else; documents go on meanwhile, those in the open bulk, too, once there is room for it.
    pub async fn beside<O>(&mut self, other: impl Future<Output = O>) -> O {
        let mut other = pin!(other);
        // What is there at once is no reason for a small bulk.
        if let Some(done) = (&mut other).now_or_never() {
            return done;
        }
        loop {
            // What was refused and waits has the room before what is new.
            if self.travelling.len() + self.waiting.len() < self.pace.in_flight() {
                self.close();
            }
            let moves = !self.travelling.is_empty() || !self.waiting.is_empty();
            tokio::select! {
                done = &mut other => return done,
                () = self.turn(), if moves => {}
            }
        }
    }

    /// Closes the open bulk, and lets it travel where there is room.
    fn close(&mut self) {
        if !self.open.is_empty() {
            // The next one will be about as large.
            let next = Bulk::with_capacity(self.open.bytes());
            let bulk = std::mem::replace(&mut self.open, next).seal();
            let tags = std::mem::take(&mut self.open_tags);
            self.waiting.push_back(Load { bulk, tags, at: Instant::now(), retries: None });
        }
        self.start();
    }

    /// Lets travel what is due, as much as may.
    fn start(&mut self) {
        let now = Instant::now();
        while self.travelling.len() < self.pace.in_flight() {
            let Some(due) = self.waiting.iter().position(|load| load.at <= now) else { break };
            let Some(load) = self.waiting.remove(due) else { break };
            let (index, target) = (self.index.clone(), self.target.clone());
            let travel = async move {
                let started = Instant::now();
                let answer = index.bulk(&target, &load.bulk).await;
                Arrival { load, took: started.elapsed(), answer }
            };
            self.travelling.spawn(travel.in_current_span());
        }
        let travelling = u32::try_from(self.travelling.len()).unwrap_or(u32::MAX);
        metrics::gauge!("projection_bulks_in_flight", "projection" => self.name).set(travelling);
    }

    /// Waits until something arrives or is due again.
    async fn turn(&mut self) {
        self.start();
        let may = self.travelling.len() < self.pace.in_flight();
        let due = self.waiting.iter().map(|load| load.at).min().filter(|_| may);
        tokio::select! {
            Some(arrival) = self.travelling.join_next() => self.arrived(unwound(arrival)),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        self.start();
    }

    fn arrived(&mut self, arrival: Arrival<T>) {
        let Arrival { load, took, answer } = arrival;
        metrics::histogram!("projection_bulk_bytes", "projection" => self.name)
            .record(u32::try_from(load.bulk.bytes()).unwrap_or(u32::MAX));
        metrics::histogram!("projection_bulk_seconds", "projection" => self.name).record(took);
        match answer {
            Ok(outcomes) => self.answered(load, took, outcomes),
            Err(error) => self.failed(load, error),
        }
    }

    fn answered(&mut self, load: Load<T>, took: Duration, outcomes: Vec<ItemOutcome>) {
        let Load { bulk, tags, retries, .. } = load;
        if outcomes.iter().any(|outcome| matches!(outcome, ItemOutcome::Later(_))) {
            self.pace.refused();
        } else {
            self.pace.answered(bulk.bytes(), took);
        }
        let retries = Self::retries(retries);
        let (mut settled, mut places, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (tag, outcome)) in tags.into_iter().zip(outcomes).enumerate() {
            match outcome {
                ItemOutcome::Later(error) if retries.is_some() && !waits_for_a_person(&error) => {
                    places.push(place);
                    again.push(tag);
                }
                outcome => settled.push((tag, outcome)),
            }
        }
        self.settle(settled);
        if let (Some(retries), false) = (retries, places.is_empty()) {
            self.again(bulk.only(&places), again, retries, "items");
        }
    }

    fn failed(&mut self, load: Load<T>, error: IndexError) {
        let Load { bulk, tags, retries, .. } = load;
        match blame(&error) {
            Blame::Content if bulk.len() > 1 => {
                if matches!(error, IndexError::Refused { status: 413, .. }) {
                    self.pace.too_large(bulk.bytes());
                }
                self.halve(&bulk, tags, retries.as_ref());
            }
            Blame::Content => self.settle_all(tags, &ItemOutcome::Unfit(error)),
            Blame::Index => self.settle_all(tags, &ItemOutcome::Closed(error)),
            Blame::Nobody => {
                self.pace.refused();
                match Self::retries(retries).filter(|_| !waits_for_a_person(&error)) {
                    Some(retries) => self.again(bulk, tags, retries, "request"),
                    None => self.settle_all(tags, &ItemOutcome::Later(error)),
                }
            }
        }
    }

    /// The attempts that are left; `None` where the time is over.
    fn retries(retries: Option<Retries>) -> Option<Retries> {
        let now = Instant::now();
        let first = || Retries { until: now + RETRY_FOR, backoff: Backoff::new(RETRY_BASE, RETRY_MAX) };
        Some(retries.unwrap_or_else(first)).filter(|retries| now < retries.until)
    }

    fn again(&mut self, bulk: SealedBulk, tags: Vec<T>, mut retries: Retries, what: &'static str) {
        metrics::counter!("projection_bulk_retries_total", "projection" => self.name, "what" => what)
            .increment(1);
        let at = Instant::now() + retries.backoff.next();
        self.waiting.push_front(Load { bulk, tags, at, retries: Some(retries) });
    }

    fn halve(&mut self, bulk: &SealedBulk, mut tags: Vec<T>, retries: Option<&Retries>) {
        let (first, second) = bulk.split(bulk.len() / 2);
        let second_tags = tags.split_off(first.len());
        let at = Instant::now();
        for (bulk, tags) in [(second, second_tags), (first, tags)] {
            self.waiting.push_front(Load { bulk, tags, at, retries: retries.cloned() });
        }
    }

    fn settle_all(&mut self, tags: Vec<T>, outcome: &ItemOutcome) {
        self.settle(tags.into_iter().map(|tag| (tag, outcome.clone())).collect());
    }

    /// Hands back what came to an outcome, and counts it, once for each kind: to name a counter costs more than to add to it.
    fn settle(&mut self, settled: Vec<(T, ItemOutcome)>) {
        for kind in KINDS {
            let count = settled.iter().filter(|(_, outcome)| name(outcome) == kind).count();
            if let Ok(count @ 1..) = u64::try_from(count) {
                metrics::counter!("projection_bulk_items_total", "projection" => self.name, "outcome" => kind)
                    .increment(count);
            }
        }
        self.outcomes.extend(settled);
    }
}

/// What a request failed for.
enum Blame {
    /// For what it holds.
    Content,
    /// For the state of the index, or for rights.
    Index,
    /// For nothing that lasts.
    Nobody,
}

fn blame(error: &IndexError) -> Blame {
    match error {
        IndexError::Refused { status: 400 | 413, kind } if kind != "index_closed_exception" => Blame::Content,
        IndexError::Refused { status: 400 | 401 | 403 | 404, .. } => Blame::Index,
        _ => Blame::Nobody,
    }
}

/// A full disk: attempts at once after each other are of no use.
fn waits_for_a_person(error: &IndexError) -> bool {
    matches!(error, IndexError::Overloaded(kind) if kind == "cluster_block_exception")
}

/// What outcomes are called in metrics.
const KINDS: [&str; 5] = ["applied", "already_applied", "later", "unfit", "closed"];

fn name(outcome: &ItemOutcome) -> &'static str {
    match outcome {
        ItemOutcome::Applied => "applied",
        ItemOutcome::AlreadyApplied => "already_applied",
        ItemOutcome::Later(_) => "later",
        ItemOutcome::Unfit(_) => "unfit",
        ItemOutcome::Closed(_) => "closed",
    }
}
