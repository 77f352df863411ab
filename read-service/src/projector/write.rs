//! Changed documents into the index: in bulks of bounded size, a few at a time, an outcome for each document.
//!
//! What a failure is about is found out here: a request that Elasticsearch cannot take is halved until the one
//! document remains that is to blame, so that its neighbours are stored. Nothing is repeated here.

use std::ops::Range;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::Limits;
use super::batch::Write;
use crate::index::{Bulk, Index, IndexError, ItemOutcome};
use crate::projection::Projection;

/// Stores the documents in the index `target`; an outcome for each, in their order.
pub async fn store<P: Projection>(
    index: &Index,
    target: &str,
    writes: &[Write<P>],
    limits: &Limits,
) -> Vec<ItemOutcome> {
    let mut rest = writes.iter();
    let bulks = std::iter::from_fn(|| {
        let mut bulk = Bulk::default();
        while bulk.bytes() < limits.bulk_bytes {
            let Some(write) = rest.next() else { break };
            bulk.index(&write.key, P::version(&write.document), &write.document, &P::search(&write.document));
        }
        (!bulk.is_empty()).then_some(bulk)
    });
    let bulks: Vec<Bulk> = bulks.collect();
    let outcomes: Vec<_> = stream::iter(bulks)
        .map(|bulk| send(index, target, bulk))
        .buffered(limits.bulks_in_flight)
        .collect()
        .await;
    let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
    for outcome in &outcomes {
        metrics::counter!("projection_bulk_items_total", "projection" => P::NAME, "outcome" => name(outcome))
            .increment(1);
    }
    outcomes
}

async fn send(index: &Index, target: &str, bulk: Bulk) -> Vec<ItemOutcome> {
    let mut outcomes = Vec::with_capacity(bulk.len());
    // Parts not sent yet, the next one last.
    let mut parts: Vec<Range<usize>> = Vec::from([Range { start: 0, end: bulk.len() }]);
    while let Some(part) = parts.pop() {
        let size = part.len();
        let answer = if size == bulk.len() {
            index.bulk(target, &bulk).await
        } else {
            index.bulk(target, &bulk.only(part.clone())).await
        };
        match answer {
            Ok(of_part) => outcomes.extend(of_part),
            Err(error) => match blame(&error) {
                Blame::Content if size > 1 => {
                    let middle = part.start + size / 2;
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                }
                Blame::Content => outcomes.push(ItemOutcome::Unfit(error)),
                Blame::Index => outcomes.extend(vec![ItemOutcome::Closed(error); size]),
                Blame::Nobody => outcomes.extend(vec![ItemOutcome::Later(error); size]),
            },
        }
    }
    outcomes
}

/// What a request failed for.
enum Blame {
    /// For what it holds.
    Content,
    /// For the state of the index, or for rights.
    Index,
    /// For nothing that lasts.
    Nobody,
}

fn blame(error: &IndexError) -> Blame {
    match error {
        IndexError::Refused { status: 400 | 413, kind } if kind != "index_closed_exception" => Blame::Content,
        IndexError::Refused { status: 400 | 401 | 403 | 404, .. } => Blame::Index,
        _ => Blame::Nobody,
    }
}

fn name(outcome: &ItemOutcome) -> &'static str {
    match outcome {
        ItemOutcome::Applied => "applied",
        ItemOutcome::AlreadyApplied => "already_applied",
        ItemOutcome::Later(_) => "later",
        ItemOutcome::Unfit(_) => "unfit",
        ItemOutcome::Closed(_) => "closed",
    }
}
