//! One subscription: from its position through the store to the tail, and on with it. One path for both, so that no event is
//! lost or doubled where they meet.

use std::time::Duration;

use futures_util::Stream;
use proto::encoded::Encoded;
use proto::v1::subscribe_response::Message;
use proto::v1::{CaughtUp, FellBehind, Heartbeat, SubscribeResponse};
use tokio::time::timeout;
use tonic::Status;

use super::pages::Pages;
use super::tail::{Next, Tail};
use super::{Filter, position_ahead, store_down};

/// Silence after which a heartbeat is sent; the contract promises one every five seconds.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Every event after `position` that `filter` accepts, then what follows, for ever.
pub(super) fn follow(
    pages: Pages,
    tail: Tail,
    position: i64,
    filter: Filter,
) -> impl Stream<Item = Result<Encoded, Status>> + Send {
    async_stream::try_stream! {
        let mut position = position;
        let mut joined = None;
        loop {
            loop {
                let mut reading = pages.read_on(position, &filter);
                while let Some(page) = reading.recv().await {
                    let page = page.map_err(store_down)?;
                    for batch in page.events.batches(position, &filter, page.through, tail.head()) {
                        yield batch;
                    }
                    position = page.through;
                }
                if joined.is_some() {
                    break;
                }
                // One more look at the store: what that one misses, the tail keeps for who has joined before it.
                joined = Some(tail.join());
            }
            let news = joined.get_or_insert_with(|| tail.join());
            let mut restores = news.borrow().restores;
            yield control(Message::CaughtUp(CaughtUp { position }));
            loop {
                let seen = *news.borrow_and_update();
                if seen.restores != restores && seen.head < position {
                    // The store went back: positions that were sent are given anew.
                    Err(position_ahead(position, seen.head))?;
                }
                restores = seen.restores;
                match tail.next(position) {
                    Next::Page(page) => {
                        for batch in page.events.batches(position, &filter, page.through, tail.head()) {
                            yield batch;
                        }
                        position = page.through;
                    }
                    Next::Wait => if timeout(HEARTBEAT, news.changed()).await.is_err() {
                        yield control(Message::Heartbeat(Heartbeat {
                            head_position: tail.head().max(position),
                            time: Some(proto::time::from_nanos(tail.looked_at())),
                            through_position: position,
                        }));
                    },
                    Next::Store => break,
                }
            }
            yield control(Message::FellBehind(FellBehind { position }));
        }
    }
}

fn control(message: Message) -> Encoded {
    Encoded::of(&SubscribeResponse { message: Some(message) })
}
