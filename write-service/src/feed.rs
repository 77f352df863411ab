//! The feed service: what was published, after a position or by stream.
//!
//! - [`pages`]: SQL; events after a position, in order.
//! - [`events`]: published events as wire bytes, and the answers that carry them.
//! - [`tail`]: one reader per copy of the service, shared by all subscribers that have caught up.
//! - [`subscription`]: from a position to the tail, and on with it.
//! - [`scan`]: whole streams, as fast as the store reads.

mod pages;
mod events;
mod scan;
mod subscription;
mod tail;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use proto::encoded::Encoded;
use proto::encoded::order_feed_service_server::{OrderFeedService, OrderFeedServiceServer};
use proto::reason::{Error, Reason};
use proto::v1::{
    GetHeadRequest, GetHeadResponse, ReadStreamRequest, ReadStreamResponse, ScanRequest, SliceRange,
    StreamCategory, SubscribeRequest,
};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub use self::pages::Pages;
pub use self::tail::Tail;
use crate::catalog::{self, Kind};
use crate::event_store::{EventStore, StoreError};

/// Events in a message at most: about 700 kB of the largest ordinary ones, well below the 4 MiB that clients take.
const PAGE: usize = 1_000;

/// How long a caller should wait when too many scans are under way.
const SCAN_ENDS_IN: Duration = Duration::from_secs(5);

/// `orders.v1.OrderFeedService`.
#[derive(Clone)]
pub struct Feed {
    store: EventStore,
    pages: Pages,
    tail: Tail,
    /// Scans that may still begin: each keeps a connection to itself until it ends.
    scans: Arc<Semaphore>,
    draining: CancellationToken,
}

/// What a caller wants of the feed.
#[derive(Clone, Debug)]
struct Filter {
    slices: std::ops::RangeInclusive<i16>,
    /// Numbers of the categories; empty: all.
    categories: Vec<i16>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Feed {
    /// The service, with so many scans at a time; its streams end with `SHUTTING_DOWN` once `draining` begins.
    #[must_use]
    pub fn new(
        store: EventStore,
        pages: Pages,
        tail: Tail,
        scans: usize,
        draining: CancellationToken,
    ) -> OrderFeedServiceServer<Self> {
        let scans = Arc::new(Semaphore::new(scans));
        OrderFeedServiceServer::new(Self { store, pages, tail, scans, draining })
    }

    /// Ends `answers` with `SHUTTING_DOWN` once the service drains.
    fn until_draining<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answers<T> {
        let draining = self.draining.clone();
        Box::pin(async_stream::stream! {
            let mut answers = std::pin::pin!(answers);
            loop {
                tokio::select! {
                    biased;
                    () = draining.cancelled() => {
                        yield Err(Error::new(Reason::ShuttingDown, "the service is stopping").into());
                        break;
                    }
                    answer = tokio_stream::StreamExt::next(&mut answers) => match answer {
                        Some(answer) => yield answer,
                        None => break,
                    },
                }
            }
        })
    }
}

#[tonic::async_trait]
impl OrderFeedService for Feed {
    type SubscribeStream = Answers<Encoded>;
    type ScanStream = Answers<Encoded>;
    type ReadStreamStream = Answers<ReadStreamResponse>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let SubscribeRequest { after_position, slices, categories, store_id } = request.into_inner();
        if after_position < 0 {
            return Err(Error::invalid("after_position", "must not be negative").into());
        }
        let filter = Filter::parse(slices, &categories)?;
        let head = self.pages.head().await.map_err(store_down)?;
        if !store_id.is_empty() && store_id != head.store_id.to_string() {
            let text = "the store was created anew: positions of the other one mean nothing here";
            return Err(Error::new(Reason::StoreChanged, text).with("store_id", head.store_id).into());
        }
        if after_position > head.position {
            return Err(position_ahead(after_position, head.position));
        }
        let answers = subscription::follow(self.pages.clone(), self.tail.clone(), after_position, filter);
        Ok(Response::new(self.until_draining(answers)))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let ScanRequest { slices, categories, cursor } = request.into_inner();
        let filter = Filter::parse(slices, &categories)?;
        let after = match cursor.as_str() {
            "" => None,
            text => Some(
                Uuid::try_parse(text)
                    .map_err(|_| Error::invalid("cursor", "must be a cursor of an earlier ScanResponse"))?,
            ),
        };
        let Ok(running) = Arc::clone(&self.scans).try_acquire_owned() else {
            let error = Error::new(Reason::Overloaded, "too many scans are under way");
            return Err(error.retry_after(SCAN_ENDS_IN).into());
        };
        let answers = scan::scan(self.pages.clone(), filter, after, running);
        Ok(Response::new(self.until_draining(answers)))
    }

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let ReadStreamRequest { category, stream_key, from_version, to_version } = request.into_inner();
        if from_version < 0 {
            return Err(Error::invalid("from_version", "must not be negative").into());
        }
        if to_version < 0 {
            return Err(Error::invalid("to_version", "must not be negative").into());
        }
        let stream_id = stream_id(category, &stream_key)?;
        // An order may hold some thousand events: one query, answered in messages of a page each.
        let events = self.store.read(stream_id, from_version.max(1), to_version).await.map_err(status)?;
        let events =
            events.into_iter().map(|event| event.recorded).filter(move |event| event.category == category);
        let events: Vec<_> = events.collect();
        let pages: Vec<_> =
            events.chunks(PAGE).map(|page| Ok(ReadStreamResponse { events: page.to_vec() })).collect();
        Ok(Response::new(self.until_draining(tokio_stream::iter(pages))))
    }

    async fn get_head(&self, _request: Request<GetHeadRequest>) -> Result<Response<GetHeadResponse>, Status> {
        let (head, backlog) = self.pages.head_and_backlog().await.map_err(store_down)?;
        Ok(Response::new(GetHeadResponse {
            head_position: head.position,
            store_id: head.store_id.to_string(),
            outbox_backlog: backlog.events,
            outbox_oldest_seconds: backlog.oldest_seconds,
        }))
    }
}

