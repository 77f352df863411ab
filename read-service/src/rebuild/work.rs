//! The stages of a rebuild, one after the other, each stored before the next.

use std::time::Duration;

use shared::backoff::Backoff;
use tokio::time::{Instant, sleep};

use super::advance::{Advance, CATCHING_UP, VERIFYING, share};
use super::record::{Rebuild, Stage};
use super::session::Session;
use super::switch::{settle, switch};
use super::{Stop, Subject, scan, verify};
use crate::feeds::Indices;
use crate::lease::Standing;
use crate::projection::Projection;
use crate::projector::Limits;

/// Waits after a dependency failed.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often is looked whether the copies have brought the new index up to date, and whether a pause has ended.
const POLL: Duration = Duration::from_millis(200);
/// How long the new index may stand still, with events that it lacks, before that is told.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Works on a rebuild until it has ended or another copy has it.
pub(super) async fn drive<P: Projection>(session: &Session, limits: &Limits) {
    let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
    loop {
        let rebuild = session.rebuild().await;
        let stopped = if rebuild.stage.is_ended() {
            match clear(&session.subject, &rebuild).await {
                Ok(()) => return,
                Err(stop) => stop,
            }
        } else {
            match session.alive(step::<P>(session, &rebuild, limits)).await {
                Ok(()) => {
                    backoff.reset();
                    continue;
                }
                Err(stop) => stop,
            }
        };
        let after = match stopped {
            Stop::Lost => return,
            Stop::Wait(error) => {
                tracing::warn!(rebuild.id = rebuild.rebuild_id, error, "rebuild waits");
                sleep(backoff.next()).await;
                session
                    .put(|rebuild| format!("waits: {error}").clone_into(&mut rebuild.error))
                    .await
                    .map(drop)
            }
            Stop::Paused => paused(session).await,
            Stop::Cancelled => give_up(session, &rebuild, Stage::Cancelled, "").await,
            Stop::Fail(error) => give_up(session, &rebuild, Stage::Failed, &error).await,
        };
        match after {
            Ok(()) => {}
            Err(Stop::Lost) => return,
            Err(stop) => {
                tracing::warn!(rebuild.id = rebuild.rebuild_id, ?stop, "the rebuild's record is not stored");
                sleep(backoff.next()).await;
            }
        }
    }
}

/// One stage.
async fn step<P: Projection>(session: &Session, rebuild: &Rebuild, limits: &Limits) -> Result<(), Stop> {
    match rebuild.stage {
        Stage::Asked => create(session, rebuild).await,
        Stage::Scanning => {
            scan::fill::<P>(session, limits).await?;
            hand_over(session, rebuild).await
        }
        Stage::CatchingUp => catch_up(session, rebuild).await,
        Stage::Verifying => {
            let verified = verify::verify::<P>(session, rebuild).await?;
            let proven = verified.different == 0 && verified.expected == verified.found;
            session.save(|rebuild| rebuild.verified = Some(verified.clone())).await?;
            if !proven {
                return Err(Stop::Fail(format!(
                    "the new index is not the fold of the events: {} documents expected, {} found, {} differ",
                    verified.expected, verified.found, verified.different
                )));
            }
            if rebuild.dry_run {
                return end(session, Stage::Verified, "").await;
            }
            next(session, Stage::Switching, VERIFYING.end).await
        }
        Stage::Switching => {
            // Where the alias has moved already, it is too late for wishes.
            if settle(&session.subject).await?.live != rebuild.target_index {
                session.save(|_| ()).await?;
                let begun = Instant::now();
                let id = Some(rebuild.rebuild_id.as_str());
                let switched = switch(&session.subject, &rebuild.target_index, id).await;
                if let Err(Stop::Wait(_)) = switched {
                    // The live index was held in vain: for as long it is brought up to date.
                    sleep(begun.elapsed()).await;
                }
                switched?;
            }
            end(session, Stage::Succeeded, "").await
        }
        Stage::Succeeded | Stage::Failed | Stage::Cancelled | Stage::Verified => Ok(()),
    }
}

/// Makes the new index under a name that nobody has; the name is stored first.
async fn create(session: &Session, rebuild: &Rebuild) -> Result<(), Stop> {
    let Subject { index, feed, feeds, mapping, .. } = &session.subject;
    let mut target = rebuild.target_index.clone();
    if target.is_empty() {
        let beginning = format!("{}-v1-", feeds.alias());
        let known = index.own_indices(&beginning).await?;
        let number = |name: &str| name.strip_prefix(&beginning)?.parse::<u64>().ok();
        let indices = feeds
            .change(|indices| {
                let names = known.iter().map(|index| index.name.as_str()).chain(indices.fed());
                let last = names.filter_map(number).chain([indices.numbered]).max().unwrap_or(0);
                Some(Indices { numbered: last + 1, ..indices.clone() })
            })
            .await?;
        target = format!("{beginning}{}", indices.numbered);
        session
            .save(|rebuild| {
                rebuild.target_index.clone_from(&target);
                rebuild.source_index.clone_from(&indices.live);
            })
            .await?;
    }
    if !index.make_for(&rebuild.rebuild_id, &target, mapping).await? {
        session.save(|rebuild| rebuild.target_index.clear()).await?;
        return Err(Stop::Wait(format!("index {target} is there already")));
    }
    shared::crash::point("rebuild.created");
    // Before the first scan: what is recorded later lies after this position.
    let head = feed.head().await?;
    session
        .save(|rebuild| {
            rebuild.stage = Stage::Scanning;
            rebuild.resume_position = head.head_position;
            rebuild.store_id.clone_from(&head.store_id);
            rebuild.error.clear();
        })
        .await
        .map(drop)
}

