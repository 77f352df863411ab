//! The records of an index, as anyone may read them: how far it is fed, and what the owners of its ranges say.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::record::{self, RangeRecord};
use super::{LeaseError, RANGES, Standing, Standings};
use crate::index::{Index, LiveIndex, Put, Record};

/// How often the records are looked at while something is waited for.
const POLL: Duration = Duration::from_millis(50);

/// What leases are about.
#[derive(Clone, Debug)]
pub struct Place {
    /// Elasticsearch.
    pub index: Index,
    /// Name of the control index.
    pub control: String,
    /// The physical index that is fed.
    pub live: LiveIndex,
    /// Name of the projection.
    pub projection: &'static str,
}

/// What the owner of a range last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Name of the copy; empty where nobody owns the range.
    pub owner: String,
    /// The hold for which it has stopped, if ever.
    pub held: String,
    /// The repair before which it has forgotten all documents that it had read.
    pub forgot: i64,
    /// Counts what it said.
    pub beat: i64,
    /// The checkpoint.
    pub position: i64,
}

impl Place {
    /// How far each range is, and of which store; `None` where not all of them have a record of this index.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn recorded(&self) -> Result<Option<(String, Standings)>, LeaseError> {
        let Some(records) = self.own().await?.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        Ok(Some((records[0].store_id.clone(), std::array::from_fn(|range| records[range].standing()))))
    }

    /// Makes the records of an index that was filled up to a position by other means; those that are there stay.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn seed(&self, store_id: &str, standing: Standing) -> Result<(), LeaseError> {
        let ids = record::ids(&self.live.name);
        let put =
            |(range, id)| Put { id, seen: None, value: RangeRecord::new(self, store_id, range, standing) };
        self.make(&ids.into_iter().enumerate().map(put).collect::<Vec<_>>()).await
    }

    /// What each range's owner last said; `None` where there is no record of this index.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn signs(&self) -> Result<Vec<Option<Sign>>, LeaseError> {
        let sign = |RangeRecord { owner, held, forgot, beat, position, .. }| Sign {
            owner,
            held,
            forgot,
            beat,
            position,
        };
        Ok(self.own().await?.into_iter().map(|record| record.map(sign)).collect())
    }

    /// Waits until every owner has said something, or has not been heard of for so long that its lease has ended.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub async fn all_say(&self, said: impl Fn(&Sign) -> bool, expire: Duration) -> Result<(), LeaseError> {
        let mut last: Vec<Option<Sign>> = Vec::new();
        let mut since = vec![Instant::now(); RANGES];
        loop {
            let signs = self.signs().await?;
            let now = Instant::now();
            for (range, sign) in signs.iter().enumerate() {
                let heard = |sign: &Option<Sign>| sign.as_ref().map(|sign| (sign.owner.clone(), sign.beat));
                if last.get(range).map(heard) != Some(heard(sign)) {
                    since[range] = now;
                }
            }
            let done = |(range, sign): (usize, &Option<Sign>)| {
                sign.as_ref().is_none_or(|sign| {
                    let silent = now.saturating_duration_since(since[range]) >= expire;
                    said(sign) || sign.owner.is_empty() || silent
                })
            };
            if signs.iter().enumerate().all(done) {
                return Ok(());
            }
            last = signs;
            sleep(POLL).await;
        }
    }

    /// The record of each range, where there is one that belongs to this index.
    async fn own(&self) -> Result<Vec<Option<RangeRecord>>, LeaseError> {
        let found = self.find(&record::ids(&self.live.name)).await?.into_iter();
        let values = found.map(|record| record.map(|record| record.value));
        Ok(values.map(|record| record.filter(|record| record.index_uuid == self.live.uuid)).collect())
    }

    /// Stores the records, unless another copy has done so meanwhile.
    pub(super) async fn make(&self, puts: &[Put<RangeRecord>]) -> Result<(), LeaseError> {
        for outcome in self.index.put_all(&self.control, puts).await? {
            match outcome {
                Err(error) if !error.is_conflict() => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn find(&self, ids: &[String]) -> Result<Vec<Option<Record<RangeRecord>>>, LeaseError> {
        Ok(self.index.records(&self.control, ids).await?)
    }
}
