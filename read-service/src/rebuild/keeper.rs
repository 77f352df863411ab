//! One task per projection in every copy of the service: picks up rebuilds that nobody works on, ends grace periods, drops indices that
//! nobody names.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, DeskError};
use super::session::{Session, Watch};
use super::switch::{discard, settle};
use super::work::{clear, drive};
use super::{Rules, Stop, Subject, record};
use crate::feeds::{Hold, Indices};
use crate::projection::Projection;
use crate::projector::{Limits, Tools};

/// How often indices are looked for that nobody names.
const SWEEP_EVERY: Duration = Duration::from_mins(5);
/// How long all copies need to stop feeding an index: each looks every second.
const STOPPED_WITHIN: Duration = Duration::from_secs(3);
/// How long a switch may stand in the record unchanged before whoever began it counts as gone.
const HOLD_EXPIRE: Duration = Duration::from_secs(25);

/// Looks after the rebuilds of a projection until the service drains.
///
/// # Errors
/// None: what goes wrong is logged and tried again.
pub(crate) async fn run<P: Projection>(
    tools: Tools,
    rules: Rules,
    draining: CancellationToken,
) -> anyhow::Result<()> {
    let mut keeper = Keeper {
        subject: Subject::of::<P>(&tools, rules),
        watch: Watch::default(),
        hold: None,
        unfed: HashMap::new(),
        swept: None,
        asked: false,
    };
    let mut work: Option<JoinHandle<()>> = None;
    let mut trouble = None;
    let mut tick = interval(tools.limits.leases.look);
    while draining.run_until_cancelled(tick.tick()).await.is_some() {
        let indices = keeper.subject.feeds.subscribe().borrow().clone();
        // Not known before the first look.
        if indices.live.is_empty() {
            continue;
        }
        if let Some(ended) = work.take_if(|work| work.is_finished()) {
            ended.await?;
        }
        let kept = draining.run_until_cancelled(async {
            // A rebuild that cannot be taken holds up nothing else.
            let kept = keeper.keep(&indices).await;
            if let (None, Some(id)) = (&work, &indices.rebuild)
                && let Some(session) = keeper.pick_up(id).await?
            {
                work = Some(tokio::spawn(drive_until::<P>(session, tools.limits.clone(), draining.clone())));
            }
            kept
        });
        let failed = kept.await.and_then(Result::err);
        if let Some(stop) = failed.as_ref().filter(|_| failed != trouble) {
            tracing::warn!(
                projection = P::NAME,
                ?stop,
                "indices and rebuilds are not looked after, tried again"
            );
        }
        trouble = failed;
    }
    if let Some(work) = work {
        work.await?;
    }
    Ok(())
}

/// Works on a rebuild until it has ended or the service drains: then other copies are to go on at once.
async fn drive_until<P: Projection>(session: Session, limits: Limits, draining: CancellationToken) {
    if draining.run_until_cancelled(drive::<P>(&session, &limits)).await.is_none() {
        session.release().await;
    }
}

struct Keeper {
    subject: Subject,
    watch: Watch,
    /// A switch under way, and since when it has been seen unchanged.
    hold: Option<(Hold, Instant)>,
    /// Indices to be dropped, and since when that has been seen.
    unfed: HashMap<String, Instant>,
    swept: Option<Instant>,
    /// Whether a rebuild was begun for another mapping.
    asked: bool,
}