/// The feed's head, as long as it is the store that is scanned.
async fn head(session: &Session, rebuild: &Rebuild) -> Result<i64, Stop> {
    let head = session.subject.feed.head().await?;
    let changed = if head.store_id != rebuild.store_id {
        "created anew"
    } else if head.head_position < rebuild.resume_position {
        "restored to an earlier point"
    } else {
        return Ok(head.head_position);
    };
    Err(Stop::Fail(format!("the event store was {changed} during the rebuild")))
}

/// From now on all copies bring the new index up to date.
async fn hand_over(session: &Session, rebuild: &Rebuild) -> Result<(), Stop> {
    let Subject { index, feeds, .. } = &session.subject;
    head(session, rebuild).await?;
    let target = &rebuild.target_index;
    index.refresh(target).await?;
    let at = rebuild.resume_position;
    let standing = Standing {
        applied: at,
        visible: at,
        head: at,
        as_of: rebuild.started_at,
        visible_as_of: rebuild.started_at,
        last: None,
    };
    session.subject.place(target).await?.seed(&rebuild.store_id, standing).await?;
    let fed = |indices: &Indices| {
        let ours = indices.rebuild.as_ref() == Some(&rebuild.rebuild_id);
        let next = Indices { target: Some(target.clone()), ..indices.clone() };
        (ours && indices.live != *target).then_some(next)
    };
    feeds.change(fed).await?;
    next(session, Stage::CatchingUp, CATCHING_UP.start).await
}

async fn catch_up(session: &Session, rebuild: &Rebuild) -> Result<(), Stop> {
    let head = head(session, rebuild).await?;
    let advance = Advance::begin(CATCHING_UP, 0.0);
    let (mut stands, mut since) = (None, Instant::now());
    loop {
        // Each time: an index that is gone is waited for in vain.
        let target = session.subject.place(&rebuild.target_index).await?;
        let signs = target.signs().await?.into_iter();
        let at = signs.map(|sign| sign.map_or(0, |sign| sign.position)).min().unwrap_or(0);
        if at >= head {
            return next(session, Stage::Verifying, CATCHING_UP.end).await;
        }
        // What was told of a standstill stays until it is over.
        let before = *stands.get_or_insert(at);
        if at > before {
            (stands, since) = (Some(at), Instant::now());
            let share = share(at - rebuild.resume_position, head - rebuild.resume_position);
            session.save(|rebuild| advance.tell(rebuild, share)).await?;
        } else if since.elapsed() >= STANDSTILL {
            // Looked at anew from the beginning: the store, too, may be another one.
            return Err(Stop::Wait(format!("the new index stands at position {at} of {head}")));
        }
        sleep(POLL).await;
    }
}

async fn next(session: &Session, stage: Stage, percent: f64) -> Result<(), Stop> {
    let change = |rebuild: &mut Rebuild| {
        rebuild.stage = stage;
        rebuild.percent = rebuild.percent.max(percent);
        rebuild.error.clear();
    };
    session.save(change).await.map(drop)
}

/// Ends a rebuild that is unwanted or cannot be done, unless its index is live already.
async fn give_up(session: &Session, rebuild: &Rebuild, stage: Stage, error: &str) -> Result<(), Stop> {
    let switching = rebuild.stage == Stage::Switching;
    if switching && settle(&session.subject).await?.live == rebuild.target_index {
        return end(session, Stage::Succeeded, "").await;
    }
    end(session, stage, error).await
}

async fn end(session: &Session, stage: Stage, error: &str) -> Result<(), Stop> {
    let now = session.subject.clock.now_nanos();
    let ended = session
        .put(|rebuild| {
            rebuild.stage = stage;
            rebuild.ended_at = now;
            rebuild.eta_seconds = 0.0;
            error.clone_into(&mut rebuild.error);
            if matches!(stage, Stage::Succeeded | Stage::Verified) {
                rebuild.percent = 100.0;
            }
        })
        .await?;
    let (id, projection) = (&ended.rebuild_id, &ended.projection);
    if stage == Stage::Failed {
        tracing::error!(rebuild.id = id, projection, error, "rebuild failed, the index stays as it was");
    } else {
        tracing::info!(rebuild.id = id, projection, index = ended.target_index, outcome = ?stage, "rebuild ended");
    }
    Ok(())
}

/// A rebuild that has ended is no longer under way; an index that it made and that is not live goes.
pub(super) async fn clear(subject: &Subject, rebuild: &Rebuild) -> Result<(), Stop> {
    if rebuild.stage != Stage::Succeeded {
        settle(subject).await?;
    }
    let id = &rebuild.rebuild_id;
    let over = |indices: &Indices| {
        let ours = indices.rebuild.as_ref() == Some(id);
        let next = Indices { rebuild: None, ..indices.clone() };
        ours.then(
            || if next.live == rebuild.target_index { next } else { next.without(&rebuild.target_index) },
        )
    };
    subject.feeds.change(over).await.map(drop)?;
    Ok(())
}

/// Waits for the end of a pause; shows meanwhile that this copy is alive.
async fn paused(session: &Session) -> Result<(), Stop> {
    loop {
        let rests = |rebuild: &mut Rebuild| (rebuild.eta_seconds, rebuild.streams_per_second) = (0.0, 0.0);
        match session.put(rests).await {
            Ok(rebuild) if rebuild.paused && !rebuild.cancel => {
                sleep(session.subject.times.renew.min(POLL * 2)).await;
            }
            Ok(_) => return Ok(()),
            Err(Stop::Wait(_)) => sleep(RETRY_MAX).await,
            Err(stop) => return Err(stop),
        }
    }
}
