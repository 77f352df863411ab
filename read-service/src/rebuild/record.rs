//! What is known of a rebuild: one record in the control index.

use serde::{Deserialize, Serialize};

use crate::feeds::{Kept, kept};
use crate::index::{Index, IndexError, Record, Stamp};

/// Most examples of differences that are kept.
pub const EXAMPLES: usize = 20;

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Stage {
    #[default]
    Asked,
    Scanning,
    CatchingUp,
    Verifying,
    Switching,
    Succeeded,
    Failed,
    Cancelled,
    /// Built and verified, not switched, as asked for.
    Verified,
}

impl Stage {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Verified)
    }
}

/// A rebuild. Times are nanoseconds since 1970, 0 where there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the other fields say what the contract's Rebuild says")]
pub struct Rebuild {
    pub rebuild_id: String,
    pub projection: String,
    pub stage: Stage,
    pub dry_run: bool,
    pub max_streams_per_second: i32,
    /// Wishes of callers.
    pub paused: bool,
    pub cancel: bool,
    pub source_index: String,
    pub target_index: String,
    /// The store that is scanned.
    pub store_id: String,
    /// The feed's head before the first scan: what follows completes it.
    pub resume_position: i64,
    /// Every stream up to here is stored in the target.
    pub cursor: String,
    /// So many streams behind the cursor are stored, too.
    pub beyond: i64,
    pub streams_done: i64,
    pub streams_total: i64,
    pub parked_streams: i64,
    pub streams_per_second: f64,
    pub percent: f64,
    pub eta_seconds: f64,
    pub started_at: i64,
    pub ended_at: i64,
    pub verified: Option<Verified>,
    /// Why it failed, or what it waits for.
    pub error: String,
    /// The copy that works on it.
    pub owner: String,
    /// Counts what the owner wrote.
    pub beat: i64,
}

/// What was proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say what the contract's Verification says")]
pub struct Verified {
    pub expected: i64,
    pub found: i64,
    pub compared: i64,
    pub different: i64,
    pub examples: Vec<Difference>,
}

impl Verified {
    /// Notes a difference.
    pub fn differs(&mut self, key: &str, what: impl Into<String>) {
        self.different += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(Difference { key: key.to_owned(), what: what.into() });
        }
    }
}

/// A document that is not the fold of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The stream's key.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

/// The record of a rebuild, where there is one.
pub(super) async fn find(
    index: &Index,
    control: &str,
    id: &str,
) -> Result<Option<Record<Rebuild>>, IndexError> {
    kept(index, control, &record_id(id)).await
}

/// Stores the record; `seen` is the state that it replaces.
pub(super) async fn store(
    index: &Index,
    control: &str,
    seen: Option<Stamp>,
    body: &Rebuild,
) -> Result<Stamp, IndexError> {
    let id = record_id(&body.rebuild_id);
    let kept = Kept { kind: "rebuild".to_owned(), projection: body.projection.clone(), body };
    index.put(control, &id, seen, &kept).await
}

fn record_id(id: &str) -> String {
    format!("rebuild:{id}")
}
