//! What every benchmark stands on: private servers, the service as a process of its own, floors, and one table in the end.
//!
//! A figure is a ratio to a floor that was measured in the same run, right before and right after it, on the same tables. The
//! benchmark itself is the load generator; the service and PostgreSQL are processes of their own.

#![expect(
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    reason = "for the benchmarks beside it, which give up at any error"
)]

use std::time::Duration;

pub mod appends;
pub mod latency;
pub mod orders;
pub mod pair;
pub mod search;
pub mod table;
pub mod usage;

/// Rounds and the word that names of figures must hold, from the command line.
pub fn arguments(default_rounds: usize) -> (usize, String) {
    // cargo adds `--bench` for harnesses that want it.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(default_rounds);
    let word = arguments.into_iter().find(|argument| argument.parse::<usize>().is_err()).unwrap_or_default();
    (rounds, word)
}

/// Things a second.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
