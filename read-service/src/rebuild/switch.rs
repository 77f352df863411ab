//! The moment at which queries go over to another index, and the way back.
//!
//! The order of things is the proof that no query goes back in version and no answer claims too much; `feeds` tells it. What a
//! crash leaves is told apart by where the alias leads.

use std::time::Duration;

use proto::v1::SliceRange;
use tokio::time::{sleep, timeout};

use super::{Stop, Subject};
use crate::feeds::{Hold, Indices, Previous};
use crate::lease::{self, Place, RANGES};
use crate::parking;
use crate::subscription::Item;

/// Longest time that the live index stands still for a switch; then it goes on, and the switch is tried again.
const HOLD_LIMIT: Duration = Duration::from_secs(15);
/// How often the leases are looked at meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// Makes `to` the live index, at the end of this rebuild or, without one, as the way back. The one before stays fed for the grace
/// period.
pub(super) async fn switch(subject: &Subject, to: &str, rebuild: Option<&str>) -> Result<Indices, Stop> {
    let token = format!("{:016x}", rand::random::<u64>());
    let hold = Hold { token: token.clone(), to: to.to_owned(), floor: None };
    subject.index.mark(to, &marker(subject, &token)).await?;
    let before = subject
        .feeds
        .change(|indices| {
            let next = Indices { hold: Some(hold.clone()), ..indices.clone() };
            may_begin(indices, to, rebuild).then_some(next)
        })
        .await?;
    if before.hold.as_ref() != Some(&hold) {
        subject.index.unmark(to, &marker(subject, &token)).await?;
        let error = "another switch or a rebuild is under way".to_owned();
        return if before.live == to { Ok(before) } else { Err(Stop::Wait(error)) };
    }
    tracing::info!(projection = subject.projection, from = before.live, to, "switch begins");
    let switched = match timeout(HOLD_LIMIT, move_over(subject, &before.live, &hold)).await {
        Ok(moved) => moved,
        Err(_) => Err(Stop::Wait("the copies of the service did not stop in time for a switch".to_owned())),
    };
    match switched {
        Ok(indices) => Ok(indices),
        Err(stop) => match settle(subject).await? {
            settled if settled.live == to => Ok(settled),
            _ => Err(stop),
        },
    }
}

/// Whether a switch to this index may begin. A copy that slept since may be about to do what is no longer wanted: its rebuild has
/// ended then, or the index is no longer fed.
fn may_begin(indices: &Indices, to: &str, rebuild: Option<&str>) -> bool {
    let other = indices.live != to && indices.fed().any(|fed| fed == to);
    other && indices.hold.is_none() && indices.rebuild.as_deref() == rebuild
}

async fn move_over(subject: &Subject, from: &str, hold: &Hold) -> Result<Indices, Stop> {
    let (live, target) = (subject.place(from).await?, subject.place(&hold.to).await?);
    // From here on nobody applies anything to the live index.
    live.all_say(|sign| sign.held == hold.token, subject.times.expire).await?;
    // Whatever is in the live index was in the feed before now.
    let floor = subject.feed.head().await?.head_position;
    includes(subject, &target, floor).await?;
    subject.index.refresh(&hold.to).await?;
    let kept = subject.feeds.change(|indices| with_floor(indices, hold, floor)).await?;
    if kept.hold.as_ref().is_none_or(|kept| kept.token != hold.token) {
        return Err(Stop::Wait("the switch was given up".to_owned()));
    }
    shared::crash::point("rebuild.switching");
    let marker = marker(subject, &hold.token);
    let moved = subject.index.move_alias(subject.feeds.alias(), from, &hold.to, &marker).await;
    // Given up by somebody else, or no answer came: `settle` finds out.
    moved.map_err(|error| Stop::Wait(error.to_string()))?;
    shared::crash::point("rebuild.switched");
    finish(subject).await
}

fn with_floor(indices: &Indices, hold: &Hold, floor: i64) -> Option<Indices> {
    let kept = indices.hold.as_ref().filter(|kept| kept.token == hold.token)?;
    let hold = Hold { floor: Some(floor), ..kept.clone() };
    Some(Indices { hold: Some(hold), ..indices.clone() })
}

/// Ends a switch that somebody left: done where the alias has moved, given up where it has not.
pub(super) async fn settle(subject: &Subject) -> Result<Indices, Stop> {
    let indices = subject.feeds.look().await?;
    let Some(hold) = &indices.hold else { return Ok(indices) };
    // From here on nobody can move the alias for this hold.
    subject.index.unmark(&hold.to, &marker(subject, &hold.token)).await?;
    let live = subject.index.live(subject.feeds.alias()).await?;
    if live.is_some_and(|live| live.name == hold.to) {
        return finish(subject).await;
    }
    tracing::warn!(projection = subject.projection, to = hold.to, "switch given up");
    let given_up = |indices: &Indices| {
        let same = indices.hold.as_ref().is_some_and(|kept| kept.token == hold.token);
        same.then(|| Indices { hold: None, ..indices.clone() })
    };
    Ok(subject.feeds.change(given_up).await?)
}

