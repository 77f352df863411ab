//! Crash points: named places at which a test lets the process die as by `kill -9`.
//!
//! They exist in builds with the feature `crash-points` only; in all others a point is nothing. `CRASH_AT=name` in the environment
//! ends the process the first time it passes this point, `CRASH_AT=name:3` the third time.

/// A place at which the process can be told to die.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_name: &str) {}

/// A place at which the process can be told to die.
#[cfg(feature = "crash-points")]
pub fn point(name: &str) {
    plan::pass(name);
}

#[cfg(feature = "crash-points")]
mod plan {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    struct Plan {
        name: String,
        /// Passings until the end.
        left: AtomicI64,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let text = std::env::var("CRASH_AT").ok()?;
        let (name, passings) = text.split_once(':').unwrap_or((&text, "1"));
        let passings = passings.parse().expect("CRASH_AT is a name, or name:number");
        Some(Plan { name: name.to_owned(), left: AtomicI64::new(passings) })
    });

    pub(super) fn pass(name: &str) {
        if let Some(plan) = PLAN.as_ref().filter(|plan| plan.name == name)
            && plan.left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            kill(Pid::this(), Signal::SIGKILL).expect("a process may end itself");
        }
    }
}
