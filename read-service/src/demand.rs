//! Questions go first: work that can wait rests now and then while this copy is asked.
//!
//! Alone, a rebuild takes all that processors and Elasticsearch give, and whoever asks meanwhile waits behind it. So it works in
//! spells: while questions are asked, each is followed by a rest. How often is asked decides by itself how much of its time that
//! costs: a question counts for a tenth of a second.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// How long a question counts after its answer.
const RECENT: Duration = Duration::from_millis(100);
/// Shortest work between two rests that is worth ending what is under way: a question may wait for it without being noticed.
const SPELL: Duration = Duration::from_millis(10);
/// Longest rest: what took longer waited for something else.
const LONGEST: Duration = Duration::from_millis(500);
/// Steps of long work on one thread after which others have their turn: a step is to fold a stream.
const STEPS: usize = 8;

/// What callers ask of this copy. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    state: Arc<State>,
    /// Part of its time that work rests meanwhile, in percent.
    rest: u8,
}

#[derive(Debug, Default)]
struct State {
    under_way: AtomicUsize,
    answered: Mutex<Option<Instant>>,
}

/// A question under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Question {
    state: Arc<State>,
}

impl Demand {
    /// Nothing is asked yet; work that can wait will rest for `rest` percent of its time while something is.
    #[must_use]
    pub fn new(rest: u8) -> Self {
        Self { state: Arc::default(), rest: rest.min(99) }
    }

    /// A question begins.
    pub(crate) fn question(&self) -> Question {
        self.state.under_way.fetch_add(1, Ordering::Relaxed);
        Question { state: Arc::clone(&self.state) }
    }

    /// How long to rest after so much work.
    fn rest_after(&self, work: Duration) -> Duration {
        let rest = u32::from(self.rest);
        (work * rest / (100 - rest)).min(LONGEST)
    }

    /// Whether questions are asked, or were just answered.
    fn is_there(&self, now: Instant) -> bool {
        let answered = || *self.state.answered.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.under_way.load(Ordering::Relaxed) > 0
            || answered().is_some_and(|answered| now < answered + RECENT)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        *self.state.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.state.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Work that rests while questions are asked.
#[derive(Debug)]
pub(crate) struct Spells {
    demand: Demand,
    /// When it last rested, or nobody asked.
    since: Instant,
}

impl Spells {
    /// Work that begins now.
    pub fn new(demand: Demand) -> Self {
        Self { demand, since: Instant::now() }
    }

    /// Whether it is time to end what is under way and to rest.
    pub fn is_over(&mut self) -> bool {
        self.is_over_at(Instant::now())
    }

    fn is_over_at(&mut self, now: Instant) -> bool {
        now >= self.since + SPELL && self.is_disturbing_at(now)
    }

    /// Whether questions are asked for which it shall rest now and then; where none are, work until now does not count.
    pub fn is_disturbing(&mut self) -> bool {
        self.is_disturbing_at(Instant::now())
    }

    fn is_disturbing_at(&mut self, now: Instant) -> bool {
        if self.demand.rest == 0 {
            return false;
        }
        let asked = self.demand.is_there(now);
        if !asked {
            // What was done while nobody asked disturbed nobody.
            self.since = now;
        }
        asked
    }

    /// Rests in proportion to the work since the last rest.
    pub async fn rest(&mut self) {
        sleep(self.demand.rest_after(self.since.elapsed())).await;
        self.resume();
    }

    /// Rests where it is time.
    pub async fn pause(&mut self) {
        if self.is_over() {
            self.rest().await;
        }
    }

    /// What was until now was no work.
    pub fn resume(&mut self) {
        self.since = Instant::now();
    }
}

/// One step of long work, of which this is the number: now and then, questions that wait for this thread go first.
pub(crate) async fn step(number: usize) {
    if number % STEPS == STEPS - 1 {
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_is_over_while_questions_are_asked_and_shortly_after() {
        let demand = Demand::new(50);
        let mut spells = Spells::new(demand.clone());
        let later = spells.since + 60 * SPELL;
        assert!(!spells.is_over_at(later), "nobody asks");
        let question = demand.question();
        assert!(!spells.is_over_at(later), "work that nobody had to wait for does not count");
        assert!(spells.is_over_at(later + SPELL));
        drop(question);
        let answered = Instant::now();
        spells.since = answered;
        assert!(spells.is_over_at(answered + SPELL), "it was just answered");
        assert!(!spells.is_over_at(answered + RECENT + SPELL));
    }

    #[test]
    fn work_rests_for_its_part_of_the_time_and_never_long() {
        let work = Duration::from_millis(30);
        assert_eq!(Demand::new(75).rest_after(work), 3 * work);
        assert_eq!(Demand::new(50).rest_after(work), work);
        assert_eq!(Demand::new(100).rest_after(60 * work), LONGEST);
    }

    #[test]
    fn work_that_shall_never_rest_does_not() {
        let demand = Demand::default();
        let _question = demand.question();
        let mut spells = Spells::new(demand);
        let later = spells.since + SPELL;
        assert!(!spells.is_over_at(later));
    }
}
