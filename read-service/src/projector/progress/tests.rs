use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::{FutureExt as _, poll};
use tokio::net::TcpListener;

use super::*;
use crate::lease::{RANGES, Standing};
use crate::projector::batch::Part;

const SECOND: i64 = 1_000_000_000;

fn progress() -> (IndexProgress, Clock) {
    let clock = Clock::fixed(100 * SECOND);
    let index = Index::new("http://127.0.0.1:1").unwrap();
    let progress = Progress::new("orders", index, "orders".to_owned(), clock.clone());
    progress.show("i", 0);
    (progress.of("i"), clock)
}

fn assert_lag(progress: &IndexProgress, applied: f64, visible: f64) {
    let progress = &progress.progress;
    assert!((progress.lag_seconds() - applied).abs() < 1e-6, "{}", progress.lag_seconds());
    assert!((progress.visible_lag_seconds() - visible).abs() < 1e-6, "{}", progress.visible_lag_seconds());
}

/// This copy projects all ranges but the last, which another one recorded like this.
fn open(progress: &IndexProgress, own: i64, others: Standing) {
    let mut recorded = [Standing { applied: own, visible: own, ..Standing::default() }; RANGES];
    recorded[RANGES - 1] = others;
    progress.opened("s", &recorded, 0);
    let mut held = [true; RANGES];
    held[RANGES - 1] = false;
    progress.shared(held, &recorded, vec![], true);
}

fn recorded(position: i64, as_of: i64) -> Standing {
    Standing { applied: position, visible: position, head: position, as_of, visible_as_of: as_of, last: None }
}

fn all_but_last() -> RangeInclusive<usize> {
    0..=RANGES - 2
}

fn stored(progress: &IndexProgress, through: i64, oldest: i64, as_of: Option<i64>) {
    let part = Part { ranges: all_but_last(), through, head: through, as_of, lasts: vec![] };
    progress.stored(&[part], Some(oldest), 0, true);
}

#[test]
fn lag_counts_from_the_oldest_event_missing() {
    let (progress, clock) = progress();
    open(&progress, 0, recorded(9, 200 * SECOND));
    progress.received(all_but_last(), Some(97 * SECOND), 9);
    assert_lag(&progress, 3.0, 3.0);
    clock.advance(Duration::from_secs(10));
    assert_lag(&progress, 13.0, 13.0);
    stored(&progress, 9, 97 * SECOND, Some(110 * SECOND));
    assert_lag(&progress, 0.0, 13.0);
    let applied = progress.begin_refresh();
    stored(&progress, 10, 108 * SECOND, Some(110 * SECOND));
    progress.end_refresh(&applied, true);
    assert_eq!(progress.snapshot().visible_position, 9);
    assert!(progress.snapshot().is_dirty());
}

#[test]
fn a_silent_feed_is_not_up_to_date() {
    let (progress, clock) = progress();
    open(&progress, 5, recorded(5, 200 * SECOND));
    progress.stands(all_but_last(), 5, 5, Some(clock.now_nanos()));
    clock.advance(Duration::from_secs(12));
    assert_lag(&progress, 0.0, 0.0);
    clock.advance(Duration::from_secs(1));
    assert_lag(&progress, 13.0, 13.0);
    progress.stands(all_but_last(), 5, 5, Some(clock.now_nanos()));
    assert_lag(&progress, 0.0, 0.0);
}

#[test]
fn a_failed_refresh_makes_nothing_visible() {
    let (progress, _) = progress();
    open(&progress, 0, recorded(4, 100 * SECOND));
    stored(&progress, 4, 90 * SECOND, Some(95 * SECOND));
    let applied = progress.begin_refresh();
    progress.end_refresh(&applied, false);
    assert_eq!(progress.snapshot().visible_position, 0);
    assert!(progress.snapshot().is_dirty());
}

#[test]
fn an_answer_includes_only_what_all_copies_have_recorded() {
    let (progress, clock) = progress();
    open(&progress, 5, recorded(3, 98 * SECOND));
    progress.stands(all_but_last(), 7, 7, Some(clock.now_nanos()));
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.applied_position, snapshot.visible_position, snapshot.head_position), (3, 3, 7));
    assert_lag(&progress, 2.0, 2.0);
    // The other copy goes on, but what it wrote is not visible yet.
    let further = Standing { visible: 6, visible_as_of: 99 * SECOND, ..recorded(7, 100 * SECOND) };
    let held = progress.snapshot().held;
    progress.shared(held, &[further; RANGES], vec![], true);
    assert_eq!((progress.snapshot().applied_position, progress.snapshot().visible_position), (7, 6));
    assert_lag(&progress, 0.0, 1.0);
    // A refresh by any copy shows the writes of all.
    let applied = progress.begin_refresh();
    progress.end_refresh(&applied, true);
    assert_eq!(progress.snapshot().visible_position, 7);
    assert_lag(&progress, 0.0, 0.0);
    // A record that has not changed for long hides whatever came since.
    clock.advance(Duration::from_secs(13));
    progress.stands(all_but_last(), 7, 7, Some(clock.now_nanos()));
    assert_lag(&progress, 13.0, 13.0);
}

