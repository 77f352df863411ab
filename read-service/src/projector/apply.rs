//! A batch into the index: fold its events by stream, store the documents, park what cannot go on.
//!
//! Nothing is lost when it is dropped or fails in between: what was done stays done, in the index and in the batch,
//! and the next attempt goes on from there.

use proto::v1::RecordedEvent;

use super::batch::{Batch, Refusal, StreamEvents, fold_onto, gap};
use super::documents::Documents;
use super::progress::IndexProgress;
use super::{Tools, Trouble};
use crate::index::{Bulk, ItemOutcome};
use crate::lanes::Lanes;
use crate::parking::{ParkedStream, Parking};
use crate::projection::Projection;
use crate::subscription::FeedError;

/// The index that is fed, with what is known of it.
pub(super) struct Target<P: Projection> {
    pub(super) tools: Tools,
    pub(super) progress: IndexProgress,
    pub(super) parking: Parking,
    pub(super) documents: Documents<P>,
    pub(super) lanes: Lanes<Sent<P>>,
}

/// A changed document on its way.
pub(super) struct Sent<P: Projection> {
    /// Place of its stream in the batch.
    place: usize,
    /// First version that the stored document lacks.
    first_version: i64,
    document: P::Document,
}

impl<P: Projection> Target<P> {
    /// Slices came that another copy projected: what it parked and wrote is not known here.
    pub(super) async fn renew(&mut self) -> Result<(), Trouble> {
        self.parking.reload().await?;
        self.documents.forget_all();
        Ok(())
    }

    /// Takes the batch as far as it goes.
    pub(super) async fn apply(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        // What an attempt that was dropped sent is sent again, or found to be stored.
        self.lanes.clear();
        batch.keep_undone();
        let folded = self.fold(batch).await;
        let stored = self.drain(batch).await;
        folded.and(stored)?;
        while let Some(Refusal { key, version, error }) = batch.refusals.last() {
            tracing::error!(projection = P::NAME, stream = key, version, error, "stream parked");
            self.parking.park(key, *version, error).await?;
            batch.refusals.pop();
        }
        Ok(())
    }

    /// Folds the events by stream onto the documents that are there, and sends each changed one on its way at once: only some are
    /// in memory at a time.
    async fn fold(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let mut unread = Vec::new();
        for place in 0..batch.streams.len() {
            let StreamEvents { key, events, .. } = &batch.streams[place];
            if self.parking.is_parked(key).await? {
                batch.done(place);
                continue;
            }
            let document = self.documents.cached(key).await;
            // A stream that begins in the batch has no document; if there is one all the same, the index says so when it is
            // written.
            if document.is_none() && events[0].version > 1 {
                unread.push(place);
                if unread.len() >= self.documents.part() {
                    self.read_and_fold(batch, &mut unread).await?;
                }
            } else {
                self.fold_stream(batch, place, document).await?;
            }
        }
        self.read_and_fold(batch, &mut unread).await
    }

    async fn read_and_fold(&mut self, batch: &mut Batch, places: &mut Vec<usize>) -> Result<(), Trouble> {
        if places.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = places.iter().map(|place| batch.streams[*place].key.as_str()).collect();
        let documents = self.documents.read(&keys).await?;
        for (place, document) in places.drain(..).zip(documents) {
            self.fold_stream(batch, place, document).await?;
        }
        Ok(())
    }

