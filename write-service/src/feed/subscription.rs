//! One subscription: from its position through the store to the tail, and on with it. One path for both, so that no event is
//! lost or doubled where they meet.

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::v1::subscribe_response::Message;
use proto::v1::{CaughtUp, EventBatch, FellBehind, Heartbeat, RecordedEvent, SubscribeResponse};
use shared::clock::Clock;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tonic::Status;

use super::pages::Pages;
use super::tail::{Tail, TailPage};
use super::{Filter, PAGE, store_down};

/// Silence after which a heartbeat is sent; the contract promises one every five seconds.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Every event after `position` that `filter` accepts, then what follows, for ever.
pub(super) fn follow(
    pages: Pages,
    tail: Tail,
    clock: Clock,
    position: i64,
    filter: Filter,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send {
    async_stream::try_stream! {
        let mut position = position;
        loop {
            // Joined before the last look at the store: what the look misses is in the ring.
            let mut ring = tail.subscribe();
            loop {
                let page = pages.after(position, &filter).await.map_err(store_down)?;
                if page.through == position {
                    break;
                }
                position = page.through;
                let events = page.events.into_iter().map(|event| event.recorded).collect();
                for batch in batches(events, position, tail.head()) {
                    yield batch;
                }
                // A long way: pages that went by meanwhile are read from the store, not kept.
                ring = ring.resubscribe();
            }
            yield answer(Message::CaughtUp(CaughtUp { position }));
            loop {
                match tokio::time::timeout(HEARTBEAT, next(&mut ring, position)).await {
                    Err(_) => {
                        let head = tail.head().max(position);
                        let time = Some(proto::time::from_nanos(clock.now_nanos()));
                        let heartbeat = Heartbeat { head_position: head, time, through_position: position };
                        yield answer(Message::Heartbeat(heartbeat));
                    }
                    Ok(Some(page)) => {
                        let events = wanted(&page, position, &filter);
                        position = page.through;
                        for batch in batches(events, position, tail.head()) {
                            yield batch;
                        }
                    }
                    Ok(None) => break,
                }
            }
            yield answer(Message::FellBehind(FellBehind { position }));
        }
    }
}

/// The next page of the ring that reaches beyond `position`; `None` where the ring does not connect to it any more.
async fn next(ring: &mut broadcast::Receiver<Arc<TailPage>>, position: i64) -> Option<Arc<TailPage>> {
    loop {
        match ring.recv().await {
            Ok(page) if page.through <= position => {}
            Ok(page) if page.after <= position => return Some(page),
            Ok(_) | Err(RecvError::Lagged(_)) => return None,
            // The tail lives as long as the service.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn wanted(page: &TailPage, position: i64, filter: &Filter) -> Vec<RecordedEvent> {
    let new = page.events.iter().filter(|event| event.recorded.position > position);
    new.filter(|event| filter.accepts(event.slice, event.category))
        .map(|event| event.recorded.clone())
        .collect()
}

/// One message, or several where the page is larger: a page ends between two append batches, and a batch may be large.
fn batches(mut events: Vec<RecordedEvent>, through: i64, head: i64) -> Vec<SubscribeResponse> {
    let mut messages = Vec::with_capacity(1 + events.len() / PAGE);
    while events.len() > PAGE {
        let rest = events.split_off(PAGE);
        let through = events.last().map_or(through, |event| event.position);
        messages.push(batch(std::mem::replace(&mut events, rest), through, head));
    }
    messages.push(batch(events, through, head));
    messages
}

fn batch(events: Vec<RecordedEvent>, through_position: i64, head: i64) -> SubscribeResponse {
    answer(Message::Batch(EventBatch { events, through_position, head_position: head.max(through_position) }))
}

fn answer(message: Message) -> SubscribeResponse {
    SubscribeResponse { message: Some(message) }
}
