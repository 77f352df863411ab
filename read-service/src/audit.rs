//! Compares the documents of the live index with the events while both go on, tells what differs, and puts it right where that is
//! asked.
//!
//! An audit reads: pages of streams one after the other, each with its documents, then the ids of all documents. Nothing waits for
//! it. It stays with the index that is live when it begins, even where queries go over to another meanwhile: that index is still fed
//! for a while. An index that a rebuild fills is proven by the rebuild.
//!
//! - `course`: the way through all streams and documents, or some.
//! - `told`: what a caller hears of it.
//! - `mend`: documents put right.
//! - `background`, `pass`: the slow audit that nobody asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use proto::v1::StreamCategory;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::compare::CompareError;
use crate::index::{EnsureError, IndexError};
use crate::lease::{LeaseError, Place};
use crate::projection::Projection;
use crate::projector::Tools;
use crate::subscription::FeedError;

mod course;
mod told;
mod mend;
mod background;
mod pass;

pub use crate::compare::{Difference, Kind};
pub(crate) use background::run;
pub use told::{Finding, Report};

use told::Teller;

/// Audits of some streams of a projection at a time in one copy of the service; of all streams there is one.
const SOME_AT_ONCE: usize = 4;
/// Reports that wait for a caller to read them; meanwhile the audit waits.
const UNREAD: usize = 16;
/// How long checkpoints may stand still until what they do not include is not waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Put right what differs.
    pub repair: bool,
    /// Only these; all where there are none.
    pub stream_keys: Vec<String>,
}

/// An audit did not come to its end.
#[derive(Debug, Error)]
pub enum AuditError {
    /// Others are under way.
    #[error("an audit of this projection is under way")]
    Running,
    /// Elasticsearch failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The feed failed, or is that of another history than the index has.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The index is not there, or not fed yet.
    #[error("{0}")]
    NotReady(String),
    /// The service stops.
    #[error("the service is stopping")]
    Stopped,
    /// Nobody listens any more.
    #[error("the caller is gone")]
    Unheard,
}

impl From<CompareError> for AuditError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::Index(error) => error.into(),
            CompareError::Feed(error) => error.into(),
            CompareError::Lease(error) => error.into(),
        }
    }
}

impl From<LeaseError> for AuditError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Index(error) => error.into(),
            LeaseError::TakenOver(error) => Self::NotReady(error.to_string()),
        }
    }
}

impl From<EnsureError> for AuditError {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::Index(error) => error.into(),
            error => Self::NotReady(error.to_string()),
        }
    }
}

/// An audit under way.
type Course = BoxFuture<'static, Result<(), AuditError>>;

/// Begins audits of one projection.
#[derive(Clone)]
pub struct Auditor {
    projection: &'static str,
    category: StreamCategory,
    tools: Tools,
    all: Arc<Semaphore>,
    some: Arc<Semaphore>,
    course: fn(Tools, Wish, Arc<Teller>) -> Course,
}

impl Auditor {
    pub(crate) fn of<P: Projection>(tools: &Tools) -> Self {
        Self {
            projection: P::NAME,
            category: P::CATEGORY,
            tools: tools.clone(),
            all: Arc::new(Semaphore::new(1)),
            some: Arc::new(Semaphore::new(SOME_AT_ONCE)),
            course: |tools, wish, teller| course::run::<P>(tools, wish, teller).boxed(),
        }
    }

    /// Name of the projection.
    #[must_use]
    pub fn projection(&self) -> &'static str {
        self.projection
    }

    /// The streams that its documents are folded from.
    #[must_use]
    pub fn category(&self) -> StreamCategory {
        self.category
    }

    /// Begins an audit; it ends when nobody listens any more or `draining` begins. The last report has all streams checked, or there
    /// is an error in its place.
    ///
    /// # Errors
    /// [`AuditError::Running`] where too many are under way.
    pub fn begin(
        &self,
        wish: Wish,
        draining: CancellationToken,
    ) -> Result<mpsc::Receiver<Result<Report, AuditError>>, AuditError> {
        let turns = if wish.stream_keys.is_empty() { &self.all } else { &self.some };
        let turn = Arc::clone(turns).try_acquire_owned().map_err(|_| AuditError::Running)?;
        let (sender, reports) = mpsc::channel(UNREAD);
        let teller = Arc::new(Teller::new(sender));
        let course = (self.course)(self.tools.clone(), wish, Arc::clone(&teller));
        tokio::spawn(follow(course, teller, draining, turn));
        Ok(reports)
    }
}

async fn follow(
    course: Course,
    teller: Arc<Teller>,
    draining: CancellationToken,
    _turn: OwnedSemaphorePermit,
) {
    let ended = tokio::select! {
        ended = course => ended,
        ended = teller.keep_telling() => ended,
        () = draining.cancelled() => Err(AuditError::Stopped),
    };
    match ended {
        Ok(()) => teller.end().await,
        Err(error) => teller.fail(error).await,
    }
}

impl fmt::Debug for Auditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auditor").field("projection", &self.projection).finish_non_exhaustive()
    }
}

/// The live index.
async fn live<P: Projection>(tools: &Tools) -> Result<Place, AuditError> {
    let name = tools.feeds.look().await?.live;
    let gone = || AuditError::NotReady(format!("index {name} is gone"));
    let live = tools.index.live(&name).await?.ok_or_else(gone)?;
    let control = tools.feeds.control().to_owned();
    Ok(Place { index: tools.index.clone(), control, live, projection: P::NAME })
}

/// Makes sure that the events are those of the index: those of another store, or of one that was restored to an earlier point, would
/// make every document seem wrong.
async fn same_history<P: Projection>(tools: &Tools, place: &Place) -> Result<(), AuditError> {
    let recorded = place.recorded().await?;
    let (store_id, standings) =
        recorded.ok_or_else(|| AuditError::NotReady(format!("index {} is not fed yet", place.live.name)))?;
    let head = tools.feed.head().await?;
    if head.store_id != store_id {
        return Err(FeedError::StoreChanged.into());
    }
    if standings.iter().any(|standing| standing.applied > head.head_position) {
        return Err(FeedError::PositionAhead.into());
    }
    if let Some(last) = standings.iter().filter_map(|standing| standing.last).max() {
        let proof = tools.feed.still_has(last, &store_id, vec![P::CATEGORY]);
        let proof = timeout(PATIENCE, proof).await;
        proof.unwrap_or_else(|_| Err(FeedError::Unavailable("timed out".to_owned())))?;
    }
    Ok(())
}
