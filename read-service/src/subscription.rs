//! The feed's client: published events in, from a checkpoint on, for as long as it is asked.
//!
//! [`Feed`] is a handle on the write service for single questions. A [`Subscription`] gives item after item and
//! reconnects by itself, after where it stands; an interruption is an item too, so that its consumer can say what it
//! waits for. A position that the store has not reached or another store end it: only a person can tell what happened
//! there. So does a store that was restored to an earlier point and has passed this position since: whenever a subscription
//! begins, it has the last event that is known given once more, and that must be the same.

mod scan;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prost_types::Timestamp;
use proto::reason::Reason;
use proto::v1::order_feed_service_client::OrderFeedServiceClient;
use proto::v1::subscribe_response::Message;
use proto::v1::{
    GetHeadRequest, GetHeadResponse, ReadStreamRequest, RecordedEvent, SliceRange, StreamCategory,
    SubscribeRequest, SubscribeResponse,
};
use serde::{Deserialize, Serialize};
use shared::backoff::Backoff;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use uuid::Uuid;

pub use scan::{Page, Scan, WholeStream};

/// Longest time for a question, and for the feed to begin an answer.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// A feed that says nothing for this long is gone: it sends a heartbeat at least every five seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// Waits between attempts to reconnect.
const RETRY_BASE: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(3);
/// Bytes that one subscription may have on the way: a few batches, so that they can be folded together.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Largest message taken: the feed keeps its batches far below.
const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// The feed did not give what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FeedError {
    /// No answer; waiting may help.
    #[error("feed does not answer: {0}")]
    Unavailable(String),
    /// The events belong to another store than the checkpoint.
    #[error(
        "the event store was created anew; its events are not those of the index: rebuild the projections"
    )]
    StoreChanged,
    /// The checkpoint lies beyond the store's end.
    #[error(
        "the checkpoint lies beyond the event store's head: it was restored to an earlier point; rebuild the projections"
    )]
    PositionAhead,
    /// In place of an event that is indexed the store has another.
    #[error(
        "the event store holds another history than was indexed: it was restored to an earlier point and written since; rebuild the projections"
    )]
    Rewritten,
    /// A stored event cannot be read.
    #[error("the feed cannot read a stored event: {error}")]
    Unreadable {
        /// Its version; 0 where the feed does not say.
        version: i64,
        /// Why, in the feed's words.
        error: String,
    },
    /// Refused for another reason, which a new release or a new configuration may remove.
    #[error("feed refused: {0}")]
    Refused(String),
}

impl FeedError {
    /// True where what was read so far does not go on in this store: no waiting helps, only a person can tell what happened.
    #[must_use]
    pub fn is_of_other_history(&self) -> bool {
        matches!(self, Self::StoreChanged | Self::PositionAhead | Self::Rewritten)
    }
}

impl From<Status> for FeedError {
    fn from(status: Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        match (Reason::of(&status), status.code()) {
            (Some(Reason::StoreChanged), _) => Self::StoreChanged,
            (Some(Reason::PositionAhead), _) => Self::PositionAhead,
            (Some(Reason::EventUnreadable), _) => {
                let facts = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
                let version = facts.get("version").and_then(|version| version.parse().ok()).unwrap_or(0);
                Self::Unreadable { version, error: status.message().to_owned() }
            }
            (
                _,
                Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented,
            ) => Self::Refused(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// What tells an event from any other that may come to stand in its place; ordered by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Its position.
    pub position: i64,
    /// Its id, which no other event has.
    pub event_id: Uuid,
}

impl Mark {
    /// That of an event; `None` where its id is none.
    #[must_use]
    pub fn of(event: &RecordedEvent) -> Option<Self> {
        let event_id = Uuid::try_parse(&event.event_id).ok()?;
        Some(Self { position: event.position, event_id })
    }
}

/// A handle on the write service's feed. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Feed {
    client: OrderFeedServiceClient<Channel>,
}

impl Feed {
    /// A handle on the feed at this URL. It connects when it is first asked.
    ///
    /// # Errors
    /// Where the URL is none.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(5))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_lazy();
        Ok(Self { client: OrderFeedServiceClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT) })
    }

    /// Head of the feed and identity of the store.
    ///
    /// # Errors
    /// Where the feed does not answer.
    pub async fn head(&self) -> Result<GetHeadResponse, FeedError> {
        let mut client = self.client.clone();
        let answer = within(CALL_LIMIT, client.get_head(request(GetHeadRequest {}))).await?;
        Ok(answer.into_inner())
    }

