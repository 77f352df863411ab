//! The one copy that works on a rebuild: it holds the record by a beat, and hears the wishes of callers at every write.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, interval, timeout};

use super::record::{self, Rebuild, Stage};
use super::{Stop, Subject};
use crate::index::Record;

/// How long telling others may take when the service drains.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// The record as its owner last wrote it.
pub(super) struct Session {
    pub subject: Subject,
    held: Mutex<Record<Rebuild>>,
}

impl Session {
    /// Makes this copy the owner of a rebuild whose record was seen like this.
    pub async fn take(subject: &Subject, seen: Record<Rebuild>) -> Result<Self, Stop> {
        let session = Self { subject: subject.clone(), held: Mutex::new(seen) };
        let mut held = session.held.lock().await;
        let mut next = held.value.clone();
        next.owner.clone_from(&subject.copy);
        next.beat += 1;
        match record::store(&subject.index, subject.feeds.control(), Some(held.stamp), &next).await {
            Ok(stamp) => *held = Record { stamp, value: next },
            Err(error) if error.is_conflict() => return Err(Stop::Lost),
            Err(error) => return Err(error.into()),
        }
        drop(held);
        Ok(session)
    }

    /// The record as it was last written or seen.
    pub async fn rebuild(&self) -> Rebuild {
        self.held.lock().await.value.clone()
    }

    /// Stores a change, then tells what callers wish.
    pub async fn save(&self, change: impl Fn(&mut Rebuild)) -> Result<Rebuild, Stop> {
        let rebuild = self.put(change).await?;
        if rebuild.cancel && !rebuild.stage.is_ended() {
            Err(Stop::Cancelled)
        } else if rebuild.paused && !rebuild.stage.is_ended() {
            Err(Stop::Paused)
        } else {
            Ok(rebuild)
        }
    }

    /// Stores a change, whatever callers wish.
    pub async fn put(&self, change: impl Fn(&mut Rebuild)) -> Result<Rebuild, Stop> {
        let Subject { index, feeds, copy, .. } = &self.subject;
        let mut held = self.held.lock().await;
        loop {
            let mut next = held.value.clone();
            change(&mut next);
            next.beat += 1;
            match record::store(index, feeds.control(), Some(held.stamp), &next).await {
                Ok(stamp) => {
                    *held = Record { stamp, value: next.clone() };
                    return Ok(next);
                }
                // A caller wishes something, or an earlier write was not heard of, or another copy has taken over.
                Err(error) if error.is_conflict() => {
                    let gone = || Stop::Fail("the record of the rebuild is gone".to_owned());
                    let seen = record::find(index, feeds.control(), &held.value.rebuild_id).await?;
                    let seen = seen.ok_or_else(gone)?;
                    if seen.value.owner != *copy || seen.value.stage.is_ended() {
                        return Err(Stop::Lost);
                    }
                    *held = seen;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Leaves the rebuild to other copies at once, where that can be told them.
    pub async fn release(&self) {
        let left = timeout(RELEASE_LIMIT, self.put(|rebuild| rebuild.owner.clear())).await;
        if !matches!(left, Ok(Ok(_))) {
            tracing::warn!(
                projection = self.subject.projection,
                "rebuild not handed over, its lease ends by itself"
            );
        }
    }

    /// Works; shows at the same time that this copy is alive, and stops where callers wish it.
    pub async fn alive<T>(&self, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        let beats = async {
            let mut tick = interval(self.subject.times.renew);
            loop {
                tick.tick().await;
                // A switch is not broken off: it is short, and either done or not.
                let switching = self.rebuild().await.stage == Stage::Switching;
                let beaten = if switching { self.put(|_| ()).await } else { self.save(|_| ()).await };
                match beaten {
                    // What does not answer now, the work meets too.
                    Ok(_) | Err(Stop::Wait(_)) => {}
                    Err(stop) => return stop,
                }
            }
        };
        tokio::select! {
            done = work => done,
            stop = beats => Err(stop),
        }
    }
}

/// When a copy was last heard of that works on a rebuild.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<(String, String, i64, Instant)>,
}

impl Watch {
    /// Whether this copy may take the rebuild: nobody has it, or its owner has been silent for too long.
    pub fn is_free(&mut self, subject: &Subject, rebuild: &Rebuild) -> bool {
        if rebuild.owner.is_empty() || rebuild.owner == subject.copy {
            return true;
        }
        let Rebuild { rebuild_id, owner, beat, .. } = rebuild;
        match &self.seen {
            Some((id, of, at, since)) if (id, of, at) == (rebuild_id, owner, beat) => {
                since.elapsed() >= subject.times.expire
            }
            _ => {
                self.seen = Some((rebuild_id.clone(), owner.clone(), *beat, Instant::now()));
                false
            }
        }
    }
}
