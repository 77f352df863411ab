//! What can go wrong with a request to Elasticsearch, and which of it passes by itself.

use elasticsearch::http::StatusCode;
use serde::Deserialize;
use thiserror::Error;

/// A request to Elasticsearch that did not do its work. Holds no part of a request or an answer but the name of the
/// error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// No answer, or one that says nobody is there (502 to 504): the outcome is unknown.
    #[error("elasticsearch does not answer: {0}")]
    Unavailable(String),
    /// Refused for now: too much work, or a full disk (429).
    #[error("elasticsearch is overloaded: {0}")]
    Overloaded(String),
    /// Refused.
    #[error("elasticsearch refused with {status} {kind}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `error.type`, or empty where the answer has none.
        kind: String,
    },
    /// An answer of another form than asked for.
    #[error("elasticsearch answered in an unknown form: {0}")]
    Malformed(String),
}

impl IndexError {
    /// True where waiting may help: nothing about the request itself is wrong.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Overloaded(_) | Self::Malformed(_) => true,
            Self::Refused { status, .. } => *status >= 500,
        }
    }

    /// True where the record or index was changed or made by someone else in between (409, or made already).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. }) || self.is_kind("resource_already_exists_exception")
    }

    /// True where the index, alias or record is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// True where the answer's `error.type` is this.
    #[must_use]
    pub fn is_kind(&self, name: &str) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == name)
    }

    /// The error of a request that got no answer. The cause is in the source chain only.
    pub(super) fn unanswered(error: &elasticsearch::Error) -> Self {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::Unavailable(if error.is_timeout() { "timed out".to_owned() } else { cause.to_string() })
    }

    /// The error of an answer with a status of 400 and above. Decided by status and `error.type`, never by status
    /// alone.
    pub(super) fn answered(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Answer {
            error: Detail,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Detail {
            Typed {
                #[serde(rename = "type")]
                kind: String,
            },
            Text(serde::de::IgnoredAny),
        }
        let kind = match serde_json::from_slice(body) {
            Ok(Answer { error: Detail::Typed { kind } }) => kind,
            Ok(Answer { error: Detail::Text(_) }) | Err(_) => String::new(),
        };
        match status.as_u16() {
            429 => Self::Overloaded(kind),
            502..=504 => Self::Unavailable(format!("{} {kind}", status.as_u16()).trim_end().to_owned()),
            status => Self::Refused { status, kind },
        }
    }
}

impl From<serde_json::Error> for IndexError {
    fn from(error: serde_json::Error) -> Self {
        // The text of serde_json may quote the answer; its place says enough.
        Self::Malformed(format!("{:?} at line {} column {}", error.classify(), error.line(), error.column()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> IndexError {
        IndexError::answered(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn status_and_type_decide() {
        let body = r#"{"error":{"type":"cluster_block_exception","reason":"secret"},"status":429}"#;
        assert_eq!(answered(429, body), IndexError::Overloaded("cluster_block_exception".into()));
        let body = r#"{"error":{"type":"index_not_found_exception","reason":"secret"},"status":404}"#;
        assert!(answered(404, body).is_absent());
        assert!(answered(404, r#"{"error":"alias [nope] missing","status":404}"#).is_absent());
        assert!(answered(503, "").is_transient());
        assert!(!answered(400, body).is_transient());
        let body = r#"{"error":{"type":"resource_already_exists_exception"},"status":400}"#;
        assert!(answered(400, body).is_conflict());
    }
}
