//! Parked streams: listed in pages, retried one by one.

use std::time::Duration;

use proto::reason::{Error, Reason};
use proto::v1::{
    self, ListParkedStreamsRequest, ListParkedStreamsResponse, RetryParkedStreamRequest, StreamCategory,
};
use tokio::time::sleep;

use crate::Queries;
use crate::grpc::answer;
use crate::grpc::check::Check;
use crate::grpc::request::{MAX_PAGE_SIZE, PAGE_SIZE, after};
use crate::page_token::{Bound, PageTokens};
use crate::parking::{self, Lot, ParkedStream, Retried, RetryError};
use crate::projection::{Customers, Orders, Products, Projection};
use crate::projector::Progress;
use crate::query::{SortValue, Start};
use crate::rebuild::Desk;
use crate::subscription::FeedError;

/// Name of the method whose pages have tokens.
const LIST: &str = "ListParkedStreams";
/// How often is looked whether a switch to another index is over.
const POLL: Duration = Duration::from_millis(100);

/// The parked streams of all projections.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    desks: [Desk; 3],
    progress: [Progress; 3],
    tokens: PageTokens,
}

impl Parked {
    pub fn new(queries: &Queries) -> Self {
        Self {
            desks: queries.desks.clone(),
            progress: [queries.orders.clone(), queries.customers.clone(), queries.products.clone()],
            tokens: PageTokens::new(&queries.page_token_key, queries.clock.clone()),
        }
    }

    /// Those of the live indices, by projection and key.
    pub async fn list(&self, request: ListParkedStreamsRequest) -> Result<ListParkedStreamsResponse, Error> {
        let ListParkedStreamsRequest { projection, page_size, page_token } = request;
        let mut check = Check::default();
        let size = check.rows("page_size", page_size, PAGE_SIZE, MAX_PAGE_SIZE);
        check.finish()?;
        let desks =
            if projection.is_empty() { self.desks.iter().collect() } else { vec![self.desk(&projection)?] };
        let bound = Bound { method: LIST, fields: projection.as_bytes() };
        let start = after(&self.tokens, bound, &page_token)?;
        let start = match &start {
            Some(Start::After(values)) => match &values[..] {
                [SortValue::Text(projection), SortValue::Text(key)] => {
                    Some((projection.as_str(), key.as_str()))
                }
                _ => return Err(Error::bug()),
            },
            Some(Start::Offset(_)) | None => None,
        };
        let mut live = Vec::new();
        for desk in &desks {
            let indices = desk.subject().feeds.look().await;
            live.push(indices.map_err(|error| answer::index_error(&error))?.live);
        }
        let live: Vec<_> = live.iter().map(String::as_str).collect();
        let subject = desks[0].subject();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        // One more tells whether another page follows.
        let page = parking::page(&subject.index, subject.feeds.control(), &live, start, size + 1).await;
        let mut page = page.map_err(|error| answer::index_error(&error))?;
        let more = page.len() > size;
        page.truncate(size);
        let mut next_page_token = String::new();
        if let Some(last) = page.last().filter(|_| more) {
            let values = [&last.projection, &last.stream_key].map(|text| SortValue::Text(text.clone()));
            next_page_token = self.tokens.issue(bound, &values);
        }
        Ok(ListParkedStreamsResponse { streams: page.into_iter().map(message).collect(), next_page_token })
    }

    /// The stream where it is still parked.
    pub async fn retry(&self, request: RetryParkedStreamRequest) -> Result<Option<v1::ParkedStream>, Error> {
        let desk = self.desk(&request.projection)?;
        let mut check = Check::default();
        let category = desk.subject().category;
        if ![StreamCategory::Unspecified, category].contains(&request.category()) {
            check.refuse("category", format!("must be {}, as in the projection", category.as_str_name()));
        }
        if request.stream_key.is_empty() {
            check.refuse("stream_key", "is required");
        }
        let key = check.key("stream_key", request.stream_key);
        check.finish()?;
        let retried = match desk.projection() {
            Orders::NAME => self.apply::<Orders>(desk, &key).await?,
            Customers::NAME => self.apply::<Customers>(desk, &key).await?,
            Products::NAME => self.apply::<Products>(desk, &key).await?,
            _ => return Err(Error::bug()),
        };
        match retried {
            Retried::Applied => Ok(None),
            Retried::Still(parked) => Ok(Some(message(parked))),
            Retried::NotParked => {
                let text = format!("stream {key} of {} is not parked", request.projection);
                let error = Error::new(Reason::StreamNotParked, text);
                Err(error.with("projection", request.projection).with("stream_key", key))
            }
        }
    }

    /// Retries the stream in every index that is fed, in the live one last: a switch to one of the others goes back in no version.
    async fn apply<P: Projection>(&self, desk: &Desk, key: &str) -> Result<Retried, Error> {
        let subject = desk.subject();
        let error = |error| retry_error(key, error);
        let progress = self.progress.iter().find(|progress| progress.snapshot().projection == P::NAME);
        let progress = progress.ok_or_else(Error::bug)?;
        let head = subject.feed.head().await.map_err(|failed| error(failed.into()))?;
        let indexed = progress.snapshot().store_id;
        if !indexed.is_empty() && indexed != head.store_id {
            return Err(error(FeedError::StoreChanged.into()));
        }
        loop {
            let indices = subject.feeds.look().await.map_err(|failed| error(failed.into()))?;
            let others: Vec<_> = indices.fed().filter(|fed| *fed != indices.live).collect();
            let mut retried = Ok(Retried::NotParked);
            for target in others.into_iter().chain([indices.live.as_str()]) {
                let lot = Lot {
                    index: subject.index.clone(),
                    feed: subject.feed.clone(),
                    feeds: subject.feeds.clone(),
                    target: target.to_owned(),
                };
                retried = parking::retry::<P>(&lot, key).await;
                if retried.is_err() {
                    break;
                }
            }
            match retried {
                Err(RetryError::Held) => sleep(POLL).await,
                Err(failed) => return Err(error(failed)),
                Ok(Retried::NotParked) => return Ok(Retried::NotParked),
                Ok(retried) => {
                    // What was applied is to be found, too.
                    progress.request_refresh().await.map_err(|failed| error(failed.into()))?;
                    return Ok(retried);
                }
            }
        }
    }

    fn desk(&self, projection: &str) -> Result<&Desk, Error> {
        super::desk(&self.desks, projection)
    }
}

fn retry_error(key: &str, error: RetryError) -> Error {
    match error {
        RetryError::Index(error) => answer::index_error(&error),
        RetryError::Feed(error) => answer::feed_error(key, &error),
        RetryError::Held => Error::new(Reason::Overloaded, error.to_string()),
    }
}

fn message(parked: ParkedStream) -> v1::ParkedStream {
    let category = StreamCategory::from_str_name(&parked.category).unwrap_or_default();
    v1::ParkedStream {
        projection: parked.projection,
        category: category.into(),
        stream_key: parked.stream_key,
        version: parked.fault.version,
        error: parked.fault.error,
        parked_time: Some(proto::time::from_nanos(parked.parked_at)),
        attempts: i32::try_from(parked.attempts).unwrap_or(i32::MAX),
        position: parked.fault.position,
    }
}
