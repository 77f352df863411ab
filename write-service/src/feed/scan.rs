//! Scan: whole streams, one after the other, from one statement; for building a new read model.

use futures_util::{Stream, TryStreamExt as _};
use proto::encoded::Encoded;
use proto::v1::ScanResponse;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::events::Events;
use super::pages::Pages;
use super::{Filter, PAGE, store_down};
use crate::codec::Published;

/// Messages that are read ahead of the one that is being sent.
const AHEAD: usize = 2;

/// The streams that `filter` accepts, after the stream `after`. Counts as running until its end.
pub(super) fn scan(
    pages: Pages,
    filter: Filter,
    after: Option<Uuid>,
    running: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Encoded, Status>> + Send {
    let (sender, messages) = mpsc::channel(AHEAD);
    // Beside the caller, for the reasons of `Pages::read_after`; it ends with the caller, who drops the receiver.
    tokio::spawn(async move {
        let _running = running;
        if let Err(error) = read(&pages, filter, after, &sender).await {
            sender.send(Err(store_down(error))).await.ok();
        }
    });
    ReceiverStream::new(messages)
}

async fn read(
    pages: &Pages,
    filter: Filter,
    after: Option<Uuid>,
    sender: &mpsc::Sender<Result<Encoded, Status>>,
) -> Result<(), sqlx::Error> {
    // Before the statement's snapshot: what commits later lies after this position.
    let resume_position = pages.head().await?.position;
    let estimated_streams = pages.estimated_streams(&filter).await?;
    let first = ScanResponse { estimated_streams, ..ScanResponse::default() };
    if sender.send(Ok(Encoded::of(&first))).await.is_err() {
        return Ok(());
    }
    let mut message = Message::default();
    let mut events = std::pin::pin!(pages.by_stream(filter, after));
    while let Some((stream_id, event)) = events.try_next().await? {
        if let Some(full) = message.push(stream_id, &event)
            && sender.send(Ok(full)).await.is_err()
        {
            return Ok(());
        }
    }
    sender.send(Ok(message.last(resume_position))).await.ok();
    Ok(())
}

/// The message that is being filled.
#[derive(Default)]
struct Message {
    events: Events,
    /// Where the stream under way begins in `events`.
    stream_start: usize,
    stream: Option<Uuid>,
    /// The last stream that is whole in what was sent or is in `events`.
    cursor: Option<Uuid>,
}

impl Message {
    /// Takes an event; returns a message where one is full. A message ends between two streams, unless a single stream
    /// fills it.
    fn push(&mut self, stream_id: Uuid, event: &Published) -> Option<Encoded> {
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
                self.take(Events::default(), !new_stream)
            }
        });
        // A scan reads by stream: positions, slices and categories are left out.
        self.events.push(0, 0, 0, event);
        full
    }

    fn take(&mut self, rest: Events, continued: bool) -> Encoded {
        let events = std::mem::replace(&mut self.events, rest);
        let cursor = cursor(self.cursor);
        events.scan_response(&ScanResponse { continued, cursor, ..ScanResponse::default() })
    }

    /// What is left, whole: no stream follows.
    fn last(self, resume_position: i64) -> Encoded {
        let cursor = cursor(self.stream);
        let resume_position = Some(resume_position);
        self.events.scan_response(&ScanResponse { cursor, resume_position, ..ScanResponse::default() })
    }
}

fn cursor(stream: Option<Uuid>) -> String {
    stream.map(|id| id.to_string()).unwrap_or_default()
}
