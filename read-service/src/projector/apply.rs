//! Batches into the index: fold their events by stream, store the documents, park what cannot go on.
//!
//! Nothing is lost when it is dropped or fails in between: what was done stays done, in the index and in the batch,
//! and the next attempt goes on from there.

use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::batch::{Stage, StreamEvents, fold_onto, gap};
use super::course::{Course, Earlier};
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
    pub(super) course: Course,
    /// Documents to be sent again, or whose outcome is not dealt with.
    pub(super) again: Vec<Sent<P>>,
    /// Retries of streams whose records are loose.
    pub(super) loose: JoinSet<()>,
}

/// A changed document on its way.
pub(super) struct Sent<P: Projection> {
    /// Number of its batch.
    batch: usize,
    /// Place of its stream in the batch.
    place: usize,
    key: Arc<str>,
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

    /// Drops all batches under way, whatever became of them.
    pub(super) fn give_up(&mut self) {
        self.course.clear();
        self.lanes.clear();
        self.again.clear();
    }

    /// Folds what is under way and not folded, and sends each changed document on its way at once: only some are in memory at a
    /// time.
    pub(super) async fn fold(&mut self) -> Result<(), Trouble> {
        self.send_again().await?;
        for number in self.course.numbers() {
            let span = self.course.batch(number).span.clone();
            self.fold_batch(number).instrument(span).await?;
        }
        Ok(())
    }

    /// Waits until everything of the oldest batch is stored or refused.
    pub(super) async fn drain(&mut self) -> Result<(), Trouble> {
        while let Some(batch) = self.course.oldest().filter(|batch| !batch.is_done()) {
            let span = batch.span.clone();
            self.hear().instrument(span).await?;
        }
        Ok(())
    }

    /// Parks the streams of the oldest batch that were refused.
    pub(super) async fn park(&mut self) -> Result<(), Trouble> {
        let Some(batch) = self.course.oldest() else { return Ok(()) };
        let span = batch.span.clone();
        while !batch.refusals.is_empty() {
            let first = batch.refusals.len().saturating_sub(PARKED_AT_ONCE);
            let some = &batch.refusals[first..];
            if !some.iter().all(|(key, _)| self.held.includes(lease::range_of(P::CATEGORY, key))) {
                return Err(Trouble::Wait("lease ended before a stream was parked".to_owned()));
            }
            self.parking.park_all(some).instrument(span.clone()).await?;
            batch.refusals.truncate(first);
        }
        Ok(())
    }

    async fn fold_batch(&mut self, number: usize) -> Result<(), Trouble> {
        let streams = &self.course.batch(number).streams;
        let folding = |stream: &&StreamEvents| stream.stage == Stage::Folding;
        self.parking.look(streams.iter().filter(folding).map(|stream| &*stream.key)).await?;
        let mut unread = Vec::new();
        for place in 0..self.course.batch(number).streams.len() {
            let stream = &self.course.batch(number).streams[place];
            if stream.stage != Stage::Folding {
                continue;
            }
            let (key, begins) = (stream.key.clone(), stream.events[0].version <= 1);
            self.stored(number, &key).await?;
            if self.parking.is_parked(&key) {
                self.course.batch(number).done(place);
                continue;
            }
            let document = self.documents.cached(&key);
            // A stream that begins in the batch has no document; if there is one all the same, the index says so when it is
            // written.
            if document.is_none() && !begins {
                unread.push(place);
                if unread.len() >= self.documents.part() {
                    self.read_and_fold(number, &mut unread).await?;
                }
            } else {
                self.fold_stream(number, place, document).await?;
            }
        }
        self.read_and_fold(number, &mut unread).await
    }

    /// Waits until what older batches have of this stream is stored or set aside.
    async fn stored(&mut self, number: usize, key: &str) -> Result<(), Trouble> {
        loop {
            match self.course.earlier(number, key) {
                Earlier::Nothing => return Ok(()),
                Earlier::Travelling => self.hear().await?,
                Earlier::Refused => {
                    self.drain().await?;
                    self.park().await?;
                }
            }
        }
    }

    async fn read_and_fold(&mut self, number: usize, places: &mut Vec<usize>) -> Result<(), Trouble> {
        if places.is_empty() {
            return Ok(());
        }
        let streams = &self.course.batch(number).streams;
        let keys: Vec<_> = places.iter().map(|place| &*streams[*place].key).collect();
        let documents = self.lanes.beside(self.documents.read(&keys)).await?;
        for (place, document) in places.drain(..).zip(documents) {
            self.fold_stream(number, place, document).await?;
        }
        Ok(())
    }

