//! Tasks that belong to whoever waits for them.

use tokio::task::JoinError;

/// What a task came to. Its panic goes on here, as if what it did had been done in place.
///
/// # Panics
/// Where the task panicked, or was aborted.
pub(crate) fn unwound<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
