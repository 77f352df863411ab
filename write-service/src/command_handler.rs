//! Load, decide, append: one command on one order, in one transaction.
//!
//! In: a command with its envelope. Out: a receipt, or why not. Guaranteed: a command's events are stored whole, durably,
//! before the receipt, or not at all; a `request_id` has at most one effect on an order, and its repeat gets the first
//! answer; commands on one order take turns, so they never race each other inside one service.

mod names;
mod put;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use proto::v1::StreamCategory;
use shared::clock::Clock;
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use self::names::Names;
pub use self::put::{Change, Put};
use self::stream::{Stream, StreamError};
use crate::append::{AppendError, Appender};
use crate::codec::{self, Envelope, Event, Unreadable};
use crate::event_store::{Append, EventStore, Fingerprint, Outcome, StoreError};
use crate::order::{self, Command, Rejection};

/// Races lost to another copy of the service before the caller is told.
const ATTEMPTS: usize = 3;
/// Folded orders kept in memory, in bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// An order that nobody has touched for so long is dropped.
const CACHE_IDLE: Duration = Duration::from_mins(10);

/// Who asks what of which order.
#[derive(Clone, Debug)]
pub struct Request {
    /// The order.
    pub order_id: Uuid,
    /// What makes a repeat recognisable.
    pub identity: Option<Identity>,
    /// Version that the order must have.
    pub expected_version: Option<i64>,
    /// The authenticated subject, or "anonymous".
    pub actor: Arc<str>,
    /// W3C trace context, empty where there is none.
    pub traceparent: Arc<str>,
    /// What to do; names are filled in by the handler.
    pub command: Command,
}

/// A request's id and the fingerprint of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The caller's `request_id`.
    pub request_id: Uuid,
    /// Equal exactly where the content is.
    pub fingerprint: Fingerprint,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The order.
    pub order_id: Uuid,
    /// Its version after the command.
    pub version: i64,
    /// Its status after the command.
    pub status: order::Status,
    /// Its total after the command.
    pub total: order::Money,
    /// Lines that the command added, in the order given.
    pub lines: Vec<i32>,
    /// The answer of an earlier, identical request.
    pub replayed: bool,
}

/// Why a command has no receipt.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The domain says no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The `request_id` was used on this order with other content.
    #[error("request_id was used with other content")]
    RequestIdReused,
    /// The order has another version than the caller expects, or the race was lost to other copies too often.
    #[error("the order has version {current}")]
    VersionConflict {
        /// What the caller expected, if it said so.
        expected: Option<i64>,
        /// What the order has.
        current: i64,
    },
    /// The service stops: nothing was stored.
    #[error("the service is stopping")]
    ShuttingDown,
    /// The event store does not answer: whether the command took effect may be unknown.
    #[error("the event store does not answer")]
    StoreDown,
    /// The event store has no room: the command took no effect.
    #[error("the event store is full")]
    StoreFull,
    /// A stored event cannot be read.
    #[error("stream {stream_id} cannot be read at version {version}")]
    Unreadable {
        /// The stream.
        stream_id: Uuid,
        /// The first event that cannot be read.
        version: i64,
        /// Why.
        source: Unreadable,
    },
}

/// A hot order: its folded state, `None` while unknown. The lock is the order's queue.
type Slot = Arc<Mutex<Option<Stream>>>;

/// Handles commands. Cheap to clone.
#[derive(Clone)]
pub struct CommandHandler {
    store: EventStore,
    appender: Appender,
    names: Names,
    hot: Cache<Uuid, Slot>,
    clock: Clock,
}

impl CommandHandler {
    /// A handler that reads from `store` and writes through `appender`.
    #[must_use]
    pub fn new(store: EventStore, appender: Appender, clock: Clock) -> Self {
        let hot = Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(|_, slot: &Slot| {
                slot.try_lock().map_or(stream::BASE_WEIGHT, |stream| stream::weight(stream.as_ref()))
            })
            // Not by frequency, which would turn new orders away while they are at their busiest.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(CACHE_IDLE)
            .build();
        Self { names: Names::new(store.clone()), store, appender, hot, clock }
    }

