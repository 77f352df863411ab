//! A batch into the index: fold its events by stream, store the documents, park what cannot go on.
//!
//! Nothing is lost when it is dropped or fails in between: what was done stays done, in the index and in the batch,
//! and the next attempt goes on from there.

use std::collections::HashMap;

use proto::v1::RecordedEvent;

use super::batch::{Batch, Folded, Refusal, Stage, StreamEvents, Write, by_stream, fold_onto, gap};
use super::documents::Documents;
use super::{Tools, Trouble, write};
use crate::index::{ItemOutcome, LiveIndex};
use crate::parking::{ParkedStream, Parking};
use crate::projection::Projection;
use crate::subscription::FeedError;

/// The index that is fed, with what is known of it.
pub(super) struct Target<P: Projection> {
    pub(super) tools: Tools,
    pub(super) live: LiveIndex,
    pub(super) parking: Parking,
    pub(super) documents: Documents<P>,
}

impl<P: Projection> Target<P> {
    /// Slices came that another copy projected: what it parked and wrote is not known here.
    pub(super) async fn renew(&mut self) -> Result<(), Trouble> {
        self.parking.reload().await?;
        self.documents.forget_all();
        Ok(())
    }

    /// Takes the batch as far as it goes.
    pub(super) async fn apply(&mut self, batch: &mut Batch<P>) -> Result<(), Trouble> {
        if let Stage::Received(events) = &batch.stage {
            batch.stage = Stage::Folded(self.fold(events).await?);
        }
        let Stage::Folded(folded) = &mut batch.stage else { return Ok(()) };
        self.store(folded).await?;
        while let Some(Refusal { key, version, error }) = folded.refusals.last() {
            tracing::error!(projection = P::NAME, stream = key, version, error, "stream parked");
            self.parking.park(key, *version, error).await?;
            folded.refusals.pop();
        }
        Ok(())
    }

    /// Folds the events by stream onto the documents that are there.
    async fn fold(&mut self, events: &[RecordedEvent]) -> Result<Folded<P>, Trouble> {
        let mut streams = by_stream(events);
        if !self.parking.is_empty() {
            let mut parked = HashMap::new();
            for stream in &streams {
                parked.insert(stream.key, self.parking.is_parked(stream.key).await?);
            }
            streams.retain(|stream| !parked[stream.key]);
        }
        let mut documents = self.documents.take(&streams).await?;
        let mut folded = Folded::default();
        for stream in streams {
            let document = documents.remove(stream.key);
            self.fold_stream(&stream, document, &mut folded).await?;
        }
        Ok(folded)
    }

    async fn fold_stream(
        &mut self,
        stream: &StreamEvents<'_>,
        mut document: Option<P::Document>,
        folded: &mut Folded<P>,
    ) -> Result<(), Trouble> {
        let stored = document.as_ref().map_or(0, P::version);
        let healed = match gap(stored, stream.events.iter().copied()) {
            None => None,
            Some(missing) => match self.heal(stream, stored, missing).await {
                Ok(healed) => healed,
                Err(FeedError::Unreadable(error)) => {
                    folded.refuse(stream.key, missing, error);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            },
        };
        let (changed, outcome) = match &healed {
            Some(events) => fold_onto::<P>(&mut document, events),
            None => fold_onto::<P>(&mut document, stream.events.iter().copied()),
        };
        if let Err((version, error)) = outcome {
            folded.refuse(stream.key, version, error.to_string());
        }
        match document {
            Some(document) if changed => {
                let key = stream.key.to_owned();
                folded.writes.push(Write { key, first_version: stored + 1, document });
            }
            Some(document) => self.documents.keep(stream.key, document).await,
            None => {}
        }
        Ok(())
    }

    /// The events of a stream from the first that is missing to the last of the batch, read afresh; `None` where the
    /// store lacks some too: then the fold meets the gap and refuses.
    async fn heal(
        &mut self,
        stream: &StreamEvents<'_>,
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
        let events = self.tools.feed.read_stream(P::CATEGORY, stream.key, stored + 1, last).await?;
        Ok(events.last().is_some_and(|event| event.version >= last).then_some(events))
    }

    /// Stores the documents; those that do not fit become refusals. What is stored is taken out.
    async fn store(&mut self, folded: &mut Folded<P>) -> Result<(), Trouble> {
        let outcomes =
            write::store(&self.tools.index, &self.live.name, &folded.writes, &self.tools.limits).await;
        let mut trouble = None;
        let mut left = Vec::new();
        for (write, outcome) in std::mem::take(&mut folded.writes).into_iter().zip(outcomes) {
            match outcome {
                ItemOutcome::Applied => self.documents.keep(&write.key, write.document).await,
                // A later version may be stored: what this copy has folded is not to be folded on.
                ItemOutcome::AlreadyApplied => {}
                ItemOutcome::Unfit(error) => {
                    folded.refuse(&write.key, write.first_version, error.to_string());
                }
                ItemOutcome::Closed(error) => {
                    trouble = Some(Trouble::Halt(error.to_string()));
                    left.push(write);
                }
                ItemOutcome::Later(error) => {
                    trouble.get_or_insert_with(|| Trouble::Wait(error.to_string()));
                    left.push(write);
                }
            }
        }
        folded.writes = left;
        trouble.map_or(Ok(()), Err)
    }

    /// Applies a parked stream from its beginning; still parked where that fails again.
    pub(super) async fn retry_parked(&mut self, stream_key: &str) -> Result<Option<ParkedStream>, Trouble> {
        if !self.parking.is_parked(stream_key).await? {
            return Ok(None);
        }
        self.documents.forget(stream_key).await;
        let events = self.tools.feed.read_stream(P::CATEGORY, stream_key, 1, 0).await?;
        let mut document = None;
        let (_, outcome) = fold_onto::<P>(&mut document, &events);
        let mut folded = Folded::default();
        match (outcome, document) {
            (Err((version, error)), _) => folded.refuse(stream_key, version, error.to_string()),
            (Ok(()), Some(document)) => {
                folded.writes.push(Write { key: stream_key.to_owned(), first_version: 1, document });
            }
            (Ok(()), None) => folded.refuse(stream_key, 1, "the stream has no events".to_owned()),
        }
        self.store(&mut folded).await?;
        let parked = if let Some(refusal) = folded.refusals.pop() {
            Some(self.parking.park(stream_key, refusal.version, &refusal.error).await?)
        } else {
            self.parking.unpark(stream_key).await?;
            None
        };
        self.tools.progress.parked(self.parking.len());
        Ok(parked)
    }
}
