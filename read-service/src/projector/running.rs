//! A projection that has begun: its leases, what it reads of the feed, how far its index is fed, what is due.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::apply::Target;
use super::batch::Batch;
use super::course::Course;
use super::documents::Documents;
use super::readers::{Heard, Readers, What};
use super::snapshot::Snapshot;
use super::{Step, Tools, Trouble};
use crate::index::IndexError;
use crate::lanes::Lanes;
use crate::lease::{Leases, Place, RANGES};
use crate::parking::Parking;
use crate::projection::Projection;
use crate::task::unwound;

/// Longest time between a change and its refresh while nobody waits, at the feed's head.
const REFRESH_LIVE: Duration = Duration::from_secs(1);
/// The same while behind: a refresh each second would cost a fifth of the throughput (ceiling, read side, hint 5).
const REFRESH_BEHIND: Duration = Duration::from_secs(5);
/// Shortest time between two writes of the checkpoints: what they lack is only done again after a crash.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// How long a batch that is not full waits for events that are known to follow.
const GATHER_WAIT: Duration = Duration::from_millis(20);
/// How long a batch waits for the refresh that is under way, which cannot show it any more: one bulk and one refresh in turn take
/// less of Elasticsearch than side by side, and what is shown then is more (ceiling, read side, commit to visible).
const REFRESH_WAIT: Duration = Duration::from_millis(50);
/// Rounds of leases between two looks at the records of parked streams.
const PARKED_EVERY: u32 = 10;
/// Longest wait for events.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// What a projection has once Elasticsearch and, for a new index, the feed have answered.
pub(super) struct Running<P: Projection> {
    target: Target<P>,
    leases: Leases,
    readers: Readers,
    /// The ranges of slices that the readers are arranged for.
    arranged: [bool; RANGES],
    /// The leases were renewed since what follows from them was looked after.
    renewed: bool,
    /// Nothing is applied, because queries are about to be switched to another index.
    holding: bool,
    /// Rounds of leases since it began.
    rounds: u32,
    /// Repairs of documents that were heard of.
    mends: i64,
    checkpointed: Instant,
    refreshed: Instant,
    /// The refresh under way.
    refreshing: JoinSet<Result<(), IndexError>>,
}

/// Longest time between a change and its refresh while nobody waits.
fn refresh_every(snapshot: &Snapshot) -> Duration {
    if snapshot.is_behind() { REFRESH_BEHIND } else { REFRESH_LIVE }
}

impl<P: Projection> Running<P> {
    /// Finds the index, its checkpoints and its parked streams; makes what is not there. Without a name it is the live index.
    pub(super) async fn open(tools: Tools, name: Option<&str>) -> Result<Self, Trouble> {
        let control = tools.feeds.control().to_owned();
        let name = match name {
            Some(name) => name.to_owned(),
            None => tools.feeds.establish().await?.live,
        };
        let gone = || Trouble::Halt(format!("index {name} is gone"));
        let live = tools.index.live(&name).await?.ok_or_else(gone)?;
        let progress = tools.progress.of(&live.name);
        let place = Place {
            index: tools.index.clone(),
            control: control.clone(),
            live: live.clone(),
            projection: P::NAME,
        };
        if !live.has(P::MAPPING) {
            // It is not fed, but how far it is can be told.
            if let Some((store_id, standings)) = place.recorded().await? {
                progress.opened(&store_id, &standings, 0);
            }
            let error =
                format!("index {name} was made with another mapping than this release has; rebuild it");
            return Err(Trouble::Halt(error));
        }
        let store_id = async { Ok::<_, Trouble>(tools.feed.head().await?.store_id) };
        let leases = Leases::open(place, &tools.copy, tools.limits.leases, store_id).await?;
        let parking =
            Parking::load::<P>(tools.index.clone(), control, live.name.clone(), tools.clock.clone()).await?;
        progress.opened(leases.store_id(), &leases.recorded(), parking.len());
        let position = progress.snapshot().applied_position;
        tracing::info!(
            projection = P::NAME,
            index = live.name,
            feed.position = position,
            "projection opened"
        );
        let documents = Documents::new(tools.index.clone(), live.name.clone(), tools.limits.cache_bytes);
        let lanes = Lanes::new(tools.index.clone(), live.name.clone(), P::NAME, tools.limits.bulks);
        Ok(Self {
            readers: Readers::new(tools.feed.clone(), leases.store_id(), P::CATEGORY, tools.clock.clone()),
            target: Target {
                held: leases.watch_held(),
                tools,
                progress,
                parking,
                documents,
                lanes,
                course: Course::default(),
                again: Vec::new(),
                loose: JoinSet::new(),
            },
            leases,
            renewed: false,
            holding: false,
            rounds: 0,
            mends: 0,
            arranged: [false; RANGES],
            checkpointed: Instant::now(),
            refreshed: Instant::now(),
            refreshing: JoinSet::new(),
        })
    }

