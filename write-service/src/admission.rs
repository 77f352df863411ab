//! Admission: how many commands may be under way, so that no queue behind it grows without end.
//!
//! A command enters before anything is done for it and leaves with its answer. The budget is memory: a command weighs its message
//! and what handling it takes. Single calls that find no room are refused at once; a stream of commands waits for room, so that
//! its sender is slowed down instead.

use std::sync::Arc;

use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a command takes beside its message, in bytes: its call, its events, its place in every queue (measured: 6,500 waiting
/// commands took 65 MiB).
const OVERHEAD: usize = 10 * 1024;
/// The semaphore counts in units of so many bytes.
const UNIT: usize = 1024;

/// The way in. Clones share the budget.
#[derive(Clone, Debug)]
pub struct Admission {
    budget: Arc<Semaphore>,
    units: usize,
}

/// A command's place; given back when dropped.
#[derive(Debug)]
pub struct Admitted(#[expect(dead_code, reason = "holds the place")] OwnedSemaphorePermit);

impl Admission {
    /// Room for commands of so many MiB in all.
    #[must_use]
    pub fn new(mebibytes: u32) -> Self {
        let units = usize::try_from(mebibytes).unwrap_or(usize::MAX).saturating_mul(1024 * 1024 / UNIT);
        let units = units.clamp(1, Semaphore::MAX_PERMITS);
        Self { budget: Arc::new(Semaphore::new(units)), units }
    }

    /// A place for a command with a message of this size; `None` where there is no room.
    #[must_use]
    pub fn try_enter(&self, message_bytes: usize) -> Option<Admitted> {
        let entered = Arc::clone(&self.budget).try_acquire_many_owned(self.weight(message_bytes)).ok();
        if entered.is_none() {
            counter!("commands_refused_total").increment(1);
        }
        entered.map(Admitted)
    }

    /// The same, once there is room.
    pub async fn enter(&self, message_bytes: usize) -> Option<Admitted> {
        // The semaphore is never closed.
        Arc::clone(&self.budget).acquire_many_owned(self.weight(message_bytes)).await.ok().map(Admitted)
    }

    /// A command never weighs more than the whole budget: alone, it has room.
    fn weight(&self, message_bytes: usize) -> u32 {
        let units = message_bytes.saturating_add(OVERHEAD).div_ceil(UNIT).min(self.units);
        u32::try_from(units).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_refused_until_some_is_given_back() {
        let admission = Admission::new(1);
        let mut entered: Vec<_> = std::iter::from_fn(|| admission.try_enter(100)).collect();
        assert_eq!(
            entered.len(),
            1024 / 11,
            "a small command weighs its overhead and a unit for its message"
        );
        assert!(admission.try_enter(100).is_none());
        entered.pop();
        assert!(admission.try_enter(100).is_some());
    }

    #[tokio::test]
    async fn a_command_larger_than_the_budget_enters_alone() {
        let admission = Admission::new(1);
        let large = admission.try_enter(usize::MAX).unwrap();
        assert!(admission.try_enter(0).is_none());
        let mut waiting = Box::pin(admission.enter(0));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(large);
        assert!(waiting.await.is_some());
    }
}
