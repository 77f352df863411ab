//! As much of a stream as an index takes: everything before the first event that cannot be read, folded or indexed.
//!
//! A document that the mapping refuses is halved by versions until one is stored whose next is refused: that one is at fault.

use proto::v1::RecordedEvent;

use super::Fault;
use crate::index::{Bulk, Index, IndexError, ItemOutcome};
use crate::lanes::{Bounds, Lanes};
use crate::projection::Projection;
use crate::projector::fold_onto;
use crate::subscription::Readable;

/// Stores the document of a stream that was read from its beginning, even over one of the same version; what is at fault where
/// that is not all of it.
///
/// # Errors
/// Where Elasticsearch fails; what was stored stays.
pub(crate) async fn store<P: Projection>(
    index: &Index,
    target: &str,
    stream_key: &str,
    stream: &Readable,
) -> Result<Option<Fault>, IndexError> {
    let Readable { events, unreadable } = stream;
    let mut document = None;
    let (_, folded) = fold_onto::<P>(&mut document, events);
    let fault = match (folded, unreadable) {
        (Err((version, error)), _) => Some(fault(events, version, error.to_string())),
        (Ok(()), Some((version, error))) => Some(fault(events, *version, error.clone())),
        (Ok(()), None) if events.is_empty() => Some(fault(events, 1, "the stream has no events".to_owned())),
        (Ok(()), None) => None,
    };
    let Some(document) = document else { return Ok(fault) };
    let mut lanes = Lanes::new(index.clone(), target.to_owned(), P::NAME, Bounds::default());
    let last = P::version(&document);
    let Some(mut refused) = write::<P>(&mut lanes, stream_key, &document).await? else { return Ok(fault) };
    let stored = index.versions(target, &[stream_key]).await?.into_iter().next().flatten().unwrap_or(0);
    if stored >= last {
        return Ok(fault);
    }
    let (mut fits, mut unfit) = (stored, last);
    while unfit - fits > 1 {
        let middle = fits + (unfit - fits) / 2;
        let mut document = None;
        // As far as these were folded before.
        let _ = fold_onto::<P>(&mut document, events.iter().take_while(|event| event.version <= middle));
        let Some(document) = document else { break };
        match write::<P>(&mut lanes, stream_key, &document).await? {
            None => fits = middle,
            Some(error) => (unfit, refused) = (middle, error),
        }
    }
    Ok(Some(self::fault(events, unfit, refused.to_string())))
}

/// Writes the document; gives why it does not fit, where it does not.
async fn write<P: Projection>(
    lanes: &mut Lanes<()>,
    stream_key: &str,
    document: &P::Document,
) -> Result<Option<IndexError>, IndexError> {
    let put = |(): &(), bulk: &mut Bulk| {
        bulk.rewrite(stream_key, P::version(document), document, &P::search(document));
    };
    lanes.put((), put).await;
    match lanes.next().await {
        Some(((), ItemOutcome::Unfit(error))) => Ok(Some(error)),
        Some(((), ItemOutcome::Closed(error) | ItemOutcome::Later(error))) => Err(error),
        Some(((), ItemOutcome::Applied | ItemOutcome::AlreadyApplied)) | None => Ok(None),
    }
}

fn fault(events: &[RecordedEvent], version: i64, error: String) -> Fault {
    let position = events.iter().find(|event| event.version == version).map_or(0, |event| event.position);
    Fault { version, position, error }
}
