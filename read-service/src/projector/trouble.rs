//! What a failure means to a projection: wait and try again, or stop until a person has looked.

use thiserror::Error;

use crate::index::{EnsureError, IndexError};
use crate::lease::LeaseError;
use crate::subscription::FeedError;

/// Why a projection does not go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Trouble {
    /// A dependency does not answer; the next attempt may succeed.
    #[error("{0}")]
    Wait(String),
    /// Going on would be wrong before a person has looked.
    #[error("{0}")]
    Halt(String),
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Self {
        match &error {
            IndexError::Refused { status: 401 | 403 | 404, .. } => Self::Halt(error.to_string()),
            _ if error.is_kind("index_closed_exception") => Self::Halt(error.to_string()),
            _ => Self::Wait(error.to_string()),
        }
    }
}

impl From<FeedError> for Trouble {
    fn from(error: FeedError) -> Self {
        let text = error.to_string();
        if error.is_of_other_history() { Self::Halt(text) } else { Self::Wait(text) }
    }
}

impl From<EnsureError> for Trouble {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::Index(error) => error.into(),
            error => Self::Halt(error.to_string()),
        }
    }
}

impl From<LeaseError> for Trouble {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Index(error) => error.into(),
            LeaseError::TakenOver(error) => Self::Halt(error.to_string()),
        }
    }
}
