//! How far one index is: what its projector, its leases and its refreshes say.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use super::Progress;
use crate::index::IndexError;
use crate::lease::{Owner, RANGES, Standing, Standings};
use crate::projector::batch::Part;
use crate::projector::snapshot::{Snapshot, State};

/// Progress of one index. Clones share it.
#[derive(Clone, Debug)]
pub struct IndexProgress {
    pub(super) progress: Progress,
    pub(super) index: String,
}

impl IndexProgress {
    /// Physical name of the index.
    #[must_use]
    pub fn index(&self) -> &str {
        &self.index
    }

    /// Where the index stands now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let known = self.progress.all().by_index.get(&self.index).cloned();
        known.unwrap_or_else(|| self.progress.unknown(&self.index))
    }

    /// Changes where the index stands, and shows it where the index is live.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        let mut all = self.progress.all();
        let live = all.live == self.index;
        let unknown = || self.progress.unknown(&self.index);
        let snapshot = all.by_index.entry(self.index.clone()).or_insert_with(unknown);
        let changed = change(snapshot);
        if live {
            self.progress.0.shown.send_replace(snapshot.clone());
        }
        changed
    }

    /// Makes everything searchable that any copy of the service wrote before the call.
    ///
    /// # Errors
    /// Where Elasticsearch fails.
    pub(in crate::projector) async fn refresh(&self) -> Result<(), IndexError> {
        if self.progress.live() == self.index {
            return self.progress.request_refresh().await;
        }
        let applied = self.begin_refresh();
        let outcome = self.progress.0.index.refresh(&self.index).await;
        self.end_refresh(&applied, outcome.is_ok());
        outcome
    }

    /// Waits until the refresh that is under way, if any, is over; only the live index has some that are waited for.
    pub(in crate::projector) async fn refreshed(&self) {
        if self.progress.live() == self.index {
            self.progress.refreshed().await;
        }
    }

    pub(super) fn begin_refresh(&self) -> Standings {
        let mut applied = Standings::default();
        self.change(|snapshot| {
            applied = snapshot.ranges;
            // What an earlier refresh left, dropped in its course, is taken along.
            snapshot.refreshing_since = snapshot.invisible_since();
            snapshot.unrefreshed_since = None;
        });
        applied
    }

    pub(super) fn end_refresh(&self, applied: &Standings, done: bool) {
        self.change(|snapshot| {
            if done {
                for (range, before) in snapshot.ranges.iter_mut().zip(applied) {
                    range.visible = range.visible.max(before.applied);
                    range.visible_as_of = range.visible_as_of.max(before.as_of);
                }
                snapshot.recount();
            } else {
                snapshot.unrefreshed_since = snapshot.invisible_since();
            }
            snapshot.refreshing_since = None;
        });
    }

    /// The projector knows its store and how far the ranges of slices are.
    pub(in crate::projector) fn opened(&self, store_id: &str, recorded: &Standings, parked: usize) {
        let now = self.progress.0.clock.now_nanos();
        self.change(|snapshot| {
            store_id.clone_into(&mut snapshot.store_id);
            // A new checkpoint says nothing about the time.
            let known = |time: i64| if time > 0 { time } else { now };
            for (range, recorded) in snapshot.ranges.iter_mut().zip(recorded) {
                *range = Standing {
                    // What was known when it became live stays true.
                    applied: recorded.applied.max(range.applied),
                    visible: recorded.visible.max(range.visible),
                    head: recorded.head,
                    as_of: known(recorded.as_of),
                    visible_as_of: known(recorded.visible_as_of),
                    last: recorded.last.max(range.last),
                };
            }
            snapshot.held = [false; RANGES];
            snapshot.writing = true;
            snapshot.parked_streams = parked;
            snapshot.last_error.clear();
            snapshot.recount();
            snapshot.state = State::CatchingUp;
        });
    }

    /// What the records say: which ranges this copy projects, how far the others are, and who owns them; `idle` says that no
    /// document is about to change.
    pub(in crate::projector) fn shared(
        &self,
        held: [bool; RANGES],
        recorded: &Standings,
        owners: Vec<Owner>,
        idle: bool,
    ) {
        let epoch = self.next_epoch();
        self.change(|snapshot| {
            if idle && (snapshot.writing || snapshot.held != held) {
                (snapshot.epoch, snapshot.writing) = (epoch, false);
            }
            for (range, recorded) in recorded.iter().enumerate() {
                let known = &mut snapshot.ranges[range];
                let new = held[range] && !snapshot.held[range];
                if held[range] && !new {
                    continue;
                }
                // What was applied stays applied, whoever did it.
                if recorded.applied >= known.applied && recorded.as_of > 0 {
                    (known.applied, known.as_of) = (recorded.applied, recorded.as_of);
                }
                if recorded.visible >= known.visible && recorded.visible_as_of > 0 {
                    (known.visible, known.visible_as_of) = (recorded.visible, recorded.visible_as_of);
                }
                known.head = known.head.max(recorded.head);
                known.last = known.last.max(recorded.last);
                // What its former owner wrote may lack a refresh.
                if new && known.visible < known.applied {
                    let hidden = known.visible_as_of;
                    snapshot.unrefreshed_since =
                        Some(snapshot.unrefreshed_since.map_or(hidden, |since| since.min(hidden)));
                }
            }
            snapshot.held = held;
            snapshot.owners = owners.into();
            snapshot.recount();
            // A copy that projects nothing hears of the head from the others only.
            let onlooker = !held.contains(&true) && snapshot.state == State::CatchingUp;
            let told = recorded.iter().all(|range| range.as_of > 0);
            if onlooker && told && snapshot.applied_position >= snapshot.head_position {
                snapshot.state = State::Live;
            }
        });
    }

    /// Documents are about to change, or may be changed by other copies from now on.
    pub(in crate::projector) fn unsettled(&self) {
        let epoch = self.next_epoch();
        self.change(|snapshot| (snapshot.epoch, snapshot.writing) = (epoch, true));
    }

    fn next_epoch(&self) -> u64 {
        self.progress.0.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The feed gave events of these ranges, the oldest recorded at `oldest`, which are not applied yet.
    pub(in crate::projector) fn received(
        &self,
        ranges: RangeInclusive<usize>,
        oldest: Option<i64>,
        head: i64,
    ) {
        self.change(|snapshot| {
            snapshot.head_position = snapshot.head_position.max(head);
            for range in &mut snapshot.ranges[ranges] {
                range.as_of = oldest.map_or(range.as_of, |oldest| oldest.min(range.as_of));
            }
        });
    }

    /// The feed has nothing for us in these ranges up to `through`, and ends at `head`; nothing received waits to be applied, and
    /// nothing recorded before `as_of` is missing, where that is known.
    pub(in crate::projector) fn stands(
        &self,
        ranges: RangeInclusive<usize>,
        through: i64,
        head: i64,
        as_of: Option<i64>,
    ) {
        self.change(|snapshot| {
            snapshot.head_position = snapshot.head_position.max(head);
            for range in &mut snapshot.ranges[ranges] {
                range.applied = range.applied.max(through);
                range.as_of = as_of.unwrap_or(range.as_of);
            }
            snapshot.last_error.clear();
            snapshot.show_unchanged();
            snapshot.settle();
        });
    }

    /// The events of a batch were applied, the oldest recorded at `oldest`; `all` says that no other batch is under way.
    pub(in crate::projector) fn stored(&self, parts: &[Part], oldest: Option<i64>, parked: usize, all: bool) {
        let now = self.progress.0.clock.now_nanos();
        self.change(|snapshot| {
            for part in parts {
                for range in &mut snapshot.ranges[part.ranges.clone()] {
                    range.applied = range.applied.max(part.through);
                    range.as_of = part.as_of.unwrap_or(range.as_of);
                }
                for (range, last) in &part.lasts {
                    snapshot.ranges[*range].last = snapshot.ranges[*range].last.max(Some(*last));
                }
            }
            snapshot.parked_streams = parked;
            snapshot.last_error.clear();
            match oldest {
                Some(oldest) => {
                    snapshot.last_progress_at = now;
                    snapshot.unrefreshed_since = snapshot.unrefreshed_since.or(Some(oldest));
                }
                None => snapshot.show_unchanged(),
            }
            snapshot.stored += 1;
            snapshot.writing &= !all;
            snapshot.settle();
        });
    }

    /// Tells those who wait for versions, before [`Self::stored`] wakes them: `version` says up to where a stream is stored.
    pub(in crate::projector) fn tell(&self, version: impl Fn(&str) -> Option<i64>) {
        if self.progress.live() == self.index {
            self.progress.0.awaited.tell(version);
        }
    }

    /// Number of streams set aside.
    pub(in crate::projector) fn parked(&self, streams: usize) {
        self.change(|snapshot| snapshot.parked_streams = streams);
    }

    /// A dependency does not answer. True where that is news.
    pub(in crate::projector) fn waiting(&self, error: &str) -> bool {
        self.change(|snapshot| {
            let news = snapshot.state != State::Waiting || snapshot.last_error != error;
            snapshot.state = State::Waiting;
            error.clone_into(&mut snapshot.last_error);
            news
        })
    }

    /// What was waited for is there again, unless something else is waited for since.
    pub(in crate::projector) fn over(&self, error: &str) {
        self.change(|snapshot| {
            if snapshot.state == State::Waiting && snapshot.last_error == error {
                snapshot.last_error.clear();
                snapshot.settle();
            }
        });
    }

    /// Stopped until a person has looked.
    pub(in crate::projector) fn halted(&self, error: &str) {
        self.change(|snapshot| {
            snapshot.state = State::Halted;
            error.clone_into(&mut snapshot.last_error);
        });
    }
}
