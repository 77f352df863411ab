//! A store that was restored to an earlier point and has gone on since: its positions are those of other events now, and whoever
//! only compared how far it is would miss that.

use read_service::projection::{Orders, Projection as _};
use read_service::projector::{Projector, State, Step, Trouble};
use tokio::time::timeout;

use crate::support::feed::ScriptedFeed;
use crate::support::{DEADLINE, History, Search, added, created, drive};

/// The history up to a position, and then other events.
fn restored(history: &History, to: usize, then: impl FnOnce(&mut History)) -> History {
    let mut other = history.clone();
    other.events.truncate(to);
    then(&mut other);
    other.identified()
}

/// Two orders, and a customer after them.
fn history() -> History {
    let mut history = History::default();
    history
        .order("a", created("a", "R-1"))
        .order("b", created("b", "R-2"))
        .order("a", added(1, 1, 100))
        .customer("17850", "Ada")
        .customer("17851", "Grace");
    history.identified()
}

async fn checkpointed(search: &Search, orders: &mut Projector<Orders>, history: &History) {
    let stored = async {
        while search.checkpoint::<Orders>().await < history.head() {
            orders.step().await.unwrap();
        }
    };
    timeout(DEADLINE, stored).await.expect("the checkpoint is stored");
}

async fn halts(orders: &mut Projector<Orders>) {
    let halted = async {
        loop {
            if let Err(trouble) = orders.step().await {
                break trouble;
            }
        }
    };
    let halted = timeout(DEADLINE, halted).await.expect("it halts");
    assert!(matches!(&halted, Trouble::Halt(text) if text.contains("written since")), "{halted}");
    assert_eq!(orders.progress().snapshot().state, State::Halted);
}

#[tokio::test]
async fn a_store_that_passed_the_checkpoint_with_other_events_halts() {
    let search = Search::start("rewritten").await;
    let mut history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    checkpointed(&search, &mut orders, &history).await;

    // The same store goes on, at once and in a process that begins with the checkpoint.
    for line in [2, 3] {
        feed.change(|script| script.down = true);
        history.order("a", added(line, 1, 100));
        history = history.identified();
        timeout(DEADLINE, async { while orders.step().await.unwrap() != Step::Idle {} }).await.unwrap();
        feed.publish(&history);
        feed.change(|script| script.down = false);
        drive(&mut orders, history.head()).await;
        drop(orders);
        orders = search.projector::<Orders>(&feed.feed);
        drive(&mut orders, history.head()).await;
    }
    let expected = history.folded::<Orders>("a");
    assert_eq!(search.document::<Orders>("a").await, Some((Orders::version(&expected), expected)));

    // The newest lines are lost; others stand where they stood, and further.
    let other = restored(&history, 5, |other| {
        other.customer("17852", "Mary").order("b", added(1, 1, 1)).order("c", created("c", "R-3"));
    });
    assert!(other.head() > history.head());
    // What is stored tells a process that begins with it; what was applied since would only be known to this one.
    checkpointed(&search, &mut orders, &history).await;
    feed.change(|script| script.down = true);
    timeout(DEADLINE, async { while orders.step().await.unwrap() != Step::Idle {} }).await.unwrap();
    feed.publish(&other);
    feed.change(|script| script.down = false);
    halts(&mut orders).await;
    drop(orders);
    halts(&mut search.projector::<Orders>(&feed.feed)).await;
}

#[tokio::test]
async fn what_was_written_in_place_of_events_of_others_is_not_missed() {
    let search = Search::start("in-place").await;
    let history = history();
    let feed = ScriptedFeed::start(&history).await;
    let mut orders = search.projector::<Orders>(&feed.feed);
    drive(&mut orders, history.head()).await;
    feed.change(|script| script.down = true);
    timeout(DEADLINE, async { while orders.step().await.unwrap() != Step::Idle {} }).await.unwrap();
    // No order was lost, and where a customer was there is an order now.
    let other = restored(&history, 4, |other| {
        other.order("a", added(2, 1, 100)).order("c", created("c", "R-3"));
    });
    feed.publish(&other);
    feed.change(|script| script.down = false);
    drive(&mut orders, other.head()).await;
    for key in ["a", "b", "c"] {
        let expected = other.folded::<Orders>(key);
        assert_eq!(search.document::<Orders>(key).await, Some((Orders::version(&expected), expected)));
    }
    assert_eq!(orders.progress().snapshot().parked_streams, 0);
}