impl Keeper {
    /// What is due whether or not a rebuild is under way.
    async fn keep(&mut self, indices: &Indices) -> Result<(), Stop> {
        if let Some(hold) = &indices.hold {
            match &self.hold {
                Some((seen, since)) if seen == hold && since.elapsed() >= HOLD_EXPIRE => {
                    self.hold = None;
                    settle(&self.subject).await?;
                }
                Some((seen, _)) if seen == hold => {}
                _ => self.hold = Some((hold.clone(), Instant::now())),
            }
            return Ok(());
        }
        // An index that cannot be dropped holds up nothing else.
        let dropped = self.drop_unfed(indices).await;
        self.end_grace(indices).await?;
        if self.subject.rules.on_other_mapping && !self.asked {
            self.rebuild_other_mapping(indices).await?;
        }
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY) {
            self.sweep().await?;
            self.swept = Some(Instant::now());
        }
        dropped
    }

    /// Takes the rebuild, where it has not ended and nobody else works on it.
    async fn pick_up(&mut self, id: &str) -> Result<Option<Session>, Stop> {
        let Subject { index, feeds, .. } = &self.subject;
        let Some(seen) = record::find(index, feeds.control(), id).await? else {
            // Its start was never acknowledged.
            let over = |indices: &Indices| {
                let ours = indices.rebuild.as_deref() == Some(id);
                ours.then(|| Indices { rebuild: None, target: None, ..indices.clone() })
            };
            feeds.change(over).await?;
            return Ok(None);
        };
        if seen.value.stage.is_ended() {
            clear(&self.subject, &seen.value).await?;
            return Ok(None);
        }
        if !self.watch.is_free(&self.subject, &seen.value) {
            return Ok(None);
        }
        match Session::take(&self.subject, seen).await {
            Ok(session) => {
                tracing::info!(rebuild.id = id, projection = self.subject.projection, "works on a rebuild");
                Ok(Some(session))
            }
            // Another copy was quicker, or a caller had a wish.
            Err(Stop::Lost) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    /// Drops the previous index once its time is over.
    async fn end_grace(&self, indices: &Indices) -> Result<(), Stop> {
        let now = self.subject.clock.now_nanos();
        let Some(previous) = indices.previous.as_ref().filter(|previous| previous.until <= now) else {
            return Ok(());
        };
        let over = |indices: &Indices| {
            let due = indices.previous.as_ref() == Some(previous) && indices.hold.is_none();
            due.then(|| indices.clone().without(&previous.index))
        };
        Ok(self.subject.feeds.change(over).await.map(drop)?)
    }

    /// Drops what is no longer fed, once all copies have had the time to see that.
    async fn drop_unfed(&mut self, indices: &Indices) -> Result<(), Stop> {
        self.unfed.retain(|name, _| indices.dropping.contains(name));
        for name in &indices.dropping {
            let since = *self.unfed.entry(name.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= STOPPED_WITHIN {
                discard(&self.subject, name).await?;
                let dropped = |indices: &Indices| {
                    let mut next = indices.clone();
                    next.dropping.retain(|dropping| dropping != name);
                    (next != *indices).then_some(next)
                };
                self.subject.feeds.change(dropped).await?;
            }
        }
        Ok(())
    }

    async fn rebuild_other_mapping(&mut self, indices: &Indices) -> Result<(), Stop> {
        let live = self.subject.place(&indices.live).await?.live;
        if !live.has(self.subject.mapping) {
            tracing::info!(
                projection = self.subject.projection,
                index = live.name,
                "another mapping, rebuilding"
            );
            // Once for this index and mapping, however many copies see it.
            let request =
                format!("mapping:{}:{}", live.uuid, crate::index::mapping_hash(self.subject.mapping));
            match Desk::new(self.subject.clone()).start(&request, false, 0).await {
                // One that somebody else wanted is as good.
                Ok(_) | Err(DeskError::Running(_)) => {}
                Err(error) => return Err(Stop::Wait(format!("rebuild not started: {error}"))),
            }
        }
        self.asked = true;
        Ok(())
    }

    /// Drops indices of this projection that are old enough and that nobody names.
    async fn sweep(&self) -> Result<(), Stop> {
        let Subject { index, feeds, clock, rules, .. } = &self.subject;
        let all = index.own_indices(&format!("{}-v1-", feeds.alias())).await?;
        let before =
            clock.now_nanos() / 1_000_000 - i64::try_from(rules.orphan_age.as_millis()).unwrap_or(i64::MAX);
        // Read after the list: an index that is made later is not in it.
        let indices = feeds.look().await?;
        let rebuild = match &indices.rebuild {
            Some(id) => record::find(index, feeds.control(), id).await?,
            None => None,
        };
        let target = rebuild.map(|rebuild| rebuild.value.target_index);
        let named = |name: &str| indices.fed().chain(target.as_deref()).any(|named| named == name);
        let old = all.into_iter().filter(|index| index.created_ms < before);
        for orphan in old.filter(|index| !named(&index.name)) {
            tracing::warn!(projection = self.subject.projection, index = orphan.name, "nobody's index");
            discard(&self.subject, &orphan.name).await?;
        }
        Ok(())
    }
}
