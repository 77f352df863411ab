//! How an owner writes its records: checkpoints beside its work, one write at a time.

use tokio::time::Instant;
use tracing::Instrument as _;

use super::record::RangeRecord;
use super::{LeaseError, Leases, RANGES, Standings};
use crate::index::{IndexError, Put, Stamp};
use crate::task::unwound;

/// What became of records that were written.
pub(super) struct Written {
    /// When they were sent.
    sent: Instant,
    records: Vec<(usize, RangeRecord)>,
    outcomes: Result<Vec<Result<Stamp, IndexError>>, IndexError>,
}

impl Leases {
    /// Begins to store how far the ranges are that this copy projects, unless that is under way; after a failure it is waited for, so
    /// that nobody seems to get on meanwhile. Where a lease was lost, its checkpoint stays as it is.
    ///
    /// # Errors
    /// [`LeaseError`], perhaps of the time before.
    pub async fn save(&mut self, standings: &Standings) -> Result<(), LeaseError> {
        if let Some(written) = self.saving.try_join_next() {
            self.saved(unwound(written))?;
        }
        let moved = (0..RANGES).filter(|range| self.moved(*range, standings));
        let records = moved.map(|range| {
            let record = self.ranges[range].record.clone().at(standings[range]);
            (range, record.left_to(&self.me))
        });
        let records: Vec<_> = records.collect();
        if records.is_empty() || !self.saving.is_empty() {
            return Ok(());
        }
        let write = self.send(records);
        if self.unsaved {
            let written = write.await;
            return self.saved(written);
        }
        self.saving.spawn(write.in_current_span());
        Ok(())
    }

    fn saved(&mut self, written: Written) -> Result<(), LeaseError> {
        let outcome = self.book(written);
        self.unsaved = outcome.is_err();
        outcome
    }

    /// Waits until no checkpoints are on their way. Those that were not stored are tried again, with whatever is written next.
    pub(super) async fn settle(&mut self) {
        while let Some(written) = self.saving.join_next().await {
            if let Err(error) = self.saved(unwound(written)) {
                tracing::warn!(index = self.place.live.name, %error, "checkpoints not stored");
            }
        }
    }

    /// Writes records where they are still as they were seen, and takes over what was written.
    pub(super) async fn write(&mut self, records: Vec<(usize, RangeRecord)>) -> Result<(), LeaseError> {
        if records.is_empty() {
            return Ok(());
        }
        let written = self.send(records).await;
        self.book(written)
    }

    /// Writes records where they are still as they were seen.
    fn send(&self, records: Vec<(usize, RangeRecord)>) -> impl Future<Output = Written> + use<> {
        let put = |(range, record): &(usize, RangeRecord)| Put {
            id: self.ids[*range].clone(),
            seen: Some(self.ranges[*range].stamp),
            value: record.clone(),
        };
        let puts: Vec<_> = records.iter().map(put).collect();
        let (index, control) = (self.place.index.clone(), self.place.control.clone());
        async move {
            let sent = Instant::now();
            let outcomes = index.put_all(&control, &puts).await;
            Written { sent, records, outcomes }
        }
    }

    /// Takes over what was written.
    fn book(&mut self, Written { sent, records, outcomes }: Written) -> Result<(), LeaseError> {
        let mut failure = None;
        for ((range, record), outcome) in records.into_iter().zip(outcomes?) {
            let tenure = &mut self.ranges[range];
            match outcome {
                Ok(stamp) => {
                    if record.owner == self.me {
                        tenure.renewed = Some(sent);
                    } else if tenure.record.owner == self.me {
                        (tenure.renewed, tenure.since) = (None, sent);
                    }
                    (tenure.stamp, tenure.record) = (stamp, record);
                }
                // Someone else was quicker, or has a wish: look again at once.
                Err(error) if error.is_conflict() => self.due = sent,
                Err(error) => failure = Some(error),
            }
        }
        self.tell_ends();
        failure.map_or(Ok(()), |error| Err(error.into()))
    }
}
