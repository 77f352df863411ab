//! A projection that has begun: where it stands in the feed, how far its index is fed, what is due.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::batch::{Batch, Gathered};
use super::checkpoint::Checkpoint;
use super::documents::Documents;
use super::{Tools, Trouble};
use crate::index::LiveIndex;
use crate::parking::Parking;
use crate::projection::Projection;
use crate::subscription::{Item, Subscription};

/// Index of checkpoints and parked streams, behind the configured prefix.
const CONTROL: &str = "control";
const CONTROL_MAPPING: &str = include_str!("../../index/control.json");

/// Longest time between a change and its refresh while nobody waits, at the feed's head.
const REFRESH_LIVE: Duration = Duration::from_secs(1);
/// The same while behind: a refresh each second would cost a fifth of the throughput (ceiling, read side, hint 5).
const REFRESH_BEHIND: Duration = Duration::from_secs(5);
/// Shortest time between two writes of the checkpoint: what it lacks is only done again after a crash.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// How long a batch that is not full waits for events that are known to follow.
const GATHER_WAIT: Duration = Duration::from_millis(20);
/// Longest wait for events.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// What a projection has once Elasticsearch and, for a new index, the feed have answered.
pub(super) struct Running<P: Projection> {
    pub(super) tools: Tools,
    pub(super) live: LiveIndex,
    pub(super) parking: Parking,
    pub(super) documents: Documents<P>,
    checkpoint: Checkpoint,
    subscription: Subscription,
    gathered: Gathered,
    /// Every event up to here is applied.
    applied: i64,
    /// When nothing was known to be missing beyond it, in nanoseconds since 1970.
    as_of: i64,
    checkpointed: Instant,
    refreshed: Instant,
}

impl<P: Projection> Running<P> {
    /// Finds the index, its checkpoint and its parked streams; makes what is not there.
    pub(super) async fn open(tools: Tools) -> Result<Self, Trouble> {
        let control = format!("{}{CONTROL}", tools.prefix);
        tools.index.ensure_plain(&control, CONTROL_MAPPING).await?;
        let alias = format!("{}{}", tools.prefix, P::NAME);
        let live = tools.index.ensure(&alias, &format!("{alias}-v1-1"), P::MAPPING).await?;
        tools.progress.found_index(&live.name);
        let found = Checkpoint::find(&tools.index, &control, &live).await?;
        let checkpoint = if let Some(checkpoint) = found {
            checkpoint
        } else {
            let store_id = tools.feed.head().await?.store_id;
            Checkpoint::make(&tools.index, &control, P::NAME, &live, &store_id).await?
        };
        let parking =
            Parking::load::<P>(tools.index.clone(), control, live.name.clone(), tools.clock.clone()).await?;
        let (position, store_id) = (checkpoint.position(), checkpoint.store_id());
        tracing::info!(
            projection = P::NAME,
            index = live.name,
            feed.position = position,
            "projection opened"
        );
        tools.progress.opened(&live.name, store_id, position, checkpoint.as_of(), parking.len());
        Ok(Self {
            documents: Documents::new(tools.index.clone(), live.name.clone(), tools.limits.cache_bytes),
            subscription: tools.feed.subscribe(position, store_id, vec![P::CATEGORY], None),
            gathered: Gathered::after(position),
            applied: position,
            as_of: checkpoint.as_of(),
            checkpointed: Instant::now(),
            refreshed: Instant::now(),
            tools,
            live,
            parking,
            checkpoint,
        })
    }

    /// The next batch; `None` where there is nothing to apply until something else is due.
    pub(super) async fn gather(&mut self) -> Result<Option<Batch<P>>, Trouble> {
        let mut until = self.next_due();
        let progress = &self.tools.progress;
        while !self.gathered.is_whole(&self.tools.limits) {
            let Ok(item) = timeout_at(until, self.subscription.next()).await else { break };
            match item? {
                Item::Events { events, through, head } => {
                    let first = events.first().and_then(|event| event.recorded_time.as_ref());
                    progress.received(first.and_then(proto::time::to_nanos), head);
                    self.gathered.add(events, through, head);
                }
                Item::Standing { through, head } => self.gathered.add(Vec::new(), through, head),
                Item::Interrupted(error) => {
                    if progress.waiting(&error.to_string()) {
                        tracing::warn!(projection = P::NAME, %error, "feed interrupted");
                    }
                    continue;
                }
            }
            let Gathered { through, head, .. } = self.gathered;
            if self.gathered.events.is_empty() {
                self.applied = through;
                self.as_of = if through >= head { self.tools.clock.now_nanos() } else { self.as_of };
                progress.stands(through, head);
            } else {
                until = until.min(Instant::now() + GATHER_WAIT);
            }
        }
        Ok(self.gathered.take())
    }

    /// When a checkpoint or a refresh is due, even if no event comes.
    fn next_due(&self) -> Instant {
        let mut due = Instant::now() + IDLE_WAIT;
        if self.checkpoint.position() < self.applied {
            due = due.min(self.checkpointed + CHECKPOINT_EVERY);
        }
        if self.tools.progress.snapshot().is_dirty() {
            due = due.min(self.refreshed + REFRESH_LIVE);
        }
        due
    }

    /// Everything in the batch is stored.
    pub(super) fn done(&mut self, batch: &Batch<P>) {
        let at_head = batch.through >= batch.head;
        self.applied = self.applied.max(batch.through);
        self.as_of = if at_head { self.tools.clock.now_nanos() } else { batch.newest.unwrap_or(self.as_of) };
        self.tools.progress.stored(batch.through, batch.oldest, batch.newest, self.parking.len());
        metrics::histogram!("projection_batch_events", "projection" => P::NAME)
            .record(u32::try_from(batch.events).unwrap_or(u32::MAX));
    }

    /// Stores the checkpoint and refreshes, where due.
    pub(super) async fn tend(&mut self) -> Result<(), Trouble> {
        if self.checkpoint.position() < self.applied && self.checkpointed.elapsed() >= CHECKPOINT_EVERY {
            self.save().await?;
        }
        let snapshot = self.tools.progress.snapshot();
        let behind = snapshot.applied_position < snapshot.head_position;
        let every = if behind { REFRESH_BEHIND } else { REFRESH_LIVE };
        if snapshot.is_dirty() && self.refreshed.elapsed() >= every {
            self.tools.progress.request_refresh().await?;
            self.refreshed = Instant::now();
        }
        Ok(())
    }

    /// Brings the checkpoint up to what is applied.
    pub(super) async fn save(&mut self) -> Result<(), Trouble> {
        self.checkpoint.advance(self.applied, self.as_of).await?;
        self.checkpointed = Instant::now();
        Ok(())
    }
}