    /// Takes batches from the readers and ends the oldest, or finds that there is nothing to apply until something else is due.
    pub(super) async fn step(&mut self) -> Result<Step, Trouble> {
        loop {
            self.may_apply();
            if self.takes_another() {
                let batch = if self.target.course.is_empty() {
                    self.gather().await?
                } else {
                    self.readers.take(P::NAME)
                };
                // Meanwhile the leases may have ended.
                if let Some(batch) = batch.filter(|_| self.may_apply()) {
                    self.target.progress.unsettled();
                    self.target.course.begin(batch);
                }
            }
            if self.target.course.is_empty() {
                self.tend().await?;
                return Ok(Step::Idle);
            }
            if self.forward().await? {
                let Some(batch) = self.target.course.end() else { continue };
                // A copy that slept meanwhile may not tell what the index includes: another one may be live by now.
                if self.may_apply() {
                    self.done(&batch);
                }
                self.tend().await?;
                return Ok(Step::Applied(batch.events));
            }
        }
    }

    /// Whether another batch may begin: none between a round of leases and the look at what follows from it. While one is under way
    /// only a full one does, and none where leases are to be looked after.
    fn takes_another(&self) -> bool {
        let course = &self.target.course;
        let full = || self.readers.is_full(&self.target.tools.limits);
        !self.renewed && (course.is_empty() || (course.has_room() && full() && !self.must_look()))
    }

    /// Whether the leases, or what follows from them, are to be looked after.
    fn must_look(&self) -> bool {
        self.renewed || self.leases.due() <= Instant::now()
    }

    /// The next batch; `None` where there is nothing to apply until something else is due.
    async fn gather(&mut self) -> Result<Option<Batch>, Trouble> {
        let due = self.next_due();
        let mut until = due;
        while !self.readers.is_whole(&self.target.tools.limits) {
            let Ok(heard) = timeout_at(until, self.readers.next()).await else {
                return Ok(self.readers.take(P::NAME));
            };
            if self.hear(heard?) {
                until = until.min(Instant::now() + GATHER_WAIT);
            }
        }
        let until = due.min(Instant::now() + REFRESH_WAIT);
        let progress = self.target.progress.clone();
        let mut refreshed = pin!(timeout_at(until, progress.refreshed()));
        while !self.readers.is_full(&self.target.tools.limits) {
            tokio::select! {
                biased;
                _ = &mut refreshed => break,
                heard = self.readers.next() => {
                    self.hear(heard?);
                }
            }
        }
        Ok(self.readers.take(P::NAME))
    }

    /// Tells what the feed said while nothing is under way. True where it gave events.
    fn hear(&self, heard: Heard) -> bool {
        let progress = &self.target.progress;
        let Heard { ranges, head, what } = heard;
        match what {
            What::Events(oldest) => {
                progress.received(ranges, oldest, head);
                return true;
            }
            What::Nothing { through, as_of } => progress.stands(ranges, through, head, as_of),
            What::NothingNew => {}
            What::Interrupted(error) => {
                if progress.waiting(&error.to_string()) {
                    tracing::warn!(projection = P::NAME, %error, "feed interrupted");
                }
            }
        }
        false
    }