/// The alias has moved: the record says so, and everything is fed again.
async fn finish(subject: &Subject) -> Result<Indices, Stop> {
    let grace = i64::try_from(subject.rules.grace.as_nanos()).unwrap_or(i64::MAX);
    let until = subject.clock.now_nanos().saturating_add(grace);
    let indices = subject
        .feeds
        .change(|indices| {
            let hold = indices.hold.as_ref()?;
            let oldest = indices.previous.as_ref().map(|previous| previous.index.clone());
            let next = match oldest.filter(|oldest| *oldest != hold.to) {
                Some(oldest) => indices.clone().without(&oldest),
                None => indices.clone(),
            };
            Some(Indices {
                live: hold.to.clone(),
                floor: hold.floor.unwrap_or(0),
                target: next.target.filter(|target| *target != hold.to),
                previous: Some(Previous { index: next.live, until }),
                hold: None,
                ..next
            })
        })
        .await?;
    tracing::info!(
        projection = subject.projection,
        index = indices.live,
        feed.position = indices.floor,
        "switched"
    );
    Ok(indices)
}

/// Drops an index that no copy feeds any more, unless a record or the alias names it.
pub(super) async fn discard(subject: &Subject, name: &str) -> Result<(), Stop> {
    let indices = subject.feeds.look().await?;
    let alias = subject.index.live(subject.feeds.alias()).await?;
    if indices.fed().any(|fed| fed == name) || alias.is_some_and(|live| live.name == name) {
        return Ok(());
    }
    shared::crash::point("rebuild.dropping");
    subject.index.drop_index(name).await?;
    // Names are not given again: nothing would ever ask for these.
    parking::forget(&subject.index, subject.feeds.control(), name).await?;
    lease::forget(&subject.index, subject.feeds.control(), name).await?;
    tracing::info!(projection = subject.projection, index = name, "index dropped");
    Ok(())
}

/// Waits until the checkpoints of an index include every event up to this position.
async fn includes(subject: &Subject, target: &Place, position: i64) -> Result<(), Stop> {
    let mut lasts: Option<Vec<i64>> = None;
    loop {
        let signs = target.signs().await?;
        let at: Option<Vec<i64>> = signs.iter().map(|sign| Some(sign.as_ref()?.position)).collect();
        let at = at.ok_or_else(|| Stop::Wait("the new index has no checkpoints".to_owned()))?;
        if at.iter().all(|at| *at >= position) {
            return Ok(());
        }
        // A checkpoint moves with events of its own slices, or with a heartbeat. What is the last event of each range?
        let lasts = match &mut lasts {
            Some(lasts) => lasts,
            none => none.insert(last_events(subject, at.iter().copied().min().unwrap_or(0), position).await?),
        };
        if at.iter().zip(lasts.iter()).all(|(at, last)| at >= last) {
            return Ok(());
        }
        sleep(POLL).await;
    }
}

/// The position of each range's last event after one position and up to another; 0 where there is none.
async fn last_events(subject: &Subject, after: i64, until: i64) -> Result<Vec<i64>, Stop> {
    let mut lasts = vec![0; RANGES];
    let mut events = subject.feed.subscribe(after, "", vec![subject.category], None::<SliceRange>);
    while events.position() < until {
        match events.next().await? {
            Item::Events { events, .. } => {
                for event in events.iter().filter(|event| event.position <= until) {
                    lasts[lease::range_of(subject.category, &event.stream_key)] = event.position;
                }
            }
            Item::Standing { .. } => {}
            Item::Interrupted(error) => return Err(error.into()),
        }
    }
    Ok(lasts)
}

fn marker(subject: &Subject, token: &str) -> String {
    format!("{}-switch-{token}", subject.feeds.alias())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_nobody_waits_for_does_not_begin() {
        let name = |number: u8| format!("orders-v1-{number}");
        let rebuilt = Indices {
            live: name(1),
            target: Some(name(2)),
            rebuild: Some("mine".to_owned()),
            ..Indices::default()
        };
        assert!(may_begin(&rebuilt, &name(2), Some("mine")));
        assert!(!may_begin(&rebuilt, &name(2), Some("former")), "another copy has ended it");
        assert!(!may_begin(&rebuilt, &name(2), None), "no way back while a rebuild is under way");
        assert!(!may_begin(&rebuilt, &name(1), Some("mine")), "it is live");
        let hold = Hold { token: "t".to_owned(), to: name(2), floor: None };
        let busy = Indices { hold: Some(hold), ..rebuilt.clone() };
        assert!(!may_begin(&busy, &name(2), Some("mine")), "another switch is under way");

        // Switched, ended, and gone back by an operator.
        let previous = Some(Previous { index: name(2), until: 0 });
        let back = Indices { live: name(1), previous, ..Indices::default() };
        assert!(!may_begin(&back, &name(2), Some("mine")));
        assert!(may_begin(&back, &name(2), None));
        assert!(!may_begin(&back.without(&name(2)), &name(2), None), "it is about to be dropped");
    }
}
