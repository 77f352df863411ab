//! A batch into the index: fold its events by stream, store the documents, park what cannot go on.
//!
//! Nothing is lost when it is dropped or fails in between: what was done stays done, in the index and in the batch,
//! and the next attempt goes on from there.

use tokio::task::JoinSet;

use super::batch::{Batch, StreamEvents, fold_onto, gap};
use super::documents::Documents;
use super::progress::IndexProgress;
use super::{Tools, Trouble};
use crate::index::{Bulk, ItemOutcome};
use crate::lanes::Lanes;
use crate::lease::{self, Held};
use crate::parking::{self, Fault, Lot, Parking};
use crate::projection::Projection;
use crate::subscription::{FeedError, Readable};

/// Streams parked at a time; between them is looked whether the leases still hold.
const PARKED_AT_ONCE: usize = 500;

/// The index that is fed, with what is known of it.
pub(super) struct Target<P: Projection> {
    pub(super) tools: Tools,
    pub(super) progress: IndexProgress,
    pub(super) parking: Parking,
    /// What may be parked: a copy that has lost its lease would hide what another one applies.
    pub(super) held: Held,
    pub(super) documents: Documents<P>,
    pub(super) lanes: Lanes<Sent<P>>,
    /// Retries of streams whose records are loose.
    pub(super) loose: JoinSet<()>,
}

/// A changed document on its way.
pub(super) struct Sent<P: Projection> {
    /// Place of its stream in the batch.
    place: usize,
    document: P::Document,
}

impl<P: Projection> Target<P> {
    /// Slices came that another copy projected: what it parked and wrote is not known here.
    pub(super) async fn renew(&mut self) -> Result<(), Trouble> {
        self.parking.reload().await?;
        self.documents.forget_all();
        Ok(())
    }

    /// Looks which streams are parked, whoever parked them, and ends loose records of the slices of this copy.
    pub(super) async fn tend_parking(&mut self) -> Result<(), Trouble> {
        self.parking.reload().await?;
        self.progress.parked(self.parking.len());
        while self.loose.try_join_next().is_some() {}
        let ours = |key: &&str| self.held.includes(lease::range_of(P::CATEGORY, key));
        let loose: Vec<_> = self.parking.loose().filter(ours).map(str::to_owned).collect();
        if loose.is_empty() || !self.loose.is_empty() {
            return Ok(());
        }
        let Tools { index, feed, feeds, .. } = self.tools.clone();
        let progress = self.progress.clone();
        let lot = Lot { index, feed, feeds, target: progress.index().to_owned() };
        self.loose.spawn(async move {
            for key in loose {
                if let Err(error) = parking::retry::<P>(&lot, &key).await {
                    tracing::debug!(projection = P::NAME, stream_key = key, %error, "retried later");
                    return;
                }
            }
            // What they changed is to be found, too; if it fails, there is the next refresh.
            progress.refresh().await.ok();
        });
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
        self.park(batch).await
    }

    /// Parks the streams of the batch that were refused.
    async fn park(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        while !batch.refusals.is_empty() {
            let first = batch.refusals.len().saturating_sub(PARKED_AT_ONCE);
            let some = &batch.refusals[first..];
            if !some.iter().all(|(key, _)| self.held.includes(lease::range_of(P::CATEGORY, key))) {
                return Err(Trouble::Wait("lease ended before a stream was parked".to_owned()));
            }
            self.parking.park_all(some).await?;
            batch.refusals.truncate(first);
        }
        Ok(())
    }

    /// Folds the events by stream onto the documents that are there, and sends each changed one on its way at once: only some are
    /// in memory at a time.
    async fn fold(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        self.parking.look(batch.streams.iter().map(|stream| stream.key.as_str())).await?;
        let mut unread = Vec::new();
        for place in 0..batch.streams.len() {
            let StreamEvents { key, events, .. } = &batch.streams[place];
            if self.parking.is_parked(key) {
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
            Some(missing) => self.heal(stream, stored, missing).await?,
        };
        let events = healed.as_ref().map_or(&stream.events, |healed| &healed.events);
        let (changed, outcome) = fold_onto::<P>(&mut document, events);
        let fault = match (outcome, healed.as_ref().and_then(|healed| healed.unreadable.as_ref())) {
            (Err((version, error)), _) => Some((version, error.to_string())),
            (Ok(()), unreadable) => unreadable.cloned(),
        };
        if let Some((version, error)) = fault {
            let known = events.iter().chain(&stream.events).find(|event| event.version == version);
            let position = known.map_or(0, |event| event.position);
            batch.refuse(place, Fault { version, position, error });
        }
        match document {
            Some(document) if changed => {
                let key = &batch.streams[place].key;
                let sent = Sent { place, document };
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

    /// The events of a stream from the first that is missing to the last of the batch, read afresh as far as they can be; `None`
    /// where the store lacks some too: then the fold meets the gap and refuses.
    async fn heal(
        &mut self,
        stream: &StreamEvents,
        stored: i64,
        missing: i64,
    ) -> Result<Option<Readable>, FeedError> {
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
        let read = self.tools.feed.read_as_far(P::CATEGORY, &stream.key, stored + 1, last).await?;
        let whole = read.events.last().is_some_and(|event| event.version >= last);
        Ok((whole || read.unreadable.is_some()).then_some(read))
    }

    /// Waits until everything sent has its outcome; the first trouble, if any.
    async fn drain(&mut self, batch: &mut Batch) -> Result<(), Trouble> {
        let mut outcome = Ok(());
        while let Some((sent, settled)) = self.lanes.next().await {
            outcome = outcome.and(self.settle(batch, sent, settled).await);
        }
        outcome
    }

    /// What became of a document. One that does not fit is stored as far as it does, and refused from there; one that is not
    /// stored stays in the batch.
    async fn settle(
        &mut self,
        batch: &mut Batch,
        sent: Sent<P>,
        outcome: ItemOutcome,
    ) -> Result<(), Trouble> {
        let Sent { place, document } = sent;
        match outcome {
            ItemOutcome::Applied => self.documents.keep(&batch.streams[place].key, document).await,
            // A later version may be stored: what this copy has folded is not to be folded on.
            ItemOutcome::AlreadyApplied => {}
            ItemOutcome::Unfit(_) => {
                let key = &batch.streams[place].key;
                let (tools, last) = (&self.tools, P::version(&document));
                let stream = tools.feed.read_as_far(P::CATEGORY, key, 1, last).await?;
                let target = self.progress.index();
                if let Some(fault) = parking::store::<P>(&tools.index, target, key, &stream).await? {
                    batch.refuse(place, fault);
                }
            }
            ItemOutcome::Closed(error) => return Err(Trouble::Halt(error.to_string())),
            ItemOutcome::Later(error) => return Err(Trouble::Wait(error.to_string())),
        }
        batch.done(place);
        Ok(())
    }
}