    /// Events of one stream from a version to another, or to the end where `to_version` is 0. Empty where there are
    /// none.
    ///
    /// # Errors
    /// Where the feed does not answer, or a stored event cannot be read.
    pub async fn read_stream(
        &self,
        category: StreamCategory,
        stream_key: &str,
        from_version: i64,
        to_version: i64,
    ) -> Result<Vec<RecordedEvent>, FeedError> {
        let mut client = self.client.clone();
        let question = ReadStreamRequest {
            category: category.into(),
            stream_key: stream_key.to_owned(),
            from_version,
            to_version,
        };
        within(CALL_LIMIT, async {
            let mut stream = client.read_stream(request(question)).await?.into_inner();
            let mut events = Vec::new();
            while let Some(part) = stream.message().await? {
                events.extend(part.events);
            }
            Ok(events)
        })
        .await
    }

    /// The same as far as the events can be read.
    ///
    /// # Errors
    /// Where the feed does not answer.
    pub async fn read_as_far(
        &self,
        category: StreamCategory,
        stream_key: &str,
        from_version: i64,
        to_version: i64,
    ) -> Result<Readable, FeedError> {
        let (mut to, mut unreadable) = (to_version, None);
        loop {
            match self.read_stream(category, stream_key, from_version, to).await {
                Ok(events) => return Ok(Readable { events, unreadable }),
                Err(FeedError::Unreadable { version, error }) => {
                    let version = version.max(from_version);
                    unreadable = Some((version, error));
                    if version == from_version {
                        return Ok(Readable { events: Vec::new(), unreadable });
                    }
                    to = version - 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes sure that the store still has this event. One that was restored to an earlier point may have passed its position since.
    ///
    /// # Errors
    /// Where it has another one, or none ([`FeedError::is_of_other_history`]), or does not answer.
    pub async fn still_has(
        &self,
        event: Mark,
        store_id: &str,
        categories: Vec<StreamCategory>,
    ) -> Result<(), FeedError> {
        let proof = self.subscribe(event.position, store_id, categories, None);
        match proof.knowing(Some(event)).next().await? {
            Item::Interrupted(error) => Err(error),
            Item::Events { .. } | Item::Standing { .. } => Ok(()),
        }
    }

    /// A subscription to every event of some categories after a position, in some slices or all.
    #[must_use]
    pub fn subscribe(
        &self,
        after_position: i64,
        store_id: &str,
        categories: Vec<StreamCategory>,
        slices: Option<SliceRange>,
    ) -> Subscription {
        Subscription {
            feed: self.clone(),
            request: SubscribeRequest {
                after_position,
                slices,
                categories: categories.into_iter().map(Into::into).collect(),
                store_id: store_id.to_owned(),
            },
            known: None,
            unproven: None,
            link: Link::Down { until: Instant::now() },
            backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
            store_seen: None,
        }
    }

    /// Subscribes, from before the event that is known where that was given already.
    async fn follow(
        self,
        mut question: SubscribeRequest,
        known: Option<Mark>,
    ) -> Result<Streaming<SubscribeResponse>, FeedError> {
        if let Some(known) = known.filter(|known| known.position <= question.after_position) {
            // The feed compares the position that it is told; the one to be compared is this.
            let head = self.head().await?;
            if !question.store_id.is_empty() && head.store_id != question.store_id {
                return Err(FeedError::StoreChanged);
            }
            if head.head_position < question.after_position {
                return Err(FeedError::PositionAhead);
            }
            question.after_position = known.position - 1;
        }
        let mut client = self.client;
        Ok(within(CALL_LIMIT, client.subscribe(request(question))).await?.into_inner())
    }
}

/// A stream, or a part of it, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readable {
    /// The events before the first that cannot be read.
    pub events: Vec<RecordedEvent>,
    /// Version of that one, and why; `None` where all can be read.
    pub unreadable: Option<(i64, String)>,
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, FeedError> {
    match timeout(limit, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(FeedError::Unavailable("timed out".to_owned())),
    }
}

/// The request, with the trace that it belongs to.
fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Ok(value) =
        shared::telemetry::trace::current_traceparent().parse::<tonic::metadata::AsciiMetadataValue>()
        && !value.is_empty()
    {
        request.metadata_mut().insert("traceparent", value);
    }
    request
}

/// What a subscription says.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Events, in position order.
    Events {
        /// The events; may be none.
        events: Vec<RecordedEvent>,
        /// Every matching event up to here has been given.
        through: i64,
        /// Newest known position.
        head: i64,
    },
    /// Every matching event up to `through` has been given, and the feed ends at `head`.
    Standing {
        /// Every matching event up to here has been given.
        through: i64,
        /// Newest known position.
        head: i64,
        /// The feed has looked at its store since it last said so: nothing was recorded meanwhile.
        looked: bool,
    },
    /// The connection was lost; the next call waits and reconnects.
    Interrupted(FeedError),
}

/// Reads the feed from a position on.
pub struct Subscription {
    feed: Feed,
    /// Its position moves with what was given.
    request: SubscribeRequest,
    /// The last event that is known, and must be the same as long as the history is.
    known: Option<Mark>,
    /// The same until it has been given once more since the subscription began.
    unproven: Option<Mark>,
    link: Link,
    backoff: Backoff,
    /// When the feed last looked at its store, by its own clock.
    store_seen: Option<Timestamp>,
}

enum Link {
    Down { until: Instant },
    Connecting { answer: BoxFuture<'static, Result<Streaming<SubscribeResponse>, FeedError>> },
    Up { stream: Box<Streaming<SubscribeResponse>>, silent_since: Instant },
}

impl Subscription {
    /// The same subscription, which ends where the store no longer has this event, one of those that match.
    #[must_use]
    pub fn knowing(self, known: Option<Mark>) -> Self {
        Self { known, ..self }
    }

    /// Every matching event up to here has been given.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.request.after_position
    }

    /// The next item, when there is one. May be dropped and called again at any time without losing anything.
    ///
    /// # Errors
    /// Where going on would be wrong: [`FeedError::is_of_other_history`].
    pub async fn next(&mut self) -> Result<Item, FeedError> {
        loop {
            match &mut self.link {
                Link::Down { until } => {
                    sleep_until(*until).await;
                    self.unproven = self.known;
                    let answer = self.feed.clone().follow(self.request.clone(), self.known);
                    self.link = Link::Connecting { answer: answer.boxed() };
                }
                Link::Connecting { answer } => match answer.await {
                    Ok(stream) => {
                        self.link = Link::Up { stream: Box::new(stream), silent_since: Instant::now() }
                    }
                    Err(error) => return self.interrupted(error),
                },
                Link::Up { stream, silent_since } => {
                    let message = match timeout_at(*silent_since + SILENCE_LIMIT, stream.message()).await {
                        Ok(Ok(Some(message))) => message,
                        Ok(Ok(None)) => {
                            return self.interrupted(FeedError::Unavailable("stream ended".to_owned()));
                        }
                        Ok(Err(status)) => return self.interrupted(status.into()),
                        Err(_) => return self.interrupted(FeedError::Unavailable("silent".to_owned())),
                    };
                    *silent_since = Instant::now();
                    if let Some(item) = self.given(message) {
                        self.backoff.reset();
                        return self.proven(item);
                    }
                }
            }
        }
    }

    fn given(&mut self, message: SubscribeResponse) -> Option<Item> {
        let item = match message.message? {
            Message::Batch(batch) => Item::Events {
                events: batch.events,
                through: batch.through_position,
                head: batch.head_position.max(batch.through_position),
            },
            Message::CaughtUp(caught_up) => {
                Item::Standing { through: caught_up.position, head: caught_up.position, looked: true }
            }
            Message::Heartbeat(beat) => Item::Standing {
                through: beat.through_position,
                head: beat.head_position.max(beat.through_position),
                looked: self.store_seen.replace(beat.time.unwrap_or_default()) != beat.time,
            },
            // The feed reads from the store again; nothing is lost.
            Message::FellBehind(_) => return None,
        };
        Some(item)
    }

    /// The item without what was given before, once that has shown that the history is the same.
    fn proven(&mut self, mut item: Item) -> Result<Item, FeedError> {
        let after = &mut self.request.after_position;
        if let (Some(mark), Item::Events { events, .. }) = (self.unproven, &mut item)
            && let Some(place) = events.iter().position(|event| event.position >= mark.position)
        {
            if Mark::of(&events[place]) != Some(mark) {
                return Err(FeedError::Rewritten);
            }
            self.unproven = None;
            if mark.position <= *after {
                events.drain(..=place);
            }
        }
        if let Item::Events { through, .. } | Item::Standing { through, .. } = &item {
            if self.unproven.is_some_and(|mark| mark.position <= *through) {
                return Err(FeedError::Rewritten);
            }
            *after = (*after).max(*through);
        }
        if let Item::Events { events, .. } = &item {
            self.known = self.known.max(events.last().and_then(Mark::of));
        }
        Ok(item)
    }

    fn interrupted(&mut self, error: FeedError) -> Result<Item, FeedError> {
        self.link = Link::Down { until: Instant::now() + self.backoff.next() };
        if error.is_of_other_history() { Err(error) } else { Ok(Item::Interrupted(error)) }
    }
}