    /// When a round of leases, a checkpoint or a refresh is due, even if no event comes.
    fn next_due(&self) -> Instant {
        let mut due = self.leases.due().min(Instant::now() + IDLE_WAIT);
        let snapshot = self.target.progress.snapshot();
        if self.leases.is_behind(&snapshot.standings()) {
            due = due.min(self.checkpointed + CHECKPOINT_EVERY);
        }
        if snapshot.is_dirty() {
            due = due.min(self.refreshed + refresh_every(&snapshot));
        }
        due
    }

    /// Whether this copy still has the leases of all that it reads. If not, what was read is dropped, and what is under way: the
    /// new owner reads it too.
    fn may_apply(&mut self) -> bool {
        let may = self.readers.lie_within(self.leases.held());
        if !may {
            self.target.give_up();
            self.readers.clear();
            self.arranged = [false; RANGES];
        }
        may
    }

    /// Takes what is under way further; meanwhile leases are renewed and events are read. True where the oldest batch is stored,
    /// false where another one may begin.
    async fn forward(&mut self) -> Result<bool, Trouble> {
        let may_begin = self.target.course.has_room() && !self.must_look();
        let Self { target, leases, readers, renewed, .. } = self;
        let limits = target.tools.limits.clone();
        let progress = target.progress.clone();
        let keep = async {
            loop {
                sleep_until(leases.due()).await;
                if let Err(error) = leases.round(&progress.snapshot().standings()).await {
                    // Whatever it is, the next step meets it again.
                    tracing::warn!(projection = P::NAME, %error, "leases not renewed");
                    std::future::pending::<()>().await;
                }
                *renewed = true;
            }
        };
        let fill = async {
            // What goes wrong here is met again when the next batch is gathered.
            while !readers.is_full(&limits)
                && let Ok(Heard { ranges, head, what }) = readers.next().await
            {
                let oldest = if let What::Events(oldest) = what { oldest } else { None };
                progress.received(ranges, oldest, head);
            }
            if !readers.is_full(&limits) {
                std::future::pending::<()>().await;
            }
        };
        let (mut keep, mut fill) = (pin!(keep), pin!(fill.fuse()));
        {
            let mut fold = pin!(target.fold());
            loop {
                tokio::select! {
                    folded = &mut fold => break folded?,
                    () = &mut keep => {}
                    () = &mut fill, if !fill.is_terminated() => {}
                }
            }
        }
        let another = async {
            if !fill.is_terminated() {
                fill.await;
            }
            if !may_begin {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = another => return Ok(false),
            () = &mut keep => return Ok(false),
            drained = target.drain() => drained?,
        }
        // Not to be cut off by the next batch: what was parked unheard of would count as another attempt.
        tokio::select! {
            () = keep => Ok(false),
            parked = target.park() => parked.map(|()| true),
        }
    }

    /// Everything in the batch, which was the oldest, is stored.
    fn done(&mut self, batch: &Batch) {
        let Target { progress, parking, course, .. } = &self.target;
        progress.tell(|key| batch.version(key));
        progress.stored(&batch.parts, batch.oldest, parking.len(), course.is_empty());
        // What is under way and what the readers heard meanwhile.
        for batch in course.iter() {
            for part in &batch.parts {
                progress.received(part.ranges.clone(), batch.oldest, part.head);
            }
        }
        for Heard { ranges, head, what } in self.readers.heard() {
            match what {
                What::Events(oldest) => progress.received(ranges, oldest, head),
                What::Nothing { through, as_of } if course.is_empty() => {
                    progress.stands(ranges, through, head, as_of);
                }
                What::Nothing { .. } | What::NothingNew | What::Interrupted(_) => {}
            }
        }
        metrics::histogram!("projection_batch_events", "projection" => P::NAME)
            .record(u32::try_from(batch.events).unwrap_or(u32::MAX));
    }

    /// Looks after leases, checkpoints and refreshes, where due.
    async fn tend(&mut self) -> Result<(), Trouble> {
        if self.must_look() {
            self.look().await?;
        }
        if self.checkpointed.elapsed() >= CHECKPOINT_EVERY {
            self.leases.save(&self.target.progress.snapshot().standings()).await?;
            self.checkpointed = Instant::now();
        }
        let snapshot = self.target.progress.snapshot();
        if snapshot.is_dirty() && self.refreshed.elapsed() >= refresh_every(&snapshot) {
            self.refresh()?;
            self.refreshed = Instant::now();
        }
        Ok(())
    }

    /// Renews the leases, where due, and looks after what follows from them. What changes what this copy reads, or how, waits until
    /// everything that was taken from the readers is applied: until then it is looked at again after each batch.
    async fn look(&mut self) -> Result<(), Trouble> {
        let Target { tools, progress, lanes, .. } = &mut self.target;
        if self.leases.due() <= Instant::now() {
            lanes.beside(self.leases.round(&progress.snapshot().standings())).await?;
            self.renewed = true;
        }
        // After the round and before anything of a range is applied or told that was taken in it: its owner knows of a hold then.
        let indices = lanes.beside(tools.feeds.look()).await?;
        let hold = indices.hold_of(progress.index());
        let news = hold.is_some()
            || indices.mends != self.mends
            || self.leases.held() != self.arranged
            || self.looks_at_parked();
        if news && !self.target.course.is_empty() {
            return Ok(());
        }
        self.renewed = false;
        if indices.mends != self.mends {
            // Some of them were wrong.
            self.target.documents.forget_all();
            self.leases.say_forgotten(indices.mends);
            self.mends = indices.mends;
        }
        match hold {
            Some(hold) => self.stop_for(hold).await,
            None => self.arrange().await,
        }
    }

    /// Whether the records of parked streams are looked at after this round of leases.
    fn looks_at_parked(&self) -> bool {
        (self.rounds + 1).is_multiple_of(PARKED_EVERY)
    }

    /// Begins a refresh, unless one is under way: documents go on meanwhile.
    fn refresh(&mut self) -> Result<(), Trouble> {
        if !self.refreshing.is_empty() {
            let Some(ended) = self.refreshing.try_join_next() else { return Ok(()) };
            unwound(ended)?;
        }
        let progress = self.target.progress.clone();
        self.refreshing.spawn(async move { progress.refresh().await });
        Ok(())
    }

    /// Applies nothing until the hold has ended.
    async fn stop_for(&mut self, hold: &str) -> Result<(), Trouble> {
        if !self.holding {
            tracing::info!(
                projection = P::NAME,
                index = self.target.progress.index(),
                hold,
                "stopped for a switch"
            );
        }
        self.holding = true;
        self.target.progress.unsettled();
        self.readers.clear();
        self.arranged = [false; RANGES];
        Ok(self.leases.stop_for(hold, &self.target.progress.snapshot().standings()).await?)
    }

    /// Reads what this copy has the leases of, tells what the others have recorded, and looks after parked streams. Readers that are
    /// about to become one do so once nothing is under way.
    async fn arrange(&mut self) -> Result<(), Trouble> {
        self.holding = false;
        let held = self.leases.held();
        if (0..RANGES).any(|range| held[range] && !self.arranged[range]) {
            self.target.renew().await?;
        }
        if held != self.arranged {
            let ranges = held.iter().filter(|held| **held).count();
            tracing::info!(projection = P::NAME, ranges, of = RANGES, "slices shared");
        }
        let Target { progress, course, .. } = &self.target;
        progress.shared(held, &self.leases.recorded(), self.leases.owners(), course.is_empty());
        if course.is_empty() {
            self.readers.arrange(held, &progress.snapshot().standings());
        }
        self.arranged = held;
        let parked = self.looks_at_parked();
        self.rounds += 1;
        if parked {
            self.target.tend_parking().await?;
        }
        Ok(())
    }

    /// Brings the checkpoints up to what is applied and leaves the slices to other copies.
    pub(super) async fn release(&mut self) -> Result<(), Trouble> {
        Ok(self.leases.release(&self.target.progress.snapshot().standings()).await?)
    }
}
