//! Documents put right, while projectors go on.
//!
//! What is right is folded afresh from the stream: with the events that are applied, and no less than what is stored. It is written
//! unless something newer is there, so a document never falls behind what a projector wrote. One that is ahead, or nobody's,
//! is deleted first, in the very state in which it was seen; for a moment it is absent.
//!
//! Two things could undo that. A deleted document leaves a tombstone that refuses lower versions for a minute: Elasticsearch is told to
//! forget tombstones at once meanwhile. And a projector may hold in memory what it read before, and fold the next event onto it:
//! all are told to forget, and once they say that they have, everything is looked at again.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::{AuditError, PATIENCE, same_history};
use crate::compare::{Comparison, Kind, Outcome};
use crate::feeds::Indices;
use crate::index::{Bulk, IndexError, ItemOutcome};
use crate::lease::Place;
use crate::projection::Projection;
use crate::projector::Tools;

/// Documents put right at a time.
const AT_ONCE: usize = 4;
/// How long one document is tried.
const TRY_FOR: Duration = Duration::from_secs(15);
/// Pause before a write is tried again that a tombstone refused.
const AGAIN: Duration = Duration::from_millis(50);
/// How often everything is looked at again: each time only what was folded onto something wrong in between is wrong again.
const ROUNDS: usize = 5;
/// How long projectors may take to say that they have forgotten what they read.
const FORGET_WITHIN: Duration = Duration::from_secs(30);
/// Elasticsearch measures the age of tombstones with a clock that moves every 200 ms.
const TOMBSTONES_AGE: Duration = Duration::from_millis(500);

/// Puts the documents of these streams right: for each nothing where it is right then, else why it is not. To be run to its end.
pub(super) async fn mend<P: Projection>(
    tools: Tools,
    place: Place,
    keys: Vec<String>,
) -> Result<Vec<Option<String>>, AuditError> {
    let repair = Repair { tools, place, lifted: Mutex::new(false) };
    let mended = repair.rounds::<P>(&keys).await;
    let closed = repair.keep_tombstones_again().await;
    let refreshed = repair.tools.progress.request_refresh().await;
    let mended = mended?;
    closed?;
    refreshed?;
    Ok(mended)
}

/// What became of an attempt.
enum Mended {
    /// It was right already.
    WasRight,
    Written,
    /// It cannot be put right.
    Refused(String),
}

struct Repair {
    tools: Tools,
    place: Place,
    /// Whether tombstones are forgotten at once.
    lifted: Mutex<bool>,
}

impl Repair {
    async fn rounds<P: Projection>(&self, keys: &[String]) -> Result<Vec<Option<String>>, AuditError> {
        let mut refused = vec![None; keys.len()];
        for _ in 0..ROUNDS {
            same_history::<P>(&self.tools, &self.place).await?;
            // A new one: what is in the index now is to be waited for.
            let comparison =
                Comparison::<P>::new(self.tools.feed.clone(), self.place.clone(), Some(PATIENCE));
            let open = (0..keys.len()).filter(|at| refused[*at].is_none());
            let attempts = stream::iter(open.collect::<Vec<_>>()).map(|at| {
                let comparison = &comparison;
                async move { Ok::<_, AuditError>((at, self.put_right(comparison, &keys[at]).await?)) }
            });
            let tried: Vec<_> = attempts.buffered(AT_ONCE).boxed().try_collect().await?;
            let mut written = 0;
            for (at, mended) in tried {
                match mended {
                    Mended::WasRight => {}
                    Mended::Written => written += 1,
                    Mended::Refused(why) => refused[at] = Some(why),
                }
            }
            if written == 0 {
                break;
            }
            tracing::info!(
                projection = P::NAME,
                index = self.place.live.name,
                documents = written,
                "put right"
            );
            self.let_projectors_forget().await?;
        }
        Ok(refused)
    }

    async fn put_right<P: Projection>(
        &self,
        comparison: &Comparison<P>,
        key: &str,
    ) -> Result<Mended, AuditError> {
        let Place { index, live, .. } = &self.place;
        let until = Instant::now() + TRY_FOR;
        let mut written = None;
        loop {
            let look = comparison.alone(key).await?;
            let Outcome::Wrong(difference) = look.outcome else {
                return Ok(if written.is_some() { Mended::Written } else { Mended::WasRight });
            };
            let version = look.right.as_ref().map_or(0, P::version);
            // What can be written does not help, or is not taken.
            if written == Some(version) && look.found.is_none_or(|(found, _)| found == version)
                || Instant::now() > until
            {
                return Ok(Mended::Refused(difference.detail));
            }
            if let Some((found, stamp)) = look.found
                && found > version
            {
                // What this release cannot fold or read may be right all the same.
                if !matches!(difference.kind, Kind::Ahead | Kind::Orphan) {
                    return Ok(Mended::Refused(difference.detail));
                }
                self.forget_tombstones().await?;
                if !index.erase(&live.name, key, stamp).await? {
                    continue;
                }
                written = Some(0);
            }
            let Some(right) = &look.right else {
                written = Some(0);
                continue;
            };
            let mut bulk = Bulk::default();
            bulk.rewrite(key, version, right, &P::search(right));
            match index.bulk(&live.name, &bulk.seal()).await?.pop() {
                Some(ItemOutcome::Applied) => written = Some(version),
                // A tombstone, or something newer.
                Some(ItemOutcome::AlreadyApplied) | None => {
                    self.forget_tombstones().await?;
                    index.refresh(&live.name).await?;
                    sleep(AGAIN).await;
                }
                Some(ItemOutcome::Unfit(error)) => {
                    return Ok(Mended::Refused(format!("{}; {error}", difference.detail)));
                }
                Some(ItemOutcome::Later(error) | ItemOutcome::Closed(error)) => return Err(error.into()),
            }
        }
    }

    /// From now on tombstones go with the next refresh. No document is deleted in normal work, so nobody else needs them.
    async fn forget_tombstones(&self) -> Result<(), IndexError> {
        let mut lifted = self.lifted.lock().await;
        // Another audit may have ended meanwhile.
        self.place.index.keep_tombstones(&self.place.live.name, Some(Duration::ZERO)).await?;
        *lifted = true;
        Ok(())
    }

    /// Lets the tombstones go that are there, then lets Elasticsearch keep them again.
    async fn keep_tombstones_again(&self) -> Result<(), IndexError> {
        if !*self.lifted.lock().await {
            return Ok(());
        }
        let Place { index, live, .. } = &self.place;
        // No answer tells that they are gone. A stream that begins in this minute would be refused by one.
        sleep(TOMBSTONES_AGE).await;
        let gone = index.refresh(&live.name).await;
        index.keep_tombstones(&live.name, None).await?;
        gone
    }

    /// Waits until no projector of any copy has a document in memory that it read before now.
    async fn let_projectors_forget(&self) -> Result<(), AuditError> {
        let next = |indices: &Indices| Some(Indices { mends: indices.mends + 1, ..indices.clone() });
        let mends = self.tools.feeds.change(next).await?.mends;
        let expire = self.tools.limits.leases.expire;
        let forgotten = self.place.all_say(|sign| sign.forgot >= mends, expire);
        match timeout(FORGET_WITHIN, forgotten).await {
            Ok(said) => Ok(said?),
            Err(_) => Err(AuditError::NotReady("projectors do not answer".to_owned())),
        }
    }
}
