//! Scan: whole streams, one after the other, from one statement; for building a new read model.

use futures_util::{Stream, StreamExt as _};
use proto::v1::{RecordedEvent, ScanResponse};
use tonic::Status;
use uuid::Uuid;

use super::pages::Pages;
use super::{Filter, PAGE, store_down};

/// The streams that `filter` accepts, after the stream `after`.
pub(super) fn scan(
    pages: Pages,
    filter: Filter,
    after: Option<Uuid>,
) -> impl Stream<Item = Result<ScanResponse, Status>> + Send {
    async_stream::try_stream! {
        // Before the statement's snapshot: what commits later lies after this position.
        let resume_position = pages.head().await.map_err(store_down)?.position;
        let estimated_streams =
            pages.estimated_streams(&filter).await.map_err(store_down)?;
        yield ScanResponse { estimated_streams, ..ScanResponse::default() };

        let mut message = Message::default();
        let mut events = std::pin::pin!(pages.by_stream(filter, after));
        while let Some(next) = events.next().await {
            let (stream_id, event) = next.map_err(store_down)?;
            if let Some(full) = message.push(stream_id, event) {
                yield full;
            }
        }
        yield ScanResponse { resume_position: Some(resume_position), ..message.whole() };
    }
}

/// The message that is being filled.
#[derive(Default)]
struct Message {
    events: Vec<RecordedEvent>,
    /// Where the stream under way begins in `events`.
    stream_start: usize,
    stream: Option<Uuid>,
    /// The last stream that is whole in what was sent or is in `events`.
    cursor: Option<Uuid>,
}

impl Message {
    /// Takes an event; returns a message where one is full. A message ends between two streams, unless a single stream
    /// fills it.
    fn push(&mut self, stream_id: Uuid, event: RecordedEvent) -> Option<ScanResponse> {
        let new_stream = self.stream != Some(stream_id);
        if new_stream {
            self.cursor = self.stream;
            self.stream = Some(stream_id);
            self.stream_start = self.events.len();
        }
        let full = (self.events.len() >= PAGE).then(|| {
            if self.stream_start > 0 {
                let rest = self.events.split_off(self.stream_start);
                self.stream_start = 0;
                self.take(rest, false)
            } else {
                // One stream alone: the rest of it follows.
                self.take(Vec::new(), !new_stream)
            }
        });
        self.events.push(event);
        full
    }

    fn take(&mut self, rest: Vec<RecordedEvent>, continued: bool) -> ScanResponse {
        let events = std::mem::replace(&mut self.events, rest);
        ScanResponse { events, continued, cursor: cursor(self.cursor), ..ScanResponse::default() }
    }

    /// What is left, whole: no stream follows.
    fn whole(self) -> ScanResponse {
        ScanResponse { events: self.events, cursor: cursor(self.stream), ..ScanResponse::default() }
    }
}

fn cursor(stream: Option<Uuid>) -> String {
    stream.map(|id| id.to_string()).unwrap_or_default()
}