#[test]
fn a_range_that_is_taken_over_is_no_further_than_its_record() {
    let (progress, _) = progress();
    open(&progress, 9, recorded(4, 100 * SECOND));
    let further = Standing { visible: 5, visible_as_of: 90 * SECOND, ..recorded(6, 95 * SECOND) };
    progress.shared([true; RANGES], &[further; RANGES], vec![], true);
    let snapshot = progress.snapshot();
    assert_eq!((snapshot.applied_position, snapshot.visible_position), (6, 5));
    assert!(snapshot.is_dirty(), "its last documents may lack a refresh");
}

#[test]
fn documents_are_settled_while_only_this_copy_could_change_them_and_does_not() {
    let (progress, _) = progress();
    open(&progress, 0, recorded(9, 200 * SECOND));
    let settled = |range: usize| progress.snapshot().settled(range);
    let before = settled(0);
    assert!(before.is_some());
    assert_eq!(settled(RANGES - 1), None, "another copy projects it");
    progress.unsettled();
    assert_eq!(settled(0), None);
    let held = progress.snapshot().held;
    progress.shared(held, &[recorded(9, 200 * SECOND); RANGES], vec![], false);
    assert_eq!(settled(0), None, "it is still being changed");
    stored(&progress, 3, 90 * SECOND, None);
    let after = settled(0);
    assert!(after.is_some() && after != before);
    progress.shared(held, &[recorded(9, 200 * SECOND); RANGES], vec![], true);
    assert_eq!(settled(0), after);
    progress.shared([true; RANGES], &[recorded(9, 200 * SECOND); RANGES], vec![], true);
    assert!(settled(0).is_some() && settled(0) != after, "documents of the other copy are this one's now");
    // A batch that was given up may have changed something.
    progress.unsettled();
    progress.shared([true; RANGES], &[recorded(9, 200 * SECOND); RANGES], vec![], true);
    assert!(settled(0).is_some() && settled(0) != before);
}

#[tokio::test]
async fn everyone_who_waits_gets_the_outcome() {
    let (progress, _) = progress();
    let (one, two) = tokio::join!(progress.refresh(), progress.refresh());
    assert!(matches!(one, Err(IndexError::Unavailable(_))), "{one:?}");
    assert!(two.is_err());
}

#[tokio::test]
async fn a_refresh_is_under_way_until_it_ends_or_nobody_waits_for_it() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let index = Index::new(&format!("http://{}", silent.local_addr().unwrap())).unwrap();
    let progress = Progress::new("orders", index, "orders".to_owned(), Clock::fixed(0));
    progress.show("i", 0);
    let live = progress.of("i");
    live.refreshed().await;
    let mut asked = Box::pin(progress.request_refresh());
    assert!(poll!(&mut asked).is_pending());
    assert!(progress.of("filling").refreshed().now_or_never().is_some(), "nobody asks what is not live");
    let mut waits = Box::pin(live.refreshed());
    assert!(poll!(&mut waits).is_pending());
    drop(asked);
    // The next one is another.
    let mut asked = Box::pin(progress.request_refresh());
    assert!(poll!(&mut asked).is_pending());
    assert!(poll!(&mut waits).is_ready() && live.refreshed().now_or_never().is_none());
}

#[tokio::test]
async fn a_refresh_that_fails_is_over() {
    let (progress, _) = progress();
    assert!(progress.refresh().await.is_err());
    progress.refreshed().await;
}

#[test]
fn what_is_shown_follows_the_live_index_and_starts_at_its_floor() {
    let (old, _) = progress();
    open(&old, 7, recorded(7, 100 * SECOND));
    let shown = old.progress.clone();
    let new = shown.of("j");
    new.opened("s", &[recorded(5, 99 * SECOND); RANGES], 0);
    assert_eq!((shown.snapshot().index.as_str(), shown.snapshot().applied_position), ("i", 7));
    shown.show("j", 6);
    let now = shown.snapshot();
    assert_eq!((now.index.as_str(), now.applied_position, now.visible_position), ("j", 6, 6));
    // What goes on with the old one is not told any more.
    old.stands(0..=RANGES - 1, 9, 9, None);
    assert_eq!(shown.snapshot(), now);
    shown.show("j", 0);
    assert_eq!(shown.snapshot().applied_position, 6);
}
