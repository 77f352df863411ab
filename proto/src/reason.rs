//! Every error that can reach a caller: its reason, its gRPC code, and what the caller should do.
//!
//! An error enters as an [`Error`] and leaves as a [`tonic::Status`] that carries `google.rpc.ErrorInfo` with the domain
//! [`DOMAIN`], and `BadRequest` or `RetryInfo` where the table says so (AIP-193). Facts that the text names stand in the
//! metadata too. No other place in the pair makes a status.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _, pb};

/// Domain of every `ErrorInfo` of this contract.
pub const DOMAIN: &str = "orders.v1";

macro_rules! reasons {
    ($($(#[doc = $when:literal])+ $variant:ident = $name:literal, $code:ident, $advice:ident;)+) => {
        /// Why a call failed. The doc comment of each says when.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $when])+ $variant,)+ }

        impl Reason {
            /// All reasons, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name that stands in `ErrorInfo.reason`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The gRPC code that always goes with this reason.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)+ }
            }

            /// What the caller should do.
            #[must_use]
            pub const fn advice(self) -> Advice {
                match self { $(Self::$variant => Advice::$advice,)+ }
            }

            /// When it happens, in words.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$variant => concat!($($when),+).trim(),)+ }
            }
        }
    };
}

/// What a caller should do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Correct the request; repeating it as it is cannot succeed.
    Correct,
    /// Read the current state, decide again.
    ReadAgain,
    /// The state forbids it; another command must come first, if any can help.
    ChangeState,
    /// Wait for `RetryInfo`, then repeat with the same `request_id`.
    WaitAndRepeat,
    /// The outcome may be unknown: repeat with the same `request_id`.
    Repeat,
    /// Ask an operator: stored data or the service is at fault.
    AskOperator,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Correct => "correct the request",
            Self::ReadAgain => "read the current state, decide again",
            Self::ChangeState => "do not repeat; the state must change first",
            Self::WaitAndRepeat => "wait as RetryInfo says, repeat with the same request_id",
            Self::Repeat => "repeat with the same request_id",
            Self::AskOperator => "ask an operator",
        })
    }
}

reasons! {
    /// A field is missing, malformed or out of range; `BadRequest` names each path.
    InvalidField = "INVALID_FIELD", InvalidArgument, Correct;
    /// The page token was altered, belongs to other fields or another method, or has expired.
    PageTokenInvalid = "PAGE_TOKEN_INVALID", InvalidArgument, Correct;
    /// offset + `page_size` lies beyond the window of 10,000 rows.
    PageWindowExceeded = "PAGE_WINDOW_EXCEEDED", InvalidArgument, Correct;
    /// There is no such order, or it is another customer's.
    OrderNotFound = "ORDER_NOT_FOUND", NotFound, Correct;
    /// `expected_version` is not the order's version, or a race was lost too often.
    VersionConflict = "VERSION_CONFLICT", Aborted, ReadAgain;
    /// There is no rebuild with this id.
    RebuildNotFound = "REBUILD_NOT_FOUND", NotFound, Correct;
    /// Another rebuild of the projection is under way; its id is `rebuild_id`.
    RebuildRunning = "REBUILD_RUNNING", Aborted, ReadAgain;
    /// The stream is not parked, or no longer.
    StreamNotParked = "STREAM_NOT_PARKED", NotFound, Correct;
    /// An audit of the projection is under way at this copy of the service.
    AuditRunning = "AUDIT_RUNNING", Aborted, ReadAgain;
    /// There is no previous index to go back to: no rebuild has switched within the grace period.
    NoPreviousIndex = "NO_PREVIOUS_INDEX", FailedPrecondition, ChangeState;
    /// A switch to another index could not be done now; nothing has changed.
    SwitchPostponed = "SWITCH_POSTPONED", Unavailable, WaitAndRepeat;
    /// `CreateOrder` met another order's id.
    OrderExists = "ORDER_EXISTS", AlreadyExists, Correct;
    /// The `request_id` was used on this order with other content.
    RequestIdReused = "REQUEST_ID_REUSED", AlreadyExists, Correct;
    /// The order's status does not allow the command.
    IllegalOrderState = "ILLEGAL_ORDER_STATE", FailedPrecondition, ChangeState;
    /// An order without items cannot be submitted.
    OrderEmpty = "ORDER_EMPTY", FailedPrecondition, ChangeState;
    /// The order has no such line.
    LineNotFound = "LINE_NOT_FOUND", FailedPrecondition, ChangeState;
    /// The order would hold more lines than an order may.
    TooManyLines = "TOO_MANY_LINES", FailedPrecondition, ChangeState;
    /// The order's total would pass the largest amount, or a report's sums the largest that are exact.
    TotalOverflow = "TOTAL_OVERFLOW", FailedPrecondition, ChangeState;
    /// The customer is not registered.
    CustomerUnknown = "CUSTOMER_UNKNOWN", FailedPrecondition, ChangeState;
    /// A product is not registered.
    ProductUnknown = "PRODUCT_UNKNOWN", FailedPrecondition, ChangeState;
    /// A price is in another currency than the order.
    CurrencyMismatch = "CURRENCY_MISMATCH", FailedPrecondition, ChangeState;
    /// The `store_id` given is not this store's: it was created anew.
    StoreChanged = "STORE_CHANGED", FailedPrecondition, AskOperator;
    /// The position given lies beyond the head: the store was restored to an earlier point.
    PositionAhead = "POSITION_AHEAD", OutOfRange, AskOperator;
    /// A queue is full.
    Overloaded = "OVERLOADED", ResourceExhausted, WaitAndRepeat;
    /// The event store has no room left; nothing was stored.
    StorageFull = "STORAGE_FULL", ResourceExhausted, WaitAndRepeat;
    /// The message is larger than the service takes.
    MessageTooLarge = "MESSAGE_TOO_LARGE", ResourceExhausted, Correct;
    /// The event store does not answer.
    EventStoreDown = "EVENT_STORE_DOWN", Unavailable, WaitAndRepeat;
    /// Elasticsearch does not answer.
    SearchDown = "SEARCH_DOWN", Unavailable, WaitAndRepeat;
    /// The service is stopping.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, WaitAndRepeat;
    /// A consistency token was not reached in time.
    Stale = "STALE", Unavailable, WaitAndRepeat;
    /// The deadline passed before the answer was known.
    DeadlinePassed = "DEADLINE_PASSED", DeadlineExceeded, Repeat;
    /// A stored event cannot be read by this release.
    EventUnreadable = "EVENT_UNREADABLE", DataLoss, AskOperator;
    /// A bug of the service.
    InternalError = "INTERNAL_ERROR", Internal, AskOperator;
}

