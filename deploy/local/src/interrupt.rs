//! Ctrl-C and its relatives: the first asks everything to end in order, the second ends it at once.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the user has asked for.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    /// End in order.
    pub first: CancellationToken,
    /// End at once.
    pub second: CancellationToken,
}

impl Interrupts {
    /// Listens to SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn listen() -> anyhow::Result<Self> {
        let context = "cannot listen to signals";
        let mut interrupt = signal(SignalKind::interrupt()).context(context)?;
        let mut terminate = signal(SignalKind::terminate()).context(context)?;
        let mut hang_up = signal(SignalKind::hangup()).context(context)?;
        let interrupts = Self::default();
        let tokens = interrupts.clone();
        tokio::spawn(async move {
            for token in [&tokens.first, &tokens.second] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(interrupts)
    }
}
