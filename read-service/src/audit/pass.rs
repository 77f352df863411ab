//! How far the slow audit is, and what it found: one record for each projection in the control index.

use serde::{Deserialize, Serialize};

use super::AuditError;
use crate::compare::Kind;
use crate::feeds::{Kept, kept};
use crate::index::{Record, Stamp};
use crate::projection::Projection;
use crate::projector::Tools;

/// Differences by kind, in the order of [`Kind::ALL`].
pub(super) type Counts = [i64; Kind::ALL.len()];

/// A way through all streams, then through all documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Pass {
    /// The index that is gone through: another one is begun with anew.
    pub index_uuid: String,
    /// Streams up to here are compared.
    pub cursor: String,
    pub checked: i64,
    /// All streams, an estimate.
    pub streams: i64,
    /// Documents are looked at up to this sequence number of theirs; `None` while there are streams to compare.
    pub documents_after: Option<i64>,
    /// What is written later belongs to the next pass.
    pub documents_until: i64,
    pub found: Counts,
    /// What the last pass found that came to its end.
    pub last_found: Counts,
    /// When that was, in nanoseconds since 1970; 0 where none has.
    pub last_end: i64,
}

impl Pass {
    /// A new one; what the last found stays known.
    pub fn begun(self, index_uuid: &str) -> Self {
        let Self { last_found, last_end, .. } = self;
        Self { index_uuid: index_uuid.to_owned(), last_found, last_end, ..Self::default() }
    }

    /// This one has come to its end; the next begins.
    pub fn completed(self, now: i64) -> Self {
        let next = Self { last_found: self.found, last_end: now, ..Self::default() };
        next.begun(&self.index_uuid)
    }

    /// Sets the gauges: what the last pass found counts until the next has come to its end, what this one finds at once.
    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges are floats; counts and seconds need no last digit"
    )]
    pub fn show(&self, projection: &'static str) {
        for kind in Kind::ALL {
            let differences = self.found[kind.place()].max(self.last_found[kind.place()]);
            metrics::gauge!("projection_audit_differences", "projection" => projection, "kind" => kind.name())
                .set(differences as f64);
        }
        metrics::gauge!("projection_audit_last_end_timestamp_seconds", "projection" => projection)
            .set(self.last_end as f64 / 1e9);
    }
}

pub(super) async fn find<P: Projection>(tools: &Tools) -> Result<Option<Record<Pass>>, AuditError> {
    Ok(kept(&tools.index, tools.feeds.control(), &id::<P>()).await?)
}

/// Stores the record; `seen` is the state that it replaces.
pub(super) async fn store<P: Projection>(
    tools: &Tools,
    seen: Option<Stamp>,
    body: Pass,
) -> Result<(), AuditError> {
    let kept = Kept { kind: "audit".to_owned(), projection: P::NAME.to_owned(), body };
    Ok(tools.index.put(tools.feeds.control(), &id::<P>(), seen, &kept).await.map(drop)?)
}

/// A caller's audit of all streams and documents has come to its end and left these differences.
pub(super) async fn complete<P: Projection>(
    tools: &Tools,
    index_uuid: &str,
    found: Counts,
) -> Result<(), AuditError> {
    loop {
        let seen = find::<P>(tools).await?;
        let stamp = seen.as_ref().map(|seen| seen.stamp);
        let pass = Pass { index_uuid: index_uuid.to_owned(), found, ..Pass::default() };
        match store::<P>(tools, stamp, pass.completed(tools.clock.now_nanos())).await {
            Err(AuditError::Index(error)) if error.is_conflict() => {}
            stored => return stored,
        }
    }
}

fn id<P: Projection>() -> String {
    format!("audit:{}", P::NAME)
}