    /// Handles one command.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn handle(&self, mut request: Request) -> Result<Receipt, CommandError> {
        self.names.fill_in(&mut request.command).await?;
        let slot = self.hot.get_with(request.order_id, Slot::default);
        let mut queue = slot.clone().lock_owned().await;
        // One time for the command: what it decides by and what is recorded with its events. Whole microseconds.
        let now = self.clock.now_nanos() / 1_000 * 1_000;
        if let Command::Create(create) = &mut request.command {
            create.now = now;
        }
        let outcome = self.decide_and_append(&request, now, &mut queue).await;
        let grown = queue.as_mut().is_some_and(Stream::outgrew_its_weight);
        drop(queue);
        if grown {
            // The cache weighs on insertion only.
            self.hot.insert(request.order_id, slot);
        }
        outcome
    }

    async fn decide_and_append(
        &self,
        request: &Request,
        now: i64,
        slot: &mut OwnedMutexGuard<Option<Stream>>,
    ) -> Result<Receipt, CommandError> {
        let is_create = matches!(request.command, Command::Create(_));
        let mut current = 0;
        for attempt in 0..ATTEMPTS {
            // Taken out, so that an error or a caller that leaves in the middle leaves nothing half true behind.
            let (mut stream, mut sure) = match slot.take() {
                Some(stream) => (stream, false),
                // Most likely there is no such order yet: the append will tell.
                None if attempt == 0 && is_create => (Stream::default(), false),
                None => (Box::pin(self.load(request.order_id)).await?, true),
            };
            let decided = loop {
                let decided = decide(&stream, request);
                // What is stored needs no second look: the append compares versions. Anything else may rest on a state that
                // another copy of the service has moved since.
                if sure || matches!(decided, Ok(Decision::Append(_))) {
                    break decided;
                }
                stream = Box::pin(self.bring_up_to_date(request.order_id, stream)).await?;
                sure = true;
            };
            current = stream.version();
            let events = match decided {
                Ok(Decision::Append(events)) => events,
                Ok(Decision::Answer(receipt)) => {
                    **slot = Some(stream);
                    return Ok(receipt);
                }
                Err(error) => {
                    **slot = Some(stream);
                    return Err(error);
                }
            };
            let append = Self::encode(request, now, &stream, &events);
            match self.appender.append(append).await? {
                Outcome::Stored { batch_id } => {
                    let receipt = stream.record(request.order_id, request.identity, &events, batch_id);
                    **slot = Some(stream);
                    return Ok(receipt);
                }
                Outcome::Conflict => {}
            }
        }
        Err(CommandError::VersionConflict { expected: request.expected_version, current })
    }

    async fn load(&self, order_id: Uuid) -> Result<Stream, CommandError> {
        Ok(Stream::fold(order_id, self.store.read(order_id, 1, 0).await?)?)
    }

    /// Folds in what another copy has stored since; from the start where the store went back to an earlier point.
    async fn bring_up_to_date(&self, order_id: Uuid, mut stream: Stream) -> Result<Stream, CommandError> {
        let events = self.store.read(order_id, stream.version().max(1), 0).await?;
        if stream.continue_with(order_id, events)? { Ok(stream) } else { self.load(order_id).await }
    }

    fn encode(request: &Request, recorded_at: i64, stream: &Stream, events: &[order::Event]) -> Append {
        let key = request.order_id.to_string();
        let version = stream.version();
        let encoded = (version + 1..).zip(events).map(|(version, event)| {
            let envelope = Envelope {
                event_id: Uuid::now_v7(),
                category: StreamCategory::Order,
                key: key.clone(),
                version,
                recorded_at,
                actor: request.actor.to_string(),
                request_id: request.identity.map(|identity| identity.request_id),
                traceparent: request.traceparent.to_string(),
            };
            codec::encode(Event::Order(event.clone()), envelope)
        });
        Append {
            stream_id: request.order_id,
            category: StreamCategory::Order,
            slice: proto::slice::of(StreamCategory::Order, &key),
            expected_version: version,
            predecessor: stream.batch_id(),
            fingerprint: request.identity.map(|identity| identity.fingerprint),
            events: encoded.collect(),
        }
    }
}

enum Decision {
    Append(Vec<order::Event>),
    Answer(Receipt),
}

/// A repeat is answered before anything else is looked at; then the version; then the domain decides.
fn decide(stream: &Stream, request: &Request) -> Result<Decision, CommandError> {
    if let Some(identity) = request.identity
        && let Some(handled) = stream.handled(identity.request_id)
    {
        if handled.fingerprint != identity.fingerprint {
            return Err(CommandError::RequestIdReused);
        }
        return Ok(Decision::Answer(handled.receipt(request.order_id)));
    }
    let current = stream.version();
    if stream.is_taken() {
        let rejection = if matches!(request.command, Command::Create(_)) {
            Rejection::Exists
        } else {
            Rejection::NotFound
        };
        return Err(rejection.into());
    }
    match request.expected_version {
        Some(expected) if current > 0 && expected != current => {
            return Err(CommandError::VersionConflict { expected: Some(expected), current });
        }
        _ => {}
    }
    let events = order::decide(stream.order(), request.command.clone())?;
    if events.is_empty() {
        return stream.unchanged(request.order_id).map(Decision::Answer).ok_or(Rejection::NotFound.into());
    }
    Ok(Decision::Append(events))
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Down(cause) => {
                tracing::warn!(error = %cause, "event store does not answer");
                Self::StoreDown
            }
            StoreError::Full(cause) => {
                tracing::error!(error = %cause, "event store is full");
                Self::StoreFull
            }
            StoreError::Unreadable { stream_id, version, source } => {
                tracing::error!(stream.id = %stream_id, stream.version = version, error = %source, "stored event cannot be read");
                Self::Unreadable { stream_id, version, source }
            }
        }
    }
}

impl From<StreamError> for CommandError {
    fn from(error: StreamError) -> Self {
        let StreamError { stream_id, version, source } = error;
        StoreError::Unreadable { stream_id, version, source }.into()
    }
}

impl From<AppendError> for CommandError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Closed => Self::ShuttingDown,
            // The writer has logged the cause, once for the batch.
            AppendError::Store(error) if matches!(*error, StoreError::Full(_)) => Self::StoreFull,
            AppendError::Store(_) => Self::StoreDown,
        }
    }
}
