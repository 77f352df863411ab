//! What a caller hears of an audit.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use super::AuditError;
use crate::compare::Difference;

/// How often is told how far it is, at least.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// How long a caller may read nothing before it counts as gone: the audit keeps a scan of the event store open.
const READ_WITHIN: Duration = Duration::from_mins(1);

/// How far an audit is, and what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Streams compared.
    pub checked: i64,
    /// All of them; an estimate until the end.
    pub total: i64,
    /// What differs, where this is told.
    pub finding: Option<Finding>,
}

/// A document that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its id, which is the key of its stream.
    pub stream_key: String,
    /// How it differs.
    pub difference: Difference,
    /// It was put right.
    pub repaired: bool,
}

/// Tells a caller.
#[derive(Debug)]
pub(super) struct Teller {
    sender: mpsc::Sender<Result<Report, AuditError>>,
    checked: AtomicI64,
    total: AtomicI64,
}

impl Teller {
    pub fn new(sender: mpsc::Sender<Result<Report, AuditError>>) -> Self {
        Self { sender, checked: AtomicI64::new(0), total: AtomicI64::new(0) }
    }

    /// There are about so many streams.
    pub fn expect(&self, total: i64) {
        self.total.fetch_max(total, Ordering::Relaxed);
    }

    /// So many more are compared.
    pub fn checked(&self, streams: usize) {
        let streams = i64::try_from(streams).unwrap_or(i64::MAX);
        self.expect(self.checked.fetch_add(streams, Ordering::Relaxed).saturating_add(streams));
    }

    /// # Errors
    /// Where nobody listens.
    pub async fn found(&self, finding: Finding) -> Result<(), AuditError> {
        self.tell(Some(finding)).await
    }

    /// Tells how far it is, again and again, until nobody listens.
    pub async fn keep_telling(&self) -> Result<(), AuditError> {
        let mut tick = interval(TELL_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick() => self.tell(None).await?,
                () = self.sender.closed() => return Err(AuditError::Unheard),
            }
        }
    }

    /// All are compared.
    pub async fn end(&self) {
        self.total.store(self.checked.load(Ordering::Relaxed), Ordering::Relaxed);
        // Nobody to tell that nobody listens.
        self.tell(None).await.ok();
    }

    pub async fn fail(&self, error: AuditError) {
        let _ = timeout(READ_WITHIN, self.sender.send(Err(error))).await;
    }

    async fn tell(&self, finding: Option<Finding>) -> Result<(), AuditError> {
        let (checked, total) = (self.checked.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        match timeout(READ_WITHIN, self.sender.send(Ok(Report { checked, total, finding }))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(AuditError::Unheard),
        }
    }
}
