//! Every stream of a category, whole and one after the other.

use std::time::Duration;

use proto::v1::{RecordedEvent, ScanRequest, ScanResponse, StreamCategory};
use tokio::time::timeout;
use tonic::Streaming;

use super::{CALL_LIMIT, Feed, FeedError, request, within};

/// Longest silence of a scan: the store may have to read much before the first stream.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// One stream with all its events, in version order.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeStream {
    /// The `order_id`, `customer_id` or `product_id`.
    pub key: String,
    /// Its events, at least one.
    pub events: Vec<RecordedEvent>,
}

/// Some streams of a scan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The streams; may be none.
    pub streams: Vec<WholeStream>,
    /// A scan goes on after them from here.
    pub cursor: String,
    /// How many streams there are, an estimate; 0 where this page does not say.
    pub estimated_streams: i64,
}

/// A scan under way.
pub struct Scan {
    messages: Streaming<ScanResponse>,
    /// The stream whose events go on in the next message.
    pending: Option<WholeStream>,
    ended: bool,
}

impl Feed {
    /// Every stream of a category after this cursor; from the beginning where it is empty.
    ///
    /// # Errors
    /// Where the feed does not answer.
    pub async fn scan(&self, category: StreamCategory, cursor: &str) -> Result<Scan, FeedError> {
        let mut client = self.client.clone();
        let question =
            ScanRequest { slices: None, categories: vec![category.into()], cursor: cursor.to_owned() };
        let messages = within(CALL_LIMIT, client.scan(request(question))).await?.into_inner();
        Ok(Scan { messages, pending: None, ended: false })
    }
}

impl Scan {
    /// The next streams; `None` at the end.
    ///
    /// # Errors
    /// Where the feed does not answer any more, or ended in the middle.
    pub async fn next(&mut self) -> Result<Option<Page>, FeedError> {
        if self.ended {
            return Ok(None);
        }
        let message = match timeout(SILENCE_LIMIT, self.messages.message()).await {
            Ok(message) => message?,
            Err(_) => return Err(FeedError::Unavailable("silent".to_owned())),
        };
        let message = message.ok_or_else(|| FeedError::Unavailable("scan ended early".to_owned()))?;
        self.ended = message.resume_position.is_some();
        Ok(Some(self.page(message)))
    }

    fn page(&mut self, message: ScanResponse) -> Page {
        let mut streams: Vec<WholeStream> = self.pending.take().into_iter().collect();
        let same = |one: &RecordedEvent, next: &RecordedEvent| one.stream_key == next.stream_key;
        let lengths: Vec<_> = message.events.chunk_by(same).map(<[_]>::len).collect();
        let mut events = message.events.into_iter();
        for length in lengths {
            // An event is large: each is moved once.
            let events: Vec<_> = events.by_ref().take(length).collect();
            match streams.last_mut() {
                Some(last) if last.key == events[0].stream_key => last.events.extend(events),
                _ => streams.push(WholeStream { key: events[0].stream_key.clone(), events }),
            }
        }
        if message.continued {
            self.pending = streams.pop();
        }
        Page { streams, cursor: message.cursor, estimated_streams: message.estimated_streams }
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("ended", &self.ended).finish_non_exhaustive()
    }
}