    async fn fold_stream(
        &mut self,
        number: usize,
        place: usize,
        mut document: Option<P::Document>,
    ) -> Result<(), Trouble> {
        let stream = &self.course.batch(number).streams[place];
        let stored = document.as_ref().map_or(0, P::version);
        let healed = match gap(stored, &stream.events) {
            None => None,
            Some(missing) => heal::<P>(&self.tools, stream, stored, missing).await?,
        };
        let events = healed.as_ref().map_or(&stream.events, |healed| &healed.events);
        let (changed, outcome) = fold_onto::<P>(&mut document, events);
        let fault = match (outcome, healed.as_ref().and_then(|healed| healed.unreadable.as_ref())) {
            (Err((version, error)), _) => Some((version, error.to_string())),
            (Ok(()), unreadable) => unreadable.cloned(),
        };
        let fault = fault.map(|(version, error)| {
            let known = events.iter().chain(&stream.events).find(|event| event.version == version);
            Fault { version, position: known.map_or(0, |event| event.position), error }
        });
        let key = stream.key.clone();
        let batch = self.course.batch(number);
        if let Some(fault) = fault {
            batch.refuse(place, fault);
        }
        match document {
            Some(document) if changed => {
                batch.sent(place);
                self.send(Sent { batch: number, place, key, document }).await
            }
            Some(document) => {
                batch.stored(place, P::version(&document));
                self.documents.keep(key, document);
                Ok(())
            }
            None => {
                batch.done(place);
                Ok(())
            }
        }
    }

    /// Sends a document on its way, and deals with outcomes that are there already.
    async fn send(&mut self, sent: Sent<P>) -> Result<(), Trouble> {
        let write = |sent: &Sent<P>, bulk: &mut Bulk| {
            let document = &sent.document;
            bulk.index(&sent.key, P::version(document), document, &P::search(document));
        };
        self.lanes.put(sent, write).await;
        self.settle_arrived().await
    }

    /// Deals with the next outcome, which is waited for, and with those that are there by then.
    async fn hear(&mut self) -> Result<(), Trouble> {
        let Some((sent, settled)) = self.lanes.next().await else {
            return Err(Trouble::Wait("documents came to no outcome".to_owned()));
        };
        let first = self.settle(sent, settled).await;
        let others = self.settle_arrived().await;
        first.and(others)
    }

    /// Deals with the outcomes that are there; the first trouble, if any.
    async fn settle_arrived(&mut self) -> Result<(), Trouble> {
        let mut outcome = Ok(());
        while let Some((sent, settled)) = self.lanes.settled() {
            outcome = outcome.and(self.settle(sent, settled).await);
        }
        outcome
    }

    async fn send_again(&mut self) -> Result<(), Trouble> {
        while let Some(sent) = self.again.pop() {
            self.send(sent).await?;
        }
        Ok(())
    }

    /// What became of a document. One that does not fit is stored as far as it does, and refused from there; one that is not
    /// stored is sent again by the next attempt.
    async fn settle(&mut self, sent: Sent<P>, outcome: ItemOutcome) -> Result<(), Trouble> {
        let (number, place) = (sent.batch, sent.place);
        match outcome {
            ItemOutcome::Applied => {
                self.course.batch(number).stored(place, P::version(&sent.document));
                self.documents.keep(sent.key, sent.document);
            }
            // A later version may be stored, or one have been deleted: what this copy has folded says nothing of it.
            ItemOutcome::AlreadyApplied => self.course.batch(number).done(place),
            ItemOutcome::Unfit(_) => {
                let (key, last) = (sent.key.clone(), P::version(&sent.document));
                self.again.push(sent);
                let tools = &self.tools;
                let stream = tools.feed.read_as_far(P::CATEGORY, &key, 1, last).await?;
                let target = self.progress.index();
                if let Some(fault) = parking::store::<P>(&tools.index, target, &key, &stream).await? {
                    self.course.batch(number).refuse(place, fault);
                }
                self.again.retain(|sent| (sent.batch, sent.place) != (number, place));
                self.course.batch(number).done(place);
            }
            ItemOutcome::Closed(error) => {
                self.again.push(sent);
                return Err(Trouble::Halt(error.to_string()));
            }
            ItemOutcome::Later(error) => {
                self.again.push(sent);
                return Err(Trouble::Wait(error.to_string()));
            }
        }
        Ok(())
    }
}

/// The events of a stream from the first that is missing to the last of the batch, read afresh as far as they can be; `None`
/// where the store lacks some too: then the fold meets the gap and refuses.
async fn heal<P: Projection>(
    tools: &Tools,
    stream: &StreamEvents,
    stored: i64,
    missing: i64,
) -> Result<Option<Readable>, FeedError> {
    let last = stream.events.iter().map(|event| event.version).max().unwrap_or(missing);
    tracing::info!(
        projection = P::NAME,
        stream = &*stream.key,
        stored,
        missing,
        last,
        "gap, reading the stream"
    );
    metrics::counter!("projection_gaps_total", "projection" => P::NAME).increment(1);
    let read = tools.feed.read_as_far(P::CATEGORY, &stream.key, stored + 1, last).await?;
    let whole = read.events.last().is_some_and(|event| event.version >= last);
    Ok((whole || read.unreadable.is_some()).then_some(read))
}