impl Reason {
    /// The reason with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// The reason that a status carries, if it is one of this contract's.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        (info.domain == DOMAIN).then(|| Self::from_name(&info.reason)).flatten()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error on its way to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    reason: Reason,
    message: String,
    metadata: Vec<(&'static str, String)>,
    violations: Vec<(String, String)>,
    retry_after: Option<Duration>,
}

impl Error {
    /// A bug: nothing that the caller could know or do.
    #[must_use]
    pub fn bug() -> Self {
        Self::new(Reason::InternalError, "internal error")
    }

    /// An error with a text for people: exact, short, without internals.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// One malformed field: `path` as in the request message, such as `items[2].quantity`.
    #[must_use]
    pub fn invalid(path: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid_fields(vec![(path.into(), description.into())])
    }

    /// Several malformed fields as (path, description), at least one.
    #[must_use]
    pub fn invalid_fields(violations: Vec<(String, String)>) -> Self {
        let message = violations
            .iter()
            .map(|(path, description)| format!("{path}: {description}"))
            .collect::<Vec<_>>()
            .join("; ");
        Self { violations, ..Self::new(Reason::InvalidField, message) }
    }

    /// Adds a fact of the text, for programs.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers, ids and texts read alike where they are given"
    )]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Says how long the caller should wait before a repeat.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The text for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Error {}

/// How long a caller waits where the table asks for `RetryInfo` and nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = ErrorDetails::new();
        let metadata: HashMap<String, String> =
            error.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.set_error_info(error.reason.name(), DOMAIN, metadata);
        if !error.violations.is_empty() {
            let violations = error
                .violations
                .into_iter()
                .map(|(path, description)| FieldViolation::new(path, description))
                .collect::<Vec<_>>();
            details.set_bad_request(violations);
        }
        if error.reason.advice() == Advice::WaitAndRepeat {
            details.set_retry_info(Some(error.retry_after.unwrap_or(RETRY_AFTER)));
        }
        Status::with_error_details(error.reason.code(), error.message, details)
    }
}

/// The status as a message, details included, for an answer inside a stream.
#[must_use]
pub fn status_message(status: &Status) -> pb::Status {
    pb::Status::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The way back from [`status_message`].
#[must_use]
pub fn status_from_message(message: &pb::Status) -> Status {
    Status::with_details(Code::from(message.code), message.message.clone(), message.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_a_sentence() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
            assert!(!reason.when().is_empty());
            assert!(Reason::ALL[i + 1..].iter().all(|other| other.name() != reason.name()));
        }
    }

    #[test]
    fn the_readme_lists_every_reason_with_its_code_and_advice() {
        let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
        for reason in Reason::ALL {
            let code = code_name(reason.code());
            let listed = readme.lines().filter(|line| line.starts_with('|') && line.contains(code));
            let listed = listed.filter(|line| line.contains(&reason.advice().to_string()));
            let names = listed.flat_map(|line| line.split(['|', ',', ' ']).map(str::trim));
            assert!(
                names.into_iter().any(|name| name == reason.name()),
                "{code} {reason}: {}",
                reason.advice()
            );
        }
    }

    fn code_name(code: Code) -> &'static str {
        match code {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::NotFound => "NOT_FOUND",
            Code::Aborted => "ABORTED",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::Unavailable => "UNAVAILABLE",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::DataLoss => "DATA_LOSS",
            Code::Internal => "INTERNAL",
            other => unreachable!("no reason has the code {other:?}"),
        }
    }

    #[test]
    fn a_status_carries_reason_facts_and_paths() {
        let status = Status::from(Error::invalid("items[2].quantity", "must be at least 1").with("limit", 1));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(Reason::of(&status), Some(Reason::InvalidField));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "items[2].quantity");
        assert_eq!(details.error_info().unwrap().metadata["limit"], "1");
    }

    #[test]
    fn retry_info_goes_with_the_reasons_that_ask_for_it() {
        for reason in Reason::ALL {
            let status = Status::from(Error::new(*reason, "text"));
            let asked = reason.advice() == Advice::WaitAndRepeat;
            assert_eq!(status.get_details_retry_info().is_some(), asked, "{reason}");
        }
    }

    #[test]
    fn a_status_survives_the_way_through_a_stream() {
        let status = Status::from(Error::new(Reason::OrderEmpty, "order has no items").with("order_id", "x"));
        let back = status_from_message(&status_message(&status));
        assert_eq!(back.code(), status.code());
        assert_eq!(back.message(), status.message());
        assert_eq!(Reason::of(&back), Some(Reason::OrderEmpty));
    }
}