    async fn fold_stream(
        &mut self,
        batch: &mut Batch,
        place: usize,
        mut document: Option<P::Document>,
    ) -> Result<(), Trouble> {
        let stream = &batch.streams[place];
        let stored = document.as_ref().map_or(0, P::version);
        let healed = match gap(stored, &stream.events) {
            None => None,
            Some(missing) => match self.heal(stream, stored, missing).await {
                Ok(healed) => healed,
                Err(FeedError::Unreadable(error)) => {
                    batch.refuse(place, missing, error);
                    batch.done(place);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            },
        };
        let (changed, outcome) = fold_onto::<P>(&mut document, healed.as_ref().unwrap_or(&stream.events));
        if let Err((version, error)) = outcome {
            batch.refuse(place, version, error.to_string());
        }
        match document {
            Some(document) if changed => {
                let key = &batch.streams[place].key;
                let sent = Sent { place, first_version: stored + 1, document };
                let write = |sent: &Sent<P>, bulk: &mut Bulk| {
                    let document = &sent.document;
                    bulk.index(key, P::version(document), document, &P::search(document));
                };
                self.lanes.put(sent, write).await;
                let mut outcome = Ok(());
                while let Some((sent, settled)) = self.lanes.settled() {
                    outcome = outcome.and(self.settle(batch, sent, settled).await);
                }
                outcome
            }
            document => {
                if let Some(document) = document {
                    self.documents.keep(&batch.streams[place].key, document).await;
                }
                batch.done(place);
                Ok(())
            }
        }
    }

    /// The events of a stream from the first that is missing to the last of the batch, read afresh; `None` where the
    /// store lacks some too: then the fold meets the gap and refuses.
    async fn heal(
        &mut self,
        stream: &StreamEvents,
        stored: i64,
        missing: i64,
    ) -> Result<Option<Vec<RecordedEvent>>, FeedError> {
        let last = stream.events.iter().map(|event| event.version).max().unwrap_or(missing);
        tracing::info!(
            projection = P::NAME,
            stream = stream.key,
            stored,
            missing,
            last,
            "gap, reading the stream"
        );
        metrics::counter!("projection_gaps_total", "projection" => P::NAME).increment(1);
        let events = self.tools.feed.read_stream(P::CATEGORY, &stream.key, stored + 1, last).await?;
        Ok(events.last().is_some_and(|event| event.version >= last).then_some(events))
    }

    /// Waits until everything sent has its outcome; the first trouble, if any.
    async fn drain(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let mut outcome = Ok(());
        while let Some((sent, settled)) = self.lanes.next().await {
            outcome = outcome.and(self.settle(batch, sent, settled).await);
        }
        outcome
    }

    /// What became of a document. One that does not fit becomes a refusal; one that is not stored stays in the batch.
    async fn settle(
        &mut self,
        batch: &mut Batch,
        sent: Sent<P>,
        outcome: ItemOutcome,
    ) -> Result<(), Trouble> {
        let Sent { place, first_version, document } = sent;
        match outcome {
            ItemOutcome::Applied => self.documents.keep(&batch.streams[place].key, document).await,
            // A later version may be stored: what this copy has folded is not to be folded on.
            ItemOutcome::AlreadyApplied => {}
            ItemOutcome::Unfit(error) => batch.refuse(place, first_version, error.to_string()),
            ItemOutcome::Closed(error) => return Err(Trouble::Halt(error.to_string())),
            ItemOutcome::Later(error) => return Err(Trouble::Wait(error.to_string())),
        }
        batch.done(place);
        Ok(())
    }

    /// Applies a parked stream from its beginning; still parked where that fails again.
    pub(super) async fn retry_parked(&mut self, stream_key: &str) -> Result<Option<ParkedStream>, Trouble> {
        if !self.parking.is_parked(stream_key).await? {
            return Ok(None);
        }
        self.documents.forget(stream_key).await;
        let events = self.tools.feed.read_stream(P::CATEGORY, stream_key, 1, 0).await?;
        let refusal = if events.is_empty() {
            let error = "the stream has no events".to_owned();
            Some(Refusal { key: stream_key.to_owned(), version: 1, error })
        } else {
            let mut batch = Batch::new(events, Vec::new());
            self.lanes.clear();
            self.fold_stream(&mut batch, 0, None).await?;
            self.drain(&mut batch).await?;
            batch.refusals.pop()
        };
        let parked = if let Some(refusal) = refusal {
            Some(self.parking.park(stream_key, refusal.version, &refusal.error).await?)
        } else {
            self.parking.unpark(stream_key).await?;
            None
        };
        self.progress.parked(self.parking.len());
        Ok(parked)
    }
}
