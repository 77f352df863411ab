//! Audits: a request to the auditor of its projection, its reports to messages.

use std::collections::HashSet;

use futures_util::{Stream, StreamExt as _};
use proto::reason::{Error, Reason};
use proto::v1::finding::Kind as Told;
use proto::v1::{self, AuditProjectionRequest, AuditProjectionResponse, StreamCategory};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::audit::{AuditError, Auditor, Kind, Report, Wish};
use crate::grpc::answer;
use crate::grpc::check::Check;

/// Most streams that a request names: for more, all are looked at.
const MAX_STREAM_KEYS: usize = 1_000;

/// The auditors of all projections.
#[derive(Clone, Debug)]
pub(super) struct Audits {
    auditors: [Auditor; 3],
    draining: CancellationToken,
}

impl Audits {
    pub fn new(auditors: [Auditor; 3], draining: CancellationToken) -> Self {
        Self { auditors, draining }
    }

    /// Begins an audit; it ends with its caller.
    pub fn begin(
        &self,
        request: AuditProjectionRequest,
    ) -> Result<impl Stream<Item = Result<AuditProjectionResponse, Status>> + Send + 'static, Error> {
        let auditor = self.auditors.iter().find(|auditor| auditor.projection() == request.projection);
        let auditor = auditor.ok_or_else(super::unknown_projection)?;
        let stream_keys = stream_keys(auditor.category(), request.stream_keys)?;
        let wish = Wish { repair: request.repair, stream_keys };
        let reports = auditor.begin(wish, self.draining.clone()).map_err(|error| audit_error(&error))?;
        Ok(ReceiverStream::new(reports)
            .map(|report| report.map(message).map_err(|error| audit_error(&error).into())))
    }
}

/// The keys, each once.
fn stream_keys(category: StreamCategory, given: Vec<String>) -> Result<Vec<String>, Error> {
    if given.len() > MAX_STREAM_KEYS {
        return Err(Error::invalid("stream_keys", format!("must be at most {MAX_STREAM_KEYS}")));
    }
    let mut check = Check::default();
    let mut keys = Vec::new();
    let mut known = HashSet::new();
    for (i, key) in given.into_iter().enumerate() {
        let path = format!("stream_keys[{i}]");
        let key = match category {
            StreamCategory::Order => check.order_id(&path, &key),
            _ if key.is_empty() => {
                check.refuse(path, "is required");
                continue;
            }
            _ => check.key(&path, key),
        };
        if known.insert(key.clone()) {
            keys.push(key);
        }
    }
    check.finish().map(|()| keys)
}

fn message(report: Report) -> AuditProjectionResponse {
    let finding = report.finding.map(|finding| v1::Finding {
        stream_key: finding.stream_key,
        kind: match finding.difference.kind {
            Kind::Missing => Told::Missing,
            Kind::Behind => Told::Behind,
            Kind::Ahead => Told::Ahead,
            Kind::Different => Told::Different,
            Kind::Orphan => Told::Orphan,
        }
        .into(),
        repaired: finding.repaired,
        detail: finding.difference.detail,
    });
    AuditProjectionResponse { streams_checked: report.checked, streams_total: report.total, finding }
}

fn audit_error(error: &AuditError) -> Error {
    match error {
        AuditError::Running => {
            Error::new(Reason::AuditRunning, "an audit of this projection is under way at this copy")
        }
        AuditError::Index(error) => answer::index_error(error),
        AuditError::Feed(error) => answer::store_error(error),
        AuditError::NotReady(why) => {
            tracing::warn!(why, "no audit");
            Error::new(Reason::SearchDown, "the projection has no index that could be compared now")
        }
        AuditError::Stopped => Error::new(Reason::ShuttingDown, "the service is stopping; audit again"),
        AuditError::Unheard => Error::bug(),
    }
}