impl Filter {
    fn parse(slices: Option<SliceRange>, categories: &[i32]) -> Result<Self, Error> {
        let last = i32::from(proto::slice::COUNT) - 1;
        let SliceRange { first, last } = slices.unwrap_or(SliceRange { first: 0, last });
        if !(0..i32::from(proto::slice::COUNT)).contains(&first) {
            return Err(Error::invalid("slices.first", "must be 0 to 1023"));
        }
        if !(first..i32::from(proto::slice::COUNT)).contains(&last) {
            return Err(Error::invalid("slices.last", "must be slices.first to 1023"));
        }
        let number = |(i, category): (usize, &i32)| match StreamCategory::try_from(*category) {
            Ok(StreamCategory::Unspecified) | Err(_) => {
                Err(Error::invalid(format!("categories[{i}]"), "must be a category"))
            }
            Ok(category) => Ok(i16::try_from(category as i32).unwrap_or(0)),
        };
        let categories = categories.iter().enumerate().map(number).collect::<Result<_, _>>()?;
        let slice = |number: i32| i16::try_from(number).unwrap_or(i16::MAX);
        Ok(Self { slices: slice(first)..=slice(last), categories })
    }

    fn accepts(&self, slice: i16, category: i16) -> bool {
        self.slices.contains(&slice) && (self.categories.is_empty() || self.categories.contains(&category))
    }
}

fn stream_id(category: i32, key: &str) -> Result<Uuid, Error> {
    if key.is_empty() {
        return Err(Error::invalid("stream_key", "is required"));
    }
    match StreamCategory::try_from(category) {
        Ok(StreamCategory::Order) => {
            Uuid::try_parse(key).map_err(|_| Error::invalid("stream_key", "must be a UUID"))
        }
        Ok(StreamCategory::Customer) => Ok(catalog::stream_id(Kind::Customer, key)),
        Ok(StreamCategory::Product) => Ok(catalog::stream_id(Kind::Product, key)),
        Ok(StreamCategory::Unspecified) | Err(_) => Err(Error::invalid("category", "must be a category")),
    }
}

fn position_ahead(position: i64, head: i64) -> Status {
    Error::new(Reason::PositionAhead, format!("position {position} lies beyond the head {head}"))
        .with("after_position", position)
        .with("head_position", head)
        .into()
}

#[expect(clippy::needless_pass_by_value, reason = "goes into map_err")]
fn store_down(cause: sqlx::Error) -> Status {
    tracing::warn!(error = %cause, "event store does not answer");
    Error::new(Reason::EventStoreDown, "the event store does not answer").into()
}

fn status(error: StoreError) -> Status {
    match error {
        StoreError::Down(cause) | StoreError::Full(cause) => store_down(cause),
        StoreError::Unreadable { stream_id, version, source } => {
            tracing::error!(stream.id = %stream_id, stream.version = version, error = %source, "stored event cannot be read");
            source.in_stream(stream_id, version).into()
        }
    }
}
