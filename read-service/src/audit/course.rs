//! The way of an audit through all streams and all documents, or through some.

use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt as _;

use super::mend::mend;
use super::pass::Counts;
use super::told::{Finding, Teller};
use super::{AuditError, PATIENCE, Wish, live, pass, same_history};
use crate::compare::{Comparison, Difference, Keys, Kind, NOBODYS, Outcome};
use crate::demand::Spells;
use crate::projection::Projection;
use crate::projector::Tools;
use crate::subscription::Page;

/// Named streams looked at between two reports.
const SOME: usize = 32;
/// Documents put right together: projectors are asked once to forget what they read of them.
const TOGETHER: usize = 500;

/// Goes the whole way.
pub(super) async fn run<P: Projection>(
    tools: Tools,
    wish: Wish,
    teller: Arc<Teller>,
) -> Result<(), AuditError> {
    let place = live::<P>(&tools).await?;
    same_history::<P>(&tools, &place).await?;
    let comparison = Arc::new(Comparison::new(tools.feed.clone(), place, Some(PATIENCE)));
    let mut course = Course::<P> {
        tools,
        teller,
        comparison,
        repair: wish.repair,
        found: Vec::new(),
        left: Counts::default(),
    };
    if wish.stream_keys.is_empty() {
        course.all().await?;
        course.tell().await?;
        pass::complete::<P>(&course.tools, &course.comparison.place().live.uuid, course.left).await
    } else {
        course.some(&wish.stream_keys).await?;
        course.tell().await
    }
}

struct Course<P> {
    tools: Tools,
    teller: Arc<Teller>,
    comparison: Arc<Comparison<P>>,
    repair: bool,
    /// What is to be put right and then told.
    found: Vec<(String, Difference)>,
    /// Differences that were not put right.
    left: Counts,
}

impl<P: Projection> Course<P> {
    /// Every stream has its document, and every document a stream. The documents are always gone through: 2,000 ids at a time take a
    /// small part of what the streams take, and counts say nothing while both go on.
    async fn all(&mut self) -> Result<(), AuditError> {
        let mut keys = self.streams().await?;
        loop {
            self.documents(&keys).await?;
            let Some(mut next) = keys.next() else { return Ok(()) };
            let mut scan = self.tools.feed.scan(P::CATEGORY, "").await?;
            while let Some(page) = scan.next().await? {
                next.take(names(&page));
            }
            next.sort();
            keys = next;
        }
    }

    /// Gives the keys of the streams, those of the first part.
    async fn streams(&mut self) -> Result<Keys, AuditError> {
        let mut keys = Keys::new();
        let comparison = self.comparison.clone();
        let spells = Spells::new(self.tools.demand.clone());
        let mut sights =
            pin!(comparison.sights(self.tools.feed.scan(P::CATEGORY, "").await?, |_| true, spells));
        while let Some((page, sight)) = sights.try_next().await? {
            self.teller.expect(page.estimated_streams);
            keys.take(names(&page));
            self.look(sight.doubtful).await?;
            self.teller.checked(page.streams.len());
        }
        keys.sort();
        Ok(keys)
    }

    async fn documents(&mut self, keys: &Keys) -> Result<(), AuditError> {
        let mut every = self.comparison.documents().await?;
        let mut spells = Spells::new(self.tools.demand.clone());
        loop {
            let documents = every.next().await?;
            if documents.is_empty() {
                break;
            }
            spells.pause().await;
            let strangers = documents.into_iter().map(|(id, _)| id).filter(|id| !keys.may_have(id)).collect();
            for id in self.comparison.orphans(strangers).await? {
                self.found(id, Difference { kind: Kind::Orphan, detail: NOBODYS.to_owned() }).await?;
            }
        }
        // What Elasticsearch keeps for it goes by itself, too.
        every.close().await.ok();
        Ok(())
    }

    async fn some(&mut self, keys: &[String]) -> Result<(), AuditError> {
        self.teller.expect(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        for keys in keys.chunks(SOME) {
            self.look(keys.to_vec()).await?;
            self.teller.checked(keys.len());
        }
        Ok(())
    }

    async fn look(&mut self, keys: Vec<String>) -> Result<(), AuditError> {
        for (key, outcome) in self.comparison.look(keys).await? {
            if let Outcome::Wrong(difference) = outcome {
                self.found(key, difference).await?;
            }
        }
        Ok(())
    }

    async fn found(&mut self, stream_key: String, difference: Difference) -> Result<(), AuditError> {
        self.found.push((stream_key, difference));
        if self.repair && self.found.len() < TOGETHER {
            return Ok(());
        }
        self.tell().await
    }

    /// Puts right what was found, where that is wanted, and tells it.
    async fn tell(&mut self) -> Result<(), AuditError> {
        let found = std::mem::take(&mut self.found);
        if !self.repair || found.is_empty() {
            for (stream_key, difference) in found {
                self.left[difference.kind.place()] += 1;
                self.teller.found(Finding { stream_key, difference, repaired: false }).await?;
            }
            return Ok(());
        }
        let keys = found.iter().map(|(key, _)| key.clone()).collect();
        let (tools, place) = (self.tools.clone(), self.comparison.place().clone());
        // A caller who leaves does not leave a document half put right.
        let mended = tokio::spawn(mend::<P>(tools, place, keys)).await.map_err(|_| AuditError::Stopped)??;
        for ((stream_key, difference), refused) in found.into_iter().zip(mended) {
            let repaired = refused.is_none();
            self.left[difference.kind.place()] += i64::from(!repaired);
            let detail = refused.map_or(difference.detail, |why| format!("{why} (not repaired)"));
            let difference = Difference { kind: difference.kind, detail };
            self.teller.found(Finding { stream_key, difference, repaired }).await?;
        }
        Ok(())
    }
}

/// The keys of its streams: which version their documents should have, is not asked here.
fn names(page: &Page) -> impl Iterator<Item = (&str, i64)> {
    page.streams.iter().map(|stream| (stream.key.as_str(), 0))
}
